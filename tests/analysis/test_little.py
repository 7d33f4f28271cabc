"""Little's law against simulated servers: it closes on true books, and not on false ones."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.little import Little, little

Times = NDArray[np.int64]
Server = Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]
START = 5_000_000_000


def _fifo(sent: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Serve one after the other, 8 ms each on average: overload above 125 a second."""
    done, free = [], 0.0
    for at, work in zip(sent, rng.exponential(0.008, sent.size), strict=True):
        free = max(free, float(at)) + float(work)
        done.append(free)
    return np.array(done)


SERVERS: dict[str, Server] = {
    "quick": lambda sent, rng: sent + rng.exponential(0.0002, sent.size),
    "slow": lambda sent, rng: sent + rng.lognormal(-2.5, 0.8, sent.size),
    "batches": lambda sent, rng: (np.floor(sent / 0.03) + 2) * 0.03 + rng.uniform(0, 2e-5, sent.size),
    "in step with the samples": lambda sent, _: (np.floor(sent / 0.01) + 2) * 0.01,
    "queue": _fifo,
    "timeouts": lambda sent, rng: sent + np.where(rng.random(sent.size) < 0.2, 0.4, 0.01),
}


def count(sent: Times, done: Times, *, leaks: int = 0) -> Times:
    """Count as an engine does: its timer of 10 ms fires up to 1 ms late, or just after a send that wakes it in between.

    Args:
        sent: When requests begin.
        done: When they end.
        leaks: So many of the first that end are never taken off.
    """
    events = sorted([*((int(at), 1) for at in sent), *((int(at), -1) for at in np.sort(done)[leaks:])])
    last = max((at for at, _ in events), default=START)
    samples: list[tuple[int, int]] = []
    busy, place, awake = 0, 0, START
    late = np.random.default_rng(len(events)).integers(0, 1_000_000, 2 + (last - START) // 10_000_000)
    while awake < last:
        timer, fires = awake + 10_000_000, awake + 10_000_000 + int(late[len(samples)])
        awake = next((at for at, change in events[place:] if change > 0 and timer <= at < fires), fires)
        while place < len(events) and events[place][0] <= awake:
            busy += events[place][1]
            place += 1
        samples.append((awake, busy))
    return np.array(samples, dtype=np.int64).reshape(-1, 2)


def run(
    server: str, rate_rps: float, length_s: float, seed: int, *, stretch: float = 1.0, leaks: int = 0
) -> Little | None:
    """Run a step of one worker; `stretch` is by how much the rows overstate each latency."""
    rng = np.random.default_rng(seed)
    sent = np.sort(rng.uniform(0, length_s, rng.poisson(rate_rps * length_s)))
    done = SERVERS[server](sent, rng)
    sent_ns, done_ns = (START + (times * 1e9).astype(np.int64) for times in (sent, done))
    told = sent_ns + ((done_ns - sent_ns) * stretch).astype(np.int64)
    return little({0: count(sent_ns, done_ns, leaks=leaks)}, sent_ns, told, np.zeros(sent.size, dtype=np.int64))


@pytest.mark.parametrize("server", SERVERS)
def test_true_books_close(server: str) -> None:
    """No false alarm in 400 steps a server, from three requests a second for half a second up to overload."""
    for seed in range(400):
        rate, length = [(3, 0.5), (3, 1.5), (20, 1.0), (130, 0.7)][seed % 4]
        told = run(server, rate, length, seed)
        assert told is None or told.closes, (seed, told)


@pytest.mark.parametrize(("server", "rate"), [("slow", 100), ("batches", 100), ("queue", 110), ("timeouts", 50)])
@pytest.mark.parametrize("stretch", [0.9, 1.1])
def test_latencies_that_are_a_tenth_off_are_caught(server: str, rate: float, stretch: float) -> None:
    """Replies that are attributed late, or early, do not pass."""
    told = [run(server, rate, 2.0, seed, stretch=stretch) for seed in range(10)]
    assert all(one is not None and not one.closes for one in told)


def test_a_lost_connection_is_caught() -> None:
    """A connection that stays busy after its reply is one too many from then on, in a step of 100 requests."""
    told = run("slow", 50, 2.0, 1, leaks=1)
    assert told is not None
    assert not told.closes
    assert told.counted == pytest.approx(told.implied + 1, abs=0.5)


def test_it_is_rate_times_latency() -> None:
    """20 s at 200 a second with a latency of 50 ms keep 10 in flight."""
    sent = START + np.arange(4000) * 5_000_000
    at = START + np.arange(10, 1990) * 10_000_000 + 2_500_000
    samples = np.column_stack([at, np.full(at.size, 10)])
    told = little({0: samples}, sent, sent + 50_000_000, np.zeros(4000, dtype=np.int64))
    assert told is not None
    assert told.implied == pytest.approx(10, rel=0.01)
    assert told.counted == pytest.approx(told.implied, abs=1e-3)


def test_workers_add_up_and_a_dead_one_is_left_out() -> None:
    """Each living worker's count is held against its own requests; a dead one said nothing to compare."""
    sent = START + np.repeat(np.arange(1000) * 2_000_000, 3)
    worker = np.tile([0, 1, 2], 1000)
    at = START + np.arange(1, 190) * 10_000_000 + 500_000
    samples = {index: np.column_stack([at, np.full(at.size, 2)]) for index in (0, 1)}
    told = little(samples, sent, sent + 4_000_000, worker)
    assert told is not None
    assert told.closes
    assert told.implied == pytest.approx(4, rel=0.02)


def test_unsent_requests_were_never_in_flight() -> None:
    """A request that was never sent has an end, but was on no connection."""
    sent = np.zeros(50, dtype=np.int64)
    samples = np.column_stack([START + np.arange(100) * 10_000_000, np.zeros(100, dtype=np.int64)])
    told = little({0: samples}, sent, sent + START + 500_000_000, sent)
    assert told == Little(counted=0.0, implied=0.0, tolerance=0.03)


@pytest.mark.parametrize("count", [0, 19])
def test_too_few_samples_say_nothing(count: int) -> None:
    """A step that was over before twenty samples is not judged."""
    none = np.zeros(0, dtype=np.int64)
    assert little({0: np.zeros((count, 2), dtype=np.int64)}, none, none, none) is None
    assert little({}, none, none, none) is None
