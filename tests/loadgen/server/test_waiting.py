from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.server.batcher import Batcher
from loadgen.server.job import Job
from loadgen.server.waiting import QueuePolicy, Waiting


def test_levels_are_served_in_turn_and_each_by_arrival() -> None:
    """Level 1 comes first, and within a level who came first; who names no level that there is has the default."""
    waiting = Waiting(QueuePolicy(), levels=3, default_level=2)
    jobs = [Job(arrived_ns=at, priority=level) for at, level in enumerate((3, 0, 1, 2, 1, 9))]
    assert all(map(waiting.add, jobs))
    assert [job.arrived_ns for job in waiting.in_order(99)] == [2, 4, 1, 3, 5, 0]
    assert [job.arrived_ns for job in waiting.by_arrival()] == [0, 1, 2, 3, 4, 5]
    assert [job.arrived_ns for job in waiting.in_order(2)] == [2, 1, 0]
    assert waiting.oldest_ns() == 0


def test_each_level_has_its_own_bound() -> None:
    """A level that is full refuses, and the others do not; zero is no bound."""
    waiting = Waiting(QueuePolicy(), levels=2, default_level=1, policies={1: QueuePolicy(max_queue_size=1)})
    assert waiting.add(Job(arrived_ns=1))
    assert not waiting.add(Job(arrived_ns=2))
    assert all(waiting.add(Job(arrived_ns=3, priority=2)) for _ in range(50))
    assert len(waiting) == 51


@pytest.mark.parametrize(
    ("policy", "asked_ns", "expected_ns"),
    [
        (QueuePolicy(), None, None),
        (QueuePolicy(), 5000, None),
        (QueuePolicy(default_timeout_us=7), None, 7000),
        (QueuePolicy(default_timeout_us=7), 5000, 7000),
        (QueuePolicy(default_timeout_us=7, allow_timeout_override=True), 5000, 5000),
        (QueuePolicy(default_timeout_us=7, allow_timeout_override=True), 9000, 7000),
        (QueuePolicy(default_timeout_us=7, allow_timeout_override=True), None, 7000),
        (QueuePolicy(allow_timeout_override=True), 5000, 5000),
    ],
)
def test_a_request_may_only_shorten_its_time(
    policy: QueuePolicy, asked_ns: int | None, expected_ns: int | None
) -> None:
    """A time-out of the request counts where the policy lets it, and where it is shorter than the default."""
    assert policy.timeout_ns(asked_ns) == expected_ns


def test_reject_removes_jobs_when_their_time_is_over() -> None:
    """With REJECT a job leaves the queue at its time, whoever stands before it."""
    policy = QueuePolicy(default_timeout_us=1, allow_timeout_override=True)
    waiting = Waiting(policy)
    slow, fast = Job(arrived_ns=0), Job(arrived_ns=10, timeout_ns=100)
    assert all(map(waiting.add, (slow, fast)))
    assert waiting.next_expiry_ns() == 110
    assert waiting.expire(109) == []
    assert waiting.expire(110) == [fast]
    assert waiting.next_expiry_ns() == 1000
    assert waiting.remove(slow)
    assert waiting.next_expiry_ns() is None
    assert waiting.rows == len(waiting) == 0


def test_delay_serves_late_jobs_after_the_others_of_their_level() -> None:
    """With DELAY a job whose time is over goes behind its level, newcomers included, and before the next level."""
    policy = QueuePolicy(default_timeout_us=1, timeout_action="DELAY")
    waiting = Waiting(QueuePolicy(), levels=2, default_level=2, policies={1: policy})
    jobs = [Job(arrived_ns=0, priority=1), Job(arrived_ns=5, priority=2), Job(arrived_ns=2000, priority=1)]
    assert all(map(waiting.add, jobs[:2]))
    assert waiting.expire(1000) == []
    assert waiting.add(jobs[2])
    assert [job.arrived_ns for job in waiting.in_order(9999)] == [2000, 0, 5]
    assert waiting.oldest_ns() == 0
    assert waiting.expire(10**9) == []
    assert waiting.remove(jobs[0])
    assert len(waiting) == 2


def test_a_batcher_wakes_for_a_time_out() -> None:
    """A free instance that waits for a batch looks when a job's time is over, and the job is never computed."""
    waiting = Waiting(QueuePolicy(default_timeout_us=1))
    batcher = Batcher(waiting, max_batch_size=4, max_queue_delay_ns=5000)
    job = Job(arrived_ns=100)
    assert batcher.offer(job)
    assert batcher.due_ns() == 1100
    assert batcher.expire(1099) == []
    assert batcher.expire(1100) == [job]
    assert batcher.take(9000) == []
    assert batcher.due_ns() is None


@st.composite
def _histories(draw: st.DrawFn) -> tuple[Batcher, list[Job], int]:
    """Draw a batcher of any settings and jobs of any kind in order of arrival, and how long a batch takes."""
    most = draw(st.integers(1, 8))
    levels = draw(st.integers(1, 3))
    policy = QueuePolicy(
        max_queue_size=draw(st.integers(0, 6)),
        default_timeout_us=draw(st.integers(0, 2)),
        timeout_action=draw(st.sampled_from(["REJECT", "DELAY"])),
        allow_timeout_override=draw(st.booleans()),
    )
    waiting = Waiting(policy, levels=levels, default_level=draw(st.integers(1, levels)))
    batcher = Batcher(
        waiting,
        max_batch_size=most,
        max_queue_delay_ns=draw(st.sampled_from([None, 0, 700, 3000])),
        preferred_sizes=draw(st.lists(st.integers(1, most), max_size=3)),
    )
    gaps = draw(st.lists(st.integers(0, 900), max_size=40))
    jobs = [
        Job(
            arrived_ns=sum(gaps[: i + 1]), rows=draw(st.integers(1, most)), priority=draw(st.integers(0, levels)),
            timeout_ns=draw(st.sampled_from([None, 1, 500, 2500])),
        )
        for i in range(len(gaps))
    ]  # fmt: skip
    return batcher, jobs, draw(st.integers(0, 2000))


@given(_histories(), st.integers(1, 8))
def test_every_job_ends_once_whatever_the_policy(history: tuple[Batcher, list[Job], int], cancels: int) -> None:
    """One instance serves any history: each job is computed, refused or cancelled exactly once, in bounded batches.

    Nothing leaves before its time, no instance looks in vain for ever, and a level is served in order of arrival.
    """
    batcher, jobs, service_ns = history
    ended: list[Job] = []
    free_ns, coming = 0, list(jobs)
    for _ in range(20 * len(jobs) + 20):
        due_ns = batcher.due_ns()
        look_ns = None if due_ns is None else max(due_ns, free_ns)
        if coming and (look_ns is None or coming[0].arrived_ns <= look_ns):
            job = coming.pop(0)
            if not batcher.offer(job):
                ended.append(job)
            elif job.arrived_ns % 10 == cancels:
                assert batcher.cancel(job)
                ended.append(job)
            continue
        if look_ns is None:
            break
        expired = batcher.expire(look_ns)
        assert all(job.expires_ns is not None and job.expires_ns <= look_ns for job in expired)
        batch = batcher.take(look_ns)
        assert sum(job.rows for job in batch) <= batcher._max_rows
        assert all(job.arrived_ns <= look_ns for job in batch)
        level_of = batcher._waiting.level_of
        fresh = [job for job in batch if job.expires_ns is None or job.expires_ns > look_ns]
        assert all((level_of(a), a.arrived_ns) <= (level_of(b), b.arrived_ns) for a, b in pairwise(fresh))
        assert expired or batch or batcher.due_ns() != due_ns
        ended += expired + batch
        free_ns = look_ns + (service_ns if batch else 0)
    while rest := batcher.flush(10**9):
        ended += rest
    assert not coming
    assert len(batcher) == batcher._waiting.rows == 0
    assert sorted(map(id, ended)) == sorted(map(id, jobs))


def test_jobs_that_have_left_are_forgotten() -> None:
    """One job that waits long does not keep 5,000 served ones, which arrived after it, in the list of time-outs."""
    waiting = Waiting(QueuePolicy(default_timeout_us=60_000_000))
    assert waiting.add(Job(arrived_ns=0, inputs=None))
    for arrived_ns in range(1, 5001):
        job = Job(arrived_ns=arrived_ns, inputs=None)
        assert waiting.add(job)
        assert waiting.remove(job)
    assert len(waiting) == 1
    assert len(waiting._expiries) < 100
    assert waiting.next_expiry_ns() == 60_000_000_000


class _Watched(Job):
    """Count how often the arrival of any such job is looked at."""

    looks = 0

    def __getattribute__(self, name: str) -> object:
        """Count, and return the attribute."""
        if name == "arrived_ns":
            _Watched.looks += 1
        return super().__getattribute__(name)


def test_the_oldest_of_many_delayed_jobs_is_found_without_a_scan() -> None:
    """Jobs that were delayed in the opposite order stay in order of arrival, and none but the oldest is looked at."""
    waiting = Waiting(QueuePolicy(default_timeout_us=9, timeout_action="DELAY", allow_timeout_override=True))
    jobs: list[Job] = [_Watched(arrived_ns=at, timeout_ns=9000 - 2 * at) for at in range(1000)]
    assert all(map(waiting.add, jobs))
    waiting.expire(10_000)
    assert list(waiting.in_order(10_000)) == jobs[::-1]
    assert list(waiting.by_arrival()) == jobs
    for job in (jobs[0], jobs[500]):
        assert waiting.remove(job)
    _Watched.looks = 0
    assert waiting.oldest_ns() == 1
    assert next(waiting.by_arrival()) is jobs[1]
    assert _Watched.looks == 1
