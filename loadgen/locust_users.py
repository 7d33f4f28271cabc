"""A search whose load is Locust's own users: their number is raised, their requests are judged as ours are.

The users wait for their replies, so this is a closed loop. All of it runs in Locust's one event loop (its hub): how
late that is, and how busy its core, says whether Locust was the limit.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from locust import FastHttpUser, HttpUser
from locust.clients import HttpSession
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.runners import STATE_RUNNING, STATE_SPAWNING
from locust.user.task import LOCUST_STATE_RUNNING

from analysis import Outcome, Reason, Step, StepProgress, StepResult
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.errors import UsageError
from loadgen.fleet import ABANDONED, StepView, Watch

_RAMP_S = 30.0  # users that have not come by then never will
_PROBE_NS = 10 * NS_PER_MS
_TICK_S = 0.1
_VIEW_ROWS = 5_000  # of the latest requests: showing more would make the hub late
_LAG_SHARE = 0.1  # of the limit: what the hub may add to a response time
_LAG_FLOOR_NS = 5 * NS_PER_MS
_MOST_CPU = 0.9
_SETTLED_S = 2.0  # beyond this, users that are silent in the middle of a task wait for a reply that does not come
_OUTCOMES = {  # by the names of exception classes, which are the same in Locust's two HTTP clients and in others
    "CatchResponseError": Outcome.WRONG_REPLY,
    "HTTPError": Outcome.HTTP_STATUS,
    "Timeout": Outcome.TIMEOUT,
    "TimeoutError": Outcome.TIMEOUT,
    "ConnectionResetError": Outcome.RESET,
    "HTTPConnectionClosed": Outcome.RESET,
    "ConnectionError": Outcome.CONNECT_ERROR,
}
_OPEN: dict[object, int] = {}  # HTTP requests in flight, and when each began


def _noting(request: Any) -> Any:
    """Have a client's requests in `_OPEN` while they last: a user that is silent in a task may as well be thinking."""

    def noted(*args: Any, **kwargs: Any) -> Any:
        key = object()
        _OPEN[key] = now_ns()
        try:
            return request(*args, **kwargs)
        finally:
            del _OPEN[key]

    return noted


HttpSession.request = _noting(HttpSession.request)
FastHttpSession.request = _noting(FastHttpSession.request)
Row = tuple[int, int, int]  # start and end (ns), outcome


@dataclass(slots=True)
class Heard:
    """Collect what Locust tells while a step runs: requests, errors, exceptions in tasks, lateness of the hub."""

    rows: list[Row] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    raised: Counter[str] = field(default_factory=Counter)
    lag_ns: list[int] = field(default_factory=list)
    last_ns: dict[int, int] = field(default_factory=dict)  # of each user, when its last request ended

    def request(self, response_time: float, exception: BaseException | None = None, **_: Any) -> None:
        """Listen to Locust's `request` event; the response time is not rounded there."""
        done, user = now_ns(), threading.get_ident()  # which is the greenlet's, and each user has one
        outcome = Outcome.OK if exception is None else outcome_of(exception)
        if exception is not None:
            self.errors[f"{type(exception).__name__}: {exception}"[:300]] += 1
        self.rows.append((done - max(0, round((response_time or 0.0) * NS_PER_MS)), done, outcome))
        self.last_ns[user] = done

    def user_error(self, exception: BaseException, **_: Any) -> None:
        """Listen to Locust's `user_error` event: a task raised."""
        self.raised[f"{type(exception).__name__}: {exception}"[:300]] += 1


def outcome_of(exception: BaseException) -> Outcome:
    """Return how a request ended, from the exception that Locust gives for it."""
    names = {kind.__name__ for kind in type(exception).__mro__}
    return next((outcome for name, outcome in _OUTCOMES.items() if name in names), Outcome.PROTOCOL_ERROR)


class UsersFleet:
    """Run steps with Locust's users; see `loadgen.session.StepRunner`.

    Attributes:
        users: How many there are to be; the shape asks for them.
    """

    def __init__(self, environment: Environment, limit_ns: int) -> None:
        """Listen to an environment's events; `limit_ns` is that of the tightest SLA."""
        self.users = 1
        self._environment = environment
        self._limit_ns = limit_ns
        self._heard = Heard()
        self._was_answered = False
        environment.events.request.add_listener(self._on_request)
        environment.events.user_error.add_listener(self._on_error)

    def close(self) -> None:
        """Listen no longer."""
        self._environment.events.request.remove_listener(self._on_request)
        self._environment.events.user_error.remove_listener(self._on_error)

    def _on_request(self, **told: Any) -> None:
        self._heard.request(**told)

    def _on_error(self, **told: Any) -> None:
        self._heard.user_error(**told)

    def run_step(
        self,
        step: Step,
        overloaded: Callable[[StepProgress], bool],
        *,
        watch: Watch | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        """Have so many users, and take the requests that they begin in the step; a rate is taken as one user."""
        self.users = step.users or 1
        missing = self._wait_for_users(is_abandoned)
        heard = self._heard = Heard(last_ns={user: now_ns() for user in self._busy()})
        start_ns, cpu_s, shown_ns = now_ns(), time.process_time(), now_ns()
        end_ns = start_ns + round(max(step.duration_s, 1.0 if step.users is None else 0.0) * NS_PER_S)
        stopped_ns: int | None = None
        while (now := now_ns()) < end_ns and stopped_ns is None:
            self._sleep(heard, _TICK_S)
            if not self._is_on() or is_abandoned() or overloaded(self._progress(heard, start_ns)):
                stopped_ns = now_ns()
            if watch and now - shown_ns >= NS_PER_S:
                shown_ns = now
                latest = [row for row in heard.rows[-_VIEW_ROWS:] if row[0] >= start_ns]
                part = _result(step, latest, start_ns, now, aborted=True)
                watch(StepView(progress=self._progress(heard, start_ns), result=part))
        cpu_share = (time.process_time() - cpu_s) / max(1e-9, (now_ns() - start_ns) / NS_PER_S)
        drained = self._drain(heard, stopped_ns or end_ns, is_abandoned)
        rows = [row for row in heard.rows if start_ns <= row[0] < (stopped_ns or end_ns)]
        if not rows and heard.raised:
            words, _ = heard.raised.most_common(1)[0]
            raise UsageError(f"the locustfile's tasks raise, and make no request: {words}; mend it and start again")
        pending = [] if drained else self._pending(heard, start_ns, stopped_ns or end_ns)
        lag = np.asarray(heard.lag_ns or [0])
        client = {"workers": 1, "cpu_share": cpu_share, "loop_lag_max_s": float(lag.max()) / NS_PER_S,
                  "hub_lag_p99_s": float(np.quantile(lag, 0.99)) / NS_PER_S}  # fmt: skip
        reasons = self._reasons(client)
        if missing == self.users:
            raise UsageError("no user of the locustfile lasts: see what their on_start raises; mend it and start again")
        if missing:
            words = f"{missing} of {self.users} users never came: see what their on_start raises, and whether users end"
            reasons = (*reasons, Reason("client", words))
        self._was_answered = self._was_answered or any(row[2] != Outcome.TIMEOUT for row in rows)
        if not self._was_answered and (rows or pending):
            words = f"none of the {len(rows) + len(pending)} requests of the first step was answered: does it hang?"
            reasons = (*reasons, Reason("target", words))
        if is_abandoned() or not self._is_on():
            reasons = (ABANDONED, *reasons)
        result = _result(
            step,
            [*rows, *pending],
            start_ns,
            now_ns(),
            aborted=stopped_ns is not None,
            drained=drained,
            reasons=reasons,
        )
        raised = {f"a task raised {words}": count for words, count in heard.raised.items()}
        waiting = {"no reply by the end of the step": len(pending)} if pending else {}
        return result, client, dict(heard.errors) | waiting | raised

    def _wait_for_users(self, is_abandoned: Callable[[], bool]) -> int:
        """Wait for as many users as there are to be; return how many of them will not come."""
        deadline_ns = now_ns() + round((_RAMP_S + self.users / 50) * NS_PER_S)
        ready_ns = None
        while True:
            runner = self._environment.runner
            if runner is None or is_abandoned() or not self._is_on() or (
                runner.user_count == self.users and runner.state == STATE_RUNNING
            ):  # fmt: skip
                return 0
            is_spawned = runner.target_user_count == self.users and runner.state == STATE_RUNNING
            ready_ns = (ready_ns or now_ns()) if is_spawned else None
            if now_ns() > deadline_ns or (ready_ns and now_ns() > ready_ns + NS_PER_S):
                return max(0, self.users - int(runner.user_count))
            time.sleep(_TICK_S / 4)

    def _is_on(self) -> bool:
        """Say that the test runs: neither stopped by the user nor ended."""
        runner = self._environment.runner
        return runner is not None and runner.state in ("ready", STATE_RUNNING, STATE_SPAWNING)

    def _sleep(self, heard: Heard, seconds: float) -> None:
        """Sleep in small pieces, and note how late the hub wakes us after each."""
        until_ns = now_ns() + round(seconds * NS_PER_S)
        while (began := now_ns()) < until_ns:
            time.sleep(_PROBE_NS / NS_PER_S)
            heard.lag_ns.append(max(0, now_ns() - began - _PROBE_NS))

    def _busy(self) -> list[int]:
        """Return the users that are in the middle of a task, by their greenlets' numbers."""
        greenlets = self._environment.runner.user_greenlets if self._environment.runner else ()
        users = [(id(one), one.args[0]) for one in greenlets if one.args]
        return [
            key for key, user in users
            if not isinstance(user, HttpUser | FastHttpUser) and getattr(user, "_state", "") == LOCUST_STATE_RUNNING
        ]  # fmt: skip

    def _since(self, heard: Heard, start_ns: int) -> list[int]:
        """Return when what is in flight began; of a user whose requests we cannot see, when it was last heard of."""
        silent = [max(start_ns, heard.last_ns.get(user, start_ns)) for user in self._busy()]
        return [*silent, *_OPEN.values()]

    def _progress(self, heard: Heard, start_ns: int) -> StepProgress:
        now, busy = now_ns(), self._since(heard, start_ns)
        oldest = max(start_ns, min(busy, default=now))
        done = len(heard.rows)
        return StepProgress((now - start_ns) / NS_PER_S, done + len(busy), done, len(busy), (now - oldest) / NS_PER_S)

    def _drain(self, heard: Heard, end_ns: int, is_abandoned: Callable[[], bool]) -> bool:
        """Wait until each user has been heard of after the step's end, or pauses; False when some hang in a request."""
        deadline_ns = end_ns + 5 * self._limit_ns + round(_SETTLED_S * NS_PER_S)
        while self._is_on() and not is_abandoned():
            if all(began >= end_ns for began in self._since(heard, 0)):
                return True
            if now_ns() > deadline_ns:
                return False
            time.sleep(_TICK_S / 4)
        return True

    def _pending(self, heard: Heard, start_ns: int, end_ns: int) -> list[Row]:
        """Return a row for each request that hung while the step lasted, one that began before it from its start on."""
        now = now_ns()
        since = (max(start_ns, began) for began in self._since(heard, start_ns))
        return [(began, now, Outcome.TIMEOUT) for began in since if began < end_ns]

    def _reasons(self, client: dict[str, Any]) -> tuple[Reason, ...]:
        """Say that Locust itself was the limit, where it was."""
        most_s = max(_LAG_FLOOR_NS, _LAG_SHARE * self._limit_ns) / NS_PER_S
        lag_s, share = client["hub_lag_p99_s"], client["cpu_share"]
        found = []
        if lag_s > most_s:
            found.append(f"Locust's event loop was {1e3 * lag_s:.0f} ms late (p99), more than {1e3 * most_s:.0f} ms")
        if share > _MOST_CPU:
            found.append(f"Locust used {100 * share:.0f} % of its core")
        return tuple(Reason("client", words) for words in found)


def _result(step: Step, rows: list[Row], start_ns: int, end_ns: int, **settings: Any) -> StepResult:
    """Build a step's result from its rows, in order of their begin."""
    table = np.asarray(sorted(rows), dtype=np.int64).reshape(-1, 3)
    users = step if step.users is not None else replace(step, users=1, rate_rps=None)
    last = max(end_ns, int(table[:, 1].max(initial=end_ns)))
    return StepResult.from_arrays(
        users, table[:, 0], table[:, 1], table[:, 2].astype(np.uint8), sent_ns=table[:, 0], start_ns=start_ns,
        end_ns=last, **settings,
    )  # fmt: skip
