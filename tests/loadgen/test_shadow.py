import sys
from pathlib import Path

import pytest

from loadgen import shadow
from loadgen.errors import UsageError


def test_ours_are_found() -> None:
    """Run from where the packages lie side by side, the check is content."""
    shadow.check()


def test_a_shadowed_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another `analysis` comes first on the path, one sentence says which file hides ours and what to do."""
    (tmp_path / "analysis.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "analysis")
    with pytest.raises(UsageError, match=r"'analysis' is found in .*analysis\.py instead of .*virtual environment"):
        shadow.check()


def test_the_distribution_that_hides_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed distribution of the same top-level name is called by its name."""
    (tmp_path / "scenarios").mkdir()
    (tmp_path / "scenarios" / "__init__.py").touch()
    info = tmp_path / "playwright_scenarios-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: playwright-scenarios\nVersion: 1.0\n")
    (info / "RECORD").write_text("scenarios/__init__.py,,\n")
    (info / "top_level.txt").write_text("scenarios\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "scenarios")
    with pytest.raises(UsageError, match=r"distribution playwright-scenarios"):
        shadow.check()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation says which part is missing."""
    monkeypatch.setattr(shadow, "PACKAGES", ("no_such_package_of_opfind",))
    with pytest.raises(UsageError, match="'no_such_package_of_opfind' is missing"):
        shadow.check()
