"""Overload on real sockets: the server sheds, and what it accepts it serves at its capacity."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = """
[server]
t0_ms = 16
t1_ms = 3
max_queue_size = 64
"""
CAPACITY_RPS, SECONDS = 32 / 0.112, 6


def test_three_times_the_capacity_is_shed(tmp_path: Path) -> None:
    """At three times its capacity the server answers at 95 % of it at least, within bounds, and refuses the rest."""
    (tmp_path / "slow.toml").write_text(SCENARIO, encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "loadgen", "load", "--scenario", "slow.toml", "--rate", f"{3 * CAPACITY_RPS:.0f}",
            "-d", f"{SECONDS}s", "--json", "-o", "out",
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["ok"] >= 0.95 * CAPACITY_RPS * SECONDS, done.stderr
    assert told["ok"] + told["errors"] == told["offered"]
    assert told["errors"] > 0.5 * told["offered"]
