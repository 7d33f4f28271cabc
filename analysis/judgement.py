"""The verdict on one step: PASS, FAIL or UNDECIDED, from its count of violations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.quantile import BATCHES, variance_inflation
from analysis.sla import SLA
from analysis.step import Outcome, StepResult

ERROR_BUDGET = "error budget"
_LEAST_LOOKS = 4.0  # independent ones, in a step
_HEADROOM = 1.5


class Verdict(StrEnum):
    """Say what a step shows about its load level."""

    PASS = "pass"  # noqa: S105 (not a password)
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """Give the verdict on a step and the bound that decided it.

    Attributes:
        verdict: PASS when every bound passes, FAIL when one fails.
        binding: The bound nearest to failing: an SLA's text, or "error budget".
        share: Share of requests that violate that bound, in [0, 1].
        low: Lower end of the share's 95 % interval.
        high: Upper end. Without a violation and with a tail far below the limit, from that tail; for errors of which
            there was none, the share that would leave none among n with a probability of 5 %: no bound that decides.
        allowed: Share that the bound allows.
        inflation: Variance of the count over the binomial one, >= 1.
        n: Requests judged.
    """

    verdict: Verdict
    binding: str
    share: float
    low: float
    high: float
    allowed: float
    inflation: float
    n: int


def judge(result: StepResult, slas: Sequence[SLA]) -> Judgement:
    """Judge a step against every SLA and error budget; the worst one decides.

    Raises:
        ValueError: `slas` is empty.
    """
    if not slas:
        raise ValueError("judge slas: give at least one SLA")
    failed = result.outcome != Outcome.OK
    correlation = _tail_inflation(result.response_ns, failed)
    judgements = []
    for sla in slas:
        counted = judge_share(
            str(sla), result.violations(sla.limit_ns), sla.violation_share, least_inflation=correlation
        )
        judgements.append(_with_headroom(counted, np.sort(result.response_ns), sla) if counted.share == 0 else counted)
    judgements.append(_judge_errors(failed, min(sla.error_budget for sla in slas)))
    order = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)
    return min(judgements, key=lambda j: (order.index(j.verdict), -j.share / max(j.allowed, 1e-12)))


def judge_share(name: str, flags: NDArray[np.bool_], allowed: float, *, least_inflation: float = 1.0) -> Judgement:
    """Compare a share of flags with the allowed one: Wilson's interval, its sample size divided by the inflation.

    Args:
        name: Of the bound.
        flags: bool (n,), in time order.
        allowed: Share that the bound allows.
        least_inflation: Known from elsewhere; flags that hardly vary do not show their own.
    """
    n = int(flags.size)
    inflation = max(variance_inflation(flags), least_inflation)
    share = float(flags.mean()) if n else 0.0
    effective = max(n / inflation, 1e-9)
    z = float(stats.t.ppf(0.975, BATCHES - 1))
    centre = (share + z * z / (2 * effective)) / (1 + z * z / effective)
    reach = z * float(np.sqrt(share * (1 - share) / effective + z * z / (4 * effective**2))) / (1 + z * z / effective)
    low, high = max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))
    verdict = Verdict.PASS if high <= allowed else Verdict.FAIL if low > allowed else Verdict.UNDECIDED
    return Judgement(
        verdict=verdict, binding=name, share=share, low=low, high=high, allowed=allowed, inflation=inflation, n=n
    )


def _judge_errors(failed: NDArray[np.bool_], budget: float) -> Judgement:
    """Judge failures. They have a cause, so where none was seen none is expected: thousands are not asked for."""
    counted = judge_share(ERROR_BUDGET, failed, budget)
    if counted.n and counted.share == 0:
        return replace(counted, high=none_of(counted.n), verdict=Verdict.PASS)
    return counted


def none_of(n: int) -> float:
    """Return the one-sided 95 % upper bound of a share where n requests showed none: some 3 / n (Clopper-Pearson)."""
    return float(-np.expm1(np.log(0.05) / n))


def _with_headroom(counted: Judgement, ordered_ns: NDArray[np.int64], sla: SLA) -> Judgement:
    """Pass a step without a violation whose tail ends far below the limit, though its count alone proves little.

    Waits have an exponential tail (Kingman 1961), whose scale t follows from two quantiles. Where even its upper end,
    q + 2 t / sqrt(looks), times 1.5 is below the limit, `high` is that tail's share above the limit.
    """
    looks, allowed = counted.n / counted.inflation, counted.allowed
    wide = min(10 * allowed, 0.5)
    if looks < _LEAST_LOOKS or counted.n * allowed < 1 or wide <= allowed:
        return counted
    inner, outer = (float(ordered_ns[int(np.ceil((1 - share) * counted.n)) - 1]) for share in (wide, allowed))
    doubt = 2 / looks**0.5
    scale = (outer - inner) / np.log(wide / allowed) * (1 + doubt)
    top = outer + doubt * scale
    if _HEADROOM * top > sla.limit_ns:
        return counted
    share = allowed * float(np.exp(-(sla.limit_ns - top) / max(scale, 1.0)))
    return replace(counted, high=min(counted.high, share), verdict=Verdict.PASS)


def _tail_inflation(response_ns: NDArray[np.int64], failed: NDArray[np.bool_]) -> float:
    """Return the inflation of "among the slowest tenth": what a step without violations says of their clusters."""
    if response_ns.size == 0:
        return 1.0
    return variance_inflation((response_ns > np.quantile(response_ns, 0.9)) | failed)
