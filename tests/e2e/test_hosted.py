"""A run in a child of its own: its end is told once, whatever happens to it or to whoever follows it."""

import contextlib
import signal
from pathlib import Path

import pytest

from loadgen.hosted import HostedRun
from loadgen.stream import Line
from tests.fake_target import fake_target, free_port


def _followed(*words: str) -> tuple[HostedRun, list[Line], list[HostedRun]]:
    lines: list[Line] = []
    ends: list[HostedRun] = []
    run = HostedRun(words, lines.append, ends.append)
    run.wait()
    return run, lines, ends


def test_a_target_that_is_not_there(tmp_path: Path) -> None:
    """The sentence of the child's standard error is kept, its JSON is the last line, the exit code is its own."""
    base = f"http://127.0.0.1:{free_port()}/"
    run, lines, ends = _followed("--sla-p99=200ms", f"--output={tmp_path / 'out'}", "--", base)
    assert ends == [run]
    assert run.exit_code == 5
    assert run.error is not None
    assert run.error.startswith(f"all 5 preflight requests to {base} failed")
    assert run.error.endswith("; start the server, or correct the URL")
    assert (lines[0]["event"], lines[-1]["verdict"]) == ("begin", "target_failed")


def test_one_that_is_ended_before_it_listens(tmp_path: Path) -> None:
    """SIGTERM finds an interpreter that still starts: the exit code is that of a terminated run, not of a defect."""
    run = HostedRun(["--sla-p99=200ms", f"--output={tmp_path / 'out'}"], lambda _line: None, lambda _run: None)
    run.stop(signal.SIGTERM)
    run.wait()
    assert run.exit_code == 143
    assert run.error == "the search was ended before it began"


def test_a_follower_that_breaks_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A defect in showing a line is told as one, and the search still has an end."""

    def broken(_line: Line) -> None:
        raise KeyError("no such thing")

    ends: list[HostedRun] = []
    with fake_target() as target, contextlib.chdir(tmp_path):
        run = HostedRun(["--sla-p99=200ms", "--budget=60s", "--", f"{target.base}/ok"], broken, ends.append)
        run.wait()
    assert (ends, run.exit_code) == ([run], 70)
    assert "KeyError" in (run.error or "")
    Path((run.error or "").rpartition(" ")[2]).unlink()  # the traceback
