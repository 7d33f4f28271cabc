"""Our server beside Triton, in one run: the same model, the same load, and the CPU that each needs for a request.

`python -m tests.bench.servers [--seconds 20] [--rounds 2]`, with OPFIND_PEERS or PATH leading to `run_triton.sh` (see
`tests/real_peers.py`). The model takes 5 ms + 1 ms a row in batches of up to 8, so 8 in 13 ms, 615 req/s, is the
ceiling. With "no-op" the same model takes no time, and each server has one core, so that what it does itself is the
limit. The servers take turns. The load is wrk's, whose CPU is hardly felt on the cores that it shares with the server,
and our own closed loop's where wrk is not installed. Prints a Markdown table.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.real_peers import BODY, NoPeerError, script, triton

REPOSITORY = Path(__file__).resolve().parents[1] / "loadgen" / "server" / "models"
USERS, USERS_OF_NO_OP = (32, 8), (64,)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_USER_FIELD, _SYSTEM_FIELD, _PARENT_FIELD = 11, 12, 1  # of /proc/PID/stat behind the name, see proc(5)


def cpu_s(process: int) -> float:
    """Return the CPU time that a process and its children have used so far, seconds."""
    fields = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields[int(path.parent.name)] = path.read_text(encoding="utf-8").rpartition(")")[2].split()
    family = {process}
    while more := {pid for pid, own in fields.items() if int(own[_PARENT_FIELD]) in family} - family:
        family |= more
    ticks = sum(int(fields[pid][_USER_FIELD]) + int(fields[pid][_SYSTEM_FIELD]) for pid in family if pid in fields)
    return ticks / _TICKS_PER_S


@contextlib.contextmanager
def ours(*, no_op: bool) -> Iterator[tuple[str, int]]:
    """Run our server; yield the URL at which the model infers, and the process."""
    with contextlib.ExitStack() as stack:
        repository = stack.enter_context(_without_times(REPOSITORY)) if no_op else REPOSITORY
        command = [sys.executable, "-m", "loadgen", "serve", "--port", "0", "--model-repository", str(repository)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                address = process.stdout.readline().strip().removeprefix("listening on ")
                yield f"{address}/v2/models/echo/infer", process.pid
            finally:
                process.terminate()


@contextlib.contextmanager
def theirs(*, no_op: bool) -> Iterator[tuple[str, int]]:
    """Run Triton; yield the same."""
    with contextlib.ExitStack() as stack:
        command = Path(script("run_triton.sh"))
        if no_op:  # the script serves the models that lie beside it
            command = stack.enter_context(_without_times(command.parent)) / command.name
        url = stack.enter_context(triton(str(command)))
        names = {}
        for path in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                names[path.read_text(encoding="utf-8").strip()] = int(path.parent.name)
        yield url, names["tritonserver"]


@contextlib.contextmanager
def _without_times(folder: Path) -> Iterator[Path]:
    """Yield a copy of a folder whose models take no time, by the parameters T0_MS and T1_MS."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = shutil.copytree(folder, Path(temporary, "copy"))
        for path in copy.rglob("config.pbtxt"):
            text = path.read_text(encoding="utf-8")
            path.write_text(re.sub(r'(key: "T[01]_MS".*string_value: )"[^"]*"', r'\1"0"', text), encoding="utf-8")
        yield copy


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Let what is started meanwhile run on some cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def by_wrk(url: str, users: int, seconds: float) -> tuple[float, float, float, int, int]:
    """Load a server with wrk; return req/s, p50 and p99 in milliseconds, replies, and those that were no 2xx."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(
            f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\nwrk.body = {json.dumps(BODY)}\n'
            "done = function(sum, latency)\n"
            "  local bad = sum.errors.status + sum.errors.connect + sum.errors.read + sum.errors.timeout\n"
            '  io.write(string.format("told %d %d %d %d %d\\n", sum.requests, sum.duration, latency:percentile(50), '
            "latency:percentile(99), bad))\nend\n",
            encoding="utf-8",
        )
        command = ["wrk", "-t1", f"-c{users}", f"-d{seconds:g}s", "-s", str(script), url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = re.search(r"told (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    assert told is not None, done.stdout
    requests, duration_us, p50_us, p99_us, bad = map(int, told.groups())
    return requests / duration_us * 1e6, p50_us / 1e3, p99_us / 1e3, requests, bad


def by_ours(url: str, users: int, seconds: float) -> tuple[float, float, float, int, int]:
    """Return the same of our own closed loop."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "loadgen", "load", url, "--users", str(users), "-d", f"{seconds:g}s"]
        done = subprocess.run(
            [*command, "--body", BODY, "--json", "-o", folder], capture_output=True, text=True, check=False
        )
    told: dict[str, Any] = json.loads(done.stdout)
    return told["throughput_rps"], told["p50_s"] * 1e3, told["p99_s"] * 1e3, told["ok"], told["offered"] - told["ok"]


def row(name: str, url: str, process: int, users: int, seconds: float) -> str:
    """Load a server in a closed loop, and say what it did."""
    before_s = cpu_s(process)
    rate, p50_ms, p99_ms, replies, bad = (by_wrk if shutil.which("wrk") else by_ours)(url, users, seconds)
    cost_us = (cpu_s(process) - before_s) / replies * 1e6
    name += f" ({bad} unanswered)" if bad else ""
    return f"| {name} | {users} | {rate:.0f} | {p50_ms:.1f} | {p99_ms:.1f} | {cost_us:.0f} |"


def rows(server: Any, name: str, *, no_op: bool, seconds: float) -> Iterator[str]:
    """Start a server, and yield what it did under each load."""
    cores = sorted(os.sched_getaffinity(0))
    servers = {cores[-1]} if no_op else set(cores)
    clients = set(cores[:-1] or cores) if no_op else set(cores)
    with contextlib.ExitStack() as stack:
        with on_cores(servers):
            url, process = stack.enter_context(server(no_op=no_op))
        stack.enter_context(on_cores(clients))
        for users in USERS_OF_NO_OP if no_op else USERS:
            yield row(f"{name}, no-op, one core" if no_op else name, url, process, users, seconds)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print("| server | users | req/s | p50, ms | p99, ms | server CPU, us a request |\n|---|---|---|---|---|---|")
    for no_op in (False, True):
        for _ in range(options.rounds):
            for name, server in (("opfind serve", ours), ("Triton", theirs)):
                try:
                    for line in rows(server, name, no_op=no_op, seconds=options.seconds):
                        print(line, flush=True)
                except NoPeerError as missing:
                    print(f"{name}: skipped, {missing}", flush=True)


if __name__ == "__main__":
    main()
