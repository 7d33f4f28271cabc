import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a change of format rewrite the golden files."""
    parser.addoption("--update-golden", action="store_true", help="rewrite golden files from what the code gives now")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """Say that golden files are to be rewritten rather than compared."""
    return bool(request.config.getoption("--update-golden"))
