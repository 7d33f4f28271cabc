"""Tests of the estimator that counts violations: honest on servers whose tail no queue explains."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from analysis.boundary import Crossing, locate, needed_s
from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.evidence import Evidence, load
from analysis.sla import SLA
from analysis.step import Step
from tests.analysis.simulators import Server, Simulator

FAST = Server(t0_s=0.001, sigma="exponential")  # M/M/1: p99 is ln(100) / (1000 - rate)
LIMIT = SLA.parse("p99<10ms")
CAPACITY = Capacity(rate_rps=1000.0, error=0.01, n=2000)


def _dwells(server: Server, rates: list[float], seconds: float, seed: int = 0) -> tuple[Dwell, ...]:
    sim = Simulator(server, seed=seed)
    steps = [Step(rate_rps=rate, duration_s=seconds, seed=k) for k, rate in enumerate(rates)]
    return tuple(Dwell.of(sim.run_step(step, lambda _p: False), 0.1 * seconds, 0.0, 8) for step in steps)


def test_pauses_that_are_seen_are_counted_one_by_one() -> None:
    """A pause of 50 ms every 5 s, ten in each run: nineteen of twenty lower bounds lie below the crossing."""
    server = Server(t0_s=0.001, sigma=0.3, stall_s=0.05, stall_every_s=5.0)
    limit, truth = SLA.parse("p99<30ms"), 548.0  # solved by bisection, 1e8 requests a rate
    runs = [locate(_dwells(server, [500.0, 550.0, 600.0] * 2, 8.0, seed), limit, CAPACITY, None) for seed in range(20)]
    assert sum(run.safe_rps <= 1.01 * truth for run in runs) >= 19
    assert sum(run.low_rps <= truth <= run.high_rps for run in runs) >= 18


def test_a_step_that_met_no_burst_weighs_no_more_than_one_that_did() -> None:
    """Two steps of 8 s at one rate, a pause of one second in one of them: 6 % of all requests count, not fewer.

    A calm queue forgets within its own short waits and so gives more independent looks; but it has not met the pauses
    of its server any sooner.
    """
    paused = replace(FAST, stall_s=1.0, stall_every_s=9.0)
    seeds = {
        bool(dwell.tail.count_above(np.asarray(0.5))): dwell
        for k in range(20)
        for dwell in _dwells(paused, [300.0], 8.0, k)
    }
    dwells = (seeds[True], seeds[False])
    of = partial(
        Evidence, dwells, limit_s=0.1, allowed=0.01, capacity_rps=1000.0, at=float(load(300.0, 1000.0)), reach=0.6
    )
    limits = np.full(2, 0.1)
    slow = sum(float(dwell.tail.count_above(np.asarray(0.1))) for dwell in dwells) / sum(d.tail.n for d in dwells)
    shares = {
        bursts: float(of(bursts=bursts).counted(limits)) / of(bursts=bursts).expected(1.0) for bursts in (False, True)
    }
    assert slow > 0.03
    assert shares[True] == pytest.approx(slow, rel=1e-6)
    assert shares[False] < 0.7 * slow


def test_bursts_count_alike_at_every_rate_and_become_fewer_below_it() -> None:
    """However long they last: the law of queues would find pauses of a second above a limit of 0.1 s far down yet."""
    paused = replace(FAST, stall_s=1.0, stall_every_s=4.0)
    dwells = _dwells(paused, [300.0, 600.0], 8.0, 3)
    of = partial(Evidence, dwells, limit_s=0.1, allowed=0.01, capacity_rps=1000.0, at=0.0, reach=9.0)
    bursts, queue = of(bursts=True), of()
    each = bursts.looks / bursts.n
    assert each[0] == pytest.approx(each[1])
    assert (queue.looks / queue.n)[0] > 1.5 * (queue.looks / queue.n)[1]
    here, below = (bursts.counted_at(np.full((2, 1), step), 0.5, 2.5)[0] for step in (0.0, 1.0))
    assert below == pytest.approx(here * np.exp(-1.2))
    assert queue.counted_at(np.full((2, 1), 1.0), 0.5, 2.5)[0] > 0.8 * queue.counted_at(np.zeros((2, 1)), 0.5, 2.5)[0]


def test_no_lower_end_above_what_was_run() -> None:
    """Steps far below the crossing: it may lie higher, but nothing is promised beyond their rates."""
    crossing = locate(_dwells(FAST, [200.0, 250.0, 300.0], 10.0), LIMIT, CAPACITY, None)
    assert crossing.safe_rps <= 300.0
    assert crossing.high_rps > 500.0


def test_a_rate_that_passed_bounds_the_capacity() -> None:
    """A capacity measured at a third of what passes is not believed."""
    wrong = Capacity(rate_rps=170.0, error=0.01, n=40)
    crossing = locate(_dwells(FAST, [480.0, 520.0, 500.0, 510.0], 10.0), LIMIT, wrong, None)
    assert crossing.rate_rps >= 0.9 * 480.0


def test_a_cliff_is_a_bracket() -> None:
    """Service three times as slow above 500 req/s: the bracket is the last rate to pass and the first to fail."""
    slow = replace(FAST, t0_s=0.003)
    dwells = (*_dwells(FAST, [300.0, 400.0, 480.0], 5.0), *_dwells(slow, [520.0, 600.0], 5.0))
    crossing = locate(dwells, SLA.parse("p99<60ms"), CAPACITY, None)
    assert crossing.cliff
    assert (crossing.low_rps, crossing.safe_rps, crossing.high_rps) == (480.0, 480.0, 520.0)
    assert 480.0 < crossing.rate_rps < 520.0


@pytest.mark.parametrize("rates", [[480.0, 520.0, 560.0, 600.0], [700.0, 720.0], [300.0, 350.0]])
def test_a_queue_is_no_cliff(rates: list[float]) -> None:
    """Latency that rises as queues do, on both sides of the limit or on one, is fitted."""
    assert not locate(_dwells(FAST, rates, 10.0), LIMIT, CAPACITY, None).cliff


def test_slow_requests_come_in_clusters() -> None:
    """The count of slow requests of an M/M/1 queue varies many times more than a binomial one, and less than 500."""
    crossing = locate(_dwells(FAST, [500.0, 540.0] * 4, 10.0), LIMIT, CAPACITY, None)
    assert crossing.inflation is not None
    assert 5 < crossing.inflation < 500


def test_time_that_a_precision_needs() -> None:
    """Half the width takes four times the time; more steps near the crossing foresee about the same total."""
    short, long = (locate(_dwells(FAST, [500.0, 540.0] * k, 10.0), LIMIT, CAPACITY, None) for k in (3, 12))
    assert needed_s(long, 0.01) == pytest.approx(4 * needed_s(long, 0.02))
    assert 1 / 4 < needed_s(long, 0.02) / needed_s(short, 0.02) < 4
    assert needed_s(Crossing(rate_rps=1.0, low_rps=1.0, high_rps=1.0, safe_rps=1.0), 0.02) == 0


def test_empty_steps_do_not_break_it() -> None:
    """A step without requests and one with a single failure leave an answer with ordered ends."""
    empty = _dwells(FAST, [500.0], 10.0)[0]
    nothing = replace(
        empty, tail=replace(empty.tail, values_s=np.array([-np.inf]), above=np.array([0.0]), n=0), parts=()
    )
    failed = replace(
        empty, tail=replace(empty.tail, values_s=np.array([-np.inf]), above=np.array([1.0]), n=1), parts=()
    )
    for dwells in ((nothing, empty), (failed,)):
        crossing = locate(dwells, LIMIT, CAPACITY, None)
        assert 0 <= crossing.low_rps <= crossing.safe_rps <= crossing.rate_rps <= crossing.high_rps


def test_latency_that_does_not_vary_is_no_crossing_at_zero() -> None:
    """D/D/1: nothing is slow below the capacity, so the crossing lies near it."""
    sim = Simulator(Server(t0_s=0.005))
    steps = [Step(rate_rps=rate, duration_s=10.0, arrivals="constant") for rate in (150.0, 170.0, 190.0)]
    dwells = tuple(Dwell.of(sim.run_step(step, lambda _p: False), 1.0, 0.0, 8) for step in steps)
    crossing = locate(dwells, SLA.parse("p99<20ms"), Capacity(rate_rps=200.0, error=0.003, n=2000), None)
    assert 190 < crossing.rate_rps < 202
    assert crossing.low_rps > 150
