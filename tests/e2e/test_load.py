"""`opfind load` as a user types it: one short step on real sockets, the books, the files and the exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import Run
from tests.fake_target import FakeTarget, fake_target, free_port

ROOT = Path(__file__).resolve().parents[2]
FILES = ["junit.xml", "report.html", "run.json", "steps.hlog", "steps.npz", "summary.md"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the fake target to all tests of this module."""
    with fake_target() as served:
        yield served


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadgen", "load", *arguments]


def _load(*arguments: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """Run a load with --json in a folder; return exit code, object and standard error, the books checked."""
    done = subprocess.run(
        _command(*arguments, "--json"), cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert list(answer)[:6] == ["ok", "offered", "errors", "timeouts", "lost", "unsent"]
    assert answer["offered"] == sum(answer[name] for name in ("ok", "errors", "timeouts", "lost", "unsent"))
    assert answer["exit_code"] == done.returncode
    return done.returncode, answer, done.stderr


def _run_of(folder: Path) -> Run:
    return Run.from_json(json.loads((folder / "run.json").read_text(encoding="utf-8")))


def test_an_open_load(target: FakeTarget, tmp_path: Path) -> None:
    """A constant rate sends exactly its requests, and every file is there and says the same."""
    before = target.requests["/ok"]
    code, answer, _ = _load(
        target.base + "/ok", "--rate", "100", "-d", "1s", "--arrivals", "constant", "-o", "out", folder=tmp_path
    )
    assert code in (0, 4)  # a machine that is busy elsewhere may send late, and says so
    assert (answer["offered"], answer["ok"], answer["rate_rps"], answer["users"]) == (100, 100, 100, None)
    assert (answer["verdict"], answer["sla"], answer["error"]) == (None, None, None)
    assert target.requests["/ok"] - before == 100 + 5  # and five before the step, to see whether anybody is there
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    run = _run_of(tmp_path / "out")
    assert (run.answer, run.slas, len(run.steps)) == (None, (), 1)
    assert run.steps[0].offered == 100
    with np.load(tmp_path / "out" / "steps.npz") as columns:
        assert len(columns["step01_due_ns"]) == 100


def test_a_closed_load(target: FakeTarget, tmp_path: Path) -> None:
    """Four users who each wait 20 ms for a reply cannot ask more than 200 times a second."""
    code, answer, err = _load(target.base + "/slow/20", "--users", "4", "-d", "1s", folder=tmp_path)
    assert code in (0, 4)
    assert (answer["users"], answer["rate_rps"], answer["errors"]) == (4, None, 0)
    assert 4 <= answer["ok"] <= 200
    assert answer["service_p50_s"] >= 0.02
    assert "4 users for 1 s" in err
    assert list((tmp_path / "opfind-runs").iterdir()) == [tmp_path / answer["folder"]]


def test_think_time_slows_the_users(target: FakeTarget, tmp_path: Path) -> None:
    """Two users who think half a second on average ask a few times only, where they could ask thousands of times."""
    code, answer, _ = _load(target.base + "/ok", "--users", "2", "--think", "500ms", "-d", "1s", folder=tmp_path)
    assert code in (0, 4)
    assert 2 <= answer["offered"] <= 40


def test_the_embedded_server_is_loaded_without_a_url(tmp_path: Path) -> None:
    """Without a URL the bundled server is started, as `run` does; with an SLA the load is judged."""
    code, answer, err = _load("--rate", "40", "-d", "1s", "--sla", "p50<5s", folder=tmp_path)
    assert (answer["sla"], answer["errors"]) == ("p50<5s", 0)
    assert code in (0, 3, 4)
    assert "bundled reference server" in err


def test_an_sla_that_fails(target: FakeTarget, tmp_path: Path) -> None:
    """Exit 1: a server that takes 30 ms does not answer within 5 ms, and the test file of the CI is red too."""
    code, answer, _ = _load(
        target.base + "/slow/30", "--users", "8", "-d", "1s", "--sla-p99", "5ms", "-o", "out", folder=tmp_path
    )
    assert answer["verdict"] == "fail"
    assert code == (1 if answer["sound"] else 4)  # on a machine that is busy elsewhere the client may be the limit
    assert ("<failure" if code == 1 else "<error") in (tmp_path / "out" / "junit.xml").read_text(encoding="utf-8")


def test_errors_are_counted_by_kind_and_words(target: FakeTarget, tmp_path: Path) -> None:
    """A tenth of all replies failing is a measurement: exit 0 without an SLA, the words in the files."""
    code, answer, err = _load(target.base + "/flaky", "--rate", "100", "-d", "1s", "-o", "out", folder=tmp_path)
    assert code in (0, 4)
    assert 0 < answer["http_status"] == answer["errors"] < answer["ok"]
    assert "HTTP 500" in err
    assert sum(_run_of(tmp_path / "out").steps[0].errors.values()) == answer["errors"]


@pytest.mark.parametrize(("path", "says"), [("/missing", "HTTP 404"), ("/garbage", "Not HTTP")])
def test_a_target_that_fails_every_request(target: FakeTarget, tmp_path: Path, path: str, says: str) -> None:
    """Exit 5, the whole step on the books, and files that open."""
    code, answer, _ = _load(target.base + path, "--rate", "50", "-d", "500ms", "-o", "out", folder=tmp_path)
    assert (code, answer["ok"]) == (5, 0)
    assert answer["errors"] == answer["offered"] > 0
    assert says in answer["error"]
    assert _run_of(tmp_path / "out").exit_code == 5


def test_nobody_listening(tmp_path: Path) -> None:
    """Exit 5 at once: nobody is there to be loaded, so nothing is offered, and no folder stays behind."""
    code, answer, err = _load(f"http://127.0.0.1:{free_port()}/", "--users", "4", "-d", "30s", folder=tmp_path)
    assert (code, answer["offered"], answer["folder"]) == (5, 0, None)
    assert "Connection refused" in answer["error"]
    assert "Connection refused" in err
    assert list((tmp_path / "opfind-runs").iterdir()) == []


def test_a_target_that_dies(tmp_path: Path) -> None:
    """Exit 5, and what came back before is kept."""
    with fake_target() as mortal:
        mortal.dies_after = 40
        code, answer, _ = _load(mortal.base + "/ok", "--rate", "100", "-d", "1s", "-o", "out", folder=tmp_path)
    assert (code, answer["ok"] > 0, answer["errors"] > 0) == (5, True, True)
    assert "stopped answering" in answer["reasons"]
    assert "target" in {reason.kind for reason in _run_of(tmp_path / "out").steps[0].reasons}


def test_too_few_connections_limit_the_client(target: FakeTarget, tmp_path: Path) -> None:
    """Exit 4: one connection cannot carry 100 requests a second of 50 ms each, and the flag that helps is named."""
    code, answer, err = _load(
        target.base + "/slow/50", "--rate", "100", "-d", "1s", "--connections", "1", folder=tmp_path
    )
    assert code == 4
    assert "--connections" in answer["reasons"]
    assert "Client-limited" in err
    assert answer["p50_s"] > answer["service_p50_s"] >= 0.05 or answer["unsent"] > 0


def test_an_interrupted_load_keeps_what_it_measured(target: FakeTarget, tmp_path: Path) -> None:
    """A load of a minute that is stopped after a moment is shown, written, and ends with 130."""
    arguments = _command(target.base + "/slow/5", "--users", "2", "-d", "60s", "-o", "out", "--json")
    seen = target.requests["/slow/5"]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 30
        while target.requests["/slow/5"] < seen + 40 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    answer = json.loads(stdout)
    assert (process.returncode, answer["exit_code"]) == (130, 130), stderr
    assert answer["ok"] > 0
    assert answer["offered"] == sum(answer[name] for name in ("ok", "errors", "timeouts", "lost", "unsent"))
    run = _run_of(tmp_path / "out")
    assert run.steps[0].aborted
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
