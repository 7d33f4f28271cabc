"""The engine's hot path: whole requests out, bounded replies in, a connection a user, wake-ups shared at high rates."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest
import uvloop

from analysis import Step
from loadgen.clock import NS_PER_S, now_ns
from loadgen.engine import Engine, Load
from loadgen.fleet import Fleet, Setup
from loadgen.target import Endpoint, request_bytes
from tests.fake_target import FakeTarget, fake_target

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the misbehaving target for the whole module."""
    with fake_target() as served:
        yield served


def _run(url: str, step: Step, body: bytes | None = None, **changes: Any) -> tuple[Any, dict[str, Any], dict[str, int]]:
    endpoint = Endpoint.of(url)
    request = request_bytes(endpoint, None, {}, body)
    settings: dict[str, Any] = {"timeout_ns": 5 * 10**9, "connections": 64, "workers": 1, **changes}
    with Fleet(Setup(endpoint=endpoint, request=request, **settings)) as fleet:
        return fleet.run_step(step, lambda _: False)


def test_a_request_larger_than_the_socket_s_buffer_arrives_whole(target: FakeTarget) -> None:
    """A body of 8 MB, which one write cannot pass to the system, is read to its end by the target, again and again."""
    result, _, _ = _run(f"{target.base}/ok", Step(users=2, duration_s=0.4), body=b"x" * 8_000_000)
    assert result.counts["ok"] == result.offered > 2


def test_headers_without_end_are_given_up() -> None:
    """A target that sends headers for ever costs the client 64 KiB a connection, not its memory."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for _ in range(100):
            writer.write(b"X-Filler: " + b"x" * 20_000 + b"\r\n")
            await writer.drain()

    with fake_target(flood) as flooding:
        result, _, errors = _run(flooding.base, Step(rate_rps=50.0, duration_s=0.2, arrivals="constant"))
    assert result.counts["protocol_error"] == result.offered == 10
    assert errors == {"headers longer than 64 KiB": 10}


def test_a_switch_of_protocols_is_an_error() -> None:
    """A target that answers 101 leaves HTTP/1.1: the request failed, and the connection is not used again."""

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes")
        await reader.read()

    with fake_target(switch) as switching:
        result, client, errors = _run(switching.base, Step(rate_rps=50.0, duration_s=0.2, arrivals="constant"))
    assert result.counts["protocol_error"] == result.offered == 10
    assert errors == {"the target switched to another protocol": 10}
    assert client["connections_opened"] == 10


def test_each_user_keeps_a_connection_of_its_own(target: FakeTarget) -> None:
    """Thirty users who think hold thirty connections open, as thirty clients would, though few are busy at once."""
    _, client, _ = _run(f"{target.base}/ok", Step(users=30, duration_s=1.0), think_s=0.1)
    assert client["connections"] == client["connections_opened"] == 30


def test_users_share_connections_when_there_are_fewer(target: FakeTarget) -> None:
    """With room for eight connections, thirty users think and ask by turns, and each is answered."""
    result, client, _ = _run(f"{target.base}/ok", Step(users=30, duration_s=0.6), think_s=0.1, connections=8)
    assert client["connections"] == 8
    assert result.counts["ok"] == result.offered > 60


class _Timer:
    """Stand in for the timer: note what is armed."""

    def __init__(self) -> None:
        self.armed: list[int] = []

    def arm(self, at_ns: int) -> None:
        self.armed.append(at_ns)

    def disarm(self) -> None:
        pass

    close = disarm


def _load(**changes: Any) -> Load:
    settings: dict[str, Any] = {
        "start_ns": now_ns(), "duration_s": 100.0, "schedule": iter([np.array([0], dtype=np.int64)]), "users": 0,
        "think": None, "requests": repeat(b""), "timeout_ns": 10**12, "connections": 1,
    }  # fmt: skip
    return Load(**(settings | changes))


def _in_process(
    connect: Callable[[Engine], Coroutine[Any, Any, None]], work: Callable[[Engine], Coroutine[Any, Any, None]]
) -> None:
    """Run an engine on a loop of this process; `work` drives it."""

    async def run() -> None:
        engine = Engine(asyncio.get_running_loop(), connect, lambda _: None)
        try:
            await work(engine)
        finally:
            engine._running = False
            engine._timer.close()
            pending = asyncio.all_tasks() - {asyncio.current_task()}
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            gc.enable()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


@pytest.mark.parametrize("coalesce_s", [0, 100])
def test_wake_ups_are_as_far_apart_as_asked(coalesce_s: int) -> None:
    """After a wake-up the next one is at the next due time, but no sooner than asked."""

    async def connect(_: Engine) -> None:
        await asyncio.sleep(60)

    async def work(engine: Engine) -> None:
        engine._timer.close()
        engine._timer = timer = _Timer()  # type: ignore[assignment]
        due = np.array([0, 10 * NS_PER_S], dtype=np.int64)
        load = _load(schedule=iter([due]), coalesce_ns=coalesce_s * NS_PER_S)
        engine.start(load)
        engine._tick()
        assert timer.armed[0] == load.start_ns
        if coalesce_s:
            assert load.start_ns + coalesce_s * NS_PER_S <= timer.armed[1] <= now_ns() + coalesce_s * NS_PER_S
        else:
            assert timer.armed[1] == load.start_ns + 10 * NS_PER_S

    _in_process(connect, work)


def test_failing_to_connect_leaves_nothing_behind() -> None:
    """The collector is off during a step, so a refused connection must leave no cycle."""

    async def refuse(_: Engine) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    async def work(engine: Engine) -> None:
        engine.start(_load())
        await engine._open()
        before = len(gc.get_objects())
        for _ in range(300):
            await engine._open()
        await asyncio.sleep(0.01)  # timers are closed by the loop
        assert len(gc.get_objects()) - before < 300

    _in_process(refuse, work)


def test_connects_under_way_are_left_with_the_address() -> None:
    """When the target has moved, nobody waits for the old address to answer: the connect begins anew."""
    begun = []

    async def connect(_: Engine) -> None:
        begun.append(now_ns())
        await asyncio.sleep(60)

    async def work(engine: Engine) -> None:
        engine.start(_load())
        engine._tick()
        await asyncio.sleep(0.01)
        assert len(begun) == 1
        engine.retire()
        await asyncio.sleep(0.01)
        assert len(begun) == 2

    _in_process(connect, work)


def test_slow_connects_do_not_hold_others_up() -> None:
    """At most 64 connects begin at once, and 10 ms later as many more: their number does not depend on their time."""
    begun = []

    async def connect(_: Engine) -> None:
        begun.append(now_ns())
        await asyncio.sleep(60)

    async def work(engine: Engine) -> None:
        engine.start(_load(schedule=iter([np.zeros(200, dtype=np.int64)]), connections=1000))
        engine._tick()
        await asyncio.sleep(0)
        assert len(begun) == 64
        for _ in range(200):
            await asyncio.sleep(0.01)
            if len(begun) == 200:
                break
        assert len(begun) == 200

    _in_process(connect, work)


def test_what_the_system_says_of_connecting_is_always_counted() -> None:
    """However many kinds of errors a target invents, the client's own limits are told by name."""

    async def connect(_: Engine) -> None:
        await asyncio.sleep(60)

    async def work(engine: Engine) -> None:
        engine.start(_load())
        for number in range(100):
            engine.note(f"unexpected reply: /id is {number}, not 1")
        engine.note("cannot connect: Too many open files")
        assert engine._words["cannot connect: Too many open files"] == 1
        assert engine._words["other errors"] == 50

    _in_process(connect, work)


def test_a_closed_connection_makes_room_at_once(target: FakeTarget) -> None:
    """Requests that wait at the connection limit do not wait for the next sweep when a connection closes."""
    step = Step(rate_rps=600.0, duration_s=0.1, arrivals="constant")
    result, _, _ = _run(f"{target.base}/close", step, connections=1, timeout_ns=2 * 10**9)
    assert result.counts["ok"] == result.offered == 60  # at one in 50 ms, half of them would be left unsent
