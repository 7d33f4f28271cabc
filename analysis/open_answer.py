"""What an open-loop search answers: the operating point, what limits it, and why the search ended."""

from typing import Literal

from analysis.boundary import quantiles_at
from analysis.curve import Curve
from analysis.estimate import Estimate
from analysis.judgement import ERROR_BUDGET
from analysis.open_loop import OpenLoop
from analysis.operating_point import OperatingPoint

Verdict = Literal["found", "unmet", "undecided", "client_limited", "target_failed"]
_QUANTILES = (0.5, 0.95, 0.99)


def open_answer(loop: OpenLoop, *, failed: str | None, over: bool) -> OperatingPoint:
    """Say what is known so far.

    Args:
        loop: The search.
        failed: How the target failed, or None.
        over: The search has nothing more to run.
    """
    verdict = _verdict(loop, failed, over=over)
    measured = loop.ramp.capacity
    capacity = measured.estimate if measured else None
    rate, safe = _rate(loop, bounded=verdict == "client_limited")
    p50 = p95 = p99 = knee = None
    if rate is not None and loop.capacity is not None:
        dwells = tuple(look.dwell for look in loop.looks if not look.ramp)
        p50, p95, p99 = quantiles_at(dwells, loop.sla, loop.capacity, rate.value, _QUANTILES)
    if capacity is not None:
        fitted = [look.dwell for look in loop.looks]
        curve = Curve.fit(
            [d.rate_rps for d in fitted], [d.mean_s for d in fitted], [d.tail.n for d in fitted], capacity
        )
        knee = curve.knee_rps if curve else None
    return OperatingPoint(
        verdict=verdict,
        sla=loop.sla,
        limited_by=_limited_by(loop, verdict),
        stop_reason=_reason(loop, verdict, failed, over),
        rate_rps=rate,
        safe_rps=safe,
        capacity_rps=capacity,
        knee_rps=knee,
        p50=p50,
        p95=p95,
        p99=p99,
        utilisation=min(1.0, rate.value / capacity.value) if rate and capacity else None,
        method="twin" if loop.twin.believed else "counting",
    )


def _verdict(loop: OpenLoop, failed: str | None, *, over: bool) -> Verdict:
    if failed is not None:
        return "target_failed"
    if loop.unmet:
        return "unmet"
    if loop.bounded or (over and _is_blocked(loop)):
        return "client_limited"
    return "found" if loop.finished else "undecided"


def _is_blocked(loop: OpenLoop) -> bool:
    """Say that the client gave out before anything was seen of a limit of the server."""
    seen = loop.crossings or loop.ramp.capacity is not None or any(look.is_failure for look in loop.looks)
    return loop.client is not None and not seen


def _rate(loop: OpenLoop, *, bounded: bool) -> tuple[Estimate | None, float | None]:
    """Return the operating rate and the safe rate; a bounded one has no upper end."""
    point, ceiling = loop.crossing, loop.ceiling_rps
    if point is None:
        return None, None
    if bounded and ceiling is not None:
        calm = loop.far_below_limit(ceiling)
        low, safe = (ceiling, ceiling) if calm else (min(point.low_rps, ceiling), min(point.safe_rps, ceiling))
        return Estimate(value=ceiling, low=low, high=None, n=point.n), safe
    return Estimate(value=point.rate_rps, low=point.low_rps, high=point.high_rps, n=point.n), point.safe_rps


def _limited_by(loop: OpenLoop, verdict: Verdict) -> str:
    if verdict != "client_limited":
        return loop.binding
    by_flag = loop.max_rps is not None and loop.ceiling_rps == loop.max_rps
    return "--max-rps" if by_flag or loop.client is None else loop.client.text


def _reason(loop: OpenLoop, verdict: Verdict, failed: str | None, over: bool) -> str:
    asked, width = f"{100 * loop.precision:.3g} %", f"{100 * loop.half_width:.2g} %"
    point = loop.crossing
    match verdict:
        case "target_failed":
            return failed or "the target failed"
        case "unmet":
            rates = [look.rate_rps for look in loop.looks if not look.passes]
            what = "failures exceed their budget" if loop.binding == ERROR_BUDGET else f"{loop.binding} is violated"
            return f"At every rate tried, from {min(rates):.3g} to {max(rates):.3g} req/s, {what}."
        case "client_limited":
            if not loop.bounded:
                return "The client gave out before any rate was measured for long enough."
            return "The SLA still holds at the highest rate that could be measured."
        case "found":
            return f"The interval is +-{width}, within the asked +-{asked}, and a step at the safe rate held the SLA."
    drift = " The server changed while it was measured." if point is not None and point.drift else ""
    end = f"The budget of {loop.budget_s:g} s ended first" if over else "The search was stopped before its end"
    state = (
        f", at +-{width} where +-{asked} was asked." if point is not None else ", before the SLA's limit was located."
    )
    return end + state + drift
