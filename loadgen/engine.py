"""The load engine of one process: which request goes out when, on which connection, and what became of it."""

import asyncio
import gc
import heapq
import struct
import time
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from analysis import Outcome
from loadgen.arrivals import DueTimes
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.pacing import timer
from loadgen.rows import ROW_BYTES, pack_row

if TYPE_CHECKING:
    from loadgen.http1 import Connection

SAMPLE_NS = 10 * NS_PER_MS  # how often requests in flight are counted
_SAMPLES_PER_SWEEP = 5
_SAMPLES_PER_PROGRESS = 10
_BLOCK_NS = NS_PER_S
_BLOCK_BYTES = 4096 * ROW_BYTES  # a block is flushed at a second, or at this size, so that one write stays short
_MAX_FRESH = 64  # connects begun within 10 ms and not through: paces storms below a usual listen backlog
_REFUSED_PER_COLLECTION = 1000
_RETRY_NS = 10 * NS_PER_MS  # a user whose connection broke waits this long, so that a dead target is not hammered
_USER_SPREAD_NS = NS_PER_MS // 5  # a closed loop's users arrive this far apart, so that their connections do too
_MAX_KINDS_OF_WORDS = 50
_CANNOT_CONNECT = "cannot connect: "  # what follows are the system's words, and those are few
_NEVER_NS = 1 << 62
_pack_sample = struct.Struct("=2q").pack  # at (ns), requests in flight


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
        coalesce_ns: Wake-ups for sending are at least this far apart: what falls due in between leaves together.
    """

    start_ns: int
    duration_s: float
    schedule: DueTimes | None
    users: int
    think: Iterator[int] | None
    requests: Iterator[bytes]
    timeout_ns: int
    connections: int
    coalesce_ns: int = 0


class Engine:
    """Run steps on one event loop, connections kept between them.

    `emit` receives messages: "progress" every 100 ms, "block" about every second, "ended" once. A block holds, as
    bytes of int64: `rows` (due, sent, first byte, done in ns, outcome), `late` (ns from the due time to when the engine
    turned to the request) and `in_flight` (pairs: at ns, requests under way), sampled every 10 ms.
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
        self._busy: set[Connection] = set()
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._waiting: deque[int] = deque()  # due times that found no free connection, oldest first
        self._connecting: set[asyncio.Task[None]] = set()
        self._fresh: set[asyncio.Task[None]] = set()  # those of them that began after the last sample
        self._running = False
        self._sample_handle: asyncio.TimerHandle | None = None
        self.usual_reply = b""  # kept by connections: the last good reply that came in one piece
        self._late = array("q")
        self._in_flight = bytearray()
        self._rows = bytearray()
        self.record: Callable[[bytes], None] = self._rows.extend

    @property
    def pacing(self) -> str:
        """Return the name of the timer in use."""
        return self._timer.name

    @property
    def _connections(self) -> int:
        """Return the number of open connections."""
        return len(self._busy) + len(self._idle)

    # a step

    def start(self, load: Load) -> None:
        """Begin a step. Its end is the "ended" message."""
        self._load = load
        self._words: Counter[str] = Counter()
        self._flushed = 0
        self._stopped = False  # nothing more falls due
        self._end_ns = load.start_ns + round(load.duration_s * NS_PER_S)
        self._waited = self._opened = self._refused = self._lag_ns = self._samples = 0
        self._peak = self._connections
        self._next_request = load.requests.__next__
        self._users: list[int] = []  # heap of when users are due again
        self._again_until_ns = 0  # until then a user is due again with the reply
        if load.schedule is None:
            self._again_until_ns = 0 if load.think else self._end_ns
            spread_ns = min(max(NS_PER_S // 5, _USER_SPREAD_NS * load.users), (self._end_ns - load.start_ns) // 10)
            self._users = [load.start_ns + spread_ns * k // load.users for k in range(load.users)]
        chunks = load.schedule or ()
        self._schedule = chain.from_iterable((chunk + load.start_ns).tolist() for chunk in chunks)
        self._next_due = self._following_due()
        gc.collect()
        gc.freeze()
        gc.disable()
        self._running = True
        self._cpu_ns, self._block_ns = time.process_time_ns(), now_ns()
        self._offering: dict[str, int] = {}  # its time and CPU time, without the drain
        self._timer.arm(self._next_due)
        self._sample_later()

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
        self._end_offering(now)
        self._again_until_ns = 0
        self._next_due = _NEVER_NS
        self._timer.disarm()
        while self._waiting:
            self.fail(self._waiting.popleft(), 0, 0, Outcome.UNSENT, "stopped before it was sent")
        self._end_if_over()

    def abandon(self) -> None:
        """Stop, and give up whatever is in flight."""
        self.stop()
        for connection in list(self._busy):
            connection.give_up(Outcome.TIMEOUT, "given up when the run was interrupted")
        self._end_if_over()

    def _following_due(self) -> int:
        """Return when the next request falls due on the monotonic clock, taking it off the schedule."""
        if self._load.schedule is None:
            due = heapq.heappop(self._users) if self._users else _NEVER_NS
            return due if due < self._end_ns else _NEVER_NS
        due = next(self._schedule, _NEVER_NS)
        self._stopped = due == _NEVER_NS
        return due

    def _tick(self) -> None:
        """Send everything that is due, and sleep until the next."""
        due, now = self._next_due, now_ns()
        idle, busy, late = self._idle, self._busy.add, self._late.append
        is_open = self._load.schedule is not None
        while due <= now:
            if idle and (is_open or self._has_all_connections()):
                connection, _ = idle.popitem(last=is_open)  # an open loop keeps few busy, a closed one all of them
                busy(connection)
                connection.send(due, self._next_request())
                late(connection.sent_ns - due)
            else:
                late(now - due)
                self._waiting.append(due)
                if self._connections >= self._load.connections:
                    self._waited += 1
                self._open_connections()
            due = self._following_due()
        self._next_due = due
        if due == _NEVER_NS:
            self._timer.disarm()
            self._end_if_over()
        else:
            self._timer.arm(max(due, now + self._load.coalesce_ns))

    def _has_all_connections(self) -> bool:
        """Say that each user of the closed loop has a connection, or that no more may be opened."""
        load = self._load
        return self._connections + len(self._connecting) >= min(load.users, load.connections)

    def _user_due(self, due_ns: int) -> None:
        """Let a user of the closed loop send at `due_ns`, unless the step is over by then."""
        if due_ns >= self._end_ns or self._stopped:
            self._end_if_over()
            return
        if due_ns >= self._next_due:
            heapq.heappush(self._users, due_ns)
            return
        if self._next_due != _NEVER_NS:
            heapq.heappush(self._users, self._next_due)
        self._next_due = due_ns
        self._timer.arm(due_ns)

    # called by connections

    def connected(self, connection: "Connection") -> None:
        """Take a new connection into service."""
        self._opened += 1
        self._serve(connection)
        self._peak = max(self._peak, self._connections)

    def free(self, connection: "Connection", at_ns: int) -> None:
        """Reuse a connection whose reply was complete at `at_ns`."""
        if self._waiting:
            connection.send(self._waiting.popleft(), self._next_request())
        elif at_ns < self._again_until_ns:
            connection.send(at_ns, self._next_request())
            return
        else:
            self._busy.discard(connection)
            self._idle[connection] = None
        self.freed(at_ns)

    def freed(self, at_ns: int, *, pause_ns: int = 0) -> None:
        """Note that a request ended at `at_ns`: in a closed loop its user thinks, then is due again."""
        load = self._load
        if load.schedule is not None:
            if self._stopped:
                self._end_if_over()
        elif self._running:
            self._user_due(at_ns + max(pause_ns, next(load.think) if load.think else 0))

    def retire(self) -> None:
        """Close every connection as it becomes idle: the place that they lead to is gone."""
        for task in self._connecting:
            task.cancel()
        for connection in [*self._busy, *self._idle]:
            connection.retire()

    def forget(self, connection: "Connection") -> None:
        """Drop a connection that is closed or broken."""
        self._busy.discard(connection)
        self._idle.pop(connection, None)
        if self._waiting and self._running:
            self._open_connections()

    def note(self, words: str) -> None:
        """Count an error by what the target or the system said of it."""
        if words in self._words or len(self._words) < _MAX_KINDS_OF_WORDS or words.startswith(_CANNOT_CONNECT):
            self._words[words] += 1
        else:
            self._words["other errors"] += 1

    def fail(self, due_ns: int, sent_ns: int, first_ns: int, outcome: Outcome, words: str) -> None:
        """Record a request that did not succeed, learnt now."""
        now = now_ns()
        self.record(pack_row(due_ns, sent_ns, first_ns, now, int(outcome)))
        self.note(words)
        self.freed(now, pause_ns=_RETRY_NS)

    # connections

    def _serve(self, connection: "Connection") -> None:
        if self._waiting and self._running:
            self._busy.add(connection)
            connection.send(self._waiting.popleft(), self._next_request())
        else:
            self._idle[connection] = None

    def _open_connections(self) -> None:
        """Open as many connections as requests wait for, within the limits."""
        room = min(self._load.connections - self._connections, len(self._waiting)) - len(self._connecting)
        for _ in range(min(room, _MAX_FRESH - len(self._fresh))):
            task = self._loop.create_task(self._open())
            self._connecting.add(task)
            self._fresh.add(task)
            task.add_done_callback(self._opening_ended)

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._load.timeout_ns / NS_PER_S):  # wait_for leaves cycles behind
                await self._connect(self)
        except (OSError, TimeoutError) as error:
            self._refused += 1
            if self._refused % _REFUSED_PER_COLLECTION == 0:
                gc.collect()  # the loop leaves cycles of its own
            if self._waiting and self._running:
                words = (error.strerror if isinstance(error, OSError) else None) or "connecting took too long"
                self.fail(self._waiting.popleft(), 0, 0, Outcome.CONNECT_ERROR, f"{_CANNOT_CONNECT}{words}")

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._connecting.discard(task)
        self._fresh.discard(task)
        if self._waiting and self._running:
            self._open_connections()

    # every 10 ms

    def _sample(self) -> None:
        """Count what is in flight, measure the loop's lag; now and then give up what is too old, tell progress."""
        if not self._running:
            return
        now = now_ns()
        self._lag_ns = max(self._lag_ns, now - self._sample_due_ns)
        self._in_flight += _pack_sample(now, len(self._busy))
        self._samples += 1
        if self._stopped or now >= self._end_ns:
            self._end_offering(now)
        self._fresh.clear()
        if self._waiting:
            self._open_connections()
        if self._samples % _SAMPLES_PER_SWEEP == 0:
            oldest = self._sweep(now)
            if self._running and self._samples % _SAMPLES_PER_PROGRESS == 0:
                self._tell(now, oldest)
            if self._stopped or (self._load.schedule is None and now >= self._end_ns):
                self._end_if_over()
        if self._running:
            self._sample_later()

    def _end_offering(self, now: int) -> None:
        """Note, once, how long requests fell due and what that cost: the drain would dilute it."""
        if not self._offering:
            cpu_ns = time.process_time_ns() - self._cpu_ns
            self._offering = {"offering_ns": now - self._load.start_ns, "offering_cpu_ns": cpu_ns}

    def _sample_later(self) -> None:
        self._sample_due_ns = now_ns() + SAMPLE_NS
        self._sample_handle = self._loop.call_later(SAMPLE_NS / NS_PER_S, self._sample)

    def _sweep(self, now: int) -> int:
        """Give up requests that are too old; return the due time of the oldest that is left, or `now`."""
        expired_ns = now - self._load.timeout_ns
        oldest = min((c.due_ns for c in self._busy), default=now)
        if oldest < expired_ns:
            for connection in [c for c in self._busy if c.due_ns < expired_ns]:
                connection.give_up(Outcome.TIMEOUT, "timeout")
        while self._waiting and self._waiting[0] < expired_ns:
            self.fail(self._waiting.popleft(), 0, 0, Outcome.UNSENT, "no free connection before the timeout")
        if self._waiting:
            oldest = min(oldest, self._waiting[0])
        return max(oldest, expired_ns)

    def _tell(self, now: int, oldest: int) -> None:
        if now - self._block_ns >= _BLOCK_NS or len(self._rows) >= _BLOCK_BYTES:
            self._flush(now)
        self._emit(
            {
                "op": "progress",
                "done": self._flushed + len(self._rows) // ROW_BYTES,
                "busy": len(self._busy),
                "waiting": len(self._waiting),
                "oldest_ns": now - oldest,
                "connections": self._connections,
            }
        )

    def _flush(self, now: int) -> None:
        rows, late, in_flight = self._rows, self._late, self._in_flight
        self._flushed += len(rows) // ROW_BYTES
        self._emit({"op": "block", "rows": bytes(rows), "late": late.tobytes(), "in_flight": bytes(in_flight)})
        rows.clear()
        del late[:]
        in_flight.clear()
        self._block_ns = now

    def _end_if_over(self) -> None:
        """End the step once nothing more falls due and nothing is in flight."""
        if not self._running or self._waiting or self._busy:
            return
        now = now_ns()
        if now < self._load.start_ns:  # a step without any request ends when it begins
            return
        if not self._stopped and (self._load.schedule is not None or now < self._end_ns):
            return
        self._running = False
        self._end_offering(now)
        if self._sample_handle is not None:
            self._sample_handle.cancel()
        self._timer.disarm()
        self._flush(now)
        gc.enable()
        self._emit(
            {
                "op": "ended",
                "at_ns": now,
                "cpu_ns": time.process_time_ns() - self._cpu_ns,
                **self._offering,
                "lag_ns": self._lag_ns,
                "opened": self._opened,
                "connections": self._peak,
                "connection_waits": self._waited,
                "errors": dict(self._words),
            }
        )
