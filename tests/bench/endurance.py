"""Ten minutes at 20,000 req/s: memory and lateness by minute; then 10,000 connections. Prints Markdown tables.

`python -m tests.bench.endurance [--minutes 10]`. Needs nginx, two cores and some 12,000 open files.
"""

import argparse
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis import Step
from loadgen.fleet import Fleet, Setup, StepView, affordable_connections
from loadgen.target import Endpoint, request_bytes
from tests.bench.peers import BODY, CLIENT_CPU, nginx

RATE_RPS = 20_000
USERS = 10_000


def resident_mb(pid: int | str) -> float:
    """Return a process's memory that is its own (anonymous pages), MB."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def children(pid: int) -> list[int]:
    """Return a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def ten_minutes(setup: Setup, minutes: float) -> None:
    """Run one long step and tell memory by the minute, lateness by the minute afterwards."""
    print("| minute | engine process, MB | coordinator, MB |\n|---|---|---|")
    told = [time.monotonic()]
    with Fleet(setup) as fleet:
        (worker,) = children(os.getpid())[-1:]

        def watch(_: StepView) -> None:
            if time.monotonic() - told[0] >= (3 if len(told) == 1 else 60):
                print(f"| {len(told) - 1} | {resident_mb(worker):.1f} | {resident_mb('self'):.1f} |", flush=True)
                told[0] = time.monotonic()
                told.append(0.0)

        result, client, errors = fleet.run_step(
            Step(rate_rps=RATE_RPS, duration_s=60 * minutes), lambda _: False, watch=watch
        )
    assert result.sent_ns is not None
    late_ms = (result.sent_ns - result.due_ns) / 1e6
    minute = (result.due_ns - result.start_ns) // (60 * 10**9)
    print(f"\n{result.counts['ok']} of {result.offered} ok, {errors or 'no errors'}\n")
    print("| minute | sent late p50 / p99 / p99.9 ms |\n|---|---|")
    for number in np.unique(minute):
        p50, p99, p999 = np.quantile(late_ms[minute == number], (0.5, 0.99, 0.999))
        print(f"| {number + 1} | {p50:.3f} / {p99:.3f} / {p999:.3f} |")
    print(f"\n{client['cpu_us_per_request']:.1f} µs CPU a request in the engine process")


def many_connections(setup: Setup) -> None:
    """Let 10,000 users think for 5 s each, then send 1,000 req/s beside their idle connections."""
    print("\n| step | connections | ok of offered | lateness p50 / p99 ms | CPU µs/request | errors |")
    print("|---|---|---|---|---|---|")
    steps = {
        "10,000 users, 5 s think time": Step(users=USERS, duration_s=20),
        "1,000 req/s": Step(rate_rps=1000, duration_s=5),
    }
    with Fleet(replace(setup, think_s=5.0, connections=affordable_connections(2 * USERS))) as fleet:
        for name, step in steps.items():
            result, client, errors = fleet.run_step(step, lambda _: False)
            late: Any = [client[f"lateness_{q}_s"] * 1e3 for q in ("p50", "p99")]
            print(
                f"| {name} | {client['connections']} | {result.counts['ok']} of {result.offered} | "
                f"{late[0]:.3f} / {late[1]:.3f} | {client['cpu_us_per_request']:.1f} | {errors or 'none'} |",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    if not shutil.which("nginx") or (os.cpu_count() or 1) < 2:
        print("endurance: skipped, it needs nginx and two cores")
        return
    affordable_connections(2 * USERS)
    with nginx(18084, connections=2 * USERS) as url:
        os.sched_setaffinity(0, CLIENT_CPU)
        endpoint = Endpoint.of(url)
        setup = Setup(
            endpoint=endpoint, request=request_bytes(endpoint, None, {}, BODY.encode()), timeout_ns=10**10,
            connections=4096, workers=1,
        )  # fmt: skip
        ten_minutes(setup, options.minutes)
        many_connections(setup)


if __name__ == "__main__":
    main()
