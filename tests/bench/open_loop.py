"""What the engine costs and how exact it is in an open loop, and what a second worker costs; prints Markdown tables.

Poisson arrivals against one nginx worker on the other core: `python -m tests.bench.open_loop [--rounds 3]`. Cost as in
`engine_cost`: of the whole process tree, start-up excluded. Needs nginx and two cores.
"""

import argparse
import json
import os
import shutil
import statistics
from typing import Any

from tests.bench.peers import USERS, cpu_and_output, nginx, step_command

RATES_RPS = (1_000, 5_000, 20_000)


def cost_us(url: str, short_s: int, long_s: int, workers: int = 1, **level: float) -> tuple[float, dict[str, Any]]:
    """Return CPU µs per request of the whole tree, and what the long step measured."""
    short_cpu, short = cpu_and_output(step_command(url, workers, duration_s=short_s, **level))
    long_cpu, long = cpu_and_output(step_command(url, workers, duration_s=long_s, **level))
    few, many = json.loads(short), json.loads(long)
    return (long_cpu - short_cpu) * 1e6 / (many["ok"] - few["ok"]), many


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=3)
    parser.add_argument("--long", type=int, default=13)
    options = parser.parse_args()
    if not shutil.which("nginx") or (os.cpu_count() or 1) < 2:
        print("open_loop: skipped, it needs nginx and two cores")
        return
    spans = options.short, options.long
    with nginx(18082) as url:
        print(
            "| req/s | round | CPU µs/request | lateness p50 / p99 ms | shown p50 / p99 ms "
            "| from the send p50 / p99 ms | ok of offered |\n|---|---|---|---|---|---|---|"
        )
        for rate in RATES_RPS:
            for index in range(options.rounds):
                cost, step = cost_us(url, *spans, rate_rps=rate)
                shown = " | ".join(
                    f"{step[f'{kind}_p50_s'] * 1e3:.3f} / {step[f'{kind}_p99_s'] * 1e3:.3f}"
                    for kind in ("lateness", "response", "service")
                )
                print(
                    f"| {rate} | {index + 1} | {cost:.1f} | {shown} | {step['ok']} of {step['offered']} |", flush=True
                )
        print("\n| load | round | 1 worker, CPU µs/request | 2 workers | ratio |\n|---|---|---|---|---|")
        for name, level in (("20,000 req/s", {"rate_rps": 20_000}), (f"{USERS} users", {"users": USERS})):
            ratios = []
            for index in range(options.rounds):
                one, two = (cost_us(url, *spans, workers, **level)[0] for workers in (1, 2))
                ratios.append(two / one)
                print(f"| {name} | {index + 1} | {one:.1f} | {two:.1f} | {ratios[-1]:.2f} |", flush=True)
            print(f"| {name} | median | | | {statistics.median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    main()
