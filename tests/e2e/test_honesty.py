"""The generator's account of itself, from real engines on real sockets: the books close, whatever the target does."""

import contextlib
import os
import signal
import threading
from typing import Any

import pytest

from analysis import Step, StepResult
from loadgen.fleet import Fleet, Setup
from loadgen.target import Endpoint, request_bytes
from tests.fake_target import fake_target

OPEN = Step(rate_rps=200.0, duration_s=0.7, seed=4)
CLOSED = Step(users=6, duration_s=0.5)


def run(path: str, step: Step, **setup: Any) -> tuple[StepResult, dict[str, Any]]:
    """Run one step against the fake target."""
    with fake_target() as target:
        endpoint = Endpoint.of(target.base + path)
        values = {"timeout_ns": 300_000_000, "connections": 64, "workers": 1} | setup
        with Fleet(Setup(endpoint=endpoint, request=request_bytes(endpoint, None, {}, None), **values)) as fleet:
            result, client, _ = fleet.run_step(step, lambda _: False)
    return result, client


def assert_books_close(result: StepResult, client: dict[str, Any]) -> None:
    """Hold the engine's count against the rows: not just within the tolerance, but to a sample or two."""
    assert [reason for reason in result.reasons if reason.kind == "books"] == []
    assert client["in_flight_counted"] == pytest.approx(client["in_flight_implied"], rel=0.003, abs=0.02)
    assert sum(result.counts.values()) == result.offered


@pytest.mark.parametrize("step", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("path", ["/ok", "/slow/60", "/close", "/reset", "/cut", "/silent", "/garbage", "/drip"])
def test_little_s_law_holds_however_replies_end(path: str, step: Step) -> None:
    """Quick, slow, closed, reset, cut off, never answered: the engine's count and the rows agree."""
    assert_books_close(*run(path, step))


def test_little_s_law_holds_over_workers_and_in_overload() -> None:
    """Two workers, more load than connections, requests that are never sent: still the same two numbers."""
    result, client = run("/slow/200", OPEN, workers=2, connections=10)
    assert result.counts["unsent"] + result.counts["timeout"] > 0
    assert_books_close(result, client)


def test_little_s_law_holds_when_the_engine_stands_still() -> None:
    """A stall makes the engine late, and blind for a while; its books stay right."""
    with fake_target() as target, contextlib.ExitStack() as timers:
        endpoint = Endpoint.of(target.base + "/slow/60")
        request = request_bytes(endpoint, None, {}, None)
        with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=256, workers=1)) as fleet:
            pid = fleet._members[0].process.pid
            for after_s, number in ((0.25, signal.SIGSTOP), (0.5, signal.SIGCONT)):
                timer = threading.Timer(after_s, os.kill, (pid, number))
                timer.start()
                timers.callback(timer.join)
            result, client, _ = fleet.run_step(OPEN, lambda _: False)
    assert_books_close(result, client)
    assert client["lateness_max_s"] > 0.1
    assert [reason.kind for reason in result.reasons] == ["client"]


def test_what_was_sent_is_compared_with_the_schedule() -> None:
    """On connections that are open, a step says how its schedule was delivered; how well is the machine's affair."""
    with fake_target() as target:
        endpoint = Endpoint.of(target.base + "/ok")
        request = request_bytes(endpoint, None, {}, None)
        with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=16, workers=1)) as fleet:
            fleet.run_step(Step(users=16, duration_s=0.3), lambda _: False)
            result, client, _ = fleet.run_step(Step(rate_rps=150.0, duration_s=1.5, seed=4), lambda _: False)
    assert result.offered > 150
    assert client["connections_opened"] == 0
    assert client["dispersion_window_s"] == 0.01
    assert client["dispersion_intended"] == pytest.approx(1.0, abs=0.5)
    assert client["delivery"] in ("as intended", "uneven", "off")
    assert len(client["worker_cpu_share"]) == 1
