"""The engine processes, driven from the coordinator: a Step in, a StepResult out."""

import contextlib
import os
import resource
import selectors
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from analysis import Histogram, Outcome, Reason, Step, StepProgress, StepResult
from loadgen import child
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.errors import OpfindError, UsageError
from loadgen.health import SPARE_FILES, health, reasons, usable_cores
from loadgen.messages import Unpacker, pack
from loadgen.resolver import Resolver
from loadgen.rows import Rows, Table
from loadgen.target import Endpoint
from loadgen.worker import load_of
from loadgen.workload import Workload

_VIEW_ROWS = 20_000  # a live view judges at most so many, so that watching a long step stays cheap
_LEAD_NS = 20 * NS_PER_MS  # workers learn of a step this long before it starts
_READY_S = 30.0
_SILENCE_S = 30.0  # a worker that is so long overdue hangs; it is ended, and its requests are lost
COALESCE_NS = 150_000
ABANDONED = Reason("client", "the run was interrupted, and what was in flight was given up")

Watch = Callable[["StepView"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Tell the engines what stays the same over a run.

    Attributes:
        endpoint: The target.
        request: Bytes of the request; of a workload, how each begins.
        timeout_ns: A request is given up this long after its due time.
        connections: Most open connections, all workers together.
        workers: Engine processes.
        think_s: Mean think time of a closed-loop user, seconds.
        cv: Coefficient of variation of gamma arrivals.
        replay: Due times to replay, seconds.
        workload: Requests that are not all the same, or None.
        expect: What a reply must be, the plain form of `scenarios.expect.Expect`; None: any 2xx will do.
        re_resolve_s: Resolve the target's host again so often, seconds; None: never.
        lateness_limit_ns: A step whose p99 send lateness is above this is limited by the client.
        coalesce_ns: At high rates, what falls due within this leaves together; times the number of workers, so that
            together they wake up as often as one, but within what lateness and arrivals allow.
        window_ns: Arrivals are counted in windows of this width, to prove that they left as the schedule says.
    """

    endpoint: Endpoint
    request: bytes
    timeout_ns: int
    connections: int
    workers: int
    think_s: float = 0.0
    cv: float = 1.0
    replay: tuple[float, ...] = ()
    workload: Workload | None = None
    expect: Mapping[str, Any] | None = None
    re_resolve_s: float | None = None
    lateness_limit_ns: int = 10 * NS_PER_MS
    coalesce_ns: int = COALESCE_NS
    window_ns: int = 10 * NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepView:
    """Show a step under way, about once a second.

    Attributes:
        progress: Of the whole step.
        result: Its requests that have ended, at most the latest 20,000.
    """

    progress: StepProgress
    result: StepResult


class _Member:
    """One engine process and what it last said."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process = child.start("loadgen.worker")
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.unpacker = Unpacker()
        self.is_alive = True
        self.command: dict[str, Any] = {}
        self.progress: dict[str, Any] = {}
        self.ended: dict[str, Any] | None = None
        self.lateness = Histogram()
        self.in_flight = bytearray()  # int64 pairs: at (ns), requests under way

    def begin(self, command: dict[str, Any]) -> None:
        """Send a step, and forget the last one."""
        self.command, self.progress, self.ended = command, {}, None
        self.lateness, self.in_flight = Histogram(), bytearray()
        self.tell(op="step", **command)

    def tell(self, **message: Any) -> None:
        """Send a command; a dead worker is noticed when its pipe is read."""
        with contextlib.suppress(OSError):
            self.stdin.write(pack(message))
            self.stdin.flush()


class Fleet:
    """Start the engine processes, run steps on them, end them. Use as a context manager."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self.pacing = ""
        self._played = 0  # requests of the workload so far: a step goes on where the last one ended
        self._resolver = Resolver(setup.endpoint, setup.re_resolve_s) if setup.re_resolve_s else None
        self._selector = selectors.DefaultSelector()
        self._members = [_Member(index) for index in range(setup.workers)]
        for member in self._members:
            self._selector.register(member.stdout, selectors.EVENT_READ, member)
            member.tell(op="setup", **self._worker_setup(member.index))
        deadline_ns = now_ns() + round(_READY_S * NS_PER_S)
        while not all(member.progress for member in self._members):
            for member, message in self._receive(1.0):
                member.progress = message
                self.pacing = message.get("pacing", "")
            if now_ns() > deadline_ns or not all(member.is_alive for member in self._members):
                self.close()
                raise OpfindError("a worker did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workload(self) -> dict[str, Any] | None:
        """Return what to note of the requests in the run file; None where all are the same."""
        return self._setup.workload.told() if self._setup.workload else None

    def close(self) -> None:
        """End the engine processes: they end when their pipe closes."""
        if self._resolver:
            self._resolver.close()
        for member in self._members:
            with contextlib.suppress(OSError):
                member.stdin.close()
        for member in self._members:
            try:
                member.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            member.stdout.close()
        self._selector.close()

    def _worker_setup(self, index: int) -> dict[str, Any]:
        setup = self._setup
        return {
            "endpoint": asdict(setup.endpoint),
            "request": setup.request,
            "workload": asdict(setup.workload) if setup.workload else None,
            "expect": setup.expect,
            "timeout_ns": setup.timeout_ns,
            "connections": max(1, len(range(index, setup.connections, setup.workers))),
            "think_s": setup.think_s,
            "coalesce_ns": min(setup.coalesce_ns * setup.workers, setup.window_ns // 8, setup.lateness_limit_ns // 4),
            "arrivals": {"cv": setup.cv, "replay": list(setup.replay)},
        }

    def _follow_name(self) -> None:
        """Tell the workers when the target's name leads to another address."""
        if self._resolver and self._resolver.refresh():
            endpoint = self._resolver.endpoint
            for member in self._members:
                member.tell(op="address", address=endpoint.address, family=endpoint.family)

    def _receive(self, timeout_s: float) -> list[tuple[_Member, dict[str, Any]]]:
        """Read what workers have sent; an ended pipe marks its worker dead."""
        messages = []
        for key, _ in self._selector.select(timeout_s):
            member: _Member = key.data
            data = os.read(member.stdout.fileno(), 1 << 20)
            if not data:
                self._selector.unregister(member.stdout)
                member.is_alive = False
            messages += [(member, message) for message in member.unpacker.feed(data)]
        return messages

    def run_step(
        self,
        step: Step,
        overloaded: Callable[[StepProgress], bool],
        *,
        watch: Watch | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        """Run one step on every worker.

        Args:
            step: What to run.
            overloaded: Asked about every 100 ms; True stops sending.
            watch: Shown what has ended, about once a second.
            is_abandoned: Asked as often; True gives up what is in flight.

        Returns:
            The result, the client's own health by name, and errors by their words.
        """
        members = [member for member in self._members if member.is_alive]
        if not members:
            raise OpfindError("every worker has died")
        self._follow_name()
        start_ns = now_ns() + _LEAD_NS
        for place, member in enumerate(members):  # the living share the load: a dead one takes none of it
            shared = {"start_ns": start_ns, "first": self._played, "workers": len(members)}
            member.begin(asdict(step) | shared | {"worker": place})
        deadline_ns = start_ns + round((step.duration_s + _SILENCE_S) * NS_PER_S) + 2 * self._setup.timeout_ns
        stopped_ns: int | None = None
        was_abandoned = False
        asked_ns = shown_ns = start_ns
        with _in_background(), Rows() as rows:
            while any(member.is_alive and member.ended is None for member in members):
                for member, message in self._receive(0.1):
                    _take(member, message, rows)
                now = now_ns()
                if now - asked_ns >= 100 * NS_PER_MS:
                    asked_ns = now
                    self._follow_name()
                    if stopped_ns is None and overloaded(_progress(members, now - start_ns)):
                        stopped_ns = now
                        _tell_all(members, "stop")
                    if not was_abandoned and is_abandoned():
                        stopped_ns, was_abandoned = stopped_ns or now, True
                        _tell_all(members, "abandon")
                    if now > deadline_ns:
                        _kill_silent(members)
                if watch and now - shown_ns >= NS_PER_S:
                    shown_ns = now
                    watch(_view(step, start_ns, now, members, rows.latest(_VIEW_ROWS)))
            rows.add_table(self._lost(members, stopped_ns, rows))
            # A stop that came after the last due time cut nothing off.
            is_aborted = stopped_ns is not None and stopped_ns < start_ns + round(step.duration_s * NS_PER_S)
            extra = (ABANDONED,) if was_abandoned else ()
            result, client, errors = self._finish(step, start_ns, members, rows.columns(), extra, is_aborted=is_aborted)
        self._played += result.offered
        return result, client, errors

    def _lost(self, members: list[_Member], stopped_ns: int | None, rows: Rows) -> Table:
        """Account for what dead workers were to send: everything that was due and did not come back is lost."""
        now = now_ns()
        is_over = not any(member.is_alive for member in members)  # else the others have run the step to its end
        lost = [np.empty((0, 6), dtype=np.int64)]
        for member in members:
            if member.is_alive:
                continue
            command = member.command
            load = load_of(command, self._worker_setup(member.index))
            end_ns = command["start_ns"] + round(command["duration_s"] * NS_PER_S)
            if load.schedule is None:
                due = np.full(load.users, command["start_ns"])
            else:
                due = np.concatenate([*load.schedule, np.empty(0, dtype=np.int64)]) + command["start_ns"]
                due = due[due < (stopped_ns or (now if is_over else end_ns))]
                known = rows.columns()
                due = np.setdiff1d(due, known[0, known[5] == member.index])
            zero = np.zeros_like(due)
            outcome, worker = np.full_like(due, Outcome.LOST), np.full_like(due, member.index)
            lost.append(np.column_stack([due, zero, zero, np.maximum(due, now), outcome, worker]))
        return np.concatenate(lost)

    def _finish(
        self,
        step: Step,
        start_ns: int,
        members: list[_Member],
        columns: Table,
        extra: tuple[Reason, ...],
        *,
        is_aborted: bool,
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        ended = [member.ended for member in members if member.ended is not None]
        dead = [member.index for member in members if not member.is_alive]
        errors: Counter[str] = Counter()
        for message in ended:
            errors.update(message["errors"])
        if dead:
            errors["lost: a worker died"] = int((columns[4] == Outcome.LOST).sum())
        due, sent, first, done, outcome, _ = columns
        end_ns = max([message["at_ns"] for message in ended], default=now_ns())
        end_ns = max(end_ns, start_ns, int(done.max(initial=start_ns)))
        client = health(
            step, columns, ended, errors, start_ns=start_ns, window_ns=self._setup.window_ns, cv=self._setup.cv,
        )  # fmt: skip
        if self._resolver:
            client |= self._resolver.told()
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        found = reasons(
            columns, client, errors, connections=self._setup.connections,
            lateness_limit_ns=self._setup.lateness_limit_ns, dead=dead, cores=usable_cores(),
            files=None if files == resource.RLIM_INFINITY else files,
        )  # fmt: skip
        result = StepResult.from_arrays(
            step, due, done, outcome.astype(np.uint8), aborted=is_aborted, sent_ns=sent, first_byte_ns=first,
            start_ns=start_ns, end_ns=end_ns,
            drained=not np.any((outcome == Outcome.TIMEOUT) | (outcome == Outcome.LOST)), reasons=(*extra, *found),
        )  # fmt: skip
        return result, client, dict(errors.most_common())


def affordable_connections(asked: int) -> int:
    """Lift the soft limit on open files to what so many connections need; return how many the hard limit allows.

    Raises:
        UsageError: Not even one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = asked if hard == resource.RLIM_INFINITY else min(asked, hard - SPARE_FILES)
    if most < 1:
        raise UsageError(f"only {hard} files may be open, which leaves none for connections: raise 'ulimit -Hn'")
    if soft != resource.RLIM_INFINITY and soft < most + SPARE_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most + SPARE_FILES, hard))
    return most


@contextlib.contextmanager
def _in_background() -> Iterator[None]:
    """Let the workers go first: a batch process keeps none waiting that wakes up (sched(7)), where it did for 4 ms."""
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, priority)


def _tell_all(members: list[_Member], op: str) -> None:
    for member in members:
        member.tell(op=op)


def _take(member: _Member, message: dict[str, Any], rows: Rows) -> None:
    """Note what a worker said."""
    match message["op"]:
        case "progress":
            member.progress = message
        case "block":
            rows.add(message["rows"], member.index)
            member.lateness.record(np.frombuffer(message["late"], dtype=np.int64))
            member.in_flight += message["in_flight"]
        case "ended":
            told = {"worker": member.index, "lateness": member.lateness, "in_flight": bytes(member.in_flight)}
            member.ended = message | told


def _kill_silent(members: list[_Member]) -> None:
    """End the workers that should long have ended their step; the end of their pipe is noticed as any death is."""
    for member in members:
        if member.is_alive and member.ended is None:
            member.process.kill()


def _progress(members: list[_Member], elapsed_ns: int) -> StepProgress:
    """Add up what the workers last said."""
    said = [member.progress for member in members if member.progress]
    done, busy = sum(p["done"] for p in said), sum(p["busy"] for p in said)
    return StepProgress(
        elapsed_s=max(0, elapsed_ns) / NS_PER_S,
        sent=done + busy,
        done=done,
        in_flight=busy + sum(p["waiting"] for p in said),
        oldest_pending_s=max([p["oldest_ns"] for p in said], default=0) / NS_PER_S,
    )


def _view(step: Step, start_ns: int, now: int, members: list[_Member], rows: Table) -> StepView:
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    result = StepResult.from_arrays(
        step, rows[:, 0], rows[:, 3], rows[:, 4].astype(np.uint8), start_ns=start_ns, end_ns=now, aborted=True
    )
    return StepView(progress=_progress(members, now - start_ns), result=result)
