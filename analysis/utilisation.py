"""What a share of the capacity means on this server, and whether "run it at 70 to 80 %" would have been right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.histogram import Histogram
from analysis.operating_point import OperatingPoint
from analysis.run import StepRecord

MARKS = (0.60, 0.70, 0.80, 0.85)
RULE = (0.7, 0.8)
Rule = Literal["wasteful", "right", "unsafe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Tell of a share of the capacity.

    Attributes:
        share: Of the capacity, in (0, 1).
        rate_rps: Arrival rate that it is.
        quantile_s: The binding SLA's quantile of the response time there, between measured steps, seconds, or None.
        holds: Every SLA holds there; None within the operating point's interval, or where nothing is known.
    """

    share: float
    rate_rps: float
    quantile_s: float | None
    holds: bool | None


def marks(answer: OperatingPoint, records: Sequence[StepRecord]) -> tuple[Mark, ...]:
    """Return the marks at 60, 70, 80 and 85 % of the capacity, and none without a capacity."""
    if answer.capacity_rps is None:
        return ()
    rates = [share * answer.capacity_rps.value for share in MARKS]
    return tuple(
        Mark(share=share, rate_rps=rate, quantile_s=_quantile_s(answer, records, rate), holds=_holds(answer, rate))
        for share, rate in zip(MARKS, rates, strict=True)
    )


def rule_of_thumb(answer: OperatingPoint) -> Rule | None:
    """Say what running at 70 to 80 % of the capacity would have done; None where the point is not known well enough.

    "wasteful": the whole interval of the point lies above 80 %. "unsafe": it lies below 70 %. "right": neither, and it
    does not reach from below 70 to above 80 %, which could be anything.
    """
    rate, capacity = answer.rate_rps, answer.capacity_rps
    if rate is None or capacity is None or answer.verdict == "unmet":
        return None
    lowest, highest = (share * capacity.value for share in RULE)
    if rate.low > highest:
        return "wasteful"
    if rate.high is None:
        return None
    if rate.high < lowest:
        return "unsafe"
    return None if rate.low < lowest and rate.high > highest else "right"


def _holds(answer: OperatingPoint, rate_rps: float) -> bool | None:
    if answer.verdict == "unmet":
        return False
    if answer.rate_rps is None:
        return None
    if rate_rps <= answer.rate_rps.low:
        return True
    return False if answer.rate_rps.high is not None and rate_rps > answer.rate_rps.high else None


def _quantile_s(answer: OperatingPoint, records: Sequence[StepRecord], rate_rps: float) -> float | None:
    """Interpolate the logarithm of the quantile between the sound steps on both sides of a rate."""
    seen: dict[float, Histogram] = {}
    for record in records:
        rate = record.step.rate_rps
        if rate is not None and not record.reasons and not record.aborted and record.step.counts:
            whole = seen.setdefault(rate, Histogram())
            whole += record.histogram
    least = 1 / (1 - answer.sla.quantile)  # fewer requests than this have no such quantile
    rates = sorted(rate for rate, whole in seen.items() if whole.total >= least)
    at = int(np.searchsorted(rates, rate_rps))
    if at == len(rates) or (at == 0 and rates[0] > rate_rps):
        return None
    below, above = rates[max(at - 1, 0)], rates[at]
    ends_ns = [seen[rate].quantile_ns(answer.sla.quantile) for rate in (below, above)]
    if not all(0 < end_ns < np.inf for end_ns in ends_ns):
        return None
    return float(np.exp(np.interp(rate_rps, (below, above), np.log(ends_ns)))) / 1e9
