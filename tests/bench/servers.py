"""Our server beside Triton, in one run: the same model, the same load, and the CPU that each needs for a request.

`python -m tests.bench.servers [--seconds 20] [--rounds 2]`, with OPFIND_PEERS or PATH leading to `run_triton.sh` (see
`tests/real_peers.py`). The model takes 5 ms + 1 ms a row in batches of up to 8, so 8 in 13 ms, 615 req/s, is the
ceiling. The servers take turns. Prints a Markdown table.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.real_peers import BODY, NoPeerError, triton

REPOSITORY = Path(__file__).resolve().parents[1] / "loadgen" / "server" / "models"
USERS = (32, 8)
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
def ours() -> Iterator[tuple[str, int]]:
    """Run our server; yield the URL at which the model infers, and the process."""
    command = [sys.executable, "-m", "loadgen", "serve", "--port", "0", "--model-repository", str(REPOSITORY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip().removeprefix("listening on ")
            yield f"{address}/v2/models/echo/infer", process.pid
        finally:
            process.terminate()


@contextlib.contextmanager
def theirs() -> Iterator[tuple[str, int]]:
    """Run Triton; yield the same."""
    with triton() as url:
        names = {}
        for path in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                names[path.read_text(encoding="utf-8").strip()] = int(path.parent.name)
        yield url, names["tritonserver"]


def row(name: str, url: str, process: int, users: int, seconds: float) -> str:
    """Load a server in a closed loop, and say what it did."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "loadgen", "load", url, "--users", str(users), "-d", f"{seconds:g}s"]
        before_s = cpu_s(process)
        done = subprocess.run(
            [*command, "--body", BODY, "--json", "-o", folder], capture_output=True, text=True, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
    cost_us = (cpu_s(process) - before_s) / told["ok"] * 1e6
    return (
        f"| {name} | {users} | {told['throughput_rps']:.0f} | {told['p50_s'] * 1e3:.1f} | {told['p99_s'] * 1e3:.1f} "
        f"| {cost_us:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    print("| server | users | req/s | p50, ms | p99, ms | server CPU, us a request |\n|---|---|---|---|---|---|")
    for _ in range(options.rounds):
        for name, server in (("opfind serve", ours), ("Triton", theirs)):
            try:
                with server() as (url, process):
                    for users in USERS:
                        print(row(name, url, process, users, options.seconds), flush=True)
            except NoPeerError as missing:
                print(f"{name}: skipped, {missing}", flush=True)


if __name__ == "__main__":
    main()
