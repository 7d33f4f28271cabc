"""The search for the operating point: which step next, and what all steps together say."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from analysis.closed_loop import ClosedLoop
from analysis.estimate import Estimate
from analysis.open_answer import open_answer
from analysis.open_loop import OpenLoop
from analysis.operating_point import OperatingPoint
from analysis.ramp import Plan, Ramp
from analysis.sla import SLA
from analysis.step import Outcome, Step, StepProgress, StepResult

_REFUSED = (Outcome.CONNECT_ERROR, Outcome.RESET, Outcome.LOST)
_OF_BRACKET = 0.2  # of the budget, at most, for users as the first bracket
_SEED_STRIDE = 1_000_003


class Search:
    """Find the highest load at which every SLA holds. Pure: no clock, socket, thread or file.

    Ask `next()` for a step, run it, hand its result to `add()`, until `next()` returns None. `answer()` is valid at any
    moment. Budget spent is the span on the results' clock from the first step's start to the last request's end.

    Args:
        slas: One or several; all must hold.
        mode: "open": arrivals at a rate; "closed": a number of users.
        precision: Wanted relative half-width of the interval.
        budget_s: Longest span of all steps, seconds; no step is planned whose plausible end lies beyond it.
        start_rps: First rate; a few a second where None.
        max_rps: Highest rate to try.
        max_users: Highest number of users to try.
        arrivals: Name of the arrival process, handed on to the steps.
        seed: Seed of the steps' seeds.
        bracket: How the open loop begins: "open", with a ramp of rates, or "closed", with users that are doubled until
            the throughput no longer grows. They keep the queue as short as they are few, and take longer.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        slas: SLA | Sequence[SLA],
        *,
        mode: Literal["open", "closed"] = "open",
        precision: float = 0.05,
        budget_s: float = 180.0,
        start_rps: float | None = None,
        max_rps: float | None = None,
        max_users: int | None = None,
        arrivals: str = "poisson",
        seed: int = 0,
        bracket: Literal["open", "closed"] = "open",
    ) -> None:
        self.slas = (slas,) if isinstance(slas, SLA) else tuple(slas)
        if not self.slas:
            raise ValueError("Search slas: give at least one SLA")
        if mode not in ("open", "closed"):
            raise ValueError(f"Search mode '{mode}': must be 'open' or 'closed'")
        if bracket not in ("open", "closed"):
            raise ValueError(f"Search bracket '{bracket}': must be 'open' or 'closed'")
        for name, value in (
            ("precision", precision), ("budget_s", budget_s), ("start_rps", start_rps), ("max_rps", max_rps),
            ("max_users", max_users),
        ):  # fmt: skip
            if value is not None and not value > 0:
                raise ValueError(f"Search {name} {value}: must be above zero")
        self.precision, self.budget_s, self.arrivals, self.seed = precision, budget_s, arrivals, seed
        if bracket == "closed" and (start_rps or max_rps):
            raise ValueError("Search bracket 'closed': users keep to no rate, so start_rps and max_rps have no meaning")
        ramp = Ramp(max(sla.limit_s for sla in self.slas))
        ramp.start_rps = start_rps or ramp.start_rps
        self._open = OpenLoop(self.slas, precision, budget_s, ramp, max_rps, seed=seed, arrivals=arrivals)
        self._closed = ClosedLoop(self.slas, precision, max_users) if mode == "closed" else None
        self._bracket = ClosedLoop(self.slas, 1.0) if mode == "open" and bracket == "closed" else None
        self._step: Step | None = None
        self._count = 0
        self._stopped = False
        self._over = False
        self._first_ns: int | None = None
        self._last_ns = 0
        self._failed: str | None = None
        self._refused_rps: float | None = None
        self._drained = True
        self._bracket_s = 0.0

    @property
    def spent_s(self) -> float:
        """Return the budget spent so far, seconds."""
        return (self._last_ns - self._first_ns) / 1e9 if self._first_ns is not None else 0.0

    def expected_s(self, precision: float | None = None) -> float | None:
        """Return the seconds of load that a precision, or the asked one, takes in all; None where that is not known."""
        expected = self._open.expected_s(precision or self.precision) if self._closed is None else None
        if expected is None:
            return None
        return max(expected + self._bracket_s, self.spent_s + self._open.confirm_left_s)

    @property
    def interval(self) -> Estimate | None:
        """Return the interval of the operating rate so far, or None."""
        point = self._open.crossing if self._closed is None else None
        if point is None:
            return None
        return Estimate(value=point.rate_rps, low=point.low_rps, high=point.high_rps, n=point.n)

    def next(self) -> Step | None:
        """Return the next step, or None when the search is over."""
        step = None if self._failed else self._plan(self.budget_s - self.spent_s)
        self._over = step is None
        self._step, self._stopped = step, False
        return step

    def _plan(self, left_s: float) -> Step | None:
        seed = self.seed * _SEED_STRIDE + self._count
        if self._closed is not None:
            level = self._closed.plan(left_s)
            if level is None:
                return None
            self._count += 1
            return Step(
                users=level.users, duration_s=level.duration_s, arrivals=self.arrivals, seed=seed, purpose=level.purpose
            )
        if self._bracket is not None:
            level = self._bracket.plan_growth(_OF_BRACKET * self.budget_s - self.spent_s) if self._drained else None
            if level is not None:
                self._count += 1
                return Step(users=level.users, duration_s=level.duration_s, seed=seed, purpose=level.purpose)
            self._open.ramp.begin_from(self._bracket.levels, saturated=self._bracket.saturated)
            self._bracket = None
        plan = self._open.plan(left_s) if self._drained and self._refused_rps is None else self._probe()
        if plan is None or plan.duration_s + min(plan.drain_s, left_s / 3) > left_s:
            return None
        self._count += 1
        self._open.ramp.begin()
        return Step(
            rate_rps=plan.rate_rps, duration_s=plan.duration_s, arrivals=self.arrivals, seed=seed, purpose=plan.purpose
        )

    def _probe(self) -> Plan:
        """Plan a few requests at the lowest rate that worked, to see whether the server is itself again."""
        rate = self._open.ramp.floor_rps or self._open.ramp.start_rps
        return Plan(rate_rps=rate, duration_s=max(0.5, min(5 / rate, 5.0), 2 / rate), purpose="probe")

    def overloaded(self, progress: StepProgress) -> bool:
        """Say whether the step under way should stop sending; asked about every 100 ms. Constant time."""
        step = self._step
        if step is None or self._stopped:
            return self._stopped
        closed = self._closed or self._bracket
        if closed is not None:
            self._stopped = closed.overloaded(progress)
        elif step.rate_rps is not None and step.purpose != "probe":
            self._stopped = self._open.overloaded(step.purpose, step.rate_rps, progress)
        return self._stopped

    def add(self, result: StepResult) -> None:
        """Take in what came back from a step; it may be aborted, short or empty."""
        if self._first_ns is None:
            self._first_ns = result.start_ns
        self._last_ns = max(self._last_ns, result.end_ns)
        broken = next((reason.text for reason in result.reasons if reason.kind == "target"), None)
        closed = self._closed or self._bracket
        if broken is not None:
            self._failed = broken
        elif result.aborted and not self._stopped and _is_fragment(result):
            return
        elif closed is not None:
            if _refuses(result):
                self._failed = "the target refused every connection"
            else:
                closed.add(result)
                self._drained = result.drained
                self._bracket_s = self.spent_s if self._bracket is not None else 0.0
        elif _refuses(result):
            self._add_refused(result)
        elif result.step.purpose == "probe":
            self._add_probe(result)
        else:
            self._drained = result.drained
            self._open.add(result, stopped=self._stopped)

    def _add_refused(self, result: StepResult) -> None:
        """Probe at a low rate before a target that refuses everything is given up."""
        if self._refused_rps is not None:
            self._failed = f"the target refused every connection, at {result.step.level:.3g} req/s as well"
        self._refused_rps = result.step.rate_rps

    def _add_probe(self, result: StepResult) -> None:
        """Go on when the latency is back at its floor; a rate that was refused counts as overload."""
        if not result.offered:
            return
        if self._refused_rps is not None:
            self._open.ramp.refuse(self._refused_rps)
            self._refused_rps = None
        floor = self._open.ramp.floor_s
        median = float(np.median(result.response_ns)) / 1e9
        self._drained = result.drained and (floor is None or median <= 1.5 * floor + 0.002)

    def answer(self) -> OperatingPoint:
        """Return the operating point as far as it is known; valid before the first step too."""
        if self._closed is not None:
            return self._closed.answer(self._failed or self._closed_reason(), failed=self._failed is not None)
        return open_answer(self._open, failed=self._failed, over=self._over)

    def _closed_reason(self) -> str:
        loop = self._closed
        assert loop is not None
        if loop.unmet:
            return "No number of users meets the SLA, from one up to where throughput stops growing."
        if loop.bounded:
            return "The SLA still holds at the highest number of users that can be run."
        if loop.bracketed and loop.confirmed:
            return "The highest number of users that passes is next to the lowest that fails, and passed again."
        return _unfinished(self._over, self.budget_s)


def _unfinished(over: bool, budget_s: float) -> str:
    return f"The budget of {budget_s:g} s ended first." if over else "The search was stopped before its end."


def _is_fragment(result: StepResult) -> bool:
    """Say that what a step shows that somebody else stopped is too little, or bent by how it was stopped.

    A measuring step that ran for half its time counts for what it is; a rung's or a confirmation's length is its point.
    """
    short = result.offered_span_s < 0.5 * result.step.duration_s
    return short or not result.drained or result.step.purpose != "measure" or _refuses(result)


def _refuses(result: StepResult) -> bool:
    """Say that there were requests and the target accepted none of them."""
    return bool(result.offered) and bool(np.isin(result.outcome, _REFUSED).all())
