"""The closed-loop search: users doubled until the SLA fails, then bisected in log space."""

from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import numpy as np

from analysis.capacity import completion_rate
from analysis.estimate import Estimate
from analysis.judgement import Judgement, Verdict, judge
from analysis.operating_point import OperatingPoint
from analysis.quantile import quantile_estimate
from analysis.sla import SLA
from analysis.step import Outcome, Reason, StepProgress, StepResult

_GROWTH = 1.1  # of the throughput when users double: less than that is saturation
_MOST_LOST = 2  # once is a hiccup of the machine
_REPEATS = 2  # of a step that is too near the limit to call


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersPlan:
    """Say how many users to run next, for how long and why."""

    users: int
    duration_s: float
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Level:
    """Hold what a number of users gave.

    Attributes:
        users: Their number.
        judgement: The verdict on the step.
        throughput: Successful replies per second.
        quantiles: p50, p95 and p99 of the response time, seconds.
    """

    users: int
    judgement: Judgement
    throughput: Estimate
    quantiles: tuple[Estimate | None, Estimate | None, Estimate | None]

    @property
    def passes(self) -> bool:
        """Say that its share of violations is within the bound."""
        return self.judgement.verdict is not Verdict.FAIL and self.judgement.share <= self.judgement.allowed


@dataclass(slots=True)
class ClosedLoop:
    """Hold the levels seen and decide which comes next.

    Attributes:
        slas: At least one.
        precision: Wanted relative distance between the highest passing and the lowest failing number of users.
        max_users: Highest number allowed, or None.
        levels: In time order.
        client: Why the client was the limit, at `client_users`.
    """

    slas: tuple[SLA, ...]
    precision: float
    max_users: int | None = None
    levels: list[Level] = field(default_factory=list)
    client: Reason | None = None
    client_users: int | None = None
    confirmed: bool = False
    _repeats: dict[int, int] = field(default_factory=dict)
    _empty: int = 0
    _lost: int = 0  # results that gave no level

    @property
    def limit_s(self) -> float:
        """Return the longest limit of the SLAs, seconds."""
        return max(sla.limit_s for sla in self.slas)

    @property
    def ceiling(self) -> int | None:
        """Return the highest number of users that can be measured, or None."""
        bounds = [b for b in (self.max_users, self.client_users and max(1, self.client_users - 1)) if b]
        return min(bounds) if bounds else None

    @property
    def passing(self) -> Level | None:
        """Return the last level of the highest number of users that passes below every failing one above it."""
        latest = {level.users: level for level in self.levels}
        passing = [users for users, level in latest.items() if level.passes]
        return latest[max(passing)] if passing else None

    @property
    def failing(self) -> int | None:
        """Return the lowest failing number of users above the highest passing one."""
        latest = {level.users: level for level in self.levels}
        best = self.passing.users if self.passing else 0
        return min((users for users, level in latest.items() if not level.passes and users > best), default=None)

    @property
    def saturated(self) -> bool:
        """Say that more users no longer bring more throughput."""
        latest = {level.users: level for level in self.levels}
        ordered = [latest[users].throughput.value for users in sorted(latest)]
        return len(ordered) >= 3 and ordered[-1] < _GROWTH * max(ordered[:-1])

    @property
    def unmet(self) -> bool:
        """Say that no number of users passes, from one up to saturation."""
        stuck = self.saturated or (self.ceiling is not None and any(lv.users >= self.ceiling for lv in self.levels))
        return bool(self.levels) and self.passing is None and stuck

    @property
    def bounded(self) -> bool:
        """Say that the highest number of users that can be measured still passes."""
        return self.ceiling is not None and self.passing is not None and self.passing.users >= self.ceiling

    @property
    def bracketed(self) -> bool:
        """Say that nothing is left to bisect."""
        best, worst = self.passing, self.failing
        if best is None or worst is None:
            return self.bounded
        return worst <= max(best.users + 1, int(best.users * (1 + self.precision)))

    def plan(self, left_s: float) -> UsersPlan | None:
        """Return what to run next with `left_s` seconds of budget, or None when done."""
        if self.unmet or (self.bracketed and self.confirmed):
            return None
        purpose = "confirm" if self.bracketed else "measure"
        users = self.passing.users if self.bracketed and self.passing else self._next_users()
        length = self._length_s(users)
        if length + self.limit_s > left_s:
            return None
        return UsersPlan(users=users, duration_s=length, purpose=purpose)

    def plan_growth(self, left_s: float) -> UsersPlan | None:
        """Return what to run next in `left_s` seconds to learn how far the throughput grows, or None when known.

        It ends where the SLA surely fails, too, and where a second result shows nothing of the server: what comes
        beyond is left to the open loop.
        """
        fails = bool(self.levels) and self.levels[-1].judgement.verdict is Verdict.FAIL
        if self.saturated or fails or self._lost >= _MOST_LOST:
            return None
        users = 2 * max((level.users for level in self.levels), default=0) or 1
        length = self._length_s(users)
        fits = length + self.limit_s <= left_s
        return UsersPlan(users=users, duration_s=length, purpose="bracket") if fits else None

    def _next_users(self) -> int:
        if not self.levels:
            return 1
        last, best, worst = self.levels[-1], self.passing, self.failing
        close = 0.4 < last.judgement.share / max(last.judgement.allowed, 1e-9) < 2.5
        if close and last.judgement.verdict is Verdict.UNDECIDED and self._repeats.get(last.users, 0) < _REPEATS:
            self._repeats[last.users] = self._repeats.get(last.users, 0) + 1
            return last.users
        if best is not None and worst is not None:
            return min(max(round(sqrt(best.users * worst)), best.users + 1), worst - 1)
        users = 2 * max(level.users for level in self.levels)
        return min(users, self.ceiling) if self.ceiling else users

    def _length_s(self, users: int) -> float:
        """Return a length in which the level settles and shows its tail: many times the limit, hundreds of requests."""
        length = max(2.0, 10 * self.limit_s)
        if self.levels:
            per_user = max(self.levels[-1].throughput.value / self.levels[-1].users, 1e-6)
            length = max(length, min(300 / (users * per_user), 20.0))
        return length * float(2**self._empty) * (1 + self._repeats.get(users, 0))

    def add(self, result: StepResult) -> None:
        """Take a result in. What is not sound is not fitted."""
        users = int(result.step.users or 1)
        client = next((reason for reason in result.reasons if reason.kind == "client"), None)
        if client is not None and (self.client_users is None or users < self.client_users):
            self.client, self.client_users = client, users
        self._lost += not (result.sound and result.offered)
        if not result.sound:
            return
        if not result.offered:
            self._empty += 1
            return
        level = Level(
            users=users, judgement=judge(result, self.slas), throughput=_throughput(result),
            quantiles=_quantiles(result),
        )  # fmt: skip
        self.levels.append(level)
        if result.step.purpose == "confirm":
            self.confirmed = level.passes

    def overloaded(self, progress: StepProgress) -> bool:
        """Stop a level whose requests wait far beyond every limit. Constant time."""
        return progress.oldest_pending_s > 5 * self.limit_s + 1.0

    def answer(self, stop_reason: str, *, failed: bool) -> OperatingPoint:
        """Return the number of users found so far, never as an arrival rate; `failed`: the target broke."""
        best, worst = self.passing, self.failing
        verdict: Literal["found", "unmet", "undecided", "client_limited", "target_failed"] = "undecided"
        limited_by = self._limited_by(worst)
        if failed:
            verdict = "target_failed"
        elif self.unmet:
            verdict = "unmet"
        elif self.bounded:
            verdict = "client_limited"
            at_user_bound = self.max_users is not None and self.ceiling == self.max_users
            limited_by = "--max-users" if at_user_bound or self.client is None else self.client.text
        elif self.bracketed and self.confirmed:
            verdict = "found"
        users = None
        if best is not None:
            lower = [level.users for level in self.levels if level.passes and level.users < best.users]
            certain = best.judgement.verdict is Verdict.PASS or not lower
            users = Estimate(
                value=best.users, low=best.users if certain else max(lower), high=worst, n=best.judgement.n
            )
        top = max(self.levels, key=lambda level: level.throughput.value, default=None)
        p50, p95, p99 = best.quantiles if best else (None, None, None)
        return OperatingPoint(
            verdict=verdict, sla=self._sla(limited_by), limited_by=limited_by, stop_reason=stop_reason, users=users,
            throughput_rps=best.throughput if best else None, capacity_rps=top.throughput if top else None,
            p50=p50, p95=p95, p99=p99,
            utilisation=min(1.0, best.throughput.value / top.throughput.value) if best and top else None,
        )  # fmt: skip

    def _limited_by(self, worst: int | None) -> str:
        failing = [lv for lv in self.levels if not lv.passes and (worst is None or lv.users == worst)]
        return failing[-1].judgement.binding if failing else str(self.slas[0])

    def _sla(self, limited_by: str) -> SLA:
        return next((sla for sla in self.slas if str(sla) == limited_by), self.slas[0])


def _throughput(result: StepResult) -> Estimate:
    """Return successful replies per second of the step's time, its first tenth left out."""
    length = result.offered_span_s
    done = np.sort(result.done_ns[result.outcome == Outcome.OK] - result.start_ns) / 1e9
    settled = completion_rate(done[(done > 0.1 * length) & (done <= length)])
    if settled is not None:
        return settled.estimate
    rate = done.size / length
    reach = 2 * rate / max(1, done.size) ** 0.5
    return Estimate(value=rate, low=max(0.0, rate - reach), high=rate + reach, n=int(done.size))


def _quantiles(result: StepResult) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    failed = result.outcome != Outcome.OK
    response = result.response_ns
    return (
        quantile_estimate(response, failed, 0.5),
        quantile_estimate(response, failed, 0.95),
        quantile_estimate(response, failed, 0.99),
    )
