"""The ramp: from the first rate up to overload in rungs, to learn the capacity and what an idle server takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import sqrt
from typing import Self

import numpy as np

from analysis.capacity import Capacity, backlog_grew, backlog_of_chance, idle_response_s, measure_capacity, pool
from analysis.closed_loop import Level
from analysis.step import Outcome, StepProgress, StepResult

_ERROR = 0.015  # relative, of the capacity: good enough to leave the ramp
_SEEN_S = 1.5  # of overload: in a glimpse of it few batches are seen, from which their size is to be told
_HOLD_S, _HOLD_REQUESTS = 3.0, 600  # a hold is so long, or where the capacity is known that lasts so many requests
_HOLD_ABOVE = 1.3  # times the capacity: overload that a hold shows surely
_POOR_ERROR, _HOLDS = 0.05, 3  # else overload is held once more, and up to three times where the error stays poor
_FIRST_RPS = 3.0  # low enough for nearly any server, and a second and a half of it is hardly ever empty
_FLAT = 1.15  # of the idle latency: up to there nothing queues
_CARRIED, _CLOSED_ERROR = 0.8, 0.1  # of a closed loop's throughput: surely no overload, and how far it is off
_FAILING = 0.2  # share of failures that counts as overload: a bounded queue refuses instead of queueing


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Say which rate to run next, for how long, why, and how long its drain may take."""

    rate_rps: float
    duration_s: float
    purpose: str
    drain_s: float = 0.0


@dataclass(slots=True)
class Ramp:
    """Raise the rate until the server falls behind; fall where the first rate is too much already.

    Attributes:
        start_rps: First rate.
        limit_s: Longest latency limit.
        calm_rps: Highest rate that did not overload.
        overload_rps: Lowest rate that did.
        floor_s: Median response time at the lowest rate.
        floor_rps: That rate.
        idle_s: Response time there of requests that found the server empty; less where that rate is too much already.
    """

    limit_s: float
    start_rps: float = _FIRST_RPS
    calm_rps: float | None = None
    overload_rps: float | None = None
    floor_s: float | None = None
    floor_rps: float | None = None
    idle_s: float | None = None
    _measured: list[Capacity] = field(default_factory=list)
    _supposed: Capacity | None = None  # by a closed loop, until overload is measured
    _stretch: float = 1.0
    _holds: int = 0
    _fails: bool = False  # so do a fifth of the requests at the last rate that did not overload
    _mean_s: float = 0.0
    _median_s: float = 0.0
    _overload_s: float | None = None
    _silent_s: float = 0.0

    @property
    def capacity(self) -> Capacity | None:
        """Return the completion rate in overload, before any what a closed loop lets suppose, or None."""
        return pool(self._measured) or self._supposed

    def plan(self, ceiling_rps: float | None) -> Plan | None:
        """Return the next rung at or below a ceiling, or None when the ramp is over."""
        if self.overload_rps is not None:
            return self._plan_overload(self.overload_rps, ceiling_rps)
        if self.calm_rps is None:
            return self._rung(min(self.start_rps, ceiling_rps or self.start_rps))
        is_flat = self.calm_rps > (self.floor_rps or 0.0) and self._median_s <= _FLAT * (self.idle_s or 0.0)
        rate = (4 if is_flat else 2) * self.calm_rps
        if self.calm_rps * self._mean_s < 0.5:  # less than half a request in flight: any server takes four times that
            rate = max(4 * self.calm_rps, 0.25 / max(self._mean_s, 1e-5))
            rate = min(rate, 100 * self.calm_rps)
        if ceiling_rps is not None and rate > ceiling_rps:
            if self.calm_rps >= 0.999 * ceiling_rps:
                return None
            rate = ceiling_rps
        return self._rung(rate)

    def _plan_overload(self, overload_rps: float, ceiling_rps: float | None) -> Plan | None:
        """Measure the capacity where the overload that was seen is too short; go down where nothing completed."""
        known = self.capacity
        if known is not None:
            is_known, glimpse = known.error <= _ERROR, known.n < _SEEN_S * known.rate_rps
            is_capped = ceiling_rps is not None and ceiling_rps < _HOLD_ABOVE * known.rate_rps
            if is_known and (is_capped or not glimpse):
                return None
            if self._holds >= _HOLDS or (self._holds and known.error <= _POOR_ERROR):
                return None
            self._holds += 1
            least_s = max(_SEEN_S, min(_HOLD_S, _HOLD_REQUESTS / known.rate_rps)) if is_known else _HOLD_S
            length = min(max(least_s, 300 / known.rate_rps), max(10.0, 12 / known.rate_rps))
            rate = max(known.rate_rps * (_HOLD_ABOVE + 2 * min(known.error, 0.2)), 1.2 * (self.calm_rps or 0.0))
            return self._rung(min(rate, ceiling_rps or rate), length)
        if self.calm_rps is None:
            return self._rung(overload_rps / 4)
        middle = sqrt(self.calm_rps * overload_rps)
        return self._rung(middle) if overload_rps > 1.1 * self.calm_rps else None

    def _rung(self, rate_rps: float, length_s: float = 0.0) -> Plan:
        few = max(3 / rate_rps, min(15 / rate_rps, 1.5)) * self._stretch
        length = length_s or max(0.5, min(3 * self.limit_s, 2.0), 2 * (self.idle_s or 0.0), few)
        return Plan(rate_rps=rate_rps, duration_s=length, purpose="ramp", drain_s=5 * self.limit_s)

    def stretch(self) -> None:
        """Ask for twice the time next, because no request fell due."""
        self._stretch *= 2

    def begin_from(self, levels: Sequence[Level], *, saturated: bool) -> None:
        """Go on from what a closed loop gave, in order of its users.

        That is the idle latency, a rate that is carried, and where it is saturated about the capacity: users need not
        fill every batch, so overload is measured once all the same.
        """
        if not levels:
            return
        idle, top = levels[0].quantiles[0], max(levels, key=lambda level: level.throughput.value)
        if idle is not None:
            self.floor_s = self.idle_s = self._mean_s = self._median_s = idle.value
        self.floor_rps, throughput = levels[0].throughput.value, top.throughput
        carried = max((level.throughput.value for level in levels if level.passes), default=0.0)
        self.calm_rps = min(carried, _CARRIED * throughput.value) or None
        if saturated:
            self.overload_rps = throughput.value
            self._supposed = Capacity(rate_rps=throughput.value, error=_CLOSED_ERROR, n=throughput.n)

    def refuse(self, rate_rps: float) -> None:
        """Take it that the server is overloaded at a rate at which it refused every connection."""
        self.overload_rps = min(rate_rps, self.overload_rps or rate_rps)

    def add(self, result: StepResult, *, stopped: bool) -> bool:
        """Take a sound step of any purpose in; return whether it overloaded the server."""
        rate = float(result.step.rate_rps or 0)
        ramp = result.step.purpose == "ramp"
        ok = result.outcome == Outcome.OK
        fails = float(ok.mean()) < 1 - _FAILING  # where lower rates do not
        failing = ramp and fails and self.calm_rps is not None and rate > self.calm_rps and not self._fails
        # A ceiling may let rates exceed the capacity by so little that no rung shows it: a longer step does.
        unknown = not ramp and self.capacity is None
        overloaded = ((ramp or unknown) and stopped) or failing
        overloaded |= backlog_grew(result, self.idle_s, steadily=unknown)
        self._stretch = 1.0
        measured = measure_capacity(result) if overloaded and (ramp or unknown) else None
        if overloaded and (ramp or measured is not None):
            if measured is not None:
                self._measured.append(measured)
            self.overload_rps = min(rate, self.overload_rps or rate)
            return True
        if not overloaded:
            self.calm_rps, self._fails = max(rate, self.calm_rps or rate), fails
            if self.overload_rps is not None and rate >= self.overload_rps:
                # what looked like overload was chance, or a cold start: the ramp goes on from here
                self.overload_rps, self._holds, self._measured, self._supposed = None, 0, [], None
        if ok.any():
            response = result.response_ns[ok] / 1e9
            self._mean_s, self._median_s = float(response.mean()), float(np.median(response))
            if self.floor_rps is None or rate <= self.floor_rps:
                self.floor_s, self.floor_rps = self._median_s, rate
                self.idle_s = idle_response_s(result)
        return False

    def forget(self, now: Capacity | None) -> None:
        """Take what was measured last for the capacity, None for unknown: the server is another one than before.

        Unknown, the ramp goes on from the highest rate that it carried.
        """
        self._measured, self._supposed = [now] if now is not None else [], None
        if now is None:
            self.overload_rps, self._holds = None, 0

    def copy(self) -> Self:
        """Return one that has seen the same."""
        return replace(self, _measured=[*self._measured])

    def begin(self) -> None:
        """Forget the last step's progress."""
        self._overload_s, self._silent_s = None, 0.0

    def in_flight_idle(self, rate_rps: float) -> float:
        """Return the requests in flight that the latency of an idle server alone explains: rate x latency (Little)."""
        return rate_rps * (self.idle_s or 0.0)

    def overloaded(self, rate_rps: float, progress: StepProgress) -> bool:
        """Say that a rung has shown enough overload to stop. Constant time.

        Overload is a backlog that neither chance nor the latency of an idle server explains, in which requests wait
        beyond the limit. It is then held for 2 s, drain foreseen included, because the completions of that time are the
        capacity; less where the wait reaches the times at which clients give up.
        """
        elapsed = progress.elapsed_s
        if progress.done == 0:
            self._silent_s = elapsed  # nothing returned so far: the latency is that long at least
        served = max(progress.done, 1) / max(elapsed, 1e-9)
        ahead = progress.in_flight / served  # time that the drain will take
        wait = max(progress.oldest_pending_s, ahead if progress.done > 1 else 0.0)
        if self._overload_s is None:
            idle = max(self.in_flight_idle(rate_rps), rate_rps * self._silent_s)
            behind = progress.in_flight > idle + 3 * sqrt(idle) + backlog_of_chance(rate_rps * elapsed)
            if not (behind and wait > 1.5 * self.limit_s + 2 * (self.idle_s or 0.0)):
                return False
            self._overload_s = elapsed
        held = elapsed - self._overload_s
        wanted = min(max(2.0, 200 / served), 6.0)
        return held + ahead >= wanted + 0.5 or wait > max(5 * self.limit_s, 1.0) + 2 * (self.idle_s or 0.0)
