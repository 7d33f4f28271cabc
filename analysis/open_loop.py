"""The open-loop search: a ramp to overload, dwells around the crossing, a confirmation at the safe rate.

Pure policy: results in, the next step out. `analysis.search` keeps the budget and the target's health.
"""

from dataclasses import dataclass, field
from math import exp, log, sqrt

import numpy as np

from analysis.boundary import Crossing, locate, quantiles_at
from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.evidence import load, relaxation_s
from analysis.judge import ERROR_BUDGET, Verdict, judge, judge_share
from analysis.ramp import Plan, Ramp
from analysis.sla import SLA
from analysis.step import Outcome, Reason, StepProgress, StepResult

_OFFSETS = (-0.35, 0.0, 0.2)  # of the next dwell from the crossing, in y = ln h
_FIRST_LOAD = 0.85
_DESCENT_LOAD, _DESCENT, _DESCENTS = 0.8, 0.68, 7
_NO_LOAD = 0.02  # of the capacity
_OVERWHELMING = 20.0  # strain: a few requests show it
_GROWTH = 2.5  # the gap to the capacity shrinks by at most this from the best passing rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Hold a dwell and what its counts said.

    Attributes:
        dwell: The reduced step.
        ramp: It is a rung of the ramp: too short to fit.
        strain: Its share of violations over the allowed one, the worst SLA's; 1 is the crossing.
        passes: Its share of violations is within every bound.
        errors: The verdict on its failures alone.
        binding: The bound nearest to failing.
    """

    dwell: Dwell
    ramp: bool
    strain: float
    passes: bool
    errors: Verdict
    binding: str


@dataclass(slots=True)
class OpenLoop:
    """Hold what the search has seen and decide what to look at next.

    Attributes:
        slas: At least one.
        precision: Wanted relative half-width.
        budget_s: Of the whole search.
        ramp: How it begins.
        max_rps: Highest rate allowed, or None.
        looks: Sound steps that did not overload, in time order.
        client: Why the client was the limit, at its lowest such rate `client_rps`.
        crossings: By the bound's name, as far as known.
    """

    slas: tuple[SLA, ...]
    precision: float
    budget_s: float
    ramp: Ramp
    max_rps: float | None = None
    looks: list[Look] = field(default_factory=list)
    client: Reason | None = None
    client_rps: float | None = None
    crossings: dict[str, Crossing] = field(default_factory=dict)
    confirmed: bool = False
    _ramped: bool = False
    _measures: int = 0

    # what is known -----------------------------------------------------------------------------------------------

    @property
    def limit_s(self) -> float:
        """Return the longest limit of the SLAs, seconds."""
        return max(sla.limit_s for sla in self.slas)

    @property
    def scale_s(self) -> float:
        """Return the latency that sets how slowly the queue forgets: the limit, or what was seen far below it."""
        seen = [look.dwell.tail.quantile_s(0.9) for look in self.looks[-1:]]
        return min(self.limit_s, max([4 * q for q in seen] + [20 * (self.ramp.floor_s or self.limit_s)]))

    @property
    def error_budget(self) -> float:
        """Return the tightest error budget."""
        return min(sla.error_budget for sla in self.slas)

    @property
    def ceiling_rps(self) -> float | None:
        """Return the rate above which nothing can be measured, or None."""
        below_client = None
        if self.client_rps is not None:
            calm = self.ramp.calm_rps or 0.0
            below_client = sqrt(calm * self.client_rps) if 1.1 * calm < self.client_rps and calm else calm
            below_client = below_client or self.client_rps / 4
        bounds = [bound for bound in (self.max_rps, below_client) if bound]
        return min(bounds) if bounds else None

    @property
    def capacity(self) -> Capacity | None:
        """Return the measured capacity, or where overload was never reached one guessed above everything seen."""
        known = self.ramp.capacity
        if known is not None or not self.looks:
            return known
        return Capacity(rate_rps=1.3 * max(look.dwell.rate_rps for look in self.looks), error=0.15, n=0)

    @property
    def crossing(self) -> Crossing | None:
        """Return the lowest crossing over the SLAs and the error budget."""
        return min(self.crossings.values(), key=lambda c: c.rate_rps, default=None)

    @property
    def binding(self) -> str:
        """Name the bound with the lowest crossing, or before any the one that binds most often."""
        if self.crossings:
            return min(self.crossings, key=lambda name: self.crossings[name].rate_rps)
        names = [look.binding for look in self.looks if not look.passes]
        return max(sorted(set(names)), key=names.count) if names else str(self.slas[0])

    @property
    def sla(self) -> SLA:
        """Return the SLA that binds; the first one where none does."""
        return next((sla for sla in self.slas if str(sla) == self.binding), self.slas[0])

    @property
    def half_width(self) -> float:
        """Return the relative half-width of the answer."""
        point = self.crossing
        return (point.high_rps - point.low_rps) / (2 * point.rate_rps) if point else float("inf")

    @property
    def bounded(self) -> bool:
        """Say that the answer lies at or above the highest rate that can be measured."""
        point, ceiling = self.crossing, self.ceiling_rps
        if ceiling is None or not self._ramped or self.ramp.capacity is not None:
            return False
        top = [look for look in self.looks if look.dwell.rate_rps >= 0.99 * ceiling]
        return bool(top) and top[-1].passes and (point is None or point.rate_rps >= 0.99 * ceiling)

    def far_below_limit(self, rate_rps: float) -> bool:
        """Say that at a rate every limit is a quarter above the upper end of its quantile."""
        dwells, capacity = tuple(look.dwell for look in self.looks if not look.ramp), self.capacity
        if not dwells or capacity is None:
            return False
        for sla in self.slas:
            (estimate,) = quantiles_at(dwells, sla, capacity, rate_rps, (sla.quantile,))
            if estimate is None or 1.25 * estimate.value > sla.limit_s:
                return False
        return True

    @property
    def narrow(self) -> bool:
        """Say that the interval is as narrow as asked, and rests on enough time near the crossing."""
        point, capacity = self.crossing, self.capacity
        if point is None or capacity is None or not self.strained or self.half_width > self.precision:
            return False
        centre = float(load(point.rate_rps, capacity.rate_rps))
        near = [
            look.dwell for look in self.looks if abs(float(load(look.dwell.rate_rps, capacity.rate_rps)) - centre) < 1
        ]
        relax = relaxation_s(point.rate_rps, capacity.rate_rps, self.scale_s)
        return sum(dwell.length_s for dwell in near) >= max(20.0, min(4 * relax, 30.0))

    @property
    def strained(self) -> bool:
        """Say that a step came near enough to the crossing to show slow requests, or as near as it can be measured."""
        measured = [look for look in self.looks if not look.ramp]
        if any(look.strain > 0.4 for look in measured):
            return True
        capacity = self.capacity
        highest = max((look.dwell.rate_rps for look in measured), default=0.0)
        return capacity is not None and highest >= 0.98 * self._highest_rate(capacity.rate_rps)

    def _highest_rate(self, top: float) -> float:
        """Return the rate above which a queue does not forget its empty start within a fraction of the longest step."""
        return top * (1 - min(0.5, 2 * 0.9 * self.scale_s / self._longest_dwell_s()))

    @property
    def unmet(self) -> bool:
        """Say that every step failed, from far below the capacity up to it, without a wide gap between their rates."""
        capacity = self.capacity
        if not self._ramped or capacity is None or self.passed or not self._measures:
            return False
        tested = [look.dwell.rate_rps for look in self.looks if not look.ramp]
        open_rungs = [rate for rate in self._open_rungs(capacity.rate_rps) if not _near(rate, tested)]
        return self._untried(capacity.rate_rps) is None and not open_rungs

    def _open_rungs(self, capacity_rps: float) -> list[float]:
        """Return the rungs that passed by their few requests, the highest first; not those of almost no load."""
        rungs = [look.dwell.rate_rps for look in self.looks if look.ramp and look.passes]
        return sorted((rate for rate in rungs if rate > _NO_LOAD * capacity_rps), reverse=True)

    @property
    def passed(self) -> bool:
        """Say that a step passed that counts: a dozen requests at almost no load show no p99."""
        capacity = self.capacity
        least = _DESCENT_LOAD * _DESCENT**_DESCENTS * capacity.rate_rps if capacity else 0.0
        share = max(sla.violation_share for sla in self.slas)
        return any(
            look.passes and not look.ramp and (look.dwell.rate_rps > least or look.dwell.offered > 2 / share)
            for look in self.looks
        )

    def _untried(self, capacity_rps: float) -> float | None:
        """Return the next rate to try where every step failed, or None when all were tried.

        From near the capacity down in steps to a tenth of it, then every lower rung that passed by its few requests.
        """
        tried = [look.dwell.rate_rps for look in self.looks if look.dwell.offered >= 12 and not look.passes]
        tried += [look.dwell.rate_rps for look in self.looks if not look.ramp]
        rates = [_DESCENT_LOAD * _DESCENT**k * capacity_rps for k in range(_DESCENTS)] + self._open_rungs(capacity_rps)
        affordable = [rate for rate in rates if self._descent_s(rate) <= 0.15 * self.budget_s]
        return next((rate for rate in affordable if not _near(rate, tried)), None)

    def _descent_s(self, rate_rps: float) -> float:
        """Return how long a rate must run to be believed: longer where failures are not overwhelming."""
        mild = any(look.strain < _OVERWHELMING for look in self.looks if look.dwell.offered >= 12)
        return max(1.0, 5 * self.limit_s, (200 if mild else 30) / rate_rps)

    # planning ----------------------------------------------------------------------------------------------------

    def plan(self, left_s: float) -> Plan | None:
        """Return what to run next with `left_s` seconds of budget, or None when done."""
        if not self._ramped:
            plan = self.ramp.plan(self.ceiling_rps)
            if plan is not None:
                return plan
            self._ramped = True
        if self.unmet or self.finished or self.capacity is None:
            return None
        reserve = self._confirm_s() + 2 * self.limit_s
        least = 0.6 * self._least_dwell_s()
        if self.crossing is not None and (self.narrow or self.bounded or left_s < reserve + least):
            return self._plan_confirm(left_s)
        plan = self._plan_measure(self.capacity)
        length = min(plan.duration_s, left_s - reserve - plan.drain_s)
        if length < min(least, 0.6 * plan.duration_s):
            return self._plan_confirm(left_s)
        return Plan(rate_rps=plan.rate_rps, duration_s=length, purpose="measure", drain_s=plan.drain_s)

    @property
    def finished(self) -> bool:
        """Say that the answer is confirmed, and narrow enough or bounded by what can be measured."""
        return self.confirmed and (self.narrow or self.bounded)

    def _least_dwell_s(self) -> float:
        rate = self.crossing.rate_rps if self.crossing else self.ramp.start_rps
        return max(1.0, min(10 * self.scale_s, 2.0 + 3 * self.scale_s), min(1000 / rate, 10.0))

    def _longest_dwell_s(self) -> float:
        measured = sum(look.dwell.length_s for look in self.looks if not look.ramp)
        return max(10.0, 15 * self.scale_s, min(0.2 * measured, 0.15 * self.budget_s))

    def _plan_measure(self, capacity: Capacity) -> Plan:
        top = capacity.rate_rps * (1 + capacity.error)
        drain = 4 * self.limit_s + 0.2
        if not self.passed and (self._measures or not any(look.passes for look in self.looks)):
            rate = self._untried(capacity.rate_rps) or _DESCENT_LOAD * capacity.rate_rps
            return Plan(rate_rps=rate, duration_s=self._descent_s(rate), purpose="measure", drain_s=drain)
        rate = self._next_rate(top)
        longest = self._longest_dwell_s()
        length = min(3 * relaxation_s(rate, top, self.scale_s), longest)
        length = max(length, min(self._least_dwell_s() * 1.25**self._measures, 2 * longest))
        if self.binding == ERROR_BUDGET and self.error_budget > 0:
            length = max(length, min(4 / (self.error_budget * rate), longest))
        return Plan(rate_rps=rate, duration_s=length, purpose="measure", drain_s=drain)

    def _next_rate(self, top: float) -> float:
        point, ceiling = self.crossing, self.ceiling_rps or float("inf")
        known = self.ramp.capacity
        if point is None or (self._measures == 0 and known is not None):
            return min(_FIRST_LOAD * known.rate_rps if known else 1.5 * (self.ramp.calm_rps or top), ceiling)
        if self.binding == ERROR_BUDGET:
            return min(point.rate_rps, ceiling)
        if point.rate_rps >= ceiling:
            return ceiling
        y = float(load(point.rate_rps, top)) + _OFFSETS[self._measures % len(_OFFSETS)]
        measured = [look for look in self.looks if not look.ramp]
        passed = [float(load(look.dwell.rate_rps, top)) for look in measured if look.passes]
        if passed and not self.strained:  # nothing slow was seen yet: the crossing is above what passed
            y = max(y, max(passed) + 0.5)
        if passed:
            y = max(min(y, max(passed) + log(_GROWTH)), max(passed) - 0.6)
        else:
            y = max(y, min(float(load(look.dwell.rate_rps, top)) for look in measured) - 1.5)
        rate = min(top / (1 + exp(-y)), ceiling)
        rate = min(rate, self._highest_rate(top))
        aborted = min((look.dwell.rate_rps for look in self.looks if look.dwell.aborted), default=float("inf"))
        return min(rate, 0.995 * aborted) if aborted > point.low_rps else rate

    def _confirm_s(self) -> float:
        point, capacity = self.crossing, self.capacity
        if point is None or capacity is None:
            return 0.1 * self.budget_s
        relax = relaxation_s(point.safe_rps, capacity.rate_rps, self.scale_s)
        length = max(5.0, 10 * self.scale_s, min(3 * relax, 8.0), min(300 / point.safe_rps, 15.0))
        return min(length, 0.15 * self.budget_s)

    def _plan_confirm(self, left_s: float) -> Plan | None:
        """Plan a step at the safe rate, unless the answer was confirmed or the time that is left shows nothing."""
        point = self.crossing
        wanted = self._confirm_s()
        length = min(wanted, left_s - 2 * self.limit_s)
        if point is None or self.confirmed or length < 0.5 * wanted:
            return None
        rate = self.ceiling_rps if self.bounded and self.ceiling_rps else point.safe_rps
        return Plan(rate_rps=rate, duration_s=length, purpose="confirm", drain_s=self.limit_s)

    # learning ----------------------------------------------------------------------------------------------------

    def add(self, result: StepResult, *, stopped: bool) -> None:
        """Take a result in; `stopped` says that `overloaded` ended it. What is not sound is not fitted."""
        rate = float(result.step.rate_rps or 0)
        client = next((reason for reason in result.reasons if reason.kind == "client"), None)
        if client is not None and (self.client_rps is None or rate < self.client_rps):
            self.client, self.client_rps = client, rate
        if not result.sound:
            return
        if result.offered == 0:
            self.ramp.stretch()
            return
        if self.ramp.add(result, stopped=stopped):
            return
        self._measures += result.step.purpose != "ramp"
        self.looks.append(self._look(result))
        self._evaluate()
        if result.step.purpose == "confirm":
            failed = stopped or judge(result, self.slas).verdict is Verdict.FAIL
            self.confirmed = not failed

    def _look(self, result: StepResult) -> Look:
        length = result.offered_span_s
        settle = min(0.1 * length + 2 * self.scale_s, 0.3 * length) if result.step.purpose != "ramp" else 0.0
        close = min(self.limit_s, 0.05 * length)  # when arrivals end, the last batch waits to fill
        dwell = Dwell.of(result, settle, close, 4 if length < 5 else 8)
        failed = result.outcome != Outcome.OK
        errors = judge_share(ERROR_BUDGET, failed, self.error_budget)
        shares = {
            str(sla): float(dwell.tail.count_above(np.asarray(sla.limit_s)))
            / max(1, dwell.tail.n)
            / sla.violation_share
            for sla in self.slas
        }
        passes = max(shares.values()) <= 1 and errors.verdict is not Verdict.FAIL
        binding = max(shares, key=lambda name: shares[name])
        if errors.verdict is Verdict.FAIL and (shares[binding] <= 1 or float(failed.mean()) > 0.5 * shares[binding]):
            binding = ERROR_BUDGET
        return Look(
            dwell=dwell, ramp=result.step.purpose == "ramp", strain=max(shares.values()), passes=passes,
            errors=errors.verdict, binding=binding,
        )  # fmt: skip

    def _evaluate(self) -> None:
        """Solve for the crossings anew."""
        capacity = self.capacity
        if not self._measures or capacity is None or not self.passed:
            self.crossings = {}
            return
        dwells = tuple(look.dwell for look in self.looks if not look.ramp)
        self.crossings = {str(sla): locate(dwells, sla, capacity, self._near(str(sla))) for sla in self.slas}
        errors = self._error_crossing()
        if errors is not None:
            self.crossings[ERROR_BUDGET] = errors

    def _near(self, name: str) -> float | None:
        """Return where to look for a crossing: at the last one, or at the highest rate that passed for long enough.

        Where the share of violations is not monotone there may be several; the answer is the highest.
        """
        known, capacity = self.crossings.get(name), self.capacity
        if known is None or capacity is None:
            return None
        long = [
            look.dwell.rate_rps for look in self.looks if look.passes and not look.ramp
            and look.dwell.length_s > 2 * relaxation_s(look.dwell.rate_rps, capacity.rate_rps, self.scale_s)
        ]  # fmt: skip
        return max([known.rate_rps, *long])

    def _error_crossing(self) -> Crossing | None:
        """Return the bracket of rates between which failures begin to exceed their budget, or None if they do not."""
        failing = [look.dwell.rate_rps for look in self.looks if look.errors is Verdict.FAIL]
        if not failing:
            return None
        high = min(failing)
        below = [look.dwell for look in self.looks if look.errors is not Verdict.FAIL and look.dwell.rate_rps < high]
        low = max((dwell.rate_rps for dwell in below), default=0.5 * high)
        n = sum(dwell.offered for dwell in below)
        return Crossing(rate_rps=sqrt(low * high), low_rps=low, high_rps=high, safe_rps=low, clusters=0.0, n=n)

    # while a step runs -------------------------------------------------------------------------------------------

    def overloaded(self, purpose: str, rate_rps: float, progress: StepProgress) -> bool:
        """Say that the running step should stop sending. Constant time.

        A measuring step is stopped only where a backlog stands that chance does not build at the capacity itself (four
        times sqrt(arrivals)), and in which the oldest request is far beyond the limit.
        """
        if purpose == "ramp":
            return self.ramp.overloaded(rate_rps, progress)
        behind = progress.in_flight > max(10.0, 4 * sqrt(rate_rps * progress.elapsed_s))
        return behind and progress.oldest_pending_s > 4 * self.limit_s + 0.1 + 2 * (self.ramp.floor_s or 0.0)


def _near(rate_rps: float, others: list[float]) -> bool:
    """Say that another rate is within half a step of the descent."""
    return any(abs(log(other / rate_rps)) < -0.5 * log(_DESCENT) for other in others)
