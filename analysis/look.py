"""What one step said, and what the steps together say about failing: descent, errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, log, sqrt
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.boundary import Crossing
from analysis.dwell import Dwell
from analysis.judgement import ERROR_BUDGET, Verdict, judge_share
from analysis.sla import SLA
from analysis.stationarity import warmup_s
from analysis.step import Outcome, StepResult

_DESCENT_LOAD, _DESCENT, _DESCENTS = 0.8, 0.68, 7  # of the capacity: 0.8 down to 0.08
_NO_LOAD = 0.02
_SHOWN = 3.0  # violations expected: that none is seen has a chance of 5 %
_FEWEST, _ENOUGH = 12, 40  # requests of a step that says anything; of one that says enough where more cannot be had
_HOPELESS_IN_FLIGHT = 32.0
_SAME, _BURST = 0.985, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Hold a dwell and what its counts said.

    Attributes:
        dwell: The reduced step.
        ramp: It is a rung of the ramp: too short to fit.
        warmup_s: The server was still cold for so long at its start; that part is left out.
        strain: Its share of violations over the allowed one, the worst SLA's; 1 is the crossing.
        allowed: That SLA's allowed share.
        limit_s: And its limit.
        violated: That share of violations, or of failures where they are more.
        passes: Its share of violations is within every bound.
        errors: The verdict on its failures alone.
        binding: The bound nearest to failing.
    """

    dwell: Dwell
    ramp: bool
    warmup_s: float
    strain: float
    allowed: float
    limit_s: NDArray[np.float64]
    violated: float
    passes: bool
    errors: Verdict
    binding: str

    @classmethod
    def of(cls, result: StepResult, slas: Sequence[SLA], scale_s: float) -> Self:
        """Reduce a result whose queue settles on a time scale; when arrivals end, the last batch waits to fill."""
        ramp, length = result.step.purpose == "ramp", result.offered_span_s
        settle = 0.0 if ramp else min(0.1 * length + 2 * scale_s, 0.3 * length)
        warmup = 0.0 if ramp else warmup_s(result)
        settle = max(settle, warmup)
        close = min(scale_s, 0.05 * length)
        dwell = Dwell.of(result, settle, close, 4 if length < 5 else 8)
        failed = result.outcome != Outcome.OK
        errors = judge_share(ERROR_BUDGET, failed, min(sla.error_budget for sla in slas)).verdict
        slow = [float(dwell.tail.count_above(np.asarray(sla.limit_s))) / max(1, dwell.tail.n) for sla in slas]
        allowed = {str(sla): sla.violation_share for sla in slas}
        strains = {name: share / allowed[name] for name, share in zip(allowed, slow, strict=True)}
        binding = max(strains, key=lambda name: strains[name])
        worst = next(sla for sla in slas if str(sla) == binding)
        by_errors = errors is Verdict.FAIL and (strains[binding] <= 1 or float(failed.mean()) > 0.5 * max(slow))
        return cls(
            dwell=dwell,
            ramp=ramp,
            warmup_s=warmup,
            strain=strains[binding],
            allowed=allowed[binding],
            limit_s=np.asarray(worst.limit_s),
            violated=max(strains[binding] * allowed[binding], float(failed.mean())),
            passes=strains[binding] <= 1 and errors is not Verdict.FAIL,
            errors=errors,
            binding=ERROR_BUDGET if by_errors else binding,
        )

    @property
    def in_bursts(self) -> bool:
        """Say that there were whole pieces of the step in which no request violated its limit."""
        return any(part.n and not part.count_above(self.limit_s) for part in self.dwell.parts)

    @property
    def is_failure(self) -> bool:
        """Say that it fails, and not by one or two requests."""
        return not self.passes and self.violated * self.dwell.tail.n >= _SHOWN

    @property
    def rate_rps(self) -> float:
        """Return the step's arrival rate."""
        return self.dwell.rate_rps


def error_crossing(looks: Sequence[Look], budget: float) -> Crossing | None:
    """Return the bracket of rates between which failures begin to exceed their budget, or None if they do not.

    From the highest rate at which they surely keep it, in a step that was long enough to say so, to the lowest at which
    they surely do not.
    A rate counts as failing only where all steps from there up exceed the budget together: failures of a cold start do
    not bound the rates above it.
    """
    long = [look for look in looks if not look.ramp] or looks  # a rung's failures may be a start or an outage
    failing = [
        look.rate_rps
        for look in long
        if look.errors is Verdict.FAIL and _pooled_errors([o for o in looks if o.rate_rps >= look.rate_rps]) > budget
    ]
    if not failing:
        return None
    high = min(failing)
    below = [look for look in looks if look.rate_rps < high]
    sure = [look.rate_rps for look in below if not look.ramp and _surely_within(below, look.rate_rps, budget)]
    likely = [look.rate_rps for look in below if look.errors is Verdict.PASS or not look.dwell.failed]
    least = 0.5 * min([look.rate_rps for look in below] or [high])
    low = max(sure, default=least)
    n = sum(look.dwell.offered for look in below if look.rate_rps >= low)
    middle = sqrt(max([low, *likely]) * high)
    return Crossing(rate_rps=middle, low_rps=low, high_rps=high, safe_rps=low, n=n)


def _surely_within(looks: Sequence[Look], rate_rps: float, budget: float) -> bool:
    """Say that failures at a rate, of all steps at about it together, are within their budget (Garwood's limit).

    They come in bursts, when a queue is full: ten count as one where there are any.
    """
    same = [look for look in looks if not look.ramp and _SAME * rate_rps <= look.rate_rps <= rate_rps / _SAME]
    failed, offered = sum(look.dwell.failed for look in same), sum(look.dwell.offered for look in same)
    burst = _BURST if failed else 1.0
    return float(stats.gamma.ppf(0.975, failed / burst + 1)) * burst <= budget * offered


def _pooled_errors(looks: Sequence[Look]) -> float:
    return sum(look.dwell.failed for look in looks) / max(1, sum(look.dwell.offered for look in looks))


def hopeless_rates(looks: Sequence[Look], slas: Sequence[SLA]) -> tuple[float, float] | None:
    """Return the rates from and up to which nothing can help: what fails is the idle server, not its queue.

    Either failures are as frequent at rates a factor of ten apart; or even the fastest requests are too slow, at rates
    at which so many are in flight that of requests that wait for others some would wait briefly.
    """
    share = sum(look.dwell.failed for look in looks) / max(1, sum(look.dwell.offered for look in looks))
    telling = [look for look in looks if look.dwell.offered * share >= _SHOWN]
    rates = [look.rate_rps for look in telling]
    if len(telling) >= 3 and max(rates) > 10 * min(rates) and all(look.errors is Verdict.FAIL for look in telling):
        return min(rates), max(rates)
    telling = [look for look in looks if look.dwell.tail.n >= _SHOWN]
    rates = [look.rate_rps for look in telling]
    if len(telling) < 3 or not any(_is_slow(telling, sla) for sla in slas):
        return None
    return min(rates), max(rates)


def _is_slow(looks: Sequence[Look], sla: SLA) -> bool:
    """Say that nine in ten requests of every step violate an SLA, and that many are in flight in one step."""
    fast = [look.dwell.tail.quantile_s(0.1) for look in looks]
    in_flight = max(look.rate_rps * s for look, s in zip(looks, fast, strict=True))
    return min(fast) > sla.limit_s and in_flight >= _HOPELESS_IN_FLIGHT and sla.quantile > 0.1


def since_sent(result: StepResult) -> StepResult | None:
    """Return a step whose requests left late as if each had been due when it left; None where that is not its fault.

    That is where the client was short of more than time to send them: a request failed, or never left, or its books do
    not close. Time that the client took to read the replies is in it still.
    """
    sent = result.sent_ns
    if sent is None or result.offered < _FEWEST or any(reason.kind != "client" for reason in result.reasons):
        return None
    if (result.outcome != Outcome.OK).any() or not sent.all():
        return None
    order = np.argsort(sent, kind="stable")
    return replace(
        result, due_ns=sent[order], sent_ns=sent[order], done_ns=result.done_ns[order], outcome=result.outcome[order],
        first_byte_ns=None if result.first_byte_ns is None else result.first_byte_ns[order],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Descent:
    """Look for a rate that passes where the ones tried fail: from near the capacity down to a twentieth of it.

    Attributes:
        looks: All steps.
        slas: At least one.
        capacity_rps: Of the server.
    """

    looks: Sequence[Look]
    slas: Sequence[SLA]
    capacity_rps: float

    @property
    def passed(self) -> bool:
        """Say that a step passed that counts: a dozen requests at almost no load show no p99."""
        least = _DESCENT_LOAD * _DESCENT**_DESCENTS * self.capacity_rps
        share = max(sla.violation_share for sla in self.slas)
        errors = error_crossing(self.looks, min(sla.error_budget for sla in self.slas))
        return any(
            look.passes
            and not look.ramp
            and (look.rate_rps > least or look.dwell.offered > 2 / share)
            and (errors is None or look.rate_rps < errors.high_rps)
            for look in self.looks
        )

    @property
    def certain(self) -> bool:
        """Say that no rate that was tried may be within the bounds after all: even the best one violates surely."""
        return self._best() is None

    def again(self, longest_s: float) -> tuple[float, float] | None:
        """Return the rate that fails least, and how long to run it to know: twice its time so far, at most `longest_s`.

        None where all fail surely.
        """
        best = self._best()
        if best is None:
            return None
        spent_s = sum(look.dwell.length_s for look in self._at(best))
        return best, min(2 * spent_s, longest_s)

    def _at(self, rate_rps: float) -> list[Look]:
        return [look for look in self.looks if not look.ramp and _near(look.rate_rps, [rate_rps])]

    def _best(self) -> float | None:
        """Return the rate whose violations exceed what is allowed least, None where they do surely at every rate."""
        excess = {look.rate_rps: _sure_excess(self._at(look.rate_rps)) for look in self.looks if not look.ramp}
        best = min(excess, key=lambda rate: excess[rate], default=None)
        return best if best is not None and excess[best] <= 1 else None

    @property
    def exhausted(self) -> bool:
        """Say that no rate is left that may pass, for want of budget or of hope."""
        tested = [look.rate_rps for look in self.looks if not look.ramp]
        hints = [look.rate_rps for look in self.looks if self._is_hint(look)]
        return bool(tested) and all(_near(rate, tested) for rate in self._rungs() if rate in hints)

    def length_s(self, rate_rps: float, limit_s: float) -> float:
        """Return how long a rate must run to be believed."""
        return max(1.0, 5 * limit_s, self._telling / rate_rps)

    @property
    def _telling(self) -> float:
        """Return how many requests show some violations of the share that the mildest failing step had.

        Many, where a step passed that would have shown them too.
        """
        mild = any(self._is_hint(look) for look in self.looks) or not self._least_violated
        return 200.0 if mild else min(max(float(_FEWEST), (_SHOWN + 3) / self._least_violated), 200.0)

    @property
    def _least_violated(self) -> float:
        return min((look.violated for look in self.looks if look.is_failure), default=0.0)

    def _is_hint(self, look: Look) -> bool:
        """Say that a step passed although it would have shown violations as frequent as elsewhere."""
        return look.passes and look.dwell.offered * self._least_violated >= _SHOWN

    def next_rate(self, longest_s: float, ceiling_rps: float | None) -> float | None:
        """Return the next rate to try of which `longest_s` shows so many requests that they tell, or None."""
        least = min(self._telling, _ENOUGH)
        return next((rate for rate in self.untried(ceiling_rps) if rate * longest_s >= least), None)

    def untried(self, ceiling_rps: float | None, least: float = 0.0) -> list[float]:
        """Return the rates left to try, in that order, none above a ceiling or below `least` of the capacity."""
        tried = [
            look.rate_rps
            for look in self.looks
            if look.is_failure or (look.dwell.offered >= _FEWEST and not look.passes)
        ]
        tried += [look.rate_rps for look in self.looks if not look.ramp]
        rates = [_DESCENT_LOAD * _DESCENT**k * self.capacity_rps for k in range(_DESCENTS)] + self._rungs()
        rates = [min(rate, ceiling_rps or rate) for rate in rates]
        return [rate for rate in rates if rate >= least * self.capacity_rps and not _near(rate, tried)]

    def _rungs(self) -> list[float]:
        """Return the rungs that passed by their few requests, the highest first; not those of almost no load."""
        rungs = [look.rate_rps for look in self.looks if look.ramp and look.passes]
        return sorted((rate for rate in rungs if rate > _NO_LOAD * self.capacity_rps), reverse=True)


def _sure_excess(looks: Sequence[Look]) -> float:
    """Return the violations of steps at about one rate over those allowed: the lower end of what they may be.

    Garwood's Poisson limit (Biometrika 1936) of the count of the worst SLA, over its clusters: pieces of the steps.
    """
    if any(look.errors is Verdict.FAIL for look in looks):
        return inf
    allowed = sum(look.allowed * look.dwell.tail.n for look in looks)
    count = sum(look.strain * look.allowed * look.dwell.tail.n for look in looks)
    parts = [np.array([float(part.count_above(look.limit_s)) for part in look.dwell.parts]) for look in looks]
    counts = np.concatenate(parts)
    cluster = max(1.0, float(counts.var(ddof=1)) / max(float(counts.mean()), 1e-9))
    return float(stats.gamma.ppf(0.025, count / cluster)) * cluster / allowed if count and allowed else 0.0


def _near(rate_rps: float, others: Sequence[float]) -> bool:
    """Say that another rate is within half a step of the descent."""
    return any(abs(log(other / rate_rps)) < -0.5 * log(_DESCENT) for other in others)
