"""The server under three times its capacity for a minute: how much of that it still answers, and how fast.

`python -m tests.bench.overload [--seconds 60] [--times 3]`. Batches of up to 32, a queue of 64 places, and two devices:
the default one, and one of half its speed. The rest of the load is refused with 503. Prints a Markdown table; what was
answered after the load had ended does not count, and latencies are those of the requests that were answered.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from analysis import Outcome

DEVICES = ((8.0, 1.5), (16.0, 3.0))  # ms of a batch, and for each request in it
BATCH, PLACES = 32, 64


def row(t0_ms: float, t1_ms: float, times: float, seconds: float) -> str:
    """Overload a server, and say what it did."""
    capacity_rps = BATCH / (t0_ms + t1_ms * BATCH) * 1e3
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder, "overload.toml")
        scenario.write_text(
            f"[server]\nt0_ms = {t0_ms}\nt1_ms = {t1_ms}\nmax_batch_size = {BATCH}\nmax_queue_size = {PLACES}\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "loadgen", "load", "--scenario", str(scenario), "-d", f"{seconds:g}s"]
        done = subprocess.run(
            [*command, "--rate", f"{times * capacity_rps:.0f}", "--json", "-o", f"{folder}/out"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        told: dict[str, Any] = json.loads(done.stdout)
        with np.load(f"{folder}/out/steps.npz") as arrays:
            columns = {name.removeprefix("step01_"): arrays[name] for name in arrays.files}
    if told["ok"] + told["errors"] != told["offered"]:
        raise SystemExit(f"some requests were neither answered nor refused: {told}")
    answered = columns["outcome"] == Outcome.OK
    in_time = answered & (columns["done_ns"] <= columns["due_ns"][0] + seconds * 1e9)
    took_ms = (columns["done_ns"] - columns["due_ns"])[answered] / 1e6
    p50_ms, p99_ms, most_ms = (float(np.quantile(took_ms, q)) for q in (0.5, 0.99, 1))
    return (
        f"| {t0_ms:g} + {t1_ms:g} | {capacity_rps:.0f} | {told['offered'] / seconds:.0f} "
        f"| {in_time.sum() / seconds / capacity_rps:.1%} | {told['errors'] / told['offered']:.1%} "
        f"| {p50_ms:.0f} | {p99_ms:.0f} | {most_ms:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--times", type=float, default=3.0)
    options = parser.parse_args()
    print("| device, ms | capacity | offered, req/s | answered, of capacity | refused | p50 | p99 | longest, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for device in DEVICES:
        print(row(*device, options.times, options.seconds), flush=True)


if __name__ == "__main__":
    main()
