"""What is installed: the explicit lists in pyproject.toml against the folders on disk."""

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
DATA: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
_NO_PACKAGE = {"tests"}
_IMPORT_NAMES = {"hdrhistogram": "hdrh", "prometheus-client": "prometheus_client", "protobuf": "google"}


def _folder(package: str) -> Path:
    return ROOT.joinpath(*package.split("."))


def test_the_package_list_is_what_is_on_disk() -> None:
    """Every folder with an __init__.py is listed, and every listed one is there: a generic name is never guessed."""
    tops = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    found = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for top in tops
        if top.name not in _NO_PACKAGE and (top / "__init__.py").exists()
        for init in top.rglob("__init__.py")
    }
    assert sorted(PACKAGES) == sorted(found)


def test_every_module_lies_in_a_listed_package() -> None:
    """No Python file lies in a folder that would be left out of the installation."""
    for top in {package.split(".")[0] for package in PACKAGES}:
        for path in _folder(top).rglob("*.py"):
            name = ".".join(path.parent.relative_to(ROOT).parts)
            assert name in PACKAGES or name.startswith("scenarios.locustfiles"), path


@pytest.mark.parametrize(("package", "pattern"), [(package, p) for package, patterns in DATA.items() for p in patterns])
def test_package_data_exists(package: str, pattern: str) -> None:
    """Each pattern of data files matches something."""
    assert list(_folder(package).glob(pattern))


def test_every_data_file_is_packaged() -> None:
    """No file that the program reads beside its code is forgotten."""
    for package in PACKAGES:
        packaged = {path for pattern in DATA.get(package, []) for path in _folder(package).glob(pattern)}
        below = {_folder(other) for other in PACKAGES if other.startswith(f"{package}.")}
        for path in _folder(package).rglob("*"):
            is_code = path.suffix in (".py", ".pyc", ".md") or path.is_dir() or "locustfiles" in path.parts
            if not is_code and not any(folder in path.parents for folder in below):
                assert path in packaged, path


def test_the_command_is_there() -> None:
    """The console script names a function that exists."""
    import loadgen.cli

    assert PROJECT["project"]["scripts"] == {"opfind": "loadgen.__main__:main"}
    assert callable(loadgen.cli.main)


def test_every_library_we_import_is_declared() -> None:
    """A library that the code imports is a dependency, and the other way round."""
    from tests.test_architecture import FIRST_PARTY, imported

    declared = {re.split(r"[<>=~!\[ ]", line)[0].lower() for line in PROJECT["project"]["dependencies"]}
    used = {
        name.split(".")[0]
        for top in FIRST_PARTY
        for path in (ROOT / top).rglob("*.py")
        if "locustfiles" not in path.parts and not path.name.startswith("torch_")
        for _, name in imported(path.read_text(encoding="utf-8"), ".".join(path.parent.relative_to(ROOT).parts))
    }
    import sys

    libraries = used - FIRST_PARTY - set(sys.stdlib_module_names)
    assert libraries == {_IMPORT_NAMES.get(name, name) for name in declared}


def test_the_version_is_the_installed_one() -> None:
    """Where opfind is installed, `--version` says what pyproject.toml says."""
    from loadgen.version import version

    try:
        metadata.version("opfind")
    except metadata.PackageNotFoundError:
        pytest.skip("opfind is not installed here")
    assert version() == PROJECT["project"]["version"]
