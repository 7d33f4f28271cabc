"""`opfind ui` as a user runs it: Locust's web UI with the search in it, over HTTP, and headless."""

import json
import re
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_target import FakeTarget, fake_target, free_port
from tests.locust_process import PATIENCE_S, QUICK, ROOT, Page, all_ended, ended, family, listening, opfind, ui, until

LOOPBACK = "0100007F"
LOGIN = """
from locust import events
from flask import redirect
from flask_login import UserMixin, login_user

class Someone(UserMixin):
    def get_id(self):
        return "me"

@events.init.add_listener
def _login(environment, **kw):
    environment.web_ui.app.secret_key = "x"
    environment.web_ui.login_manager.user_loader(lambda name: Someone())
    environment.web_ui.auth_args = {"username_password_callback": "/x/login_submit"}

    @environment.web_ui.app.route("/x/login_submit", methods=["POST"])
    def submit():
        login_user(Someone())
        return {"ok": True}
"""


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the fake target to all tests of this module."""
    with fake_target() as served:
        yield served


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """Serve one `opfind ui`, on the bundled server unless a form says otherwise, to several tests."""
    with ui("--start-rps", "100", "--max-rps", "100", folder=tmp_path_factory.mktemp("ui")) as served:
        yield served


def test_the_tab_stands_in_locusts_own_page_on_loopback(page: Page) -> None:
    """The title is in the page that `GET /` gives, the form has our fields, and nothing listens beyond loopback."""
    html = page.get()
    assert "Operating point" in html
    fields = json.loads(html.partition("window.templateArgs = ")[2].partition("\n")[0])["extra_options"]
    assert set(fields) == {"target", "sla", "mode", "precision", "budget", "scenario"}
    assert listening(family(page.process.pid)) == {LOOPBACK}
    assert "No search yet" in page.live()
    with pytest.raises(urllib.error.HTTPError) as error:
        page.get("/opfind/report/last/download")
    with error.value as reply:
        assert (reply.code, b"a search writes it" in reply.read()) == (404, True)


def test_a_search_that_is_stopped_in_mid_step_and_started_again(page: Page) -> None:
    """Stop ends a search as interrupted; a second Start meanwhile is refused in words; the next one runs to its end."""
    assert page.post("/swarm", budget="120s", sla="200ms")["success"]
    page.until(lambda html: 'class="curve"' in html)
    second = Page(page.base, page.process)  # another browser
    refused = second.post("/swarm", budget="5s")
    assert not refused["success"]
    assert "a search is under way" in refused["message"]
    assert "a search is under way" in page.live().lower()
    assert "Searching" in second.live()
    assert listening(family(page.process.pid)) == {LOOPBACK}
    assert page.post("/stop")["success"]
    assert page.post("/swarm", budget="2s", sla="200ms")["success"]  # it waits for the last one's files
    assert "interrupted" in page.live().lower()  # among the earlier ones
    told = page.until(lambda html: "Open the report" in html)
    verdict = "Lower bound" if "Lower bound" in told else "Undecided"
    assert verdict in told
    until(lambda: json.loads(page.get("/stats/requests"))["state"], lambda state: state == "stopped")
    assert "Operating point" in page.get("/opfind/report/2/download")
    assert f"Operating point: {verdict}" in page.get("/stats/report").rpartition('id="root"')[0][-3000:]


def test_stop_right_after_start_ends_the_search(page: Page) -> None:
    """Before its process is there: the next one starts as ever."""
    for _ in range(3):
        assert page.post("/swarm", budget="60s", sla="200ms")["success"]
        assert page.post("/stop")["success"]
        page.until(lambda html: "Searching" not in html)
    assert page.post("/swarm", budget="2s", sla="200ms")["success"]
    page.until(lambda html: "Open the report" in html)
    until(lambda: json.loads(page.get("/stats/requests"))["state"], lambda state: state == "stopped")


def test_locusts_tables_show_the_engines_traffic_unrounded(page: Page) -> None:
    """After a search the statistics count every request, and their percentiles have more than Locust's two digits."""
    run = json.loads((_last_folder(page) / "run.json").read_text(encoding="utf-8"))
    answered = sum(step["counts"]["ok"] for step in run["steps"])
    row = json.loads(page.get("/stats/requests"))["stats"][0]
    assert (row["method"], row["name"], row["num_requests"]) == ("POST", "/predict", answered)
    percentiles = [row[f"response_time_percentile_{q}"] for q in (0.95, 0.99)]
    assert all(value != float(f"{value:.2g}") for value in percentiles)
    assert '"percentiles_to_chart": [0.5, 0.95, 0.99]' in page.get()


def _last_folder(page: Page) -> Path:
    folders = sorted(Path(f"/proc/{page.process.pid}/cwd").resolve().glob("opfind-runs/*"))
    return max(folders, key=lambda folder: folder.stat().st_mtime)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"sla": "fast"}, "--sla-p99: 'fast' is not a latency"),
        ({"target": "--body=@/etc/passwd"}, "URL"),
        ({"target": "ftp://127.0.0.1/"}, "http"),
        ({"precision": "0"}, "cannot be reached"),
        ({"body": "@/etc/passwd"}, "--body is for the command line only"),
        ({"output": "/tmp"}, "--output is for the command line only"),
        ({"max_users": "9999"}, "--max-users is for the command line only"),
        ({"scenario": "/etc/passwd"}, "--scenario"),
    ],
)
def test_a_wrong_field_is_refused_in_the_form(page: Page, form: dict[str, str], says: str) -> None:
    """The answer to Start names the field and the remedy, no search begins, and no value becomes a flag."""
    told = page.post("/swarm", **{"sla": "200ms", "target": "", "precision": "", **form})
    assert not told["success"]
    assert says in told["message"]


def test_a_target_that_dies_during_the_search(page: Page, target: FakeTarget) -> None:
    """The page says so, and so do Locust's failures; that the next search starts cleanly, the next test shows."""
    target.dies_after = target.requests.total() + 30
    assert page.post("/swarm", budget="20s", sla="200ms", precision="", target=f"{target.base}/ok")["success"]
    told = page.until(lambda html: "Target failed" in html)
    assert "refused every connection" in told or "stopped answering" in told
    until(lambda: json.loads(page.get("/stats/requests"))["state"], lambda state: state == "stopped")
    assert "connection reset" in page.get("/stats/requests")
    target.dies_after = 10**9


def test_an_unreachable_target_is_told_on_the_page(page: Page) -> None:
    """The sentence names the target and the reason, and Locust's report has it too."""
    until(lambda: json.loads(page.get("/stats/requests"))["state"], lambda state: state == "stopped")
    gone = f"http://127.0.0.1:{free_port()}/"
    assert page.post("/swarm", sla="200ms", target=gone)["success"]
    told = page.until(lambda html: "Failed" in html)
    assert f"all 5 preflight requests to {gone} failed: cannot connect" in " ".join(told.split()).lower()
    assert "preflight requests" in page.get("/stats/report").rpartition('id="root"')[0][-3000:]


def test_sigterm_ends_the_page_the_server_and_the_engines(page: Page) -> None:
    """All processes end, what was measured is kept, and the exit code is 143."""
    until(lambda: json.loads(page.get("/stats/requests"))["state"], lambda state: state == "stopped")
    page.post("/swarm", budget="120s", sla="200ms", target="")
    page.until(lambda html: 'class="curve"' in html)
    all_of_them, home = family(page.process.pid), Path(f"/proc/{page.process.pid}/cwd").resolve()
    assert len(all_of_them) >= 4  # Locust, the search, the server, an engine
    page.process.send_signal(signal.SIGTERM)
    _, err = page.process.communicate(timeout=PATIENCE_S)
    assert page.process.returncode == 143
    assert "Traceback" not in err
    assert {pid for pid in all_of_them if Path(f"/proc/{pid}").exists()} == set()
    folder = home / re.findall(r"Files: (\S+)/", err)[-1]
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["exit_code"] == 143


def test_a_base_path_and_a_login_of_the_users_own(target: FakeTarget, tmp_path: Path) -> None:
    """The tab, its page and its start are under the base path, and closed to whoever has not logged in."""
    (tmp_path / "login.py").write_text(LOGIN, encoding="utf-8")
    ours = ROOT / "scenarios" / "locustfiles" / "operating_point.py"
    words = ("--web-login", "--web-base-path", "/x", "--target", f"{target.base}/ok", *QUICK)
    with ui(f"{ours},login.py", *words, folder=tmp_path, base_path="/x", locust=True) as page:
        assert listening(family(page.process.pid)) == {LOOPBACK}
        for path in ("/", "/opfind/", "/opfind/live"):
            assert "window.authArgs" in page.get(path)  # the login page, to which it leads
        with pytest.raises(ValueError):  # that page is no JSON
            page.post("/swarm")
        assert page.post("/login_submit")["ok"]
        assert "Operating point" in page.get()
        assert "No search yet" in page.live()
        assert page.post("/swarm")["success"]
        page.until(lambda html: "Searching" in html)


def test_without_a_click(target: FakeTarget, tmp_path: Path) -> None:
    """It starts and ends by itself, with the search's exit code, and Locust's HTML report begins with our verdict."""
    words = ("--target", f"{target.base}/slow/5", *QUICK, "--html", "l.html", "--output", "out")
    port = ("--web-port", str(free_port()))
    code, _, err = ended("ui", "--autostart", "--autoquit", "0", *port, *words, folder=tmp_path)
    assert code in (3, 4), err
    assert f"Operating point: {'Lower bound' if code == 4 else 'Undecided'}" in _head(tmp_path / "l.html")
    assert (tmp_path / "out" / "report.html").is_file()


def _head(report: Path) -> str:
    """Return what stands in Locust's report before the place where its script draws."""
    return report.read_text(encoding="utf-8").rpartition('id="root"')[0][-3000:]


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    """Interrupted without a web UI, the search writes its files, Locust its report, and the exit code is 130."""
    words = ("--start-rps", "100", "--budget", "60s", "--output", "out", "--html", "l.html")
    with opfind("ui", "--headless", *words, folder=tmp_path) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "/predict" in line:  # in Locust's table: requests have been answered
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["exit_code"] == 130
    assert "Operating point: Interrupted" in _head(tmp_path / "l.html")


def test_help_lists_locusts_flags_with_those_of_this_search(tmp_path: Path) -> None:
    """Not those of a search over a locustfile's own users, which `--max-users` in the form would be."""
    code, out, _ = ended("ui", "--help", folder=tmp_path)
    assert code == 0
    assert {"--web-port", "--target", "--mode", "--require-rps"} <= set(re.findall("--[a-z-]+", out))


def test_a_wrong_flag_is_one_sentence(target: FakeTarget, tmp_path: Path) -> None:
    """Exit code 2, the flag and the remedy, and no traceback."""
    free, taken = str(free_port()), target.base.rpartition(":")[2]
    wrong = {
        ("--web-port", free, "--sla-p99", "fast"): "--sla-p99: 'fast' is not a latency",
        ("--web-port", free, "--master"): "drop --master",
        ("--web-port", taken): f"--web-port {taken} of 127.0.0.1 cannot be used (Address already in use): name another",
    }
    done = all_ended([("ui", *words) for words in wrong], tmp_path)
    for (code, err), says in zip(done, wrong.values(), strict=True):
        assert code == 2, err
        assert says in err
        assert "Traceback" not in err
