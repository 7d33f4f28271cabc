"""CPU per request of the load engine against wrk and Locust in a closed loop on one nginx worker; start-up excluded.

Cost = (CPU of a long run - CPU of a short run) / difference in requests, over the whole process tree. Prints a Markdown
table. Needs wrk, nginx and two cores; Locust is measured where it is installed:
`python -m tests.bench.engine_cost [--rounds 3] [--short 5] [--long 25]`.
"""

import argparse
import importlib.util
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench.peers import BODY, USERS, cpu_and_output, nginx, step_command

Measure = Callable[[int], tuple[float, int]]
_LOCUSTFILE = f"""
from locust import FastHttpUser, task
class User(FastHttpUser):
    @task
    def predict(self):
        self.client.post("/predict", data={BODY!r}, headers={{"Content-Type": "application/json"}})
"""


def wrk(url: str, seconds: int, folder: Path) -> tuple[float, int]:
    """Return CPU seconds and requests of a wrk run."""
    command = ["wrk", "-t1", f"-c{USERS}", f"-d{seconds}s", "--latency", "-s", str(folder / "post.lua"), url]
    cpu_s, output = cpu_and_output(command)
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return cpu_s, int(found[1])


def ours(url: str, seconds: int, workers: int = 1) -> tuple[float, int]:
    """Return CPU seconds and requests of one step of the engine, with all its recording."""
    cpu_s, output = cpu_and_output(step_command(url, workers, users=USERS, duration_s=seconds))
    found = re.search(r'"ok": (\d+)', output)
    assert found is not None, output
    return cpu_s, int(found[1])


def locust(url: str, seconds: int, folder: Path) -> tuple[float, int]:
    """Return CPU seconds and requests of a headless Locust run with FastHttpUser."""
    command = [
        sys.executable, "-m", "locust", "-f", str(folder / "locustfile.py"), "--headless", "-u", str(USERS), "-r",
        str(USERS), "-t", f"{seconds}s", "--host", url.removesuffix("/predict"), "--json", "--loglevel", "ERROR",
    ]  # fmt: skip
    cpu_s, output = cpu_and_output(command)
    found = re.search(r'"num_requests": (\d+)', output)
    assert found is not None, output
    return cpu_s, int(found[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=5)
    parser.add_argument("--long", type=int, default=25)
    options = parser.parse_args()
    if not shutil.which("wrk") or not shutil.which("nginx") or (os.cpu_count() or 1) < 2:
        print("engine_cost: skipped, it needs wrk, nginx and two cores")
        return
    with nginx(18080) as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "post.lua").write_text(
            f"wrk.method='POST'; wrk.body='{BODY}'; wrk.headers['Content-Type']='application/json'", encoding="utf-8"
        )
        (folder / "locustfile.py").write_text(_LOCUSTFILE, encoding="utf-8")
        tools: dict[str, Measure] = {"wrk": lambda s: wrk(url, s, folder), "opfind": lambda s: ours(url, s)}
        if importlib.util.find_spec("locust"):
            tools["locust"] = lambda s: locust(url, s, folder)
        print(f"| round | {' | '.join(f'{tool}, µs | {tool}, req/s' for tool in tools)} | opfind / wrk |")
        print("|---" * (2 * len(tools) + 2) + "|")
        costs: dict[str, list[float]] = {tool: [] for tool in tools}
        for index in range(options.rounds):
            cells = []
            for tool, run in tools.items():
                (short_cpu, short_n), (long_cpu, long_n) = run(options.short), run(options.long)
                costs[tool].append((long_cpu - short_cpu) * 1e6 / (long_n - short_n))
                rate = (long_n - short_n) / (options.long - options.short)
                cells.append(f"{costs[tool][-1]:.2f} | {rate:.0f}")
            print(f"| {index + 1} | {' | '.join(cells)} | {costs['opfind'][-1] / costs['wrk'][-1]:.2f} |", flush=True)
    for tool in [tool for tool in tools if tool != "opfind"]:
        ratios = [a / b for a, b in zip(costs["opfind"], costs[tool], strict=True)]
        print(f"\nmedian of opfind / {tool}: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
