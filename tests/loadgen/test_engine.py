"""The engine's hot path: whole requests out, bounded replies in, a connection a user, wake-ups shared at high rates."""

import asyncio
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import pytest

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


@pytest.mark.parametrize("coalesce_s", [0, 100])
def test_wake_ups_are_as_far_apart_as_asked(coalesce_s: int) -> None:
    """After a wake-up the next one is at the next due time, but no sooner than asked."""
    loop = asyncio.new_event_loop()

    async def connect(_: Engine) -> None:
        await asyncio.sleep(60)

    engine, timer = Engine(loop, connect, lambda _: None), _Timer()
    engine._timer.close()
    engine._timer = timer  # type: ignore[assignment]
    start_ns = now_ns()
    due = np.array([0, 10 * NS_PER_S], dtype=np.int64)
    load = Load(
        start_ns=start_ns, duration_s=100.0, schedule=iter([due]), users=0, think=None, requests=repeat(b""),
        timeout_ns=10**12, connections=1, coalesce_ns=coalesce_s * NS_PER_S,
    )  # fmt: skip
    engine.start(load)
    engine._tick()
    assert timer.armed[0] == start_ns
    if coalesce_s:
        assert start_ns + coalesce_s * NS_PER_S <= timer.armed[1] <= now_ns() + coalesce_s * NS_PER_S
    else:
        assert timer.armed[1] == start_ns + 10 * NS_PER_S
    for task in asyncio.all_tasks(loop):
        task.cancel()
    engine._running = False
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
