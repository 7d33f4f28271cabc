"""What an open-loop search answers: the operating point, what limits it, and why the search ended."""

from collections.abc import Iterator
from math import isfinite, sqrt
from typing import Literal

from analysis.boundary import Crossing, quantiles_at
from analysis.curve import Curve
from analysis.estimate import Estimate
from analysis.judgement import ERROR_BUDGET
from analysis.open_loop import OpenLoop
from analysis.operating_point import OperatingPoint

Verdict = Literal["found", "unmet", "undecided", "client_limited", "target_failed"]
_QUANTILES = (0.5, 0.95, 0.99)
_ORDERLY = 0.3  # coefficient of variation up to which a long delay is a pause, not the tail of the service times


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
    rate, safe = _rate(loop, verdict)
    knee = None
    if capacity is not None:
        fitted = [look.dwell for look in loop.looks]
        curve = Curve.fit(
            [d.rate_rps for d in fitted], [d.mean_s for d in fitted], [d.tail.n for d in fitted], capacity
        )
        knee = curve.knee_rps if curve else None
    p50, p95, p99 = _quantiles_at(loop, rate)
    believed, final = loop.twin.believed and rate is not None, over or failed is not None
    counted = loop.counted.get(str(loop.sla))
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
        utilisation=min(1.0, rate.value / capacity.value) if rate and capacity and loop.crossings else None,
        method="twin" if believed else "counting",
        method_reason=_method_reason(loop) if rate is not None else "",
        server=loop.twin.model(),
        floor=_floor(loop) if verdict == "unmet" else None,
        cliff=not believed and counted is not None and counted.cliff,
        per_sla={name: _estimate(found) for name, found in loop.crossings.items()} if rate is not None else {},
        confirmation=loop.confirmation,
        inflation=counted.inflation if counted is not None else None,
        needed_s=_needed(loop),
        closed=loop.twin.closed(loop.sla) if believed and final else None,
        notes=tuple(_notes(loop)) if rate is not None else (),
    )


def _estimate(found: Crossing) -> Estimate:
    return Estimate(value=found.rate_rps, low=found.low_rps, high=found.high_rps, n=found.n)


def _quantiles_at(loop: OpenLoop, rate: Estimate | None) -> list[Estimate | None]:
    """Return p50, p95 and p99 at the answer."""
    if rate is None or loop.capacity is None or not loop.crossings:
        return [None] * len(_QUANTILES)
    if loop.twin.believed and loop.binding in loop.twin.forecasts:
        return loop.twin.quantiles(loop.binding)
    dwells = tuple(look.dwell for look in loop.looks if not look.ramp)
    return quantiles_at(dwells, loop.sla, loop.capacity, rate.value, _QUANTILES)


def _floor(loop: OpenLoop) -> Estimate | None:
    """Return the SLA's quantile at the lowest rate that was measured."""
    seen = [look.dwell.tail for look in sorted(loop.looks, key=lambda look: look.rate_rps) if look.dwell.tail.n]
    if not seen:
        return None
    quantile = loop.sla.quantile
    tail = next((tail for tail in seen if tail.n * (1 - quantile) >= 1), max(seen, key=lambda tail: tail.n))
    value = tail.quantile_s(quantile)
    if not isfinite(value):
        return None
    reach = 1.96 * sqrt(quantile * (1 - quantile) / tail.n)
    low, high = tail.quantile_s(max(quantile - reach, 0.0)), tail.quantile_s(min(quantile + reach, 1.0))
    return Estimate(value=value, low=min(max(low, 0.0), value), high=high if isfinite(high) else None, n=tail.n)


def _method_reason(loop: OpenLoop) -> str:
    twin = loop.twin
    if not loop.crossings:
        return "No longer step held the SLA yet: the rate is between what the ramp makes sure of and the capacity."
    if twin.believed:
        counted = ", and counting violations does not contradict it" if loop.counted else ""
        return f"A first-come, first-served model explains what was seen{counted}."
    return f"No model of the server was used: {twin.refused}."


def _needed(loop: OpenLoop) -> tuple[tuple[float, float], ...]:
    """Return the seconds of load for the asked precision, 5 %, 2 % and 1 %, as far as they are known."""
    asked = sorted({loop.precision, 0.05, 0.02, 0.01}, reverse=True)
    rows = [(precision, loop.needed_s(precision)) for precision in asked]
    return tuple((precision, seconds) for precision, seconds in rows if seconds is not None)


def _notes(loop: OpenLoop) -> Iterator[str]:
    twin = loop.twin.twin if loop.twin.believed else None
    point = loop.crossing
    if twin is not None and twin.drift:
        sense = "slower" if twin.drift > 0 else "faster"
        yield (
            f"The server became {100 * abs(twin.drift):.2g} % {sense} while it was measured; "
            "what came before was left out"
        )
    elif point is not None and point.drift:
        yield f"The server changed by {100 * point.drift:.2g} % while it was measured; the interval allows for that"
    if loop.changed:
        yield "The server's capacity changed while it was measured; what came before was left out"
    rare = max((found.rare for found in loop.twin.forecasts.values()), default=0) if twin and twin.cv < _ORDERLY else 0
    if rare:
        times = "once" if rare == 1 else f"{rare} times"
        yield f"Long pauses of the server were seen {times}; how often they come is known no better than that"
    if loop.doubted:
        yield "The server's capacity was another one when it was last measured again, and there was no time to be sure"
    if loop.moved:
        yield "A step at the safe rate did not hold the SLA, and the answer was moved down below it"
    cold = sum(look.warmup_s for look in loop.looks)
    if cold:
        yield f"The server was warming up for {cold:.2g} s of the steps (by the MSER rule), which were left out"
    measured = loop.measured_s
    if measured >= 1 and loop.crossings:
        # rule of three: of pauses that come three times in such a run on average, one run in twenty meets none
        yield f"Pauses rarer than one in {measured / 3:.2g} s may not have been met in a run of this length"


def _verdict(loop: OpenLoop, failed: str | None, *, over: bool) -> Verdict:
    if failed is not None:
        return "target_failed"
    if loop.unmet or (over and loop.fails_throughout):
        return "unmet"
    if loop.bounded or (over and _is_blocked(loop)):
        return "client_limited"
    return "found" if loop.finished else "undecided"


def _is_blocked(loop: OpenLoop) -> bool:
    """Say that the client gave out before anything was seen of a limit of the server."""
    seen = loop.crossings or loop.ramp.capacity is not None or any(look.is_failure for look in loop.looks)
    return loop.client is not None and not seen


def _rate(loop: OpenLoop, verdict: Verdict) -> tuple[Estimate | None, float | None]:
    """Return the operating rate and the safe rate; one that the client limits has no upper end."""
    point, ceiling = loop.crossing, loop.ceiling_rps
    if point is None and verdict == "undecided":
        point = loop.bracket
    if point is None:
        return None, None
    if verdict == "client_limited" and ceiling is not None:
        calm = loop.far_below_limit(ceiling)
        low, safe = (ceiling, ceiling) if calm else (min(point.low_rps, ceiling), min(point.safe_rps, ceiling))
        return Estimate(value=ceiling, low=low, high=None, n=point.n), safe
    safe = point.safe_rps
    if loop.confirmed and loop.confirmation is not None:  # no higher than what was confirmed
        safe = min(safe, loop.confirmation.rate_rps)
    return Estimate(value=point.rate_rps, low=min(point.low_rps, safe), high=point.high_rps, n=point.n), safe


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
            return f"The interval is ±{width}, within the asked ±{asked}, and a step at the safe rate held the SLA."
    drift = " The server changed while it was measured." if point is not None and point.drift else ""
    end = f"The budget of {loop.budget_s:g} s ended first" if over else "The search was stopped before its end"
    state = f", at ±{width} where ±{asked} was asked." if point is not None else ", before the SLA's limit was located."
    return end + state + drift
