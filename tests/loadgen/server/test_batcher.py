from dataclasses import dataclass

import pytest

from loadgen.server.batcher import Batcher
from loadgen.server.job import Job
from loadgen.server.waiting import QueuePolicy, Waiting


def batcher(
    *, size: int = 4, delay: int | None = 10, queue: int = 100, preferred: tuple[int, ...] = (), levels: int = 1
) -> Batcher:
    """Return a batcher; times are plain numbers."""
    waiting = Waiting(QueuePolicy(max_queue_size=queue), levels=levels, default_level=levels)
    return Batcher(waiting, max_batch_size=size, max_queue_delay_ns=delay, preferred_sizes=preferred)


def fill(policy: Batcher, *arrivals: int, rows: int = 1) -> None:
    """Offer one job an arrival."""
    for arrived in arrivals:
        assert policy.offer(Job(arrived_ns=arrived, rows=rows))


@dataclass(frozen=True, kw_only=True)
class Case:
    """Say when the batch of some arrivals leaves an instance that is free at `free`, and how many jobs it takes."""

    arrivals: tuple[int, ...]
    free: int
    leaves: int
    takes: int
    preferred: tuple[int, ...] = ()
    rows: int = 1


CASES = {
    "a lone job waits for the delay": Case(arrivals=(5,), free=0, leaves=15, takes=1),
    "a full batch leaves at its last arrival": Case(arrivals=(5, 6, 7, 9), free=0, leaves=9, takes=4),
    "a full batch waits for an instance": Case(arrivals=(5, 6, 7, 9), free=12, leaves=12, takes=4),
    "the delay ends while no instance is free": Case(arrivals=(5, 16), free=30, leaves=30, takes=2),
    "the delay's batch takes who came within it": Case(arrivals=(5, 8, 15), free=0, leaves=15, takes=3),
    "never more than the maximum": Case(arrivals=(1, 2, 3, 4, 5, 6), free=50, leaves=50, takes=4),
    "who comes after the batch left is not in it": Case(arrivals=(5, 16, 17), free=0, leaves=15, takes=1),
    "who came before a late free instance is in it": Case(arrivals=(5, 16, 21), free=20, leaves=20, takes=2),
    "a preferred size leaves at once": Case(arrivals=(5, 6, 7), free=0, leaves=6, takes=2, preferred=(2,)),
    "the largest preferred size waiting": Case(arrivals=(1, 2, 3, 4), free=8, leaves=8, takes=3, preferred=(2, 3)),
    "only preferred sizes reached by then": Case(arrivals=(1, 2, 9), free=8, leaves=8, takes=2, preferred=(2, 3)),
    "after the delay more than a preferred size": Case(
        arrivals=(1, 2, 3, 4), free=11, leaves=11, takes=4, preferred=(2,)
    ),
    "below every preferred size the delay counts": Case(arrivals=(1, 2), free=0, leaves=11, takes=2, preferred=(3,)),
    "rows count, not jobs": Case(arrivals=(1, 2, 3), free=0, leaves=2, takes=2, rows=2),
    "a job that would overflow stays": Case(arrivals=(1, 2), free=0, leaves=2, takes=1, rows=3),
    "between two preferred sizes it waits": Case(arrivals=(1,), free=0, leaves=11, takes=1, preferred=(2, 4), rows=3),
    "more than every preferred size leaves": Case(arrivals=(1,), free=0, leaves=1, takes=1, preferred=(2,), rows=3),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_batch_leaves_at_its_time_with_its_jobs(case: Case) -> None:
    """A batch leaves at max(free, min(B-th arrival, oldest + delay)) and takes who has arrived, at most B."""
    policy = batcher(preferred=case.preferred)
    fill(policy, *case.arrivals, rows=case.rows)
    due = policy.due_ns()
    assert due is not None
    assert max(due, case.free) == case.leaves
    assert [job.arrived_ns for job in policy.take(case.leaves)] == list(case.arrivals[: case.takes])
    assert len(policy) == len(case.arrivals) - case.takes


def test_nothing_leaves_before_it_is_due() -> None:
    """Taking early returns nothing and loses nothing; an empty queue is never due."""
    policy = batcher()
    assert policy.due_ns() is None
    assert policy.oldest_ns is None
    assert policy.take(100) == []
    fill(policy, 5)
    assert policy.oldest_ns == 5
    assert policy.take(14) == []
    assert len(policy.take(15)) == 1


def test_what_is_left_is_due_by_its_own_arrivals() -> None:
    """After a batch has left, the next one's time comes from the jobs that remain."""
    policy = batcher(size=2)
    fill(policy, 1, 2, 3, 4, 7)
    assert [policy.due_ns(), len(policy.take(2))] == [2, 2]
    assert [policy.due_ns(), len(policy.take(4))] == [4, 2]
    assert policy.due_ns() == 17


def test_zero_delay_sends_whatever_waits() -> None:
    """Without a delay a free instance takes what is there, at the oldest arrival or when it becomes free."""
    policy = batcher(delay=0)
    fill(policy, 3, 4)
    assert policy.due_ns() == 3
    assert len(policy.take(9)) == 2


def test_zero_delay_keeps_to_preferred_sizes() -> None:
    """Without a delay what waits leaves in the largest preferred size, and at once in any size where there is none."""
    policy = batcher(delay=0, size=8, preferred=(2, 4))
    fill(policy, 1, 2, 3, 4, 5, 6, 7)
    assert len(policy.take(9)) == 4
    assert len(policy.take(9)) == 2
    assert len(policy.take(9)) == 1


def test_static_batching_sends_full_batches_only() -> None:
    """With an endless delay a batch leaves when it is full, and what is left at the end only when it is flushed."""
    policy = batcher(delay=None)
    fill(policy, 1, 2, 3)
    assert policy.due_ns() is None
    assert policy.take(10**9) == []
    fill(policy, 4, 5)
    assert policy.due_ns() == 4
    assert [len(policy.take(4)), len(policy.take(10**9)), len(policy.flush(10**9)), len(policy)] == [4, 0, 1, 0]


def test_no_batching_sends_each_job_alone() -> None:
    """A largest size of one sends job by job, also those of several rows."""
    policy = batcher(size=1, delay=0)
    fill(policy, 1, 2, rows=3)
    assert [policy.due_ns(), len(policy.take(5)), policy.due_ns(), len(policy.take(5))] == [1, 1, 2, 1]


def test_cancelled_job_leaves_its_place() -> None:
    """A job whose sender has left is in no batch, does not make one full, and makes room in the queue."""
    policy = batcher(queue=4)
    jobs = [Job(arrived_ns=at) for at in (1, 2, 3, 4)]
    assert all(map(policy.offer, jobs))
    assert policy.due_ns() == 4
    assert policy.cancel(jobs[0])
    assert not policy.cancel(jobs[0])
    assert policy.due_ns() == 12
    assert policy.offer(Job(arrived_ns=5))
    assert policy.due_ns() == 5
    assert [job.arrived_ns for job in policy.take(5)] == [2, 3, 4, 5]
    assert not policy.cancel(jobs[1])


def test_a_job_of_higher_priority_takes_the_place_of_one_that_was_ready() -> None:
    """Where a preferred size was there and a job came before it, the batch is formed anew."""
    policy = batcher(size=8, preferred=(2, 8), levels=2)
    fill(policy, 1, rows=2)
    assert policy.due_ns() == 1
    assert policy.offer(Job(arrived_ns=3, rows=1, priority=1))
    assert policy.take(4) == []
    assert policy.due_ns() == 11
    assert [job.rows for job in policy.take(11)] == [1, 2]


def test_full_queue_refuses() -> None:
    """The queue holds its bound, refuses beyond it, and has room again after a batch."""
    policy = batcher(queue=5)
    fill(policy, 1, 2, 3, 4, 5)
    assert not policy.offer(Job(arrived_ns=6))
    assert len(policy) == 5
    assert len(policy.take(6)) == 4
    assert policy.offer(Job(arrived_ns=7))
    assert len(policy) == 2


def test_a_job_larger_than_the_preferred_size_still_leaves() -> None:
    """A job whose rows exceed the preferred size leaves alone instead of blocking the queue."""
    policy = batcher(preferred=(2,))
    fill(policy, 1, 2, rows=3)
    assert policy.due_ns() == 1
    assert len(policy.take(1)) == 1
    assert policy.due_ns() == 2
