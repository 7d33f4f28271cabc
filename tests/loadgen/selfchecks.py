"""Rows and results of a selfcheck, built from what a test is about."""

from dataclasses import replace
from typing import Any

from loadgen.selfcheck import Selfcheck
from loadgen.trust import Ceiling, Row, trust

CEILING = Ceiling(rate_rps=83_000.0, cpu_us_per_request=7.5, cpu_share=0.98, server_cpu_share=0.6)
_ROW = Row(
    rate_rps=100.0, requests=130, achieved_share=1.0, added_p50_s=0.0001, added_p99_s=0.0003, lateness_p50_s=0.00003,
    lateness_p99_s=0.0001, lateness_max_s=0.0012, cpu_us_per_request=25.0, cpu_share=0.1, server_cpu_share=0.05,
)  # fmt: skip


def row(rate_rps: float, **changes: Any) -> Row:
    """Return a row of a quiet machine."""
    return replace(_ROW, rate_rps=float(rate_rps), **changes)


def checked(*rows: Row, **changes: Any) -> Selfcheck:
    """Return a finished selfcheck of a machine with two cores."""
    fields: dict[str, Any] = {
        "cores": 2, "null_server_core": 1, "workers": 1, "users": 64, "pacing": "timerfd", "ceiling": CEILING,
        "rows": rows, "trust": trust(CEILING, rows, workers=1, cores=2), "target": None, "wall_s": 15.2,
    }  # fmt: skip
    return Selfcheck(**(fields | changes))
