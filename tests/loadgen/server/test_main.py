"""The server as its parent sees it: a process with a line on standard output, signals, and an exit code."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.error import HTTPError

import pytest

from tests.loadgen.server.serving import until

ONE_AT_A_TIME = {"t1_ms": 0, "max_batch_size": 1, "max_queue_delay_us": 0}
PIPE = subprocess.PIPE


@contextmanager
def server(config: Mapping[str, float], *arguments: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start a server on a free port; give its process and address."""
    command = [sys.executable, "-m", "loadgen.server", "--port", "0", "--config", json.dumps(config), *arguments]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:")
            yield process, line.removeprefix("listening on ").strip()
        finally:
            process.kill()


def get(address: str, path: str) -> tuple[int, bytes]:
    """Send one request; return its status and body."""
    with urllib.request.urlopen(address + path, timeout=20) as response:
        return response.status, response.read()


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for the end of a process; return its exit code and what it printed on standard error."""
    assert process.stderr is not None
    return process.wait(20), process.stderr.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_finishes_what_was_accepted(number: signal.Signals) -> None:
    """On SIGTERM or SIGINT running and queued requests are answered, nothing is printed, and the exit code is 0."""
    config = {**ONE_AT_A_TIME, "t0_ms": 300}
    with server(config) as (process, address), ThreadPoolExecutor() as pool:
        answers = [pool.submit(get, address, "/predict") for _ in range(2)]
        while b'pending_request_count{model="default",version="1"} 1.0' not in get(address, "/metrics")[1]:
            assert not answers[0].done()
        process.send_signal(number)
        assert [answer.result()[0] for answer in answers] == [200, 200]
        assert ended(process) == (0, "")


def test_drain_is_bounded() -> None:
    """A request that outlasts the drain's bound is dropped, and the server still ends with exit code 0."""
    config = {**ONE_AT_A_TIME, "t0_ms": 60_000, "drain_s": 0.1}
    with server(config) as (process, address), ThreadPoolExecutor() as pool:
        answers = [pool.submit(get, address, "/predict") for _ in range(2)]
        while b'pending_request_count{model="default",version="1"} 1.0' not in get(address, "/metrics")[1]:
            assert not answers[0].done()
        process.terminate()
        assert ended(process) == (0, "")
        assert all(isinstance(answer.exception(), OSError) for answer in answers)


def test_end_of_stdin_ends_the_server() -> None:
    """With --watch-stdin the server ends when its parent closes the pipe, so it never outlives it."""
    with server({}, "--watch-stdin") as (process, address):
        assert get(address, "/healthz") == (200, b'{"ready":true}')
        assert process.stdin is not None
        process.stdin.close()
        assert ended(process) == (0, "")


def _is_served(address: str) -> bool:
    try:
        return get(address, "/healthz")[0] == 200
    except HTTPError:
        return False


def test_connections_stay_within_the_limit_on_open_files() -> None:
    """Where the process may open few files only, each connection beyond them is told 503, and the others are served."""
    command = f"ulimit -n 64; exec {sys.executable} -m loadgen.server --port 0"
    with subprocess.Popen(["bash", "-c", command], stdout=PIPE, stderr=PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().removeprefix("listening on ").strip()
            port = int(address.rpartition(":")[2])
            held = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(32)]
            refused = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(100)]
            assert all(one.recv(1000).startswith(b"HTTP/1.1 503 Service Unavailable") for one in refused)
            for connection in (*held, *refused):
                connection.close()
            until(lambda: _is_served(address))
            process.terminate()
            assert ended(process) == (0, "")
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config", "{"], "--config: "),
        (["--config", '{"t2_ms": 1}'], "--config: ServerConfig t2_ms: is no field"),
        (
            ["--config", '{"instances": 0}'],
            "--config: ServerConfig instances 0: must be a whole number between 1 and 64",
        ),
        (["--port", "65536"], "--port 65536: must lie between 0 and 65535"),
        (["--port", "0", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1, port 0"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(arguments: list[str], sentence: str) -> None:
    """A wrong flag, config or host ends with one line that names it, no traceback, and exit code 2."""
    command = [sys.executable, "-m", "loadgen.server", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"Error: {sentence}")
    assert run.stderr.count("\n") == 1


def test_taken_port_names_the_port_and_the_remedy() -> None:
    """A port that another program holds is a usage error that says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        command = [sys.executable, "-m", "loadgen.server", "--port", str(port)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert run.returncode == 2
    assert (
        run.stderr
        == f"Error: port {port} is already in use: choose another with --port, or --port 0 for any free one\n"
    )
