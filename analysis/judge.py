"""The verdict on one step: PASS, FAIL or UNDECIDED, from its count of violations."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy import stats

from analysis.quantile import BATCHES, variance_inflation
from analysis.sla import SLA
from analysis.step import Outcome, StepResult


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
        high: Upper end.
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
    bounds = [(str(sla), result.violations(sla.limit_ns), sla.violation_share) for sla in slas]
    bounds.append(("error budget", failed, min(sla.error_budget for sla in slas)))
    judgements = [judge_share(name, flags, allowed) for name, flags, allowed in bounds]
    order = (Verdict.FAIL, Verdict.UNDECIDED, Verdict.PASS)
    return min(judgements, key=lambda j: (order.index(j.verdict), -j.share / max(j.allowed, 1e-12)))


def judge_share(name: str, flags: np.ndarray[tuple[int], np.dtype[np.bool_]], allowed: float) -> Judgement:
    """Compare a share of flags with the allowed one: Wilson's interval, its sample size divided by the inflation."""
    n = int(flags.size)
    inflation = variance_inflation(flags)
    share = float(flags.mean()) if n else 0.0
    effective = max(n / inflation, 1e-9)
    z = float(stats.t.ppf(0.975, BATCHES - 1))
    centre = (share + z * z / (2 * effective)) / (1 + z * z / effective)
    reach = z * float(np.sqrt(share * (1 - share) / effective + z * z / (4 * effective**2))) / (1 + z * z / effective)
    low, high = max(0.0, centre - reach), min(1.0, centre + reach)
    verdict = Verdict.PASS if high <= allowed else Verdict.FAIL if low > allowed else Verdict.UNDECIDED
    return Judgement(
        verdict=verdict, binding=name, share=share, low=low, high=high, allowed=allowed, inflation=inflation, n=n
    )
