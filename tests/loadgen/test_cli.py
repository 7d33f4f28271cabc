"""The command line over a fake session: what is printed where, and the exit code."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from click import Option

from analysis import Run, Step
from loadgen import console, files, session
from loadgen.cli import load, main, run
from loadgen.errors import OpfindError, TargetError, UsageError
from loadgen.mask import SWITCHES
from loadgen.progress import Progress
from loadgen.session import Finished
from scenarios import Scenario
from tests.factories import P99, make_answer, make_load, make_records, make_run
from tests.loadgen.selfchecks import checked, row

RECORDS = make_records()
ROOT = Path(__file__).resolve().parents[2]
KEYS = {
    "verdict", "rate_rps", "safe_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps",
    "utilisation", "sla", "limited_by", "stop_reason", "method", "exit_code", "error", "steps", "wall_s", "folder",
    "version", "method_reason", "cliff", "inflation", "floor", "confirmed", "confirmation_rps", "confirmation_s",
    "confirmation_share", "needed_s", "closed_users", "closed_rps", "closed_quantile_s", "per_sla", "server", "notes",
    "rule_of_thumb", "plan_rps", "plan_replicas", "plan_all_up_rps", "plan_one_down_rps",
}  # fmt: skip


class FakeSession:
    """Stand in for `session.run`: note what it is given, and return or raise what the test wants."""

    def __init__(self, end: Finished | BaseException) -> None:
        self.end = end
        self.scenarios: list[Scenario] = []
        self.environment: Mapping[str, Any] = {}
        self.interrupts: session.Interrupts | None = None

    def __call__(
        self,
        scenario: Scenario,
        *,
        environment: Mapping[str, Any],
        show: Callable[[Progress], None],
        interrupts: session.Interrupts,
    ) -> Finished:
        """Play a short run."""
        self.scenarios.append(scenario)
        self.interrupts = interrupts
        self.environment = environment
        last = RECORDS[-1]
        show(
            Progress(
                elapsed_s=1, budget_s=2, index=last.index, step=last.step, step_elapsed_s=1, ended=True, sla=P99,
                judgement=last.judgement, quantile=last.p99, offered_rps=1, achieved_rps=1, in_flight=0,
                records=RECORDS,
            )
        )  # fmt: skip
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


@pytest.fixture(autouse=True)
def _in_an_empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def _finished(crash: Exception | None = None, **changes: Any) -> Finished:
    return Finished(run=make_run(steps=RECORDS, **changes), results=(), crash=crash)


def _play(monkeypatch: pytest.MonkeyPatch, end: Finished | BaseException) -> FakeSession:
    fake = FakeSession(end)
    monkeypatch.setattr(session, "run", fake)
    monkeypatch.setattr(files, "write", lambda run, results, folder: (folder / "run.json").touch())
    return fake


def test_the_answer_goes_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`opfind run --sla-p99 200ms` prints the answer, keeps the steps on standard error, and ends with 0."""
    fake = _play(monkeypatch, _finished())
    assert main(["run", "--sla-p99", "200ms", "-o", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Found")
    assert "step  13  confirm" in err
    assert "bundled reference server" in err
    assert "run.json" in out
    assert fake.scenarios[0].slas == (P99,)
    assert fake.environment["command"] == f"opfind run --sla-p99 200ms -o {tmp_path / 'out'}"


def test_a_new_folder_is_made_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without -o each run has a folder of its own under opfind-runs/."""
    _play(monkeypatch, _finished())
    assert main(["run", "--sla-p99", "200ms"]) == 0
    assert main(["run", "--sla-p99", "200ms"]) == 0
    assert len(list((tmp_path / "opfind-runs").iterdir())) == 2


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5, 130, 143])
def test_json_is_one_flat_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, code: int
) -> None:
    """With --json standard output is one object with every key, and the words are on standard error."""
    verdict = {0: "found", 1: "unmet", 3: "undecided", 4: "client_limited", 5: "target_failed"}.get(code, "undecided")
    _play(monkeypatch, _finished(exit_code=code, answer=make_answer(verdict=verdict, knee_rps=None)))
    assert main(["run", "--sla-p99", "200ms", "--json", "-o", str(tmp_path)]) == code
    out, err = capsys.readouterr()
    plain = json.loads(out)
    assert len(out.splitlines()) == 1
    assert set(plain) == KEYS
    assert plain["verdict"] == verdict
    assert plain["rate_rps"] == {"value": 553.4, "low": 545.2, "high": 561.0}
    assert plain["knee_rps"] is None
    assert (plain["sla"], plain["exit_code"], plain["steps"]) == ("p99<200ms", code, len(RECORDS))
    assert (plain["error"] is not None) == (code == 5)
    assert plain["folder"] == str(tmp_path)
    assert "Operating point" in err


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (TargetError("the target is unreachable; start it"), 5, "the target is unreachable; start it"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oops\nmore"), 70, "internal error, a defect of opfind (ZeroDivisionError: oops)"),
        (OpfindError("no server"), 70, "internal error, a defect of opfind (no server)"),
    ],
)
def test_an_error_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: BaseException, code: int, words: str
) -> None:
    """What ends a run before its answer is one line on standard error, and in the JSON object, with its exit code."""
    _play(monkeypatch, end)
    assert main(["run", "--sla-p99", "200ms", "--json"]) == code
    out, err = capsys.readouterr()
    plain = json.loads(out)
    assert set(plain) == KEYS
    assert plain["verdict"] == ("target_failed" if code == 5 else None)
    assert (plain["exit_code"], plain["rate_rps"], plain["steps"]) == (code, None, 0)
    complaint = err.splitlines()[-1]
    assert complaint.startswith(f"opfind: error: {words}")
    assert plain["error"] == complaint.removeprefix("opfind: error: ")
    assert "Traceback" not in err


def test_an_internal_error_leaves_its_traceback_in_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The traceback of a defect is in the run's folder, at the path that the sentence names, secrets masked."""
    _play(monkeypatch, ZeroDivisionError("at http://u:hunter2@h/"))
    assert main(["run", "--sla-p99", "200ms", "-o", str(tmp_path)]) == 70
    err = capsys.readouterr().err
    (path,) = tmp_path.glob("opfind-error-*.txt")
    assert str(path) in err
    assert "Traceback" in path.read_text()
    assert "hunter2" not in path.read_text() + err


def test_a_defect_after_measuring_keeps_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A search that breaks midway still has its files and numbers; the code is 70."""
    _play(monkeypatch, _finished(crash=ZeroDivisionError("late"), exit_code=70))
    assert main(["run", "--sla-p99", "200ms", "--json", "-o", str(tmp_path)]) == 70
    out, err = capsys.readouterr()
    plain = json.loads(out)
    assert plain["rate_rps"]["value"] == 553.4
    assert "ZeroDivisionError: late" in plain["error"]
    assert (tmp_path / "run.json").exists()
    assert err.splitlines()[-1].startswith("opfind: error: internal error")


def test_files_that_cannot_be_written_do_not_hide_the_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A full disk at the end is a usage error, but what was measured is printed."""
    _play(monkeypatch, _finished())

    def full(*_: object) -> None:
        raise UsageError("could not write run.json (No space left on device)")

    monkeypatch.setattr(files, "write", full)
    assert main(["run", "--sla-p99", "200ms", "-o", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "Operating point" in out
    assert "opfind: error: could not write run.json (No space left on device)" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "there is no SLA: say what must hold, such as --sla-p99 200ms or --sla 'p95<80ms'"),
        (["run", "--sla-p99", "0ms"], "--sla-p99: '0ms' is not a latency limit"),
        (["run", "--sla-p99", "200"], "'200' is not a latency: write a number with a unit us, ms or s, such as 200ms"),
        (["run", "--sla", "p99"], "--sla: 'p99' is not an SLA"),
        (["run", "--bogus"], "No such option"),
        (["run", "--budget", "3"], "'3' is not a duration"),
        (["run", "--mode", "half"], "'half' is not one of 'open', 'closed'"),
        (["run", "--sla-p99", "1s", "--scenario", "nosuch"], "scenario 'nosuch': there is no such file"),
        (["run", "http://u:hunter2@h/", "http://x/?key=hunter2"], "unexpected extra argument"),
        (["run", "u:hunter2@h/", "v:hunter2@h/"], "unexpected extra argument"),
        (["run", "-H", "Bearer hunter2"], "write 'Name: value'"),
        (["run", "--sla-p99", "1s", "-o", ""], "the name is empty: name a folder, or leave -o out"),
        (["run", "--sla-p99", "1s", "--timeout", "500ms"], "--timeout: 0.5 s is below the longest SLA limit, 1 s"),
        (["run", "--sla-p99", "1s", "--require-rps", "9", "--max-rps", "8"], "--require-rps: 9 is above --max-rps, 8"),
        (["load"], "say how much load: either --users 64, a closed loop, or --rate 5000, an open one"),
        (["load", "--users", "2", "--rate", "5"], "give only one of --users, a closed loop, and --rate, an open one"),
        (["load", "--rate", "0.1", "-d", "2s"], "--rate 0.1 is less than one request in 2 s: at least 10 s are needed"),
        (["load", "--rate", "5", "--error-budget", "1%"], "--error-budget has no meaning without an SLA: drop it or"),
        (
            ["load", "-H", "X-A: 1", "-H", "x-a: 2", "--rate", "5"],
            "--header: x-a is given twice: give it once, with both",
        ),
        (
            ["load", "-H", "content-length: 7", "--rate", "5"],
            "--header: Content-Length is set from the body: drop this",
        ),
        (["selfcheck", "h", "--cacert", "x"], "--cacert: is about TLS, but the URL is not https"),
        (["load", "--users", "0"], "'0' is not a whole number from 1 to 1000000"),
        (["load", "--rate", "5", "-d", "3"], "'3' is not a duration"),
        (["load", "--rate", "5", "--require-rps", "3"], "No such option"),
        (["serve", "--port", "99999"], "'99999' is not a port from 0 to 65535"),
        (
            ["serve", "--device", "nosuch"],
            "device 'nosuch': there is no such file, and the bundled ones are a100, h200, l4, simulated",
        ),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_usage_error_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    """A wrong flag ends with code 2, one line on standard error, nothing on standard output, and no secret."""
    assert main([*arguments, *(["--json"] if arguments[0] in ("run", "load", "selfcheck") else [])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("opfind: error: ")
    assert words in err
    assert "hunter2" not in err


def test_no_flag_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`opfind` alone is answered as git does: the help as it is, on standard error, and a code above zero."""
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: opfind [OPTIONS] COMMAND")
    assert "Find the operating point of a server." in err
    assert "error" not in err


def test_a_targets_words_do_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, where click lets escape sequences pass, what a target replied is one harmless line."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    _play(monkeypatch, TargetError("HTTP 500 Oh\x1b[31m no\x9b2J\x07\r\nopfind: \u202efound é"))
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["run", "--sla-p99", "200ms"]) == 5
    complaint = stream.getvalue().partition("opfind: error: ")[2]
    assert complaint == "HTTP 500 Oh\ufffd[31m no\ufffd2J\ufffd  opfind: \ufffdfound é\n"


def test_the_mask_knows_which_flags_take_no_value() -> None:
    """The recorded command is masked by what each flag takes, so the list of those that take nothing must be whole."""
    switches = {name for param in run.params if isinstance(param, Option) and param.is_flag for name in param.opts}
    assert switches | {"--help", "-h", "--version"} == SWITCHES


def test_an_impatient_user_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ctrl-C and Ctrl-C again, while the view ends and while files are written: they are written, the answer stands."""

    @contextmanager
    def slow_view(title: str, stream: TextIO) -> Iterator[Callable[[Progress], None]]:
        yield lambda _: None
        signal.raise_signal(signal.SIGINT)

    def slow_disk(_run: Run, _results: object, folder: Path) -> None:
        signal.raise_signal(signal.SIGINT)
        (folder / "run.json").touch()

    before = signal.getsignal(signal.SIGINT)  # a shell starts what runs in its background with the signal ignored
    fake = _play(monkeypatch, _finished())
    monkeypatch.setattr(console, "live", slow_view)
    monkeypatch.setattr(files, "write", slow_disk)
    assert main(["run", "--sla-p99", "200ms", "-o", str(tmp_path)]) == 0
    assert (tmp_path / "run.json").exists()
    assert capsys.readouterr().out.startswith("Found")
    assert fake.interrupts is not None
    assert fake.interrupts.signals == [signal.SIGINT, signal.SIGINT]  # the search's own: there is one holder
    assert signal.getsignal(signal.SIGINT) is before


def test_broken_toml_names_line_and_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A scenario file with a typing mistake leads to the place."""
    (tmp_path / "broken.toml").write_text("[load]\nmode = open\n")
    assert main(["run", "--sla-p99", "1s", "--scenario", str(tmp_path / "broken.toml")]) == 2
    assert "broken.toml: is not valid TOML: Invalid value (at line 2, column 8)" in capsys.readouterr().err


def test_an_unwritable_folder_ends_before_any_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """When the output cannot be written, nothing is sent."""
    (tmp_path / "file").touch()
    fake = _play(monkeypatch, _finished())
    assert main(["run", "--sla-p99", "1s", "-o", str(tmp_path / "file" / "x")]) == 2
    assert fake.scenarios == []
    assert "cannot write into" in capsys.readouterr().err


def test_help_names_every_flag_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    """The flags are those that the documentation promises, and the help lists each."""
    assert main(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    flags = {option for param in run.params for option in param.opts if option.startswith("-")}
    assert flags == set(
        re.findall(
            r"\S+",
            """--sla-p99 --sla --error-budget --mode --arrivals --seed --precision --budget --timeout --start-rps
            --max-rps --max-users --connections --workers --method -H --header --body --scenario --require-rps
            --plan-rps --cacert --insecure --cert --key --unix-socket --re-resolve
            --protocol --input-data --metrics-url
            --body-lines --shuffle --body-template --expect-status --expect-body-regex --expect-json
            -o --output --json --locustfile --stream --bracket""",
        )
    )
    for flag in flags:
        assert f" {flag}" in shown, flag


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["run", "--help"], ["load", "--help"], ["serve", "--help"]]
)
def test_help_and_version_are_quick(arguments: list[str]) -> None:
    """They load none of the heavy libraries, which is what makes them quick."""
    script = f"""
import sys
from loadgen.cli import main
assert main({arguments!r}) == 0
heavy = "numpy", "scipy", "matplotlib", "rich", "msgspec", "httptools", "uvloop", "google.protobuf", "locust", "gevent"
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


_UNDECIDED = """
import sys
from loadgen import files, session
from loadgen.cli import main
from loadgen.session import Finished
from tests.factories import make_run
session.run = lambda scenario, **_: Finished(run=make_run(exit_code=3), results=())
files.write = lambda *_: None
sys.exit(main(["run", "--sla-p99", "200ms", "-o", sys.argv[1]]))
"""


def test_a_reader_that_leaves_changes_nothing(tmp_path: Path) -> None:
    """`opfind run … | head -0` ends with the run's own code and without a complaint of Python's."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", _UNDECIDED, str(tmp_path)]
    with os.fdopen(writer, "wb") as stdout:
        done = subprocess.run(
            command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 3
    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_closed_stream_is_silent(tmp_path: Path, closed: tuple[int, ...], flags: tuple[str, ...]) -> None:
    """`2>&-` and its like change neither the exit code nor what the other stream says, and no file takes its place."""
    shut = " ".join(f"{number}>&-" if number else "<&-" for number in closed)
    script = _UNDECIDED.replace("sys.argv[1]]", "sys.argv[1], *sys.argv[2:]]")
    command = f'exec "$@" {shut}'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-c", script, str(tmp_path), *flags], cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "rror" not in done.stderr
    words = done.stderr if flags else done.stdout
    assert ("Operating point" in words) is ((2 if flags else 1) not in closed)
    if flags and 1 not in closed:
        assert json.loads(done.stdout)["exit_code"] == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    ("arguments", "code"), [(["run", "--sla-p99", "1s"], 3), (["--version"], 2), (["run", "--help"], 2)]
)
def test_a_full_disk_at_standard_output_is_one_sentence(tmp_path: Path, arguments: list[str], code: int) -> None:
    """The code of a run whose files are written stands; where there is nothing else, it is a usage error."""
    script = re.sub(r"main\(.*\)\)", f"main({arguments!r}))", _UNDECIDED)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full,
            stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == code
    complaint = "opfind: error: cannot write to standard output: No space left on device"
    assert [line for line in done.stderr.splitlines() if "rror" in line] == [complaint]


def test_a_defect_is_not_taken_for_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An OSError of another origin is a defect, with its traceback in a file."""
    from loadgen.server import serve as serve_module

    def broken(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(serve_module, "serve", broken)
    assert main(["serve"]) == 70
    assert "internal error, a defect of opfind (OSError" in capsys.readouterr().err


@pytest.mark.parametrize("end", [TargetError("nobody there"), UsageError("no such body file"), KeyboardInterrupt()])
def test_a_folder_that_was_made_for_nothing_goes_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, end: BaseException
) -> None:
    """Only what this run made, and only while it is empty: a folder of the user's own stays."""
    _play(monkeypatch, end)
    (tmp_path / "own").mkdir()
    for name in ("own", "new", "own/a/b"):
        assert main(["run", "--sla-p99", "200ms", "-o", name]) != 0
    assert [path.name for path in tmp_path.rglob("*")] == ["own"]


def test_a_traceback_keeps_its_new_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The folder that holds a traceback is not empty, so it stays."""
    _play(monkeypatch, ZeroDivisionError("oops"))
    assert main(["run", "--sla-p99", "200ms", "-o", "new"]) == 70
    assert len(list((tmp_path / "new").glob("opfind-error-*.txt"))) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rate", "1e6", "-d", "1ms"], "1,000,000 req/s for 1 ms, open loop, poisson arrivals"),
        (["--users", "1", "-d", "90s", "--think", "20ms"], "1 user for 90 s, closed loop, think time 20 ms"),
        (["--rate", "5", "-d", "1.5s", "--arrivals", "gamma:2"], "5 req/s for 1.5 s, open loop, gamma arrivals, CV 2"),
    ],
)
def test_the_title_says_what_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """Numbers as a reader writes them: no exponent, no thousandths of a second, one user."""
    monkeypatch.setattr(session, "load", lambda *_, **__: Finished(run=make_load(), results=()))
    monkeypatch.setattr(files, "write", lambda *_: None)
    assert main(["load", "http://h/", *arguments]) == 0
    assert capsys.readouterr().err.startswith(f"opfind: {words}, http://h/\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--sla-p99", "200ms"],
            (
                "find the highest rate at which p99<200ms holds, to ±5 % with at most 3 min of load (usually 36 s "
                "where service times are equal, 76 s where they vary)"
            ),
        ),
        (
            ["--sla-p99", "1s", "--sla", "p50<9ms", "--precision", "2%", "--budget", "20s"],
            (
                "p99<1s and p50<9ms hold, to ±2 % with at most 20 s of load (usually it takes 36 s where "
                "service times are equal, more than 76 s where they vary)"
            ),
        ),
        (["--sla-p99", "200ms", "--precision", "0.01", "--budget", "2m"], "to ±1 % with at most 2 min of load; if"),
        (["--sla-p99", "200ms", "--mode", "closed"], "find the highest number of users at which p99<200ms holds"),
    ],
)
def test_the_plan_is_told_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
    tmp_path: Path,
) -> None:
    """One line on standard error: what is sought, how exactly, for how long, and what comes if that is too short."""
    _play(monkeypatch, _finished())
    main(["run", *arguments, "-o", str(tmp_path)])
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("opfind: plan: ")
    assert words in first
    assert first.endswith("if the budget ends first, you get the best interval so far and exit code 3")


def test_replicas_are_planned_by_a_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """--plan-rps reaches the scenario, which the run file holds; a closed loop has no rate to plan with."""
    fake = _play(monkeypatch, _finished())
    assert main(["run", "--sla-p99", "200ms", "--plan-rps", "5000", "-o", str(tmp_path)]) == 0
    assert fake.scenarios[0].plan_rps == 5000
    assert main(["run", "--sla-p99", "200ms", "--plan-rps", "5000", "--mode", "closed"]) == 2
    assert "--plan-rps has no meaning in the closed load mode" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_selfcheck_without_verification_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    """`selfcheck https://… --insecure` warns on the terminal and in the object; without it, neither."""
    monkeypatch.setattr("loadgen.selfcheck.measure", lambda *_, **__: checked(row(100)))
    words = "TLS certificates were NOT verified (--insecure)"
    for insecure in ([], ["--insecure"]):
        assert main(["selfcheck", "https://h/", *insecure, *flags]) == 0
        out, err = capsys.readouterr()
        assert (words in (err if flags else out)) is bool(insecure)
        if flags:
            assert (words in (json.loads(out)["caution"] or "")) is bool(insecure)


def test_a_terminal_without_our_characters_shows_others(tmp_path: Path) -> None:
    """An ASCII-only stream gets other characters instead of an exception."""
    command = [sys.executable, "-c", _UNDECIDED, str(tmp_path)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=ROOT, env=ascii_only, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "Operating point" in done.stdout


def test_serve_hands_the_profile_to_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`opfind serve` parses the device profile, starts the server, and says where it listens."""
    from loadgen.server import serve as serve_module

    seen: list[Any] = []

    def fake_serve(
        models: Any, limits: Any, *, host: str, port: int, ready: Callable[[int], None], version: str
    ) -> None:
        seen.append((models[0].device.t0_ms, host, port))
        ready(4321)

    monkeypatch.setattr(serve_module, "serve", fake_serve)
    (tmp_path / "slow.toml").write_text("t0_ms = 99.0\n")
    assert main(["serve", "--host", "::1", "--port", "0", "--device", str(tmp_path / "slow.toml")]) == 0
    assert seen == [(99.0, "::1", 0)]
    assert capsys.readouterr() == ("listening on http://[::1]:4321\n", "")
    assert main(["serve", "--host", "0.0.0.0", "--device", str(tmp_path / "slow.toml")]) == 0
    assert "0.0.0.0 is not this machine alone" in capsys.readouterr().err
    assert main(["serve", "--host", "localhost"]) == 0
    assert capsys.readouterr().err == ""


def test_serve_reads_one_configuration_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model repository and a server.toml are served as they are; what is ignored is said; two sources are refused."""
    from loadgen.server import serve as serve_module

    seen: list[Any] = []
    monkeypatch.setattr(serve_module, "serve", lambda models, limits, **_: seen.append((models, limits)))
    (tmp_path / "repository" / "a").mkdir(parents=True)
    (tmp_path / "repository" / "a" / "config.pbtxt").write_text("max_batch_size: 8 optimization { graph { level: 1 } }")
    (tmp_path / "server.toml").write_text('[limits]\nmax_connections = 7\n[[models]]\nname = "b"\ndevice = "simulated"')
    assert main(["serve", "--model-repository", str(tmp_path / "repository")]) == 0
    assert "ignored, because this server has no such thing: optimization" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "server.toml")]) == 0
    assert [(models[0].name, limits.max_connections) for models, limits in seen] == [("a", 10_000), ("b", 7)]
    assert main(["serve", "--config", "x", "--device", "y"]) == 2
    assert "give only one of" in capsys.readouterr().err
    assert main(["serve", "--model-repository", str(tmp_path)]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert main(["serve", "--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml cannot be read" in capsys.readouterr().err


def test_profiling_needs_torch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without torch the command says how to get it."""
    monkeypatch.setitem(sys.modules, "loadgen.server.torch_profile", None)
    assert main(["profile-device"]) == 2
    assert "profile-device needs torch: pip install 'opfind[gpu]'" in capsys.readouterr().err


def test_a_load_goes_to_the_session_and_its_answer_to_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`opfind load --rate 400 -d 3s` runs that one step, without an SLA; --json moves the words to standard error."""
    asked: list[tuple[Scenario, Step]] = []

    def fake_load(scenario: Scenario, step: Step, **_: Any) -> Finished:
        asked.append((scenario, step))
        return Finished(run=make_load(), results=())

    monkeypatch.setattr(session, "load", fake_load)
    command = ["load", "http://h/", "--rate", "400", "-d", "3s", "-o", str(tmp_path / "out")]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Load: 400 req/s offered for 3 s")
    assert err == "opfind: 400 req/s for 3 s, open loop, poisson arrivals, http://h/\n"
    ((scenario, step),) = asked
    assert (scenario.slas, step.rate_rps, step.duration_s, step.purpose) == ((), 400, 3, "load")
    assert main([*command, "--json"]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out))[:6] == ["ok", "offered", "errors", "timeouts", "lost", "unsent"]
    assert "Load: 400 req/s offered" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["run.json", "steps.npz", "report.html", "summary.md", "junit.xml", "steps.hlog"]
    )


def test_a_load_shares_the_flags_of_run() -> None:
    """Whatever `run` knows of the request and the way to the target, `load` knows too: the same options."""
    search_only = {
        "mode", "start_rps", "max_rps", "max_users", "precision", "budget", "require_rps", "plan_rps",
        "locustfile", "stream", "bracket",
    }  # fmt: skip
    of_run = {param.name: param for param in run.params if isinstance(param, Option)}
    of_load = {param.name: param for param in load.params if isinstance(param, Option)}
    assert set(of_run) - set(of_load) == search_only
    assert set(of_load) - set(of_run) == {"users", "rate", "duration", "think"}
    assert all(of_load[name] is option for name, option in of_run.items() if name in of_load)


def test_no_thread_of_the_view_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """After a run the view's thread is gone."""
    before = set(threading.enumerate())
    _play(monkeypatch, _finished())
    main(["run", "--sla-p99", "200ms", "-o", str(tmp_path)])
    assert set(threading.enumerate()) <= before
