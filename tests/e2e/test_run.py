"""`opfind run` as a user types it: real processes, real sockets, the message and the exit code."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from analysis import Run
from tests.ahead import ahead
from tests.fake_target import FakeTarget, fake_target, free_port

ROOT = Path(__file__).resolve().parents[2]
FILES = ["junit.xml", "report.html", "run.json", "steps.hlog", "steps.npz", "summary.md"]


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the fake target to all tests of this module."""
    with fake_target() as served:
        yield served


def command(*arguments: str) -> list[str]:
    """Return the command line of opfind in this environment."""
    return [sys.executable, "-m", "loadgen", *arguments]


def opfind(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run opfind in a folder, 60 s at most."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def answer_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """Return the one JSON object on standard output."""
    answer: dict[str, Any] = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    return answer


def test_the_embedded_server_s_operating_point_is_found(tmp_path: Path) -> None:
    """Without a target the bundled server is started, searched and stopped; the true 554 req/s lies in the interval."""
    done = opfind(
        "run", "--sla-p99", "200ms", "--start-rps", "200", "--budget", "50s", "-o", "out", "--json", folder=tmp_path
    )
    answer = answer_of(done)
    assert done.returncode in (0, 3), done.stderr
    assert answer["verdict"] in ("found", "undecided")
    assert answer["rate_rps"]["low"] <= 560
    assert answer["rate_rps"]["high"] is None or answer["rate_rps"]["high"] >= 545
    assert answer["safe_rps"] <= 565
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    run = Run.from_json(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8")))
    assert run.answer is not None
    assert run.answer.rate_rps is not None
    assert run.answer.rate_rps.value == answer["rate_rps"]["value"]
    assert run.environment["pacing"]
    for record in run.steps:
        assert record.histogram.total == sum(record.counts.values())


@pytest.mark.parametrize(
    ("path", "says"),
    [("/missing", "404 Not Found"), ("/broken", "HTTP 500"), ("/moved", "302"), ("/garbage", "not HTTP")],
)
def test_a_target_that_fails_every_preflight_request(target: FakeTarget, tmp_path: Path, path: str, says: str) -> None:
    """Exit 5, one sentence in the target's words, stripped of control characters, and no traceback."""
    done = opfind("run", target.base + path, "--sla-p99", "200ms", folder=tmp_path)
    assert done.returncode == 5
    assert says in done.stderr
    assert "\x1b" not in done.stderr
    assert "Traceback" not in done.stderr


def test_nobody_listening(tmp_path: Path) -> None:
    """Exit 5; with --json the object says so too."""
    done = opfind("run", f"http://127.0.0.1:{free_port()}/", "--sla-p99", "200ms", "--json", folder=tmp_path)
    assert done.returncode == 5
    assert "Connection refused" in done.stderr
    answer = answer_of(done)
    assert answer["verdict"] == "target_failed"
    assert "Connection refused" in answer["error"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sla-p99", "0ms"], "above zero"),
        (["--sla-p99", "200"], "unit"),
        (["--sla", "p99=200ms"], "p99<200ms"),
        ([], "--sla-p99"),
        (["--sla-p99", "200ms", "-o", "/dev/null/x"], "cannot write"),
        (["--sla-p99", "200ms", "--scenario", "broken.toml"], "broken.toml"),
        (["--sla-p99", "200ms", "--scenario", "nowhere"], "nowhere"),
        (["--sla-p99", "200ms", "--body", "@nowhere.json"], "nowhere.json"),
        (["--sla-p99", "200ms", "--workers", "none"], "--workers"),
        (["ftp://127.0.0.1/", "--sla-p99", "200ms"], "http"),
    ],
)
def test_a_user_s_mistake(tmp_path: Path, arguments: list[str], says: str) -> None:
    """Exit 2, one short sentence that names the thing, nothing on standard output."""
    (tmp_path / "broken.toml").write_text("[load\nmode = 1", encoding="utf-8")
    done = opfind("run", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1


def test_no_free_port(target: FakeTarget, tmp_path: Path) -> None:
    """A port that is taken is named, with exit 2."""
    port = target.base.rsplit(":", 1)[1]
    done = opfind("serve", "--port", port, folder=tmp_path)
    assert done.returncode == 2
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def _is_at_least(answer: dict[str, Any]) -> None:
    """`high` is null, and the bound is named."""
    assert answer["rate_rps"]["high"] is None
    assert answer["limited_by"] == "--max-rps"


def _is_unmet(answer: dict[str, Any]) -> None:
    """There is no rate."""
    assert (answer["verdict"], answer["rate_rps"]) == ("unmet", None)


def _is_measured(answer: dict[str, Any]) -> None:
    """The target is not taken for dead."""
    assert answer["verdict"] in ("found", "undecided")
    assert 50 < answer["rate_rps"]["value"] < 260


def _is_in_users(answer: dict[str, Any]) -> None:
    """Users in flight are the answer of the closed loop; a rate is not given."""
    assert (answer["rate_rps"], answer["safe_rps"]) == (None, None)
    assert answer["users"]["value"] == 4
    assert answer["throughput_rps"]["value"] == pytest.approx(4 / 0.021, rel=0.2)


RUNS = {
    "a bound reached while passing is a lower bound": (
        "/ok --sla-p99 200ms --start-rps 40 --max-rps 80 --budget 20s", {4}, _is_at_least,
    ),
    "a server that takes 60 ms meets no SLA of 10 ms": ("/slow/60 --sla-p99 10ms --budget 25s", {1}, _is_unmet),
    "a tenth of all replies failing is no operating point": ("/flaky --sla-p99 200ms --budget 25s", {1}, _is_unmet),
    "overload leaves a backlog that times out": (
        "/fifo/4 --sla-p99 100ms --timeout 300ms --start-rps 50 --budget 25s", {0, 3}, _is_measured,
    ),
    "a closed loop answers in users": (
        "/slow/20 --sla-p99 200ms --mode closed --max-users 4 --budget 20s", {4}, _is_in_users,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def begun(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """Run the table's commands two at a time, at low rates and each against a target of its own."""

    def run(case: str) -> subprocess.CompletedProcess[str]:
        path, *arguments = RUNS[case][0].split()
        with fake_target() as served:
            return opfind("run", served.base + path, *arguments, "--json", folder=tmp_path_factory.mktemp("run"))

    with ahead(request, test_a_run_ends_in_its_verdict.__name__, "case", run, at_once=2) as found:
        yield found


@pytest.mark.parametrize("case", RUNS)
def test_a_run_ends_in_its_verdict(case: str, begun: dict[str, Future[subprocess.CompletedProcess[str]]]) -> None:
    """The exit code is that of the verdict, and the answer says what the case says."""
    _, codes, check = RUNS[case]
    done = begun[case].result()
    answer = answer_of(done)
    assert done.returncode in codes, done.stderr
    check(answer)


def test_a_target_that_dies_during_the_run(tmp_path: Path) -> None:
    """Exit 5, and what was measured before is in the files."""
    with fake_target() as mortal:
        mortal.dies_after = 300
        done = opfind(
            "run", mortal.base + "/slow/5", "--sla-p99", "50ms", "--start-rps", "100", "--budget", "30s", "-o", "out",
            "--json", folder=tmp_path,
        )  # fmt: skip
    answer = answer_of(done)
    assert (done.returncode, answer["verdict"]) == (5, "target_failed"), done.stderr
    run = Run.from_json(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8")))
    assert run.steps[0].counts["ok"] > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_keeps_what_it_measured(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """SIGINT and SIGTERM stop the load, write the files, end every process, and exit 130 and 143."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = command("run", "--sla-p99", "200ms", "--start-rps", "100", "-o", "out", "--json")
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("step"):  # a line as each step ends
            pass
        time.sleep(1.0)
        children = _children(process.pid)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert json.loads(stdout)["exit_code"] == code
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    run = Run.from_json(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8")))
    assert run.steps
    assert len(children) >= 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def test_secrets_are_never_written(target: FakeTarget, tmp_path: Path) -> None:
    """A token in a header or a query reaches the server, and no file and no terminal."""
    done = opfind(
        "run", target.base + "/ok?api_key=hunter2", "--sla-p99", "200ms", "-H", "Authorization: Bearer hunter2",
        "--max-rps", "40", "--start-rps", "40", "--budget", "8s", "-o", "out", folder=tmp_path,
    )  # fmt: skip
    assert target.requests["/ok?api_key=hunter2"] > 0, done.stderr
    for path in (tmp_path / "out").iterdir():
        assert b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in done.stdout + done.stderr
