"""Processes of our own."""

from pathlib import Path

import pytest

from loadgen import child


def test_a_folder_of_the_user_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named like ours in the folder where opfind is called does not become ours."""
    (tmp_path / "loadgen").mkdir()
    (tmp_path / "loadgen" / "__init__.py").write_text("raise SystemExit(9)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with child.start("loadgen.server", "--help") as process:
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"--port" in output
