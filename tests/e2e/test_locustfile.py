"""`opfind run --locustfile`: the users of somebody's locustfile are the load, and how wrong files and targets end."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import Run
from tests.fake_target import FakeTarget, fake_target, free_port
from tests.locust_process import PATIENCE_S, all_ended, ended, opfind, ui, until

USERS = """
import time
from locust import FastHttpUser, task

class Me(FastHttpUser):
    @task
    def ask(self):
        {body}
"""
QUICK = 'self.client.get("/slow/7")'
SLOW = 'self.client.get("/slow/20")'
LENGTHY = "x = 0\n        end = time.monotonic() + 0.06\n        while time.monotonic() < end: x += 1\n        " + SLOW


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the fake target to all tests of this module."""
    with fake_target() as served:
        yield served


def search(body: str, base: str, *words: str, folder: Path) -> tuple[int, str, str]:
    """Search over users that run `body`; return exit code, output and errors."""
    (folder / "mine.py").write_text(USERS.format(body=body), encoding="utf-8")
    return ended(
        "run", base, "--locustfile", "mine.py", "--sla-p99", "200ms", "-o", "out", "--json", *words, folder=folder
    )


def answer_of(out: str) -> dict[str, Any]:
    """Return the one JSON object on standard output."""
    answer: dict[str, Any] = json.loads(out)
    return answer


def test_users_are_raised_until_the_bound_and_the_answer_is_a_closed_loops(target: FakeTarget, tmp_path: Path) -> None:
    """The number of users is the answer, on exact times; no rate is promised, and every file is written."""
    code, out, err = search(
        SLOW.replace("20", "7"), target.base, "--max-users", "2", "--budget", "20s", folder=tmp_path
    )
    answer = answer_of(out)
    assert code == answer["exit_code"] == 4, err
    assert (answer["users"]["value"], answer["limited_by"]) == (2, "--max-users")
    assert answer["rate_rps"] is None
    assert 0.007 < answer["p50"]["value"] < 0.1
    assert answer["p50"]["value"] != pytest.approx(round(answer["p50"]["value"], 3), abs=1e-9)  # not in whole ms
    assert "closed loop" in err
    assert "Locust's event loop was late by at most" in " ".join(err.split())
    run = Run.from_json(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8")))
    assert [record.step.users for record in run.steps][:2] == [1, 2]
    assert run.environment["locustfile"] == "mine.py"
    assert all("hub_lag_p99_s" in record.client and "cpu_share" in record.client for record in run.steps)
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_generator_that_is_the_limit_says_so(target: FakeTarget, tmp_path: Path) -> None:
    """Tasks that keep Locust's loop from running make it late: the answer is client-limited, and names the loop."""
    code, out, _ = search(LENGTHY, target.base, "--budget", "4s", folder=tmp_path)
    answer = answer_of(out)
    assert code in (3, 4)  # where not even one user could be measured, nothing is known
    run = Run.from_json(json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8")))
    reasons = {(reason.kind, reason.text.partition(" was")[0]) for record in run.steps for reason in record.reasons}
    assert ("client", "Locust's event loop") in reasons
    assert answer["rate_rps"] is None


def test_a_target_that_dies(target: FakeTarget, tmp_path: Path) -> None:
    """The verdict is the target's, with the words of its failures."""
    target.dies_after = target.requests.total() + 40
    code, out, err = search(SLOW, target.base, "--budget", "20s", folder=tmp_path)
    target.dies_after = 10**9
    assert code == 5, err
    assert answer_of(out)["verdict"] == "target_failed"
    assert "Connection" in err


def test_a_locustfile_that_cannot_be_used(tmp_path: Path) -> None:
    """It does not import, has no user or no host, or raises in each task: exit code 2, one sentence, no traceback."""
    files = {
        "import nothing_like_it\n": "No module named 'nothing_like_it'",
        "x = 1\n": "has no user",
        USERS.format(body='raise ValueError("no good")'): "tasks raise, and make no request: ValueError: no good",
    }
    for number, text in enumerate(files):
        (tmp_path / f"file{number}.py").write_text(text, encoding="utf-8")
    (tmp_path / "good.py").write_text(USERS.format(body=QUICK), encoding="utf-8")
    run = ("run", "--sla-p99", "200ms", "--locustfile")
    base = f"http://127.0.0.1:{free_port()}"
    commands = [(*run, f"file{number}.py", base) for number in range(len(files))]
    done = all_ended([*commands, (*run, "good.py")], tmp_path)
    for (code, err), says in zip(done, [*files.values(), "nothing says where the requests go"], strict=True):
        assert code == 2, err
        assert says in err
        assert "Traceback" not in err


def test_users_that_pause_or_never_come_and_a_target_that_hangs(target: FakeTarget, tmp_path: Path) -> None:
    """A pause in a task is no request; users whose `on_start` raises are no load; who never answers has failed."""
    pause = f"{QUICK}\n        if time.monotonic() % 1 < 0.05: time.sleep(2.5)"
    raises = USERS.format(body=QUICK) + '    def on_start(self):\n        raise ValueError("no good")\n'
    files = {"pause": USERS.format(body=pause), "raises": raises,
             "hangs": USERS.format(body='self.client.get("/silent")')}  # fmt: skip
    for name, text in files.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    quick = ("--sla-p99", "200ms", "--max-users", "1", "--budget", "9s", "--json")
    commands = [("run", target.base, "--locustfile", f"{name}.py", "-o", name, *quick) for name in files]
    (paused, paused_err), (raised, raised_err), (hung, hung_err) = all_ended(commands, tmp_path)
    assert paused in (3, 4), paused_err
    run = Run.from_json(json.loads((tmp_path / "pause" / "run.json").read_text(encoding="utf-8")))
    assert {name for record in run.steps for name, count in record.counts.items() if count} == {"ok"}
    assert raised == 2, raised_err
    assert "see what their on_start raises" in " ".join(raised_err.split())
    assert hung == 5, hung_err
    assert "was answered" in " ".join(hung_err.split())


@pytest.mark.parametrize("command", ["run", "ui"])
def test_sigterm_without_a_page_keeps_what_was_measured(command: str, target: FakeTarget, tmp_path: Path) -> None:
    """143 and all files, as everywhere; Locust's own report too."""
    (tmp_path / "mine.py").write_text(USERS.format(body=SLOW), encoding="utf-8")
    ours = {
        "run": ("run", target.base, "--locustfile", "mine.py", "--max-users", "4", "--json"),
        "ui": ("ui", "--headless", "--html", "page.html", "--target", f"{target.base}/slow/20"),
    }
    before = target.requests.total()
    with opfind(*ours[command], "--sla-p99", "200ms", "--budget", "60s", "--output", "out", folder=tmp_path) as process:
        until(lambda: str(target.requests.total() > before + 40), lambda said: said == "True")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, err
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["exit_code"] == 143
    assert command == "run" or "Operating point: Terminated" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--locustfile", "nowhere.py"), "there is no file 'nowhere.py'"),
        (("--locustfile", "mine.py", "--rate-limit"), "No such option"),
        (("--locustfile", "mine.py", "--arrivals", "poisson"), "--arrivals has no meaning with --locustfile"),
        (("--locustfile", "mine.py", "--mode", "open"), "--mode open has no meaning"),
    ],
)
def test_a_flag_that_has_no_meaning_for_users(
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is refused by its name, before Locust is started."""
    from loadgen.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("", encoding="utf-8")
    assert main(["run", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_shape_in_the_users_own_file_shows_its_search_in_the_page(target: FakeTarget, tmp_path: Path) -> None:
    """Plain `locust -f` finds a subclass of the bridge's shape; Stop and Start work as they do for the engine."""
    file = USERS.format(body=SLOW) + (
        "\nfrom loadgen.locust_bridge import OperatingPointShape\n"
        "\nclass Mine(OperatingPointShape):\n    pass\n"
    )  # fmt: skip
    (tmp_path / "mine.py").write_text(file, encoding="utf-8")
    with ui("mine.py", "--host", target.base, folder=tmp_path, locust=True) as page:
        assert "Operating point" in page.get()
        assert page.post("/swarm", budget="60s")["success"]
        page.until(lambda html: 'class="curve"' in html)
        assert page.post("/stop")["success"]
        page.until(lambda html: "interrupted" in html.lower() and "Open the report" in html)
        assert page.post("/swarm", budget="60s")["success"]
        page.until(lambda html: "Searching" in html and "closed loop" in html)
