"""Each lever that trades latency for throughput, on the default device: the same load, the lever at several places.

`python -m tests.bench.levers [--seconds 10] [--seed 0]` serves each setting with `opfind serve`, loads it with `opfind
load`, and prints Markdown tables. Open loops are Poisson arrivals; "at capacity" is a closed loop of 128 users.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

USERS = 128
TABLES: dict[str, tuple[Sequence[str], dict[str, str]]] = {
    "Batching, at 90 req/s, at 400 req/s and at capacity": (
        ("--rate=90", "--rate=400", f"--users={USERS}"),
        {
            "none: one request at a time": "batching = 'none'",
            "static: only full batches of 8": "batching = 'static'\nmax_batch_size = 8",
            "dynamic, up to 8": "max_batch_size = 8",
            "dynamic, up to 32": "",
        },
    ),
    "Queue delay, at 60 and at 400 req/s": (
        ("--rate=60", "--rate=400"),
        {f"{delay} ms": f"max_queue_delay_us = {delay * 1000}" for delay in (0, 2, 5, 10, 20)},
    ),
    "Instances that share the device, at 200 req/s and at capacity": (
        ("--rate=200", f"--users={USERS}"),
        {
            f"{count} instance{'s' * (count > 1)}, batches up to {most}": f"max_batch_size = {most}\n"
            f"instances = [{{ count = {count} }}]"
            for most in (4, 32)
            for count in (1, 2, 4)
        },
    ),
    "Work before (1 ms a request) and after (0.5 ms), at 200 req/s and at capacity": (
        ("--rate=200", f"--users={USERS}"),
        {
            name: f"overlap = {overlap}\npreprocess = {{ time_ms = 1, workers = 2 }}\n"
            "postprocess = { time_ms = 0.5, workers = 2 }"
            for name, overlap in (("done by the instance", "false"), ("beside the device, 2 workers each", "true"))
        },
    ),
}


@contextlib.contextmanager
def served(settings: str) -> Iterator[str]:
    """Serve one model with these settings; yield host and port."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.toml")
        path.write_text(f"[[models]]\ndevice = 'simulated'\n{settings}\n", encoding="utf-8")
        command = [sys.executable, "-m", "loadgen", "serve", "--port", "0", "--config", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip().removeprefix("listening on ")
            finally:
                process.terminate()


def loaded(address: str, load: str, seconds: float, seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Load the model; return what `opfind load --json` says, and what the server counted."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "loadgen", "load", f"{address}/v2/models/default", load, "-d", f"{seconds:g}s"]
        done = subprocess.run(
            [*command, "--seed", str(seed), "--json", "-o", folder], capture_output=True, text=True, check=False
        )
        told: dict[str, Any] = json.loads(done.stdout)
        (step,) = json.loads(Path(folder, "run.json").read_text(encoding="utf-8"))["steps"]
        return told, step["server"]


def cell(told: dict[str, Any], server: dict[str, float] | None) -> str:
    """Say what a load met: throughput, quantiles, mean batch, and the queue's share of the mean latency."""
    if told["p99_s"] is None or server is None:
        return f"{told['throughput_rps']:.0f}/s, overloaded: {1 - told['ok'] / told['offered']:.0%} fail"
    share = server["queue_s"] / (server["queue_s"] + server["compute_s"])
    caution = "" if told["sound"] else " (!)"
    return (
        f"{told['throughput_rps']:.0f}/s, p50 {told['p50_s'] * 1e3:.0f} ms, p99 {told['p99_s'] * 1e3:.0f} ms, "
        f"batch {server['requests'] / server['batches']:.1f}, queue {share:.0%}{caution}"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each load")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for title, (loads, settings) in TABLES.items():
        print(f"\n{title}:\n\n| | {' | '.join(loads)} |\n|---|{'---|' * len(loads)}", flush=True)
        for name, text in settings.items():
            cells = []
            for load in loads:
                with served(text) as address:
                    cells.append(cell(*loaded(address, load, options.seconds, options.seed)))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
