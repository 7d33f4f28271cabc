"""The open-loop search: a ramp to overload, dwells around the crossing, a confirmation at the safe rate.

Pure policy: results in, the next step out. `analysis.search` keeps the budget and the target's health.
"""

from dataclasses import dataclass, field, replace
from math import inf, log, sqrt

import numpy as np

from analysis.boundary import Crossing, locate, needed_s, quantiles_at, settled_rps
from analysis.capacity import Capacity, measure_capacity
from analysis.estimator import SETTLED_S, TwinEstimator
from analysis.evidence import FLATTEST, load, rate_at, relaxation_s
from analysis.judgement import ERROR_BUDGET, Verdict, judge
from analysis.look import Descent, Look, error_crossing, hopeless_rates, since_sent
from analysis.operating_point import Confirmation
from analysis.ramp import Plan, Ramp
from analysis.sla import SLA
from analysis.step import Reason, StepProgress, StepResult

_OFFSETS = (-0.35, 0.0, 0.2)  # of the next dwell from the crossing, in y = ln h
_FIRST_LOAD = 0.85
_RECHECK_S = (20.0, 80.0, 1e9)  # of measuring, before the capacity is measured again
_RECENTLY_S = 12.0  # and when the answer rests on counting, unless it was measured so lately
_CHANGED, _MOST_ODD = 0.03, 2  # and so many looks that disagree are enough
_SPEAKS = 0.97  # of the safe rate: a step at less confirms it no more
_HIGHEST = 0.99  # of the capacity: few servers hold an SLA so near to it
_LOWEST = 0.3  # of the capacity: nothing is unmet before so low a rate was tried
_EARLY_S = 20.0  # a server that is too slow may be a cold one up to then
_NEAR = 0.7  # of a rate: whether a step there failed by its bad moments tells of the rate
_GROWTH = 2.5  # the gap to the capacity shrinks by at most this from the best passing rate


def _differs(before: Capacity, now: Capacity) -> bool:
    """Say that the capacity is no longer what it was."""
    doubt = 3 * sqrt(before.error**2 + now.error**2)
    return abs(log(now.rate_rps / before.rate_rps)) > max(_CHANGED, doubt)


def _is_same(one: Capacity | None, other: Capacity | None) -> bool:
    """Say that two looks at the capacity, None where there was no overload, agree."""
    return one is other if one is None or other is None else not _differs(one, other)


def _lowered(found: Crossing, failed_rps: float) -> Crossing:
    """Return a crossing whose safe rate lies below one at which a step failed."""
    safe = min(found.safe_rps, 0.98 * failed_rps)
    return replace(found, safe_rps=safe, low_rps=min(found.low_rps, safe))


@dataclass(slots=True)
class OpenLoop:
    """Hold what the search has seen and decide what to look at next.

    Attributes:
        slas: At least one.
        precision: Wanted relative half-width.
        budget_s: Of the whole search.
        ramp: How it begins.
        max_rps: Highest rate allowed, or None.
        looks: Sound steps that did not overload, in time order; where the idle server is too slow, late ones too.
        client: Why the client was the limit, at its lowest such rate `client_rps`.
        counted: Crossings by the bound's name that counting violations gives.
        twin: The primary estimator; where it is not believed, counting answers.
        confirmation: The last step at the safe rate.
        moved: A step at the safe rate failed, and the answer was lowered.
        changed: The capacity changed, and what was measured before was forgotten.
        seed: Of the twin's simulations.
        arrivals: Name of the arrival process.
    """

    slas: tuple[SLA, ...]
    precision: float
    budget_s: float
    ramp: Ramp
    max_rps: float | None = None
    looks: list[Look] = field(default_factory=list)
    client: Reason | None = None
    client_rps: float | None = None
    counted: dict[str, Crossing] = field(default_factory=dict)
    confirmation: Confirmation | None = None
    moved: bool = False
    changed: bool = False
    seed: int = 0
    arrivals: str = "poisson"
    twin: TwinEstimator = field(init=False)
    _failed_rps: float | None = None  # where the last step at the safe rate failed
    _ramped: bool = False
    _measures: int = 0
    _rechecks: int = 0
    _rechecked_s: float = 0.0  # seconds of measuring at the last one
    _odd_looks: list[Capacity | None] = field(default_factory=list)  # in a row: the capacity seemed another one
    _client_steps: int = 0  # in a row, up to the last one

    def __post_init__(self) -> None:
        self.twin = TwinEstimator(self.slas, self.arrivals, self.precision)

    # what is known -----------------------------------------------------------------------------------------------

    @property
    def limit_s(self) -> float:
        """Return the longest limit of the SLAs, seconds."""
        return max(sla.limit_s for sla in self.slas)

    @property
    def measured_s(self) -> float:
        """Return the seconds of the steps that were not rungs of the ramp."""
        return sum(look.dwell.length_s for look in self.looks if not look.ramp)

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
        return Capacity(rate_rps=1.3 * max(look.rate_rps for look in self.looks), error=0.15, n=0)

    @property
    def crossings(self) -> dict[str, Crossing]:
        """Return the crossings by the bound's name: the twin's where it is believed, and the error budget's counted."""
        found = self.counted
        if self.twin.believed:
            found = self.twin.crossings | {name: one for name, one in self.counted.items() if name == ERROR_BUDGET}
        if self._failed_rps is None:
            return found
        return {name: _lowered(one, self._failed_rps) for name, one in found.items()}

    @property
    def confirmed(self) -> bool:
        """Say that the last step at the safe rate did not fail, and still speaks of the answer."""
        seen, point = self.confirmation, self.crossing
        return seen is not None and seen.passed and (point is None or seen.rate_rps >= _SPEAKS * point.safe_rps)

    @property
    def crossing(self) -> Crossing | None:
        """Return the lowest crossing over the SLAs and the error budget, its lower ends those of them all."""
        found = list(self.crossings.values())
        if not found:
            return None
        lowest = min(found, key=lambda c: c.rate_rps)
        return replace(lowest, low_rps=min(c.low_rps for c in found), safe_rps=min(c.safe_rps for c in found))

    @property
    def bracket(self) -> Crossing | None:
        """Return what the ramp tells while nothing else does: from what its rungs make sure of up to the capacity.

        A rung begins with an empty queue: it shows what the rate is like at which that is settled within its time. Of n
        clusters, none of them slow, 3 / n are slow at most (rule of three), which is carried down to what the SLA
        allows with the flattest slope seen anywhere.
        """
        capacity, allowed = self.ramp.capacity, min(sla.violation_share for sla in self.slas)
        rungs = [look for look in self.looks if look.ramp and look.passes and not look.strain and look.dwell.tail.n]
        if capacity is None or not rungs or self.crossings:
            return None
        top = capacity.rate_rps / (1 + 2 * capacity.error)
        lows = []
        for look in rungs:
            rate = min(settled_rps(top, self.limit_s, look.dwell.length_s), look.rate_rps)
            clusters = look.dwell.tail.n / max(rate * relaxation_s(rate, top, self.limit_s), 1.0)
            share = max(3 / (clusters * allowed), 1.0)
            lows.append(rate_at(top, float(load(rate, top)) - log(share) / FLATTEST))
        failed = [look.rate_rps for look in self.looks if not look.ramp and not look.passes]
        low, high = min(max(lows), *failed, top), capacity.rate_rps * (1 + 2.5 * capacity.error)
        middle = rate_at(top, 0.5 * float(load(low, top) + load(_HIGHEST * top, top)))
        return Crossing(rate_rps=min(max(middle, low), high), low_rps=low, high_rps=high, safe_rps=low)

    @property
    def binding(self) -> str:
        """Name the bound with the lowest crossing, or before any the one that binds most often."""
        if self.crossings:
            found = self.crossings  # failures count against an SLA too: where both cross, they are the cause
            return min(found, key=lambda name: (found[name].rate_rps, name != ERROR_BUDGET))
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
        top = [look for look in self.looks if look.rate_rps >= 0.99 * ceiling and not look.ramp]
        long = sum(look.dwell.length_s for look in top) >= min(max(8.0, 60 * self.scale_s), 0.15 * self.budget_s)
        return long and all(look.passes for look in top) and (point is None or point.rate_rps >= 0.99 * ceiling)

    def needed_s(self, precision: float) -> float | None:
        """Return the seconds of load in all that a relative half-width needs on this server, as far as it is known."""
        point = self.crossing
        if point is None or self.capacity is None:
            return None
        if self.twin.believed and self.binding in self.twin.forecasts:
            needed = self.twin.needed_s(self.binding, precision)
            return None if needed is None else max(needed, self.twin.least_s)
        near = needed_s(point, precision)
        return max(self.measured_s - point.near_s + max(near, point.near_s), SETTLED_S) if near else None

    def expected_s(self, precision: float) -> float | None:
        """Return the seconds of load, from the first to the last, that a precision takes."""
        needed = self.needed_s(precision)
        return None if needed is None else needed + self._confirm_s()

    @property
    def confirm_left_s(self) -> float:
        """Return the seconds that the confirmation will take, 0 once there was one."""
        return 0.0 if self.confirmed else self._confirm_s()

    def far_below_limit(self, rate_rps: float) -> bool:
        """Say that at a rate every limit is twice its quantile."""
        dwells, capacity = tuple(look.dwell for look in self.looks if not look.ramp), self.capacity
        if not dwells or capacity is None:
            return False
        for sla in self.slas:
            (estimate,) = quantiles_at(dwells, sla, capacity, rate_rps, (sla.quantile,))
            if estimate is None or 2 * estimate.value > sla.limit_s:
                return False
        return True

    @property
    def narrow(self) -> bool:
        """Say that the interval is as narrow as asked, and rests on enough time near the crossing."""
        point, capacity = self.crossing, self.capacity
        if point is None or capacity is None or self.half_width > self.precision:
            return False
        if self.twin.believed:
            return self.twin.settled
        if not self.strained:
            return False
        centre = float(load(point.rate_rps, capacity.rate_rps))
        near = [
            look.dwell
            for look in self.looks
            if abs(float(load(look.rate_rps, capacity.rate_rps)) - centre) < 1 or self._within_precision(look)
        ]
        relax = relaxation_s(point.rate_rps, capacity.rate_rps, self.scale_s)
        return sum(dwell.length_s for dwell in near) >= max(20.0, min(4 * relax, 30.0))

    @property
    def strained(self) -> bool:
        """Say that a step came near enough to the crossing to show slow requests, or as near as it can be measured."""
        measured = [look for look in self.looks if not look.ramp]
        if any(look.strain > 0.4 or (look.passes and self._within_precision(look)) for look in measured):
            return True
        capacity = self.capacity
        highest = max((look.rate_rps for look in measured), default=0.0)
        return capacity is not None and highest >= 0.98 * self._highest_rate(capacity.rate_rps)

    def _within_precision(self, look: Look) -> bool:
        """Say that a step ran above the rate less the wanted half-width."""
        return self.crossing is not None and look.rate_rps >= (1 - self.precision) * self.crossing.rate_rps

    def _highest_rate(self, top: float) -> float:
        """Return the rate above which a queue does not forget its empty start within a fraction of the longest step."""
        return top * (1 - min(0.5, 2 * 0.9 * self.scale_s / self._longest_dwell_s()))

    @property
    def descent(self) -> Descent | None:
        """Return the search for a rate that passes at all, once the capacity is known or guessed."""
        return Descent(self.looks, self.slas, self.capacity.rate_rps) if self.capacity else None

    @property
    def unmet(self) -> bool:
        """Say that every step failed, from far below the capacity up to it, without a wide gap between their rates.

        Where an idle server fails already, a few rates tell, if a step between them that is no rung fails too.
        """
        if self._early_s > 0 or self.twin.believed:
            return False
        if self._measures and hopeless_rates(self.looks, self.slas) is not None:
            return True
        descent = self.descent
        left = descent.next_rate(self._longest_descent_s, self.ceiling_rps) if descent is not None else None
        return left is None and self.fails_throughout

    @property
    def fails_throughout(self) -> bool:
        """Say that every rate that was tried fails surely, from near the capacity down to 0.3 of it."""
        descent = self.descent if self._ramped and self._early_s <= 0 else None
        if descent is None or descent.passed:
            return False
        return descent.exhausted and descent.certain and not descent.untried(self.ceiling_rps, _LOWEST)

    @property
    def _early_s(self) -> float:
        """Return for how long a server that is too slow may still be a cold one, seconds."""
        ends = [look.dwell.end_s for look in self.looks] or [0.0]
        return min(_EARLY_S, 0.5 * self.budget_s) - (ends[-1] - ends[0])

    # planning ----------------------------------------------------------------------------------------------------

    def plan(self, left_s: float) -> Plan | None:
        """Return what to run next with `left_s` seconds of budget, or None when done."""
        if self.unmet or self.finished:
            return None
        if not self._ramped:
            early_s = self._early_s
            hopeless = hopeless_rates(self.looks, self.slas) if early_s > 0 or not self._measures else None
            if hopeless is not None:
                length = max(min(max(3.0, 5 * self.limit_s), 0.25 * self.budget_s), early_s if self._measures else 0.0)
                return Plan(rate_rps=sqrt(hopeless[0] * hopeless[1]), duration_s=length, purpose="measure")
            plan = self.ramp.plan(self.ceiling_rps)
            if plan is not None:
                return plan
            self._ramped = True
        if self.unmet or self.capacity is None:
            return None
        if self._recheck_due:
            again = self._plan_recheck(self.capacity)
            most_s = left_s if self.doubted else 0.15 * left_s
            if again.duration_s + again.drain_s < most_s and again.rate_rps <= (self.ceiling_rps or inf):
                return again
        reserve = self._confirm_s() + 2 * self.scale_s if self.crossing else 0.0
        least = 0.6 * self._least_dwell_s()
        if self.crossing is not None and (self.narrow or self.bounded or left_s < reserve + least):
            return self._plan_confirm(left_s)
        plan = self._plan_measure(self.capacity)
        length = min(plan.duration_s, left_s - reserve - plan.drain_s)
        if self.crossing is None:  # any look is better than none
            least = min(least, 1.0)
            if not self._measures and self.looks and not self.looks[-1].passes:  # time for lower rates, should it fail
                length = min(length, 0.25 * left_s)
        if length < min(least, 0.6 * plan.duration_s):
            return self._plan_confirm(left_s)
        return Plan(rate_rps=plan.rate_rps, duration_s=length, purpose="measure", drain_s=plan.drain_s)

    @property
    def _recheck_due(self) -> bool:
        """Say that the capacity is to be measured again: no model tells whether the server is still the one it was."""
        twin = self.twin.twin if self.twin.believed else None
        if self.doubted:
            return True
        if self.ramp.capacity is None or self._rechecks >= len(_RECHECK_S) or (twin is not None and not twin.drift):
            return False
        return self.measured_s >= _RECHECK_S[self._rechecks] or (
            self.narrow and self.measured_s > self._rechecked_s + _RECENTLY_S
        )

    def _plan_recheck(self, capacity: Capacity) -> Plan:
        """Plan a step above the capacity that shows what it is now."""
        rate = capacity.rate_rps * (1.4 + 2 * min(capacity.error, 0.2))
        # so many that the backlog of a server that has not changed is beyond chance; a second look must be sure
        requests = 300 * (1 + len(self._odd_looks))
        return Plan(rate_rps=rate, duration_s=max(3.0, requests / rate), purpose="ramp", drain_s=5 * self.limit_s)

    @property
    def doubted(self) -> bool:
        """Say that the capacity was another one at the last look, which may have been a bad moment."""
        return bool(self._odd_looks)

    @property
    def finished(self) -> bool:
        """Say that the answer is confirmed, narrow enough or all that can be had, and the server is the same one."""
        return self.confirmed and not self.doubted and (self.narrow or self.bounded)

    def _least_dwell_s(self) -> float:
        rate = self.crossing.rate_rps if self.crossing else self.ramp.start_rps
        return max(1.0, min(10 * self.scale_s, 2.0 + 3 * self.scale_s), min(1000 / rate, 10.0))

    def _longest_dwell_s(self) -> float:
        return max(10.0, 15 * self.scale_s, min(0.2 * self.measured_s, 0.15 * self.budget_s))

    @property
    def _longest_descent_s(self) -> float:
        return 0.15 * self.budget_s

    def _plan_measure(self, capacity: Capacity) -> Plan:
        top = capacity.rate_rps * (1 + capacity.error)
        drain = 4 * self.scale_s + 0.2
        descent = Descent(self.looks, self.slas, capacity.rate_rps)
        lost = self.looks and not descent.passed and not self.twin.believed
        if lost and (self._measures or self.looks[-1].is_failure):
            lower = descent.next_rate(self._longest_descent_s, self.ceiling_rps)
            again = None if lower else descent.again(self._longest_descent_s)
            lower, length = again or (lower or min(_FIRST_LOAD * capacity.rate_rps, self.ceiling_rps or inf), 0.0)
            length = length or min(descent.length_s(lower, self.limit_s), self._longest_descent_s)
            return Plan(rate_rps=lower, duration_s=length, purpose="measure", drain_s=drain)
        rate = self._next_rate(top)
        longest = self._longest_dwell_s()
        length = min(3 * relaxation_s(rate, top, self.scale_s), longest)
        length = max(length, min(self._least_dwell_s() * 1.25**self._measures, 2 * longest))
        if self._measures == 0:  # the twin may know the server from little
            length = min(length, max(4.0, 10 * self.scale_s, 400 / rate))
        if self.binding == ERROR_BUDGET and self.error_budget > 0:
            length = max(length, min(6 / (self.error_budget * rate), longest))
        return Plan(rate_rps=rate, duration_s=length, purpose="measure", drain_s=drain)

    def _next_rate(self, top: float) -> float:
        point, ceiling = self.crossing, self.ceiling_rps or float("inf")
        known = self.ramp.capacity
        if point is None or (self._measures == 0 and known is not None):
            return min(_FIRST_LOAD * known.rate_rps if known else 1.5 * (self.ramp.calm_rps or top), ceiling)
        if self.binding == ERROR_BUDGET:  # where nothing failed it must be shown for long; else halve the bracket
            likely = point.rate_rps**2 / point.high_rps
            return min(likely if likely > 1.001 * point.low_rps else point.rate_rps, ceiling)
        if point.rate_rps >= ceiling:
            return ceiling
        y = float(load(point.rate_rps, top)) + _OFFSETS[self._measures % len(_OFFSETS)]
        measured = [look for look in self.looks if not look.ramp]
        passed = [
            float(load(look.rate_rps, top)) for look in measured if look.passes and not self._by_luck(look, measured)
        ]
        if passed and not (self.strained or self.twin.believed):
            y = max(y, max(passed) + 0.5)  # nothing slow was seen yet: the crossing is above what passed
        if passed:
            y = max(min(y, max(passed) + log(_GROWTH)), max(passed) - 0.6)
        elif not self.twin.believed:
            y = max(y, min(float(load(look.rate_rps, top)) for look in measured) - 1.5)
        rate = min(rate_at(top, y), ceiling)
        rate = min(rate, self._highest_rate(top))
        aborted = min((look.rate_rps for look in self.looks if look.dwell.aborted), default=float("inf"))
        return min(rate, 0.995 * aborted) if aborted > point.low_rps else rate

    def _by_luck(self, look: Look, measured: list[Look]) -> bool:
        """Say that a step passed because it met none of the server's bad moments.

        More requests at a lower rate failed; or those that violated in bursts at rates not much lower are too many,
        even if all that passed at this rate and above is counted with them. Where low rates fail throughout, because
        batches wait to fill, that says nothing of higher ones.
        """
        failed = [other for other in measured if not other.passes and other.rate_rps <= look.rate_rps]
        if any(other.dwell.offered > look.dwell.offered for other in failed):
            return True
        near = [other.dwell.tail for other in failed if other.rate_rps >= _NEAR * look.rate_rps and other.in_bursts]
        above = [other.dwell.tail for other in measured if other.passes and other.rate_rps >= look.rate_rps]
        sum_of = sum(tail.n for tail in near + above)
        return any(
            sum(float(tail.count_above(np.asarray(sla.limit_s))) for tail in near) > sla.violation_share * sum_of
            for sla in self.slas
        )

    def _confirm_s(self) -> float:
        point, capacity = self.crossing, self.capacity
        if point is None or capacity is None:
            return 0.1 * self.budget_s
        relax = relaxation_s(point.safe_rps, capacity.rate_rps, self.scale_s)
        length = max(8.0, 20 * self.scale_s, min(3 * relax, 15.0), min(1000 / point.safe_rps, 20.0))
        return min(length, 0.15 * self.budget_s)

    def _plan_confirm(self, left_s: float) -> Plan | None:
        """Plan a step at the safe rate, unless the answer was confirmed or the time that is left shows nothing."""
        point = self.crossing
        wanted = self._confirm_s()
        length = min(wanted, left_s - 2 * self.scale_s)
        if point is None or self.confirmed or length < 0.5 * wanted:
            return None
        rate = self.ceiling_rps if self.bounded and self.ceiling_rps else point.safe_rps
        return Plan(rate_rps=rate, duration_s=length, purpose="confirm", drain_s=self.scale_s)

    # learning ----------------------------------------------------------------------------------------------------

    def add(self, result: StepResult, *, stopped: bool) -> None:
        """Take a result in; `stopped` says that `overloaded` ended it. What is not sound is not fitted."""
        rate = float(result.step.rate_rps or 0)
        client = next((reason for reason in result.reasons if reason.kind == "client"), None)
        self._client_steps = self._client_steps + 1 if client is not None else 0
        # Once is a hiccup of the machine, and the same step is asked for again; twice in a row is a limit.
        if client is not None and self._client_steps > 1 and (self.client_rps is None or rate < self.client_rps):
            self.client, self.client_rps = client, rate
        if not result.sound:
            if not stopped:
                self._add_late(result)
            return
        if result.offered == 0:
            self.ramp.stretch()
            return
        overload_rps, before = self.ramp.overload_rps, self.ramp.capacity
        again = self._ramped and result.step.purpose == "ramp" and before is not None
        kept = self.ramp.copy() if again else self.ramp
        if again:
            self._rechecks += not self.doubted
            self._rechecked_s = self.measured_s
        overloaded = self.ramp.add(result, stopped=stopped)
        if again and before is not None:
            now = measure_capacity(result) if overloaded else None  # None: it was not even overloaded above it
            if now is not None and not _differs(before, now):
                self._odd_looks = []
            elif any(_is_same(one, now) for one in self._odd_looks) or len(self._odd_looks) >= _MOST_ODD:
                self._restart(now)
            else:  # it may have been a bad moment, or few arrivals by chance: to be looked at again
                self._odd_looks.append(now)
                self.ramp = kept
                return
        if overloaded:
            self.twin.add(result, overload=True)
            if result.step.purpose != "ramp":  # the capacity is no guess any more
                self._evaluate(again=False)
            if result.step.purpose == "confirm":
                self._confirm(result, stopped=True)
            return
        # What looked like overload was chance, or a cold server, whose services tell nothing of the warm one.
        if self.ramp.overload_rps is None and overload_rps is not None:
            self._ramped, self.twin = False, self.twin.anew()
        self._measures += result.step.purpose != "ramp"
        self.looks.append(Look.of(result, self.slas, self.scale_s))
        self.twin.add(result, overload=stopped)
        self._evaluate(again=result.step.purpose == "confirm")
        if result.step.purpose == "confirm":
            self._confirm(result, stopped=stopped)

    def _add_late(self, result: StepResult) -> None:
        """Take in a step whose requests left late, where it shows from their leaving on what all before it show.

        That is, that an idle server is too slow already.
        """
        sent = since_sent(result) if hopeless_rates(self.looks, self.slas) is not None else None
        if sent is None:
            return
        look = Look.of(sent, self.slas, self.scale_s)
        if hopeless_rates([*self.looks, look], self.slas) is not None:
            self._measures += result.step.purpose != "ramp"
            self.looks.append(look)

    def _evaluate(self, *, again: bool) -> None:
        """Solve for the crossings anew: by counting, and by the twin with counting as its referee."""
        capacity = self.capacity
        dwells = tuple(look.dwell for look in self.looks if not look.ramp)
        if capacity is not None and Descent(self.looks, self.slas, capacity.rate_rps).passed:
            self.counted = {str(sla): locate(dwells, sla, capacity, self._near(str(sla))) for sla in self.slas}
        else:  # there is nothing to count from; the twin may know
            self.counted = {}
        if self.ramp.capacity is not None and dwells:
            self.twin.update(self.ramp.capacity, self.counted, self.seed, again=again)
        errors = error_crossing(self.looks, self.error_budget) if self.counted or self.twin.believed else None
        if errors is not None:
            self.counted[ERROR_BUDGET] = errors

    def _restart(self, capacity: Capacity | None) -> None:
        """Forget what was measured before the server changed."""
        self.changed = True
        self.looks, self.counted, self.confirmation = [], {}, None
        self.moved, self._failed_rps, self._rechecked_s = False, None, 0.0
        self._odd_looks = []
        self._ramped, self.twin = capacity is not None, self.twin.anew()
        self.ramp.forget(capacity)

    def _confirm(self, result: StepResult, *, stopped: bool) -> None:
        """Take in a step at the safe rate; where it failed the answer moves below it."""
        judged = judge(result, self.slas)
        passed = not stopped and judged.verdict is not Verdict.FAIL and any(look.passes for look in self.looks)
        rate = float(result.step.rate_rps or 0)
        self.confirmation = Confirmation(
            rate_rps=rate, length_s=result.offered_span_s, n=judged.n, share=judged.share, low=judged.low,
            high=judged.high, allowed=judged.allowed, passed=passed, bound=judged.binding,
        )  # fmt: skip
        if passed:
            return
        if self.moved and self.twin.believed:
            self.twin.give_up("steps at its safe rate did not hold the SLA")
        self.moved = True
        self._failed_rps = min(rate, self._failed_rps or rate)

    def _near(self, name: str) -> float | None:
        """Return where to look for a crossing: at the last one, or at the highest rate that passed for long enough.

        Where the share of violations is not monotone there may be several; the answer is the highest.
        """
        known, capacity = self.counted.get(name), self.capacity
        if known is None or capacity is None:
            return None
        long = [
            look.rate_rps for look in self.looks if look.passes and not look.ramp
            and look.dwell.length_s > 2 * relaxation_s(look.rate_rps, capacity.rate_rps, self.scale_s)
        ]  # fmt: skip
        return max([known.rate_rps, *long])

    # while a step runs -------------------------------------------------------------------------------------------

    def overloaded(self, purpose: str, rate_rps: float, progress: StepProgress) -> bool:
        """Say that the running step should stop sending. Constant time.

        A measuring step is stopped only where a backlog stands that chance does not build at the capacity itself (four
        times sqrt(arrivals)), and in which the oldest request is far beyond the limit.
        """
        if purpose == "ramp":
            return self.ramp.overloaded(rate_rps, progress)
        waiting = progress.in_flight - self.ramp.in_flight_idle(rate_rps)
        behind = waiting > max(10.0, 4 * sqrt(rate_rps * progress.elapsed_s))
        return behind and progress.oldest_pending_s > 4 * self.limit_s + 0.1 + 2 * (self.ramp.floor_s or 0.0)
