"""The load engine over real processes and sockets: what it sends, what it records, and what it says of itself."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from analysis import Step, StepProgress, StepResult
from loadgen import fleet as fleet_module
from loadgen import rows
from loadgen.arrivals import Poisson
from loadgen.fleet import Fleet, Setup, StepView
from loadgen.target import Endpoint, request_bytes
from tests.fake_target import FakeTarget, fake_target, free_port

Ran = tuple[StepResult, dict[str, Any], dict[str, int]]


@pytest.fixture(scope="module")
def target() -> Iterator[FakeTarget]:
    """Serve the fake target to all tests of this module."""
    with fake_target() as served:
        yield served


def never(_: StepProgress) -> bool:
    """Call no load an overload."""
    return False


def run(
    url: str, step: Step, overloaded: Callable[[StepProgress], bool] = never, *, method: str | None = None, **setup: Any
) -> Ran:
    """Run one step on a fleet of its own."""
    endpoint = Endpoint.of(url)
    values = {"timeout_ns": 2_000_000_000, "connections": 64, "workers": 1} | setup
    request = request_bytes(endpoint, method, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, **values)) as fleet:
        return fleet.run_step(step, overloaded)


def test_open_loop_sends_exactly_the_seeded_schedule(target: FakeTarget) -> None:
    """Every due time of the seeded stream is sent once, and times are in order: due, sent, first byte, done."""
    result, client, errors = run(target.base + "/ok", Step(rate_rps=300, duration_s=1.0, seed=7))
    expected = np.concatenate(list(Poisson().due_ns(300, 1.0, 7)))
    assert np.array_equal(result.due_ns - result.start_ns, expected)
    assert result.counts["ok"] == result.offered == len(expected)
    assert result.sent_ns is not None
    assert result.first_byte_ns is not None
    assert np.all(result.due_ns <= result.sent_ns)
    assert np.all(result.sent_ns <= result.first_byte_ns)
    assert np.all(result.first_byte_ns <= result.done_ns)
    assert (errors, result.aborted, result.drained) == ({}, False, True)
    assert client["connections"] <= 64


def test_two_workers_send_the_stream_that_one_would(target: FakeTarget) -> None:
    """The schedule does not depend on how many processes share it."""
    step = Step(rate_rps=200, duration_s=1.0, seed=3)
    one, _, _ = run(target.base + "/ok", step)
    two, client, _ = run(target.base + "/ok", step, workers=2)
    assert np.array_equal(one.due_ns - one.start_ns, two.due_ns - two.start_ns)
    assert client["workers"] == 2


def test_closed_loop_keeps_users_in_flight(target: FakeTarget) -> None:
    """N users without think time keep at most N requests in flight, each due when its user became free."""
    target.peak_in_flight = 0
    result, _, _ = run(target.base + "/slow/10", Step(users=5, duration_s=1.0))
    assert target.peak_in_flight == 5
    assert result.counts["ok"] == result.offered
    assert 5 * 1.0 / 0.010 * 0.5 < result.offered <= 5 * 1.0 / 0.010


def test_closed_loop_thinks(target: FakeTarget) -> None:
    """Think time lowers the throughput to users / (think + response), within the noise of exponential thinking."""
    result, _, _ = run(target.base + "/ok", Step(users=20, duration_s=2.0, seed=5), think_s=0.1)
    assert 0.75 * 400 < result.offered < 1.25 * 400


@pytest.mark.parametrize(
    ("path", "kind", "words"),
    [
        ("/missing", "http_status", "HTTP 404 Not Found"),
        ("/broken", "http_status", "HTTP 500"),
        ("/moved", "http_status", "HTTP 302 Found"),
        ("/reset", "reset", "connection reset"),
        ("/cut", "reset", "connection closed before the reply was complete"),
        ("/garbage", "protocol_error", "not HTTP/1.1"),
        ("/silent", "timeout", "timeout"),
    ],
)
def test_a_failure_is_counted_as_what_it_is(target: FakeTarget, path: str, kind: str, words: str) -> None:
    """Each way of failing has its outcome and words, and the books close."""
    step = Step(rate_rps=40, duration_s=0.5, arrivals="constant")
    result, _, errors = run(target.base + path, step, timeout_ns=300_000_000)
    assert result.counts[kind] == result.offered == 20
    assert next(iter(errors)).startswith(words)
    assert result.drained == (kind != "timeout")


def test_a_redirect_is_never_followed(target: FakeTarget) -> None:
    """The place that a 302 names is not asked."""
    before = target.requests["/ok"]
    run(target.base + "/moved", Step(rate_rps=20, duration_s=0.3))
    assert target.requests["/ok"] == before


@pytest.mark.parametrize("path", ["/chunked", "/close", "/eof", "/eof-split", "/empty", "/interim", "/drip"])
def test_every_way_to_end_a_reply_is_understood(target: FakeTarget, path: str) -> None:
    """Chunks, closed connections, no body, interim replies and single bytes are all replies."""
    step = Step(rate_rps=40, duration_s=0.5, arrivals="constant")
    result, _, errors = run(target.base + path, step)
    assert (result.counts["ok"], errors) == (20, {})


def test_a_head_reply_ends_with_its_headers(target: FakeTarget) -> None:
    """The length that a reply to HEAD announces is not waited for."""
    step = Step(rate_rps=40, duration_s=0.5, arrivals="constant")
    result, _, errors = run(target.base + "/head", step, method="HEAD")
    assert (result.counts["ok"], errors) == (20, {})


def test_a_second_reply_to_one_request_is_not_taken_for_the_next(target: FakeTarget) -> None:
    """A reply that nobody asked for never becomes the reply to a later request."""
    result, client, _ = run(target.base + "/twice", Step(users=1, duration_s=0.3))
    assert result.counts["ok"] + result.counts["protocol_error"] == result.offered
    assert client["connections_opened"] > 1


def test_a_refused_connection_is_a_connect_error() -> None:
    """Nobody listening is told in the system's words, and a closed loop does not hammer the port."""
    url = f"http://127.0.0.1:{free_port()}/"
    result, _, errors = run(url, Step(users=3, duration_s=0.5))
    assert result.counts["connect_error"] == result.offered
    assert list(errors) == ["cannot connect: Connection refused"]
    assert result.offered <= 3 * 0.5 / 0.010 + 3


def test_a_timeout_ends_when_the_client_gave_up(target: FakeTarget) -> None:
    """A request that is never answered is done one timeout after it was due, give or take a sweep."""
    result, _, _ = run(target.base + "/silent", Step(rate_rps=20, duration_s=0.5), timeout_ns=400_000_000)
    assert np.all(result.response_ns >= 400_000_000)
    assert np.all(result.response_ns < 800_000_000)


def test_overload_stops_the_step_and_the_books_close(target: FakeTarget) -> None:
    """Sending stops when the search says so; what had no connection yet is unsent, what was sent is awaited."""
    step = Step(rate_rps=200, duration_s=30.0)
    result, _, _ = run(target.base + "/slow/300", step, lambda p: p.elapsed_s > 0.5, connections=10)
    counts = result.counts
    assert result.aborted
    assert counts["unsent"] > 0
    assert counts["ok"] > 0
    assert counts["ok"] + counts["unsent"] == result.offered
    assert (result.end_ns - result.start_ns) / 1e9 < 5


def test_progress_tells_the_backlog(target: FakeTarget) -> None:
    """`overloaded` sees what was sent, what is done, and how old the oldest pending request is."""
    seen: list[StepProgress] = []

    def note(progress: StepProgress) -> bool:
        seen.append(progress)
        return False

    run(target.base + "/slow/500", Step(rate_rps=100, duration_s=1.0, arrivals="constant"), note)
    middle = min(seen, key=lambda p: abs(p.elapsed_s - 0.9))
    assert 30 < middle.in_flight < 60
    assert 0.3 < middle.oldest_pending_s < 0.7
    assert middle.sent == middle.done + middle.in_flight


def test_a_connection_limit_is_named_as_the_client_s(target: FakeTarget) -> None:
    """Load held back by --connections is the client's limit, with the flag that helps."""
    result, client, _ = run(target.base + "/slow/100", Step(rate_rps=200, duration_s=1.0), connections=2)
    assert [reason.kind for reason in result.reasons] == ["client"]
    assert "--connections" in result.reasons[0].text
    assert client["connection_waits"] > 0


def test_a_killed_worker_s_requests_are_lost(target: FakeTarget) -> None:
    """A worker that dies leaves nothing unaccounted for: what was due and did not come back is lost."""
    endpoint = Endpoint.of(target.base + "/ok")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=2)) as fleet:
        victim = fleet._members[0].process.pid
        threading.Timer(0.6, os.kill, (victim, signal.SIGKILL)).start()
        result, _, errors = fleet.run_step(Step(rate_rps=200, duration_s=1.5, seed=1), never)
        expected = np.concatenate(list(Poisson().due_ns(200, 1.5, 1)))
        assert result.offered == len(expected)
        assert result.counts["lost"] > 50
        assert result.counts["ok"] + result.counts["lost"] == result.offered
        assert not result.drained
        after, _, _ = fleet.run_step(Step(rate_rps=200, duration_s=0.5, seed=4), never)
        assert np.array_equal(after.due_ns - after.start_ns, np.concatenate(list(Poisson().due_ns(200, 0.5, 4))))
        assert errors["lost: a worker died"] == result.counts["lost"]
        assert result.reasons[0].kind == "client"


def test_an_abandoned_step_ends_at_once(target: FakeTarget) -> None:
    """A user who insists does not wait for replies."""
    endpoint = Endpoint.of(target.base + "/silent")
    request = request_bytes(endpoint, None, {}, None)
    began = time.monotonic()
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=60 * 10**9, connections=8, workers=1)) as fleet:
        result, _, _ = fleet.run_step(
            Step(rate_rps=5, duration_s=60), never, is_abandoned=lambda: time.monotonic() > began + 1.5
        )
    assert result.aborted
    assert result.counts["timeout"] == result.offered > 0
    assert time.monotonic() - began < 10


def test_a_long_step_spills_to_a_file(target: FakeTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit the bound on memory comes back from a mapped file, the same."""
    monkeypatch.setattr(rows, "_SPILL_BYTES", 4096)
    views: list[StepView] = []
    endpoint = Endpoint.of(target.base + "/ok")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=1)) as fleet:
        result, _, _ = fleet.run_step(Step(rate_rps=300, duration_s=2.5, seed=2), never, watch=views.append)
    assert np.array_equal(result.due_ns - result.start_ns, np.concatenate(list(Poisson().due_ns(300, 2.5, 2))))
    assert len(views) >= 2
    assert 0 < views[-1].result.offered < result.offered


def test_connections_are_kept_between_steps(target: FakeTarget) -> None:
    """A second step opens no connection that the first one left open."""
    endpoint = Endpoint.of(target.base + "/ok")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=1)) as fleet:
        fleet.run_step(Step(users=4, duration_s=0.3), never)
        _, client, _ = fleet.run_step(Step(users=4, duration_s=0.3), never)
    assert client["connections_opened"] == 0


def test_a_hanging_worker_is_ended_and_its_requests_are_lost(
    target: FakeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that stands still cannot hold the run for ever."""
    monkeypatch.setattr(fleet_module, "_SILENCE_S", 0.5)
    endpoint = Endpoint.of(target.base + "/ok")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**8, connections=8, workers=1)) as fleet:
        os.kill(fleet._members[0].process.pid, signal.SIGSTOP)
        result, _, _ = fleet.run_step(Step(rate_rps=50, duration_s=0.5, seed=1), never)
    assert result.counts["lost"] == result.offered > 0


def test_more_workers_than_users_is_no_trouble(target: FakeTarget) -> None:
    """A worker without a user of its own has nothing to send, and ends with the others."""
    result, _, _ = run(target.base + "/slow/20", Step(users=1, duration_s=0.5), workers=2)
    assert 15 < result.counts["ok"] <= 25


def test_a_stalled_client_leaves_no_due_request_uncounted(target: FakeTarget) -> None:
    """What fell due while the worker stood still, and was never sent, is unsent; the stall is told as lateness."""
    endpoint = Endpoint.of(target.base + "/ok")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=1)) as fleet:
        for seed in range(3):  # steps before it must not blur the measurement of the lag
            fleet.run_step(Step(rate_rps=100, duration_s=0.1, seed=seed), never)
        worker = fleet._members[0].process.pid
        threading.Timer(0.5, os.kill, (worker, signal.SIGSTOP)).start()
        threading.Timer(0.9, os.kill, (worker, signal.SIGCONT)).start()
        step = Step(rate_rps=500, duration_s=10.0, seed=5)
        result, client, _ = fleet.run_step(step, lambda p: p.elapsed_s > 0.6)
    due = np.concatenate(list(Poisson().due_ns(500, 10.0, 5)))
    assert np.array_equal(result.due_ns - result.start_ns, due[: result.offered])
    assert result.offered > 500 * 0.7
    assert client["lateness_max_s"] > 0.2
    assert client["loop_lag_max_s"] > 0.2


def test_an_abandoned_queue_is_not_sent(target: FakeTarget) -> None:
    """Requests that still wait for a connection when the user insists are never sent."""
    endpoint = Endpoint.of(target.base + "/slow/500")
    request = request_bytes(endpoint, None, {}, None)
    before, began = target.requests["/slow/500"], time.monotonic()
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=60 * 10**9, connections=1, workers=1)) as fleet:
        result, _, _ = fleet.run_step(
            Step(rate_rps=40, duration_s=0.5), never, is_abandoned=lambda: time.monotonic() > began + 1.5
        )
    assert fleet_module.ABANDONED in result.reasons
    assert result.counts["unsent"] > 5
    assert target.requests["/slow/500"] - before < 8


def test_an_empty_step_is_sound(target: FakeTarget) -> None:
    """A step in which nothing fell due has no time before its start and no absurd CPU share."""
    result, client, _ = run(target.base + "/ok", Step(rate_rps=0.01, duration_s=0.1))
    assert (result.offered, result.reasons) == (0, ())
    assert result.end_ns >= result.start_ns
    assert client["cpu_share"] < 1


def test_closed_connections_are_not_kept_in_memory(target: FakeTarget) -> None:
    """A target that closes every connection does not make a worker grow, though the collector is off."""
    endpoint = Endpoint.of(target.base + "/close")
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=1)) as fleet:
        fleet.run_step(Step(users=8, duration_s=1.0), never)
        statm = f"/proc/{fleet._members[0].process.pid}/statm"
        if not os.path.exists(statm):  # noqa: PTH110
            return  # this system does not tell
        grown = []
        for seed in (1, 2):
            fleet.run_step(Step(users=8, duration_s=2.0, seed=seed), never)
            with open(statm, encoding="ascii") as file:  # noqa: PTH123
                grown.append(int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    assert grown[1] - grown[0] < 1_000_000  # 0.86 kB a connection, when it was kept


def test_opening_connections_is_not_the_client_s_lateness(target: FakeTarget) -> None:
    """Waiting for connections to open is told apart from the engine being late, unless other programs make it late."""
    steps = (run(target.base + "/close", Step(rate_rps=100, duration_s=1.0)) for _ in range(3))
    clients = [client for _, client, _ in steps]
    assert all(client["send_wait_p99_s"] > 0 for client in clients)
    assert any(client["lateness_p99_s"] < client["send_wait_p99_s"] for client in clients)
