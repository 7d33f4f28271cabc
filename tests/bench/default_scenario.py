"""`opfind run --sla-p99 200ms` on the default scenario, again and again, against its true operating point.

The truth comes from long runs of the server's own policies under virtual time, at rates around it. Prints a Markdown
table with every miss and its distance: `python -m tests.bench.default_scenario [--runs 10] [--requests 1000000]`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time

import numpy as np
from scipy import stats

from analysis import Step
from tests.virtual import VirtualServer

LIMIT_NS = 200_000_000
RATES = (545.0, 550.0, 554.0, 558.0, 562.0)
WARM_UP_S = 20.0


def true_rate(requests: int) -> tuple[float, float]:
    """Return the rate with p99 = 200 ms, and its standard error, from a line through the log shares of violations."""
    log_shares, errors = [], []
    for index, rate in enumerate(RATES):
        step = Step(rate_rps=rate, duration_s=requests / rate + WARM_UP_S, seed=1000 + index)
        result = VirtualServer().run_step(step)
        slow = result.violations(LIMIT_NS)[int(rate * WARM_UP_S) :]
        batches = slow[: slow.size // 50 * 50].reshape(50, -1).mean(axis=1)
        log_shares.append(float(np.log(slow.mean())))
        errors.append(float(batches.std(ddof=1) / np.sqrt(50) / slow.mean()))
        print(
            f"truth: {rate:g} req/s: {slow.mean():.3%} above 200 ms (s.e. {errors[-1] * slow.mean():.3%})", flush=True
        )
    line = np.polyfit(RATES, log_shares, 2, w=1 / np.asarray(errors))
    grid = np.linspace(RATES[0], RATES[-1], 20_001)
    rate = float(np.interp(np.log(0.01), np.polyval(line, grid), grid))
    slope = float(np.polyval(np.polyder(line), rate))
    return rate, float(np.sqrt(1 / np.sum(1 / np.square(errors))) / slope)


def run_once(seed: int) -> dict[str, object]:
    """Run the command once and return its JSON with the wall time of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "loadgen",
            "run",
            "--sla-p99",
            "200ms",
            "--seed",
            str(seed),
            "-o",
            folder,
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        answer: dict[str, object] = json.loads(done.stdout)
        return answer | {"process_s": time.perf_counter() - began}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--requests", type=int, default=1_000_000)
    options = parser.parse_args()
    truth, error = true_rate(options.requests)
    print(f"\ntruth: {truth:.1f} req/s (s.e. {error:.1f})\n")
    print(
        "| seed | verdict | by | req/s | 95 % interval | half-width | safe rate | truth inside | safe <= 560 | wall s |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    inside = []
    for seed in range(options.runs):
        answer = run_once(seed)
        rate = answer["rate_rps"]
        assert isinstance(rate, dict), answer
        low, high, safe = rate["low"], rate["high"] or float("inf"), float(str(answer["safe_rps"]))
        miss = max(low - truth, truth - high)
        inside.append(miss <= 0)
        print(
            f"| {seed} | {answer['verdict']} | {answer['method']} | {rate['value']:.0f} | {low:.0f} to {high:.0f} | "
            f"{(high - low) / 2 / rate['value']:.1%} | {safe:.0f} | {'yes' if miss <= 0 else f'no, by {miss:.0f}'} | "
            f"{'yes' if safe <= 560 else f'no, by {safe - 560:.0f}'} | {answer['process_s']:.0f} |",
            flush=True,
        )
    bounds = stats.binomtest(sum(inside), len(inside)).proportion_ci(method="wilson")
    print(
        f"\ncovers the truth in {sum(inside)} of {len(inside)} (Wilson interval {bounds.low:.0%} to {bounds.high:.0%})"
    )


if __name__ == "__main__":
    main()
