"""What the engine's benchmarks share: nginx as the server, a child's CPU with all its tree, one step of the engine."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analysis import SLA, Step, StepRecord, judge
from loadgen.fleet import Fleet, Setup, StepView
from loadgen.target import Endpoint, request_bytes

USERS = 64
BODY = json.dumps({"inputs": [round(0.1 * k, 1) for k in range(12)]})
CLIENT_CPU, SERVER_CPU = {0}, {1}


@contextlib.contextmanager
def nginx(port: int, connections: int = 8192) -> Iterator[str]:
    """Serve a fixed reply from one nginx worker on the second core; yield the URL."""
    with tempfile.TemporaryDirectory() as folder:
        temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        Path(folder, "nginx.conf").write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
            f"events {{ worker_connections {connections}; }}"
            f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; {temp}"
            f'server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello world\\n"; }} }} }}'
        )
        command = ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        process = subprocess.Popen(command)
        os.sched_setaffinity(process.pid, SERVER_CPU)
        time.sleep(0.5)
        try:
            yield f"http://127.0.0.1:{port}/predict"
        finally:
            process.terminate()
            process.wait(10)


def cpu_and_output(command: list[str], accept: tuple[int, ...] = (0,)) -> tuple[float, str]:
    """Run a command on the client's core; return CPU seconds of its whole tree, and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    os.sched_setaffinity(process.pid, CLIENT_CPU)  # before it starts anything of its own
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in accept:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, output


def step_command(url: str, workers: int = 1, **step: Any) -> list[str]:
    """Return the command that runs one step of the engine in a process of its own; it prints `measured`."""
    return [sys.executable, "-m", "tests.bench.peers", url, str(workers), json.dumps(step)]


def measured(url: str, workers: int, step: Step, *, think_s: float = 0.0, connections: int = 4096) -> dict[str, Any]:
    """Run a step as a session does, recorded, watched once a second, summarised; return plain numbers."""
    slas = (SLA.parse("p99<200ms"),)
    endpoint = Endpoint.of(url)
    request = request_bytes(endpoint, None, {}, BODY.encode())
    setup = Setup(
        endpoint=endpoint, request=request, timeout_ns=5 * 10**9, connections=connections, workers=workers,
        think_s=think_s,
    )  # fmt: skip

    def watch(view: StepView) -> None:
        judge(view.result, slas)

    with Fleet(setup) as fleet:
        result, client, errors = fleet.run_step(step, lambda _: False, watch=watch)
    record = StepRecord.of(result, slas, index=0, origin_ns=result.start_ns, client=client, errors=errors)
    assert result.sent_ns is not None
    numbers = {key: value for key, value in client.items() if isinstance(value, int | float)}
    for name, times in (("response", result.response_ns), ("service", result.done_ns - result.sent_ns)):
        numbers |= {f"{name}_p{q * 100:g}_s": float(np.quantile(times, q)) / 1e9 for q in (0.5, 0.99)}
    return {**numbers, "ok": record.counts["ok"], "offered": result.offered, "errors": dict(errors)}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), Step(**json.loads(sys.argv[3])))))
