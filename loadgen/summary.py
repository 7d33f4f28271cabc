import math
from pathlib import Path
from typing import Any

from analysis import Estimate, Run
from loadgen.errors import TargetError

_ESTIMATES = ("rate_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps")
_PLAIN = ("verdict", "safe_rps", "utilisation", "limited_by", "stop_reason", "method")


def summary(run: Run | None, *, exit_code: int, error: str | None, folder: Path | None, version: str) -> dict[str, Any]:
    """Return what `--json` prints: one flat object with the same keys for every outcome, null where one is absent.

    Args:
        run: None when it ended before there was an answer.
        exit_code: What the command ends with.
        error: One sentence, or None.
        folder: Where the files are.
        version: Of this program.
    """
    answer = run.answer if run else None
    plain = {name: _finite(getattr(answer, name, None)) for name in _PLAIN}
    estimates = {name: _estimate(getattr(answer, name, None)) for name in _ESTIMATES}
    if run is None and exit_code == TargetError.exit_code:
        plain["verdict"] = "target_failed"
    if answer and answer.verdict == "target_failed":
        error = error or answer.stop_reason
    return {
        "verdict": plain.pop("verdict"),
        **estimates,
        **plain,
        "sla": str(answer.sla) if answer else None,
        "exit_code": exit_code,
        "error": error,
        "steps": len(run.steps) if run else 0,
        "wall_s": round(run.wall_s, 3) if run else None,
        "folder": str(folder) if folder else None,
        "version": version,
    }


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": _finite(estimate.value), "low": _finite(estimate.low), "high": _finite(estimate.high)}


def _finite(value: Any) -> Any:
    """Return None for a number that JSON cannot write."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
