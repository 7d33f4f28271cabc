"""The load engine of one process: which request goes out when, on which connection, and what became of it."""

import asyncio
import gc
import heapq
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis import Histogram, Outcome
from loadgen.arrivals import DueTimes
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.pacing import timer

if TYPE_CHECKING:
    from loadgen.http1 import Connection

COLUMNS = 5  # due, sent, first byte, done (ns), outcome
_SWEEP_S = 0.05
_SWEEPS_PER_PROGRESS = 2
_BLOCK_NS = NS_PER_S
_BLOCK_ROWS = 4096  # a block is flushed at a second, or at this many rows, so that one write to the pipe stays short
_MAX_CONNECTING = 64  # paces connect storms below a usual listen backlog
_RETRY_NS = 10 * NS_PER_MS  # a user whose connection broke waits this long, so that a dead target is not hammered
_MAX_KINDS_OF_WORDS = 50
_NEVER_NS = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Tell one engine its share of a step.

    Attributes:
        start_ns: Start of the step on the monotonic clock.
        duration_s: How long requests fall due, seconds.
        schedule: Due times from the step's start, ns, in chunks; None in a closed loop.
        users: This engine's users in a closed loop; 0 in an open one.
        think: Yields each think time, ns; used in a closed loop.
        requests: Yields the bytes of each request.
        timeout_ns: A request is given up this long after its due time.
        connections: Most connections that may be open at once.
    """

    start_ns: int
    duration_s: float
    schedule: DueTimes | None
    users: int
    think: Iterator[int] | None
    requests: Iterator[bytes]
    timeout_ns: int
    connections: int


class Engine:
    """Run steps on one event loop, connections kept between them.

    `emit` receives messages: "progress" every 100 ms, "block" of rows about every second, "ended" once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connect: Callable[["Engine"], Any],
        emit: Callable[[dict[str, Any]], None],
    ) -> None:
        self._loop = loop
        self._connect = connect
        self._emit = emit
        self._timer = timer(loop, self._tick)
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()  # due times that found no free connection, oldest first
        self._connecting: set[asyncio.Task[None]] = set()
        self._running = False
        self._sweep_handle: asyncio.TimerHandle | None = None
        self._late: list[int] = []  # ns from due to when this engine turned to the request
        self._rows: list[int] = []
        self.record = self._rows.extend

    @property
    def pacing(self) -> str:
        """Return the name of the timer in use."""
        return self._timer.name

    # a step

    def start(self, load: Load) -> None:
        """Begin a step. Its end is the "ended" message."""
        self._load = load
        self._words: Counter[str] = Counter()
        self._flushed = 0
        self._lateness = Histogram()
        self._stopped = False  # nothing more falls due
        self._end_ns = load.start_ns + round(load.duration_s * NS_PER_S)
        self._waited = self._opened = self._peak = self._lag_ns = self._sweeps = 0
        self._next_request = load.requests.__next__
        self._chunk: list[int] = []
        self._chunk_at = 0
        self._later: list[int] = []
        if load.schedule is None:
            spread_ns = min(NS_PER_S // 5, (self._end_ns - load.start_ns) // 10)  # users do not arrive all at once
            self._later = [load.start_ns + spread_ns * k // load.users for k in range(load.users)]
        self._next_due = self._following_due()
        gc.collect()
        gc.freeze()
        gc.disable()
        self._running = True
        self._cpu_ns, self._block_ns = time.process_time_ns(), now_ns()
        self._timer.arm(self._next_due)
        self._sweep_later()

    def stop(self) -> None:
        """Let nothing more fall due; what waits for a connection stays unsent, what was sent is awaited."""
        if not self._running:
            return
        now = now_ns()
        while self._next_due <= now:  # due, and not turned to yet
            self._waiting.append(self._next_due)
            self._late.append(now - self._next_due)
            self._next_due = self._following_due()
        self._stopped = True
        self._next_due = _NEVER_NS
        self._timer.disarm()
        while self._waiting:
            self.fail(self._waiting.popleft(), 0, 0, Outcome.UNSENT, "stopped before it was sent")
        self._end_if_over()

    def abandon(self) -> None:
        """Stop, and give up whatever is in flight."""
        self.stop()
        for connection in [c for c in self._connections if c.busy]:
            connection.give_up(Outcome.TIMEOUT, "given up when the run was interrupted")
        self._end_if_over()

    def _following_due(self) -> int:
        """Return when the next request falls due on the monotonic clock, taking it off the schedule."""
        load = self._load
        if load.schedule is None:
            due = heapq.heappop(self._later) if self._later else _NEVER_NS
            return due if due < self._end_ns else _NEVER_NS
        while self._chunk_at >= len(self._chunk):
            chunk = next(load.schedule, None)
            if chunk is None:
                self._stopped = True
                return _NEVER_NS
            self._chunk, self._chunk_at = (chunk + load.start_ns).tolist(), 0
        due = self._chunk[self._chunk_at]
        self._chunk_at += 1
        return due

    def _tick(self) -> None:
        """Send everything that is due, and sleep until the next."""
        due, now, idle, late = self._next_due, now_ns(), self._idle, self._late.append
        while due <= now:
            if idle:
                connection = idle.pop()
                connection.send(due, self._next_request())
                late(connection.sent_ns - due)
            else:
                late(now - due)
                self._waiting.append(due)
                if len(self._connections) >= self._load.connections:
                    self._waited += 1
                self._open_connections()
            due = self._following_due()
        self._next_due = due
        if due == _NEVER_NS:
            self._timer.disarm()
            self._end_if_over()
        else:
            self._timer.arm(due)

    def _user_due(self, due_ns: int) -> None:
        """Let a user of the closed loop send at `due_ns`, unless the step is over by then."""
        if due_ns >= self._end_ns or self._stopped:
            self._end_if_over()
            return
        if due_ns >= self._next_due:
            heapq.heappush(self._later, due_ns)
            return
        if self._next_due != _NEVER_NS:
            heapq.heappush(self._later, self._next_due)
        self._next_due = due_ns
        self._timer.arm(due_ns)

    # called by connections

    def connected(self, connection: "Connection") -> None:
        """Take a new connection into service."""
        self._connections.add(connection)
        self._opened += 1
        self._peak = max(self._peak, len(self._connections))
        self._serve(connection)

    def free(self, connection: "Connection", at_ns: int) -> None:
        """Reuse a connection whose reply was complete at `at_ns`."""
        load = self._load
        if self._waiting:
            connection.send(self._waiting.popleft(), self._next_request())
            if load.schedule is None:
                self.freed(at_ns)
        elif load.think is None and load.users and at_ns < self._end_ns and not self._stopped:
            connection.send(at_ns, self._next_request())  # a user without think time is due again at once
        else:
            self._idle.append(connection)
            self.freed(at_ns)

    def freed(self, at_ns: int, *, pause_ns: int = 0) -> None:
        """Note that a request ended at `at_ns`: in a closed loop its user thinks, then is due again."""
        load = self._load
        if load.schedule is not None:
            if self._stopped:
                self._end_if_over()
        elif self._running:
            self._user_due(at_ns + max(pause_ns, next(load.think) if load.think else 0))

    def forget(self, connection: "Connection") -> None:
        """Drop a connection that is closed or broken."""
        self._connections.discard(connection)
        if not connection.busy and connection in self._idle:
            self._idle.remove(connection)

    def note(self, words: str) -> None:
        """Count an error by what the target or the system said of it."""
        if words in self._words or len(self._words) < _MAX_KINDS_OF_WORDS:
            self._words[words] += 1
        else:
            self._words["other errors"] += 1

    def fail(self, due_ns: int, sent_ns: int, first_ns: int, outcome: Outcome, words: str) -> None:
        """Record a request that did not succeed, learnt now."""
        now = now_ns()
        self.record((due_ns, sent_ns, first_ns, now, int(outcome)))
        self.note(words)
        self.freed(now, pause_ns=_RETRY_NS)

    # connections

    def _serve(self, connection: "Connection") -> None:
        if self._waiting and self._running:
            connection.send(self._waiting.popleft(), self._next_request())
        else:
            self._idle.append(connection)

    def _open_connections(self) -> None:
        """Open as many connections as requests wait for, within the limits."""
        room = min(self._load.connections - len(self._connections), _MAX_CONNECTING) - len(self._connecting)
        for _ in range(min(room, len(self._waiting) - len(self._connecting))):
            task = self._loop.create_task(self._open())
            self._connecting.add(task)
            task.add_done_callback(self._opening_ended)

    async def _open(self) -> None:
        try:
            await asyncio.wait_for(self._connect(self), self._load.timeout_ns / NS_PER_S)
        except (OSError, TimeoutError) as error:
            if self._waiting and self._running:
                words = (error.strerror if isinstance(error, OSError) else None) or "connecting took too long"
                self.fail(self._waiting.popleft(), 0, 0, Outcome.CONNECT_ERROR, f"cannot connect: {words}")

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        if self._waiting and self._running:
            self._open_connections()

    # every 50 ms

    def _sweep(self) -> None:
        """Give up what is too old, tell progress, flush rows, measure the loop's lag."""
        if not self._running:
            return
        now = now_ns()
        self._lag_ns = max(self._lag_ns, now - self._sweep_due_ns)
        expired_ns = now - self._load.timeout_ns
        oldest = now
        for connection in [c for c in self._connections if c.busy]:
            if connection.due_ns < expired_ns:
                connection.give_up(Outcome.TIMEOUT, "timeout")
            elif connection.due_ns < oldest:
                oldest = connection.due_ns
        while self._waiting and self._waiting[0] < expired_ns:
            self.fail(self._waiting.popleft(), 0, 0, Outcome.UNSENT, "no free connection before the timeout")
        if self._waiting:
            oldest = min(oldest, self._waiting[0])
            self._open_connections()
        if not self._running:
            return
        self._sweeps += 1
        if self._sweeps % _SWEEPS_PER_PROGRESS == 0:
            self._tell(now, oldest)
        if self._stopped or (self._load.schedule is None and now >= self._end_ns):
            self._end_if_over()
        if self._running:
            self._sweep_later()

    def _sweep_later(self) -> None:
        self._sweep_due_ns = now_ns() + round(_SWEEP_S * NS_PER_S)
        self._sweep_handle = self._loop.call_later(_SWEEP_S, self._sweep)

    def _tell(self, now: int, oldest: int) -> None:
        if now - self._block_ns >= _BLOCK_NS or len(self._rows) >= _BLOCK_ROWS * COLUMNS:
            self._flush(now)
        busy = sum(c.busy for c in self._connections)
        self._emit(
            {
                "op": "progress",
                "done": self._flushed + len(self._rows) // COLUMNS,
                "busy": busy,
                "waiting": len(self._waiting),
                "oldest_ns": now - oldest,
                "connections": len(self._connections),
            }
        )

    def _flush(self, now: int) -> None:
        rows = self._rows
        if rows:
            self._emit({"op": "block", "rows": np.array(rows, dtype=np.int64).tobytes()})
            self._flushed += len(rows) // COLUMNS
            rows.clear()
        self._lateness.record(self._late)
        self._late.clear()
        self._block_ns = now

    def _end_if_over(self) -> None:
        """End the step once nothing more falls due and nothing is in flight."""
        if not self._running or self._waiting or any(c.busy for c in self._connections):
            return
        now = now_ns()
        if now < self._load.start_ns:  # a step without any request ends when it begins
            return
        if not self._stopped and (self._load.schedule is not None or now < self._end_ns):
            return
        self._running = False
        if self._sweep_handle is not None:
            self._sweep_handle.cancel()
        self._timer.disarm()
        self._flush(now)
        gc.enable()
        self._emit(
            {
                "op": "ended",
                "at_ns": now,
                "cpu_ns": time.process_time_ns() - self._cpu_ns,
                "lag_ns": self._lag_ns,
                "lateness": self._lateness.as_json(),
                "opened": self._opened,
                "connections": self._peak,
                "connection_waits": self._waited,
                "errors": dict(self._words),
            }
        )
