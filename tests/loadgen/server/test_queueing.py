"""The server's policies under virtual time against queueing theory. Every tolerance is several standard errors wide."""

from collections.abc import Iterator
from concurrent.futures import Future
from math import factorial, log

import numpy as np
import pytest

from analysis import Outcome, Step, StepProgress, StepResult
from loadgen.server.config import ServerConfig
from tests.ahead import ahead
from tests.virtual import VirtualServer, deterministic, exponential, queue_config

SERVICE_S = 0.01


def responses_s(result: StepResult) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return response times in seconds, the first tenth, which starts from an empty server, left out."""
    return result.response_ns[result.offered // 10 :] / 1e9


def open_step(rate_rps: float, duration_s: float, *, arrivals: str = "poisson") -> Step:
    """Ask for an open-loop step."""
    return Step(rate_rps=rate_rps, duration_s=duration_s, arrivals=arrivals, seed=5)


QUEUES = {
    "M/M/1, 30 % busy": (1, 0.3, 4000.0),
    "M/M/1, 70 % busy": (1, 0.7, 4000.0),
    "M/M/2, 80 % busy": (2, 0.8, 2000.0),
    "M/M/4, 80 % busy": (4, 0.8, 1000.0),
    "M/D/1, 50 % busy": (1, 0.5, 4000.0),
    "M/D/1, 80 % busy": (1, 0.8, 4000.0),
}  # servers, load of each, seconds


def served(queue: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the response times of a queue of the table."""
    servers, load, seconds = QUEUES[queue]
    noise = deterministic() if "/D/" in queue else exponential(servers)
    server = VirtualServer(queue_config(SERVICE_S * 1e3, servers=servers), noise=noise)
    return responses_s(server.run_step(open_step(load * servers / SERVICE_S, seconds)))


@pytest.fixture(scope="module")
def begun(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[np.ndarray[tuple[int], np.dtype[np.float64]]]]]:
    """Run the queues of the table on two cores."""
    with ahead(request, test_a_queue_s_mean_is_its_formula_s.__name__, "queue", served, 2, computes=True) as found:
        yield found


@pytest.mark.parametrize("queue", QUEUES)
def test_a_queue_s_mean_is_its_formula_s(
    queue: str, begun: dict[str, Future[np.ndarray[tuple[int], np.dtype[np.float64]]]]
) -> None:
    """M/M/c waits Erlang's C over c mu - lambda on average, M/D/1 half of what M/M/1 does (Pollaczek and Khinchine).

    The response of M/M/1 is exponential, so its p99 is known, and that of M/D/1 is never less than the service.
    """
    servers, load, _ = QUEUES[queue]
    offered = load * servers
    terms = [offered**k / factorial(k) for k in range(servers)]
    last = offered**servers / factorial(servers) / (1 - load)
    wait_s = last / (sum(terms) + last) * SERVICE_S / (servers * (1 - load))
    response = begun[queue].result()
    if "/D/" in queue:
        assert response.mean() == pytest.approx(SERVICE_S + wait_s / 2, rel=0.03)
        assert response.min() == pytest.approx(SERVICE_S)
    else:
        assert response.mean() == pytest.approx(SERVICE_S + wait_s, rel=0.03 if servers == 1 else 0.05)
    if servers == 1 and "/M/" in queue:
        assert np.quantile(response, 0.99) == pytest.approx(SERVICE_S / (1 - load) * log(100), rel=0.05)


def test_dd1_never_waits_below_capacity_and_queues_above() -> None:
    """D/D/1: below capacity every response is the service time; above it the queue grows by the excess rate."""
    server = VirtualServer(queue_config(SERVICE_S * 1e3), noise=deterministic())
    below = server.run_step(open_step(99.9, 100, arrivals="constant"))
    assert set(below.response_ns.tolist()) == {round(SERVICE_S * 1e9)}
    above = server.run_step(open_step(125, 10, arrivals="constant"))
    growth_s = np.diff(above.response_ns) / 1e9
    assert growth_s == pytest.approx(SERVICE_S - 1 / 125, abs=1e-8)
    assert (above.end_ns - above.start_ns) / 1e9 == pytest.approx(0.004 + 1250 * SERVICE_S, abs=1e-6)


def test_littles_law_holds_with_batching() -> None:
    """Little: the mean number of requests in the default server is its rate times their mean response."""
    in_flight: list[int] = []

    def watch(progress: StepProgress) -> bool:
        in_flight.append(progress.in_flight)
        return False

    result = VirtualServer().run_step(open_step(400, 2000), watch)
    assert np.mean(in_flight[200:]) == pytest.approx(400 * responses_s(result).mean(), rel=0.03)


def test_default_server_meets_its_known_latencies() -> None:
    """The default device has p99 30 ms at 171 req/s, and carries 571 req/s when it is never idle."""
    server = VirtualServer()
    light = server.run_step(open_step(171, 600))
    assert np.quantile(responses_s(light), 0.99) == pytest.approx(0.030, abs=0.001)
    flood = server.run_step(open_step(1000, 4.0))
    assert flood.offered / (flood.end_ns - flood.start_ns) * 1e9 == pytest.approx(571, rel=0.02)


def test_closed_loop_obeys_the_response_time_law() -> None:
    """N users with think time Z get X = N / (R + Z) requests a second, and never more than N are in flight."""
    most = 0

    def watch(progress: StepProgress) -> bool:
        nonlocal most
        most = max(most, progress.in_flight)
        return False

    server = VirtualServer(think_s=0.05)
    result = server.run_step(Step(users=20, duration_s=200, seed=1), watch)
    rate_rps = result.offered / 200
    assert rate_rps == pytest.approx(20 / (result.response_ns.mean() / 1e9 + 0.05), rel=0.01)
    assert 0 < most <= 20


def test_overloaded_stops_the_sending_and_the_server_drains() -> None:
    """A step that is called overloaded sends nothing more, answers what it sent, and the next one starts empty."""
    server = VirtualServer()
    aborted = server.run_step(open_step(2000, 60), lambda progress: progress.oldest_pending_s > 0.5)
    assert aborted.aborted
    assert 0.5 < aborted.offered_span_s < 1.5
    assert aborted.counts["ok"] == aborted.offered
    after = server.run_step(open_step(50, 10))
    assert after.start_ns == aborted.end_ns
    assert after.response_ns.max() < 0.1e9


def test_full_queue_shows_as_failures() -> None:
    """What the bounded queue refuses comes back as failed, and the books close."""
    result = VirtualServer(ServerConfig(max_queue_size=64)).run_step(open_step(1500, 5))
    assert set(np.unique(result.outcome)) == {Outcome.OK, Outcome.HTTP_STATUS}
    assert sum(result.counts.values()) == result.offered


def test_overload_is_shed_and_costs_no_goodput() -> None:
    """At three times its capacity for a minute the server answers at its capacity, none later than its queue is long.

    The queue of 128 is four batches of 32, each 56 ms; before them there may be one that has just begun.
    """
    result = VirtualServer(ServerConfig(max_queue_size=128)).run_step(open_step(3 * 571, 60))
    answered = result.outcome == Outcome.OK
    assert answered.sum() / 60 >= 0.95 * 571
    assert result.response_ns[answered].max() < 6 * 0.056e9


def test_same_seed_same_result() -> None:
    """A virtual run is a function of its seeds."""
    first, second = (VirtualServer().run_step(open_step(300, 20)) for _ in range(2))
    assert np.array_equal(first.done_ns, second.done_ns)
