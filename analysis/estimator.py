"""The primary estimator: keeps the steps' times, fits the twin to them, and says what it answers or why it does not."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, inf, log, sqrt
from typing import Self

import numpy as np

from analysis.boundary import Crossing
from analysis.capacity import Capacity
from analysis.closed_twin import closed_answer
from analysis.estimate import Estimate
from analysis.forecast import Forecast, forecast
from analysis.operating_point import ClosedAnswer, ServerModel
from analysis.pace import SPELLS, Seconds, spells
from analysis.reconstruct import Trace
from analysis.replay import Check, Tally, replay, unexplained
from analysis.sla import SLA
from analysis.step import Outcome, StepResult
from analysis.supposed import NEAR
from analysis.twin import IN_SPELLS, Twin, fit, pace

_TWO_SIDED, _ONE_SIDED = 2.3, 1.9  # times the standard deviation; t with 31 degrees of freedom has 2.04 and 1.70
_RANDOM = 0.3  # more of them with services as random as exponential ones: without their longest the sd is too small too
_MOST_REQUESTS = 250_000
_MISFIT = 0.02
_MISFIT_OF_SD = 1.5
_ABOVE_CAPACITY = 0.04
_CONTRADICTS = 9.0  # squared standard deviations between twin and counting
_ENOUGH_CLUSTERS = 6.0
SETTLED_S, SETTLED_RANDOM_S, _STEADY = 25.0, 60.0, 0.1  # the first up to that coefficient of variation
_SETTLING = 0.05  # doubt about ln rate after half of the shortest such time: a server may still warm up
_CHANGING, _CHANGED_S = 0.012, 60.0  # after half of this time: it may be changing too slowly to show it yet
_OF_WIDTH = 0.7  # of an interval, that this doubt may take up
_SETTLED_SERVICES = 3000  # times the coefficient of variation
_STRIKES, _EARLY_S = 2, 20.0
_FEW_FAILURES = 0.001  # of the requests: what served the others is still the server
_QUANTILE_DOUBT = 0.01  # of a quantile's logarithm, beside what resampling shows
_LATER, _AGAIN = 2.5, 1.2  # times the evidence of the last fit: when it is fitted again, and how soon at the earliest


@dataclass(slots=True)
class TwinEstimator:
    """Hold what the twin makes of the steps so far.

    Attributes:
        slas: At least one.
        arrivals: Name of the arrival process; the twin knows Poisson arrivals only.
        precision: Wanted relative half-width.
        refused: Why the twin is not believed, half a sentence; None where it is.
        twin: The last that was believed.
        forecasts: By the SLA's text.
        check: How well it replays what was seen.
        seconds: Time over which requests fell due in the steps that were taken in.
        crossings: Where each SLA is crossed, by its text; empty while the twin is refused.
    """

    slas: Sequence[SLA]
    arrivals: str = "poisson"
    precision: float = 0.05
    refused: str | None = "nothing was measured yet"
    twin: Twin | None = None
    forecasts: dict[str, Forecast] = field(default_factory=dict)
    check: Check | None = None
    seconds: float = 0.0
    crossings: dict[str, Crossing] = field(default_factory=dict)
    _traces: list[Trace] = field(default_factory=list)
    _tallies: list[Tally] = field(default_factory=list)
    _paces: list[Seconds] = field(default_factory=list)  # of the steps since this twin is believed
    _failed: int = 0
    _offered: int = 0
    _strikes: int = 0
    _fitted: float = 0.0  # seconds of steps at the last fit

    @property
    def requests(self) -> int:
        """Return the number of requests that are kept."""
        return sum(trace.arrival_s.size for trace in self._traces)

    @property
    def believed(self) -> bool:
        """Say that the twin answers."""
        return bool(self.crossings)

    @property
    def least_s(self) -> float:
        """Return the seconds of steps before which the interval's own width may not end the search."""
        return SETTLED_S if self.twin is not None and self.twin.cv < _STEADY else SETTLED_RANDOM_S

    @property
    def settled(self) -> bool:
        """Say that the interval's own width may end the search.

        Enough services were seen to know how they scatter, over a time in which a server that warms up shows it.
        """
        twin = self.twin
        if not self.believed or twin is None or self.seconds < self.least_s:
            return False
        return twin.services >= _SETTLED_SERVICES * min(max(twin.cv, 0.1), 1.0)

    @property
    def final(self) -> bool:
        """Say that the twin will not be tried again."""
        return self._strikes >= _STRIKES

    def add(self, result: StepResult, *, overload: bool) -> None:
        """Keep the times of a sound step; failures are no service, and end the twin where they are not overload."""
        failed = int((result.outcome != Outcome.OK).sum())
        if result.offered < 3:
            return
        too_many = _too_many(failed, result.offered)
        if not overload:
            self._failed, self._offered = self._failed + failed, self._offered + result.offered
            if too_many or _too_many(self._failed, self._offered):
                self.give_up("requests failed")
        if too_many:
            return
        self._traces.append(Trace.of(result, overload=overload))
        if not overload:
            self._tallies.append(Tally.of(result, self.slas))
            near = NEAR * min((found.rate_rps for found in self.forecasts.values()), default=0.0)
            if self.twin is not None and self._traces[-1].rate_rps >= near:
                self._paces.append(pace(self.twin, self._traces[-1]))
        self.seconds += result.offered_span_s
        while len(self._traces) > 3 and sum(t.arrival_s.size for t in self._traces) > _MOST_REQUESTS:
            largest = max(range(len(self._traces)), key=lambda i: self._traces[i].arrival_s.size)
            self._traces[largest] = self._traces[largest].head(self._traces[largest].arrival_s.size // 2)

    def anew(self) -> Self:
        """Return one that has seen nothing yet: the server is another one than before."""
        return type(self)(self.slas, self.arrivals, self.precision)

    def give_up(self, why: str) -> None:
        """Refuse for good."""
        self.refused, self._strikes, self.crossings = why, _STRIKES, {}

    def update(self, capacity: Capacity, counted: dict[str, Crossing], seed: int, *, again: bool = False) -> None:
        """Fit anew where there is more to fit than the last time; refuse for good after refusing twice.

        Args:
            capacity: As measured in overload.
            counted: The crossings that counting violations gives, by the SLA's text: the referee.
            seed: Of the simulations.
            again: Fit where there is a fifth more: the answer is being confirmed.
        """
        if self.arrivals != "poisson":
            self.give_up(f"it knows Poisson arrivals, and these are {self.arrivals}")
        if self.final or not any(not trace.overload for trace in self._traces):
            return
        seconds = self.seconds
        waiting = self.refused is not None and self.refused.endswith("yet")
        settles = any(self._fitted < least <= seconds for least in (SETTLED_S, SETTLED_RANDOM_S))
        due_s = min(_LATER * self._fitted, max(_AGAIN * self._fitted, 0.0 if again else self._narrow_s))
        if seconds < due_s and not (waiting or settles or self._contradicted(counted)):
            return
        self._fitted = seconds
        why, lasting = self._try(capacity, counted, seed)
        self._strikes = self._strikes + 1 if why and lasting and seconds > _EARLY_S else 0
        self.refused = why
        check = self.check
        self.crossings = {}
        if check is not None and not why:
            most = capacity.rate_rps * (1 + 2.5 * capacity.error)
            self.crossings = {name: self._crossing(found, check, most) for name, found in self.forecasts.items()}

    @property
    def _narrow_s(self) -> float:
        """Return the seconds of steps after which the interval's width may end the search; infinite if never."""
        if not self.believed:
            return inf
        needed = self.needed_s(min(self.forecasts, key=lambda name: self.forecasts[name].rate_rps), self.precision)
        return inf if needed is None else max(self.least_s, needed)

    def _try(self, capacity: Capacity, counted: dict[str, Crossing], seed: int) -> tuple[str | None, bool]:
        """Return why the twin is refused, or None, and whether more data are unlikely to change that."""
        fitted = fit(self._traces, self.twin)
        if isinstance(fitted, str):
            return fitted, not fitted.endswith("yet")
        same = fitted.since_s is None  # what was measured before a change says nothing of the server after it
        if same and abs(log(fitted.capacity_rps / capacity.rate_rps)) > max(_ABOVE_CAPACITY, 4 * capacity.error):
            return "the fitted server completes more or less in overload than was measured", True
        if not fitted.enough:
            return "too few services were seen yet", False
        if self.twin is not None and _is_another(fitted, self.twin):
            self._paces.clear()  # they were told by the one before
        if spells(self._paces, fitted.since_s) > SPELLS:
            return IN_SPELLS, fitted.plenty
        forecasts = {}
        for sla in self.slas:
            load = self._load(str(sla), counted, capacity)
            found = forecast(fitted, sla, seed, load, wanted=self.precision / _z(_TWO_SIDED, fitted))
            if found is None:
                return "the fitted server meets the SLA at no rate", fitted.plenty
            forecasts[str(sla)] = found
        tightest = min(forecasts.values(), key=lambda f: f.rate_rps)
        allowed = min(sla.violation_share for sla in self.slas)
        check = replay(fitted, self._traces, tightest.rate_rps, allowed, seed)
        if check is None:
            return "too few requests were seen yet to check it", False
        if check.misfit > max(_MISFIT, _MISFIT_OF_SD * tightest.sd):
            return f"replaying the same arrivals it is wrong by {100 * check.misfit:.1f} %", False
        for name, found in forecasts.items():
            if contradicts(found, check, counted.get(name)) or self._unexplained(fitted, name, found, check, seed):
                return "counting violations contradicts it", False
        self.twin, self.forecasts, self.check = fitted, forecasts, check
        return None, False

    def _unexplained(self, twin: Twin, name: str, found: Forecast, check: Check, seed: int) -> bool:
        sla = next(sla for sla in self.slas if str(sla) == name)
        sd = hypot(found.sd, check.misfit, found.below)
        return unexplained(twin, self._tallies, sla, rate_rps=found.rate_rps, sd=sd, seed=seed)

    def _contradicted(self, counted: dict[str, Crossing]) -> bool:
        """Say that counting violations has come to deny what the last fit answers."""
        check = self.check if self.believed else None
        return check is not None and any(
            contradicts(found, check, counted.get(name)) for name, found in self.forecasts.items()
        )

    def _load(self, name: str, counted: dict[str, Crossing], capacity: Capacity) -> float | None:
        """Return a load, rate over capacity, near an SLA's crossing: the last answer's, or what counting gives."""
        before, twin = self.forecasts.get(name), self.twin
        if before is not None and twin is not None:
            return before.rate_rps / twin.capacity_rps
        return counted[name].rate_rps / capacity.rate_rps if name in counted else None

    def _crossing(self, found: Forecast, check: Check, most_rps: float) -> Crossing:
        settling = max(_SETTLING * (SETTLED_S / self.seconds - 1), _CHANGING * (2 - 2 * self.seconds / _CHANGED_S), 0.0)
        two, one = _z(_TWO_SIDED, self.twin), _z(_ONE_SIDED, self.twin)
        below, above = (hypot(found.sd, check.misfit, rare, settling) for rare in (found.below, found.above))
        rate = found.rate_rps
        return Crossing(
            rate_rps=rate, low_rps=rate * exp(-two * below),
            high_rps=max(rate, min(rate * exp(two * above), most_rps)),
            safe_rps=rate * exp(-one * below), clusters=0.0, n=self.requests,
        )  # fmt: skip

    def needed_s(self, name: str, precision: float) -> float | None:
        """Return the seconds of steps that a relative half-width needs; None where none would do."""
        found = self.forecasts.get(name)
        if found is None or self.check is None:
            return None
        rare = 0.5 * (found.below + found.above)
        lately = found.lately**2 + rare**2
        fixed = hypot(found.sd, self.check.misfit, rare) ** 2 - lately
        wanted = precision / _z(_TWO_SIDED, self.twin)
        left = wanted**2 - fixed
        if left <= 0:
            return None
        beside = left - (_OF_WIDTH * wanted) ** 2  # before a minute has passed a slow change takes up a part
        both_s = self._fitted * lately / beside if beside > 0 else inf
        unchanged_s = _CHANGED_S * (1 - 0.5 * _OF_WIDTH * wanted / _CHANGING)
        return max(self._fitted * lately / left, min(max(both_s, unchanged_s), _CHANGED_S))

    def quantiles(self, name: str) -> list[Estimate | None]:
        """Return p50, p95 and p99 at an SLA's crossing, as the twin has them, seconds."""
        reach = [_z(_TWO_SIDED, self.twin) * hypot(sd, _QUANTILE_DOUBT) for _, _, sd in self.forecasts[name].quantiles]
        return [
            Estimate(value=value, low=value * exp(-wide), high=value * exp(wide), n=self.requests)
            for (_, value, _), wide in zip(self.forecasts[name].quantiles, reach, strict=True)
        ]

    def closed(self, sla: SLA) -> ClosedAnswer | None:
        """Return what a closed-loop test would have answered on the fitted server."""
        return closed_answer(self.twin, sla, seed=1) if self.believed and self.twin is not None else None

    def model(self) -> ServerModel | None:
        """Return the fitted server in plain numbers, or None while it is refused."""
        twin, check = self.twin, self.check
        if self.refused is not None or twin is None or check is None:
            return None
        return ServerModel(
            instances=twin.rule.instances, max_batch=twin.rule.max_batch, wait_s=twin.rule.wait_s, base_s=twin.base_s,
            per_item_s=twin.per_item_s, cv=twin.cv, delay_s=twin.delay_s, services=twin.services,
            rate_rps=check.rate_rps, quantiles=check.quantiles, explained=check.explained,
        )  # fmt: skip


def _too_many(failed: int, offered: int) -> bool:
    """Say that more requests failed than chance makes of a few; three standard deviations and one."""
    few = _FEW_FAILURES * offered
    return failed > few + 3 * sqrt(few) + 1


def _z(usual: float, twin: Twin | None) -> float:
    """Return how many standard deviations an end of an interval is away."""
    return usual + _RANDOM * min(twin.cv if twin is not None else 1.0, 1.0)


def _is_another(twin: Twin, before: Twin) -> bool:
    """Say that services are another server's than those of the twin before: of another rule, or since a change."""
    return twin.since_s != before.since_s or replace(twin.rule, wait_s=0.0) != replace(before.rule, wait_s=0.0)


def contradicts(found: Forecast, check: Check, counted: Crossing | None) -> bool:
    """Say that counting, where it has seen enough, puts the rate so far away that chance does not explain it."""
    if counted is None or counted.clusters < _ENOUGH_CLUSTERS:
        return False
    apart = log(counted.rate_rps / found.rate_rps)
    side = counted.high_rps / counted.rate_rps if apart < 0 else counted.rate_rps / counted.low_rps
    rare = found.above if apart > 0 else found.below
    doubt = hypot(found.sd, check.misfit, rare, log(max(side, 1.0001)) / 1.96)
    return bool(np.square(apart) > _CONTRADICTS * doubt**2)
