from itertools import repeat
from math import factorial

import numpy as np
import pytest

from loadgen.server.in_order import InOrder
from loadgen.server.job import FinishedBatch
from loadgen.server.stage import Stage
from tests.virtual import exponential


def stage(*, workers: int = 1, queue: int = 10) -> Stage:
    """Return a stage that takes 100 for each row, always."""
    return Stage(workers=workers, time_ns=100, max_queue_size=queue, noise=repeat(1.0))


def test_a_worker_serves_one_after_the_other() -> None:
    """Requests that come at once are done one after the other; rows count; a pause lets the worker idle."""
    one = stage()
    assert [one.offer(0), one.offer(0), one.offer(50, rows=3), one.offer(900)] == [
        (0, 100), (100, 200), (200, 500), (900, 1000),
    ]  # fmt: skip


def test_workers_work_beside_each_other() -> None:
    """Two workers do two requests in the time of one, and the third goes to who is free first."""
    two = stage(workers=2)
    assert [two.offer(0), two.offer(10), two.offer(20)] == [(0, 100), (10, 110), (100, 200)]


def test_a_full_queue_refuses() -> None:
    """Beyond its bound a stage refuses, and takes again once somebody has been served."""
    one = stage(queue=1)
    assert one.offer(0) == (0, 100)
    assert one.offer(0) == (100, 200)
    assert one.waiting(99) == 1
    assert one.offer(99) is None
    assert one.waiting(100) == 0
    assert one.offer(100) == (200, 300)
    without = stage(queue=0)
    assert [without.offer(0), without.offer(99), without.offer(100)] == [(0, 100), None, (100, 200)]


def test_wait_is_erlang_c() -> None:
    """With exponential work and Poisson arrivals the mean wait is Erlang's C over c * mu - lambda (M/M/c)."""
    workers, load, mean_ns = 3, 0.8, 1e6
    offered = load * workers
    last = offered**workers / factorial(workers) / (1 - load)
    busy = last / (sum(offered**k / factorial(k) for k in range(workers)) + last)
    pool = Stage(workers=workers, time_ns=mean_ns, max_queue_size=10**6, noise=exponential(4))
    gaps = np.random.default_rng(5).exponential(mean_ns / offered, 200_000)
    waits = []
    for at in np.cumsum(gaps).astype(int).tolist():
        times = pool.offer(at)
        assert times is not None
        waits.append(times[0] - at)
    assert np.mean(waits) == pytest.approx(busy * mean_ns / (workers * (1 - load)), rel=0.06)


def test_batches_are_given_back_in_their_order() -> None:
    """A batch that overtook another is held until that one is there."""
    order = InOrder()
    batches = [FinishedBatch(jobs=(), start_ns=i, end_ns=i, outputs=()) for i in range(4)]
    assert order.add(1, batches[1]) == []
    assert order.add(2, batches[2]) == []
    assert order.add(0, batches[0]) == batches[:3]
    assert order.add(3, batches[3]) == batches[3:]
