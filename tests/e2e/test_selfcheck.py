"""`opfind selfcheck` as a user types it: real processes, real sockets, the null server among them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from loadgen import selfcheck
from loadgen.selfcheck import null_server
from tests.fake_target import fake_target, free_port

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}


def command(*arguments: str) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "loadgen", "selfcheck", *arguments]


def test_a_machine_and_a_target_are_measured() -> None:
    """One run with a URL: 20 requests and no more reach it, the rows climb, and the words fit the numbers."""
    with fake_target() as target:
        done = subprocess.run(
            command(target.base + "/slow/20", "--workers", "1", "--json"), env=ENVIRONMENT, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
        assert target.requests["/slow/20"] == 20
    assert done.returncode in (0, 4), done.stderr
    found = json.loads(done.stdout)
    assert found["exit_code"] == done.returncode
    assert found["ceiling_rate_rps"] > 100
    assert found["rows"][0]["rate_rps"] == 100
    assert all(0 < row["added_p50_s"] <= row["added_p99_s"] for row in found["rows"])
    assert all(row["lateness_p50_s"] <= row["added_p99_s"] for row in found["rows"])
    assert found["target_requests"] == 20
    assert found["target_tls_s"] is None
    assert found["target_response_p50_s"] >= 0.02
    assert 0 < found["target_own_share"] <= 1
    assert (found["trusted_rate_rps"] is None) == (done.returncode == 4)
    assert "Ceiling" in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 80


def test_ctrl_c_prints_what_there_is() -> None:
    """Exit 130 soon after the signal, with no process left behind."""
    with subprocess.Popen(
        command("--json"), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        children: list[str] = []
        while len(children) < 2 and process.poll() is None:
            time.sleep(0.05)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert json.loads(stdout)["exit_code"] == 130
    assert json.loads(stdout)["trusted_rate_rps"] is None
    assert "Interrupted" in stderr
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_a_target_that_cannot_be_reached() -> None:
    """Exit 5 with one sentence, before anything else is measured."""
    url = f"http://127.0.0.1:{free_port()}/"
    done = subprocess.run(command(url), env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 5
    assert "Connection refused" in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)


def test_the_null_server_ends_with_its_parent() -> None:
    """It counts its CPU time while it lives, and is gone once its standard input is."""
    with null_server() as server:
        assert server.cpu_ns() > 0
        assert server.endpoint.address == "127.0.0.1"
        pid = server.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()


def test_a_run_s_short_form_measures_this_machine() -> None:
    """Real processes: a ceiling, what is added, and how late requests leave."""
    own = selfcheck.brief(1, lambda: False)
    assert own["ceiling_rps"] > 100
    assert 0 < own["added_p50_s"] <= own["added_p99_s"]
    assert own["lateness_p99_s"] < 1
