"""One load by hand, by wrk (or wrk2) and by `opfind load`, on the same nginx worker; prints a Markdown table.

`python -m tests.bench.side_by_side [--seconds 20]`. Needs wrk, nginx and two cores; wrk2's open loop is measured where
one is installed.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.peers import BODY, USERS, cpu_and_output, nginx

RATE_RPS = 5_000
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_HEADINGS = "| tool | load | req/s | p50 ms | p90 ms | p99 ms | max ms | CPU µs/request, with start and report |"


def peer(command: list[str]) -> str:
    """Run wrk or wrk2; return its cells of the table."""
    cpu_s, output = cpu_and_output(command)

    def latency_ms(pattern: str) -> str:
        found = re.search(pattern + r"([\d.]+)(us|ms|s)\b", output)
        assert found is not None, output
        return f"{float(found[1]) * _UNITS_MS[found[2]]:.3f}"

    total, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec:\s+([\d.]+)", output)
    assert total is not None
    assert rate is not None
    quantiles = [latency_ms(rf"\s{q}(?:\.\d+)?%\s+") for q in (50, 90, 99)]
    top = latency_ms(r"Latency\s+\S+\s+\S+\s+")
    return f"{float(rate[1]):.0f} | {' | '.join(quantiles)} | {top} | {cpu_s * 1e6 / int(total[1]):.1f}"


def ours(url: str, seconds: int, *load: str) -> list[str]:
    """Run `opfind load`; return its cells, once from the due time and once from the send."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "loadgen", "load", url, *load, "-d", f"{seconds}s", "--body", BODY, "--workers", "1",
            "--json", "-o", folder,
        ]  # fmt: skip
        cpu_s, output = cpu_and_output(command, accept=(0, 4))
    told: dict[str, Any] = json.loads(output)
    cells = []
    for prefix in ("", "service_"):
        quantiles = " | ".join(f"{told[f'{prefix}{name}_s'] * 1e3:.3f}" for name in ("p50", "p90", "p99", "max"))
        cells.append(f"{told['ok'] / seconds:.0f} | {quantiles} | {cpu_s * 1e6 / told['offered']:.1f}")
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    seconds = parser.parse_args().seconds
    if not shutil.which("wrk") or not shutil.which("nginx") or (os.cpu_count() or 1) < 2:
        print("side_by_side: skipped, it needs wrk, nginx and two cores")
        return
    print(f"{_HEADINGS}\n{'|---' * 8}|")
    with nginx(18086) as url, tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(
            f"wrk.method='POST'; wrk.body='{BODY}'; wrk.headers['Content-Type']='application/json'", encoding="utf-8"
        )
        settings = ["-t1", f"-c{USERS}", f"-d{seconds}s", "--latency", "-s", str(script), url]
        print(f"| wrk | {USERS} connections | {peer(['wrk', *settings])} |", flush=True)
        for kind, cells in zip(("due", "sent"), ours(url, seconds, "--users", str(USERS)), strict=True):
            print(f"| opfind load, from {kind} | --users {USERS} | {cells} |", flush=True)
        if shutil.which("wrk2"):
            print(f"| wrk2 | -R{RATE_RPS} | {peer(['wrk2', f'-R{RATE_RPS}', *settings])} |", flush=True)
        for kind, cells in zip(("due", "sent"), ours(url, seconds, "--rate", str(RATE_RPS)), strict=True):
            print(f"| opfind load, from {kind} | --rate {RATE_RPS} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
