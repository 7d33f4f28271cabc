import math
from pathlib import Path
from typing import Any

from analysis import Estimate, OperatingPoint, Outcome, Run
from analysis.fleet_plan import fleet_plan
from analysis.histogram import Histogram
from analysis.utilisation import rule_of_thumb
from loadgen.errors import TargetError
from reports.headline import headline
from reports.load import QUANTILES, step_of
from reports.steps import books, reasons
from reports.words import planned_rps

_ESTIMATES = ("rate_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps", "floor")
_QUANTILES = ("p50_s", "p75_s", "p90_s", "p95_s", "p99_s", "p99_9_s", "p99_99_s", "max_s")
_BOOKED = (Outcome.OK, Outcome.TIMEOUT, Outcome.LOST, Outcome.UNSENT)
_KINDS = [kind.name.lower() for kind in Outcome if kind not in _BOOKED]  # of errors
_CLIENT = (
    "lateness_p50_s", "lateness_p99_s", "lateness_max_s", "cpu_us_per_request", "cpu_share", "workers", "connections",
    "connections_opened",
)  # fmt: skip
_SERVER = (
    "instances", "max_batch", "wait_s", "base_s", "per_item_s", "cv", "delay_s", "services", "rate_rps", "explained",
)  # fmt: skip
_CONFIRMATION = {"rps": "rate_rps", "s": "length_s", "share": "share"}
_CLOSED = {"users": "users", "rps": "throughput_rps", "quantile_s": "quantile_s"}
_PLAIN = (
    "verdict", "safe_rps", "utilisation", "limited_by", "stop_reason", "method", "method_reason", "cliff",
    "inflation",
)  # fmt: skip


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
        **_explained(answer),
        **_planned(run),
        "sla": str(answer.sla) if answer else None,
        "exit_code": exit_code,
        "error": error,
        "steps": len(run.steps) if run else 0,
        "wall_s": round(run.wall_s, 3) if run else None,
        "folder": str(folder) if folder else None,
        "version": version,
    }


def _explained(answer: OperatingPoint | None) -> dict[str, Any]:
    """Return how sure the answer is and what it rests on; `server` and `per_sla` are objects, as an estimate is."""
    seen, closed, server = (getattr(answer, name, None) for name in ("confirmation", "closed", "server"))
    return {
        "confirmed": getattr(seen, "passed", None),
        **{f"confirmation_{key}": _finite(getattr(seen, name, None)) for key, name in _CONFIRMATION.items()},
        "needed_s": [[width, _finite(load_s)] for width, load_s in answer.needed_s] if answer else None,
        **{f"closed_{key}": _finite(getattr(closed, name, None)) for key, name in _CLOSED.items()},
        "per_sla": {name: _estimate(rate) for name, rate in answer.per_sla.items()} if answer else None,
        "server": {name: _finite(getattr(server, name)) for name in _SERVER} if server else None,
        "notes": list(answer.notes) if answer else None,
    }


def _planned(run: Run | None) -> dict[str, Any]:
    """Return the replicas for the rate that was asked about, and whether 70 to 80 % of capacity is a fair rule here."""
    answer, target = (run.answer, planned_rps(run)) if run else (None, None)
    plan = fleet_plan(answer, target) if answer and target else None
    return {
        "rule_of_thumb": rule_of_thumb(answer) if answer else None,
        "plan_rps": target,
        "plan_replicas": plan.replicas if plan else None,
        "plan_all_up_rps": plan.all_up_rps if plan else None,
        "plan_one_down_rps": plan.one_down_rps if plan else None,
    }


def load_summary(
    run: Run | None, *, exit_code: int, error: str | None, folder: Path | None, version: str
) -> dict[str, Any]:
    """Return what `load --json` prints: one flat object, the books first; arguments as in `summary`.

    The books are whole numbers even where nothing was run, and offered = ok + errors + timeouts + lost + unsent.
    Quantiles are in seconds: `p99_s` from the due time, `service_p99_s` from the send; null where one falls among
    failures, which count as slower than every answer. `throughput_rps` counts what came while requests fell due,
    `achieved_rps` the drain as well.
    """
    record = step_of(run) if run else None
    ended = books(record) if record else dict.fromkeys(("ok", "errors", "timeouts", "lost", "unsent"), 0)
    client = record.client if record else {}
    why = reasons(record) if record else ""
    if run and exit_code == TargetError.exit_code:
        words = headline(run)
        error = error or f"{words.title} {words.limits}".strip()
    return {
        "ok": ended.pop("ok"),
        "offered": record.offered if record else 0,
        **ended,
        **{kind: record.counts.get(kind, 0) if record else 0 for kind in _KINDS},
        "verdict": str(record.judgement.verdict) if record and record.judgement else None,
        "sla": " and ".join(map(str, run.slas)) if run and run.slas else None,
        "users": record.step.users if record else None,
        "rate_rps": record.step.rate_rps if record else None,
        "duration_s": record.step.duration_s if record else None,
        "offered_rps": record.offered_rps if record else None,
        "achieved_rps": record.achieved_rps if record else None,
        "throughput_rps": record.throughput_rps if record else None,
        **_quantiles("", record.histogram if record else None),
        **_quantiles("service_", record.service if record else None),
        **{name: _finite(client.get(name)) for name in _CLIENT},
        "sound": not why if record else None,
        "reasons": why or None,
        "exit_code": exit_code,
        "error": error,
        "wall_s": round(run.wall_s, 3) if run else None,
        "folder": str(folder) if folder else None,
        "version": version,
    }


def _quantiles(prefix: str, histogram: Histogram | None) -> dict[str, float | None]:
    values = [_finite(histogram.quantile_ns(q) / 1e9) if histogram else None for q in QUANTILES]
    return {f"{prefix}{name}": value for name, value in zip(_QUANTILES, values, strict=True)}


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"value": _finite(estimate.value), "low": _finite(estimate.low), "high": _finite(estimate.high)}


def _finite(value: Any) -> Any:
    """Return None for a number that JSON cannot write."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
