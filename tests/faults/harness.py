"""Run opfind against a fault, and open everything that it leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from analysis import Outcome, Run
from analysis.histogram import HIGHEST_NS, SIGNIFICANT_DIGITS

ROOT = Path(__file__).resolve().parents[2]
FILES = {"junit.xml", "report.html", "run.json", "steps.hlog", "steps.npz", "summary.md"}
_BOOKED = ("ok", "errors", "timeouts", "lost", "unsent")
_LONGEST_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Be how a command ended: its exit code, all that it said, and its folder."""

    exit_code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def answer(self) -> dict[str, Any]:
        """Return the JSON object on standard output."""
        answer: dict[str, Any] = json.loads(self.stdout)
        return answer

    @property
    def said(self) -> str:
        """Return all that a user can read: standard output and error, and the summary, on one line."""
        summary = self.folder / "summary.md"
        text = summary.read_text(encoding="utf-8") if summary.exists() else ""
        return " ".join(f"{self.stdout} {self.stderr} {text}".split())

    @property
    def run(self) -> Run:
        """Return the run file."""
        return Run.from_json(json.loads((self.folder / "run.json").read_text(encoding="utf-8")))


def start(
    *arguments: str,
    folder: Path,
    program: tuple[str, ...] = ("-m", "loadgen"),
    wrapper: tuple[str, ...] = (),
    preexec: Callable[[], None] | None = None,
) -> "subprocess.Popen[str]":
    """Start opfind in a folder; its files go into `out` there."""
    command = [*wrapper, sys.executable, "-P", *program, *arguments, "--json", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=preexec,  # noqa: PLW1509 (it sets a limit, and takes no lock)
    )  # fmt: skip


def finish(process: "subprocess.Popen[str]", folder: Path) -> Ended:
    """Wait for its end, 60 s at most."""
    with process:
        try:
            stdout, stderr = process.communicate(timeout=_LONGEST_S)
        finally:
            process.kill()
    return Ended(exit_code=process.returncode, stdout=stdout, stderr=stderr, folder=folder / "out")


def opfind(*arguments: str, folder: Path, **how: Any) -> Ended:
    """Run opfind to its end."""
    return finish(start(*arguments, folder=folder, **how), folder)


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Return the workers of a running opfind."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return [pid for pid in map(int, children) if b"loadgen.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def check_files(ended: Ended, *, missing: frozenset[str] = frozenset()) -> None:
    """Open every file, and close the books in each: offered = ok + errors + timeouts + lost + unsent."""
    folder, run = ended.folder, ended.run
    assert {path.name for path in folder.iterdir()} == FILES - missing
    with np.load(folder / "steps.npz") as columns:
        for record in run.steps:
            due, done, outcome = (
                columns[f"step{record.index + 1:02d}_{name}"] for name in ("due_ns", "done_ns", "outcome")
            )
            assert np.all(due <= done)
            counted = np.bincount(outcome, minlength=len(Outcome)).tolist()
            assert dict(record.counts) == {kind.name.lower(): counted[kind] for kind in Outcome}
            assert record.offered == len(due) == record.histogram.total
    if ended.stdout:
        assert run.exit_code == ended.answer["exit_code"] == ended.exit_code
    if ended.stdout and "offered" in ended.answer:  # of a load by hand
        assert ended.answer["offered"] == sum(ended.answer[name] for name in _BOOKED)
        assert ended.answer["offered"] == sum(record.offered for record in run.steps)
    assert _logged(folder / "steps.hlog") == sum(record.counts["ok"] for record in run.steps)
    assert list(ET.parse(folder / "junit.xml").getroot().iter("testcase"))
    assert "report.html" in missing or "</html>" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "summary.md").read_text(encoding="utf-8").strip()


def _logged(path: Path) -> int:
    """Return how many response times a histogram log holds."""
    log = HistogramLogReader(str(path), HdrHistogram(1, HIGHEST_NS, SIGNIFICANT_DIGITS))
    total = 0
    while (interval := log.get_next_interval_histogram()) is not None:
        total += interval.get_total_count()
    log.close()
    return total
