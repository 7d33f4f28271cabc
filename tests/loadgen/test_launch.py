"""What Locust is started with, in the place of opfind."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen import launch
from loadgen.cli import main


@pytest.mark.parametrize(
    ("words", "files", "others"),
    [
        ([], "ours.py", []),
        (["--web-port", "1"], "ours.py", ["--web-port", "1"]),
        (["-f", "login.py", "--headless"], "ours.py,login.py", ["--headless"]),
        (["--locustfile=a.py", "-f", "b.py"], "ours.py,a.py,b.py", []),
        (["-f"], "ours.py", []),
    ],
)
def test_a_users_locustfile_stands_behind_ours(words: list[str], files: str, others: list[str]) -> None:
    """Locust takes the first shape that it finds, which must be ours; all other words stay as they are."""
    assert launch.with_locustfiles("ours.py", words) == (files, others)


class _ReplacedError(Exception):
    """This process would now be another."""


def test_run_with_a_locustfile_becomes_a_headless_locust(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Flags go on as they were typed, the URL is Locust's host, and the user's folder is not in front of the path."""
    seen: list[Any] = []

    def replace(program: str, command: list[str], environment: dict[str, str]) -> None:
        seen.extend([program, command, environment])
        raise _ReplacedError

    monkeypatch.setattr(os, "execve", replace)
    mine = tmp_path / "mine.py"
    mine.write_text("", encoding="utf-8")
    words = ["run", "http://127.0.0.1:1", "--locustfile", str(mine), "--sla-p99", "90ms", "--sla", "p50<9ms", "--json"]
    assert main(words) == 70  # the exception stands for what never returns
    program, command, environment = seen
    assert (program, command[:3]) == (sys.executable, [sys.executable, "-P", "-m"])
    assert {"--headless", "--sla-p99=90ms", "--sla=p50<9ms", "--host=http://127.0.0.1:1", "--answer-json"} < {*command}
    assert next(word for word in command if word.startswith("--locustfile=")).endswith(f"users.py,{mine}")
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(launch.__file__).parents[1])
