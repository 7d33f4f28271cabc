"""Fuzz the reply path: the real engine and its connections, fed from memory. No sockets, no other process.

`python -m tests.faults.fuzz 1000000` feeds a million streams and says what came of them.
"""

import asyncio
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from analysis import Outcome
from loadgen.checked import CheckedConnection, Checks
from loadgen.clock import now_ns
from loadgen.engine import Engine, Load
from loadgen.http1 import Connection, HeadConnection
from loadgen.rows import ROW_BYTES
from scenarios.expect import Expect
from tests.faults.replies import Entropy, Stream, stream

MOST_BUFFERED_BYTES = 65536
_HANG_S = 60.0
_CONNECTIONS = 4
_BATCH = 100  # streams a step in the long run


class Counted(Connection):
    """Know how many are alive; they must go by their reference counts, for the collector is off during a step."""

    __slots__ = ()
    alive = 0

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        Counted.alive += 1

    def __del__(self) -> None:
        Counted.alive -= 1


class CountedHead(HeadConnection, Counted):
    """The same for HEAD."""

    __slots__ = ()


class CountedChecked(CheckedConnection, Counted):
    """The same where replies are read to be checked."""

    __slots__ = ()


_CHECKS = Checks.of(Expect())
KINDS: dict[str, Callable[[Engine], Counted]] = {
    "GET": Counted, "HEAD": CountedHead, "checked": lambda engine: CountedChecked(engine, _CHECKS),
}  # fmt: skip


class Wire(asyncio.Transport):
    """Deliver to one connection the stream that belongs to each request it writes."""

    def __init__(self, rig: "Rig") -> None:
        super().__init__()
        self._rig = rig
        self._protocol: Any = rig.connection(rig.engine)
        self._is_closing = False
        self._is_clean = True  # nothing but valid replies so far
        rig.wires.add(self)
        self._protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look like TLS, so that requests are written here and not to a socket."""
        return self if name == "sslcontext" else default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take a request; its bytes are its number."""
        self._rig.loop.call_soon(self._deliver, self._rig.streams[int(bytes(data))])

    def writelines(self, list_of_data: Any) -> None:
        """Take several."""
        for data in list_of_data:
            self.write(data)

    def is_closing(self) -> bool:
        """Say that nothing comes any more."""
        return self._is_closing

    def close(self) -> None:
        """End as a transport does: the protocol learns of it a little later."""
        if not self._is_closing:
            self._is_closing = True
            self._rig.loop.call_soon(self.lose, None)

    abort = close

    def lose(self, error: Exception | None) -> None:
        """Tell the protocol, once, that the stream is gone."""
        self._is_closing = True
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            self._rig.wires.discard(self)
            protocol.connection_lost(error)

    def _deliver(self, reply: Stream) -> None:
        if self._is_closing:
            return
        protocol, due_ns = self._protocol, self._protocol.due_ns
        assert protocol.busy or not self._is_clean  # a stray second reply may have answered the request already
        self._is_clean = self._is_clean and reply.expected is not None
        if self._is_clean:
            self._rig.expected[due_ns] = reply
        for piece in reply.pieces:
            if self._is_closing:
                return
            protocol.data_received(piece)
            assert self._is_closing or _buffered(protocol) <= MOST_BUFFERED_BYTES + len(piece)
        if self._is_closing:
            return
        match reply.end:
            case "eof":
                if not protocol.eof_received():
                    self.close()
            case "reset":
                self.lose(ConnectionResetError())
            case _ if protocol.busy and protocol.due_ns == due_ns:  # what the engine does when its time is over
                protocol.give_up(Outcome.TIMEOUT, "timeout")


def _buffered(protocol: Any) -> int:
    """Return the bytes that a connection holds; a body that is to be checked has a bound of its own."""
    names = {name for kind in type(protocol).__mro__ for name in getattr(kind, "__slots__", ())}
    held = (getattr(protocol, name, None) for name in names - {"_body"})
    return sum(len(value) for value in held if isinstance(value, bytes | bytearray))


class Rig:
    """Run streams through one engine, a step at a time, and check what must always hold."""

    def __init__(self, kind: str) -> None:
        self.connection = KINDS[kind]
        self.is_head = kind == "HEAD"
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(self._break)
        self.engine = Engine(self.loop, self._connect, self._emit)
        self.wires: set[Wire] = set()
        self.streams: Sequence[Stream] = ()
        self.expected: dict[int, Stream] = {}
        self.outcomes: Counter[str] = Counter()
        self._broken: BaseException | None = None
        self._rows: list[np.ndarray[Any, np.dtype[np.int64]]] = []
        self._ended: asyncio.Future[dict[str, Any]]

    async def _connect(self, _engine: Engine) -> None:
        Wire(self)

    def _break(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Keep what came out of a callback, and end the step."""
        self._broken = self._broken or context.get("exception") or AssertionError(context["message"])
        if not self._ended.done():
            self._ended.set_result({})

    def _emit(self, message: dict[str, Any]) -> None:
        if message["op"] == "block":
            self._rows.append(np.frombuffer(message["rows"], dtype=np.int64).reshape(-1, ROW_BYTES // 8))
        elif message["op"] == "ended" and not self._ended.done():
            self._ended.set_result(message)

    def check(self, streams: Sequence[Stream]) -> None:
        """Answer one request with each stream.

        Raises:
            AssertionError: An exception came out of a callback, a request did not end exactly once, a valid reply was
                misjudged, the step did not end, or a connection outlived its wire.
        """
        self.streams, self.expected, self._rows = streams, {}, []
        self._ended = self.loop.create_future()
        start_ns = now_ns()
        numbers: Iterator[int] = count()
        self.engine.start(
            Load(
                start_ns=start_ns,
                duration_s=1e-3,
                schedule=iter([np.arange(len(streams))]),
                users=0,
                think=None,
                requests=(b"%d" % number for number in numbers),
                timeout_ns=round(_HANG_S * 1e9),
                connections=_CONNECTIONS,
            )
        )
        self.loop.run_until_complete(asyncio.wait_for(self._ended, _HANG_S))
        for wire in list(self.wires):
            self.loop.call_soon(wire.lose, None)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        if self._broken:
            raise self._broken
        self._check_books(start_ns)
        assert not self.wires
        assert Counted.alive == 0, "a connection outlives its wire: something refers back to it"

    def _check_books(self, start_ns: int) -> None:
        rows = np.concatenate(self._rows)
        due, sent, first, done, outcome = rows[np.argsort(rows[:, 0])].T
        assert np.array_equal(due, start_ns + np.arange(len(self.streams))), "a request ended twice, or never"
        assert np.all(sent[sent > 0] >= due[sent > 0])
        assert np.all(first[first > 0] >= sent[first > 0])
        assert np.all(done >= first)
        assert np.all(sent > 0)
        assert np.all(first[outcome <= Outcome.HTTP_STATUS] > 0), "a reply ended before it began"
        judged = dict(zip(due.tolist(), outcome.tolist(), strict=True))
        for at_ns, reply in self.expected.items():
            assert judged[at_ns] == reply.expected, (reply, Outcome(judged[at_ns]).name)
        self.outcomes.update(Outcome(kind).name.lower() for kind in judged.values())

    def close(self) -> None:
        """Give the event loop back."""
        self.engine._timer.close()
        self.loop.close()


def main() -> None:
    """Feed as many streams as asked for, and print one line."""
    total, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rigs = [Rig(kind) for kind in ("GET", "checked", "GET", "HEAD")]
    began, settled_kib = time.monotonic(), 0
    for batch in range(-(-total // _BATCH)):
        rig, rng = rigs[batch % len(rigs)], random.Random(f"{seed}/{batch}")
        streams = [stream(Entropy(rng.randbytes(48)), is_head=rig.is_head) for _ in range(_BATCH)]
        try:
            rig.check(streams)
        except BaseException:
            print(f"broken by seed {seed}, batch {batch}", flush=True)
            raise
        if batch == total // _BATCH // 10:
            settled_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled_kib
    outcomes = sum((rig.outcomes for rig in rigs), Counter[str]())
    told = ", ".join(f"{number} {name}" for name, number in outcomes.most_common())
    print(
        f"{outcomes.total()} reply streams (seed {seed}) in {time.monotonic() - began:.0f} s, memory grew by "
        f"{grown_kib / 1024:.1f} MiB after the first tenth: {told}"
    )
    for rig in rigs:
        rig.close()


if __name__ == "__main__":
    main()
