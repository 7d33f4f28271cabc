"""Real Triton: `opfind run` beside perf_analyzer's searches, and what a long load at each answer says.

`python -m tests.bench.triton [--confirm 300s] [--seed 0]`, with OPFIND_PEERS or PATH leading to `run_triton.sh` and
`run_perf_analyzer.sh` (see `tests/real_peers.py`). Prints a Markdown table, and on standard error what perf_analyzer
says. Takes some 35 minutes, on a machine that does nothing else.
"""

import argparse
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.analysis.simulators import Server, true_rate
from tests.real_peers import BODY, HOST, PORTS, NoPeerError, script, triton

LIMIT, LIMIT_S = "40ms", 0.040
SLOW_SHARE = 0.01
PEER_TIMEOUT_S = 900
ANSWERED = (0, 1, 3, 4)  # exit codes
IDEAL = Server(t0_s=0.005, t1_s=0.001, batch=8, delay_s=0.002)
SEARCHES = {
    "perf_analyzer, request rate, binary search": (
        "Request Rate", "--request-rate-range 50:800:25 --request-distribution poisson --binary-search",
    ),
    "perf_analyzer, concurrency, linear": ("Concurrency", "--concurrency-range 1:32:1"),
    "perf_analyzer, concurrency, binary search": ("Concurrency", "--concurrency-range 1:64 --binary-search"),
}  # fmt: skip
WINDOWS = "-p 3000 -s 60 --max-threads 64"  # 3 s windows, taken as stable within 60 %


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a tool said, and the rate at which it is held to it; None where it found no level that passes."""

    tool: str
    words: str
    rate_rps: float | None
    wall_s: float


def our_command(folder: str, *arguments: str) -> dict[str, Any]:
    """Run `opfind` on Triton's model; return its JSON object, with the wall time of the process as `process_s`."""
    command = [sys.executable, "-m", "loadgen", *arguments, "--sla-p99", LIMIT, "--body", BODY, "--json", "-o", folder]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in ANSWERED:
        raise SystemExit(f"opfind {arguments[0]} ended with {done.returncode}: {done.stderr[-1000:]}")
    told: dict[str, Any] = json.loads(done.stdout)
    return told | {"process_s": time.perf_counter() - began}


def opfind(url: str, seed: int) -> Iterator[Answer]:
    """Search with `opfind run`; yield its operating point, then the rate that it calls safe."""
    with tempfile.TemporaryDirectory() as folder:
        told = our_command(folder, "run", url, "--seed", str(seed))
    rate, safe, words = told["rate_rps"], told["safe_rps"], f"{told['verdict']}, by {told['method']}"
    if rate is not None:
        words += f": {rate['value']:.0f} [{rate['low']:.0f}, {rate['high'] or float('inf'):.0f}] req/s"
    yield Answer(tool="opfind run", words=words, rate_rps=rate and rate["value"], wall_s=told["process_s"])
    words = "none" if safe is None else f"{safe:.0f} req/s"
    yield Answer(tool="the same run, safe rate", words=words, rate_rps=safe, wall_s=told["process_s"])


def perf_analyzer(tool: str) -> Answer:
    """Run one of perf_analyzer's searches; its answer is the level of highest throughput that passes, by its own table.

    A concurrency is held to the throughput that perf_analyzer reports for it.
    """
    level, flags = SEARCHES[tool]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "levels.csv")
        command = [script("run_perf_analyzer.sh"), "-m", "sim", "-u", f"{HOST}:{PORTS[0]}", "-i", "http"]
        limits = ["--percentile", "99", "--latency-threshold", f"{LIMIT_S * 1e3:g}", "-f", str(table)]
        began = time.perf_counter()
        output = output_of([*command, *limits, *flags.split(), *WINDOWS.split()])
        wall_s = time.perf_counter() - began
        levels = list(csv.DictReader(table.open(encoding="utf-8"))) if table.exists() else []
    print(f"\n{tool}:\n{output}", file=sys.stderr, flush=True)
    passing = [row for row in levels if float(row["p99 latency"]) <= LIMIT_S * 1e6]
    if not passing:
        return Answer(tool=tool, words="none", rate_rps=None, wall_s=wall_s)
    best = max(passing, key=lambda row: float(row["Inferences/Second"]))
    achieved = float(best["Inferences/Second"])
    rate, unit = (float(best[level]), "req/s") if level == "Request Rate" else (achieved, "in flight")
    words = (
        f"{float(best[level]):g} {unit}, achieved {achieved:.0f} req/s, p99 {float(best['p99 latency']) / 1e3:.1f} ms"
    )
    if "Failed to obtain stable measurement" in output:
        words += "; some levels never stable"
    return Answer(tool=tool, words=words, rate_rps=rate, wall_s=wall_s)


def output_of(command: list[str]) -> str:
    """Run a peer's script, in a session of its own, and return all that it printed; whatever ends us, ends it, too."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        return process.communicate(timeout=PEER_TIMEOUT_S)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def confirmed(url: str, rate_rps: float, length: str, seed: int) -> tuple[float, str]:
    """Load Triton at a rate, with arrivals of its own; return the share of slow or failed requests and the verdict."""
    with tempfile.TemporaryDirectory() as folder:
        told = our_command(folder, "load", url, "--rate", f"{rate_rps:.6g}", "-d", length, "--seed", str(seed))
        with np.load(Path(folder, "steps.npz")) as columns:
            response_ns = columns["step01_done_ns"] - columns["step01_due_ns"]
            slow = (response_ns > LIMIT_S * 1e9) | (columns["step01_outcome"] != 0)
    return float(slow.mean()), told["verdict"] if told["sound"] else f"{told['verdict']} (client-limited)"


def answers(url: str, seed: int) -> Iterator[Answer]:
    """Ask every tool in turn."""
    yield from opfind(url, seed)
    for tool in SEARCHES:
        yield perf_analyzer(tool)


def compare(url: str, length: str, seed: int) -> None:
    """Print a row for each answer, as soon as it is confirmed; then between which rates the truth lies."""
    print(f"| tool | answer | wall time, s | slower than {LIMIT} in {length} at it | verdict |\n|---|---|---|---|---|")
    print(f"| ceiling, 8 requests in 13 ms | {IDEAL.capacity_rps:.0f} req/s | | | |", flush=True)
    ideal = true_rate(IDEAL, LIMIT_S, requests=400_000)
    print(f"| simulated: no overhead, a batch taken when the model is free | {ideal:.0f} req/s | | | |", flush=True)
    seen: list[tuple[float, float]] = []
    for answer in answers(url, seed):
        share = verdict = ""
        if answer.rate_rps is not None:
            slow, verdict = confirmed(url, answer.rate_rps, length, seed + 1000 + len(seen))
            seen.append((answer.rate_rps, slow))
            share = f"{slow:.2%}"
        print(f"| {answer.tool} | {answer.words} | {answer.wall_s:.0f} | {share} | {verdict} |", flush=True)
    holds = max((rate for rate, slow in seen if slow <= SLOW_SHARE), default=0.0)
    fails = min((rate for rate, slow in seen if slow > SLOW_SHARE), default=float("inf"))
    print(f"\nHighest rate that held in its confirmation: {holds:.0f} req/s; lowest that did not: {fails:.0f} req/s.")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--confirm", default="300s", help="length of the load at each answer")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Triton is ended then, too
    try:
        script("run_perf_analyzer.sh")
        with triton() as url:
            compare(url, options.confirm, options.seed)
    except NoPeerError as missing:
        print(f"triton: skipped, {missing}")


if __name__ == "__main__":
    main()
