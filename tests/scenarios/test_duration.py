import pytest

from scenarios import parse_duration_s


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("90s", 90),
        ("3m", 180),
        ("1m30s", 90),
        ("1h", 3600),
        ("80us", 80e-6),
        ("1.5 s", 1.5),
        (".5s", 0.5),
    ],
)
def test_reads_every_unit(text: str, seconds: float) -> None:
    """A number with a unit is read exactly, and parts add up."""
    assert parse_duration_s(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", ["", "3", "m", "3 minutes", "-3m", "3m4", "1e3s", "nan s"])
def test_refuses_what_has_no_unit(text: str) -> None:
    """A bare number, a sign or an unknown unit is refused with an example."""
    with pytest.raises(ValueError, match="such as 200ms or 3m"):
        parse_duration_s(text)
