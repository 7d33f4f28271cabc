"""Real threads. Bounds on time are generous: they catch a wrong order of magnitude, not a busy machine."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

from loadgen.clock import NS_PER_MS, now_ns
from loadgen.server.config import ServerConfig
from loadgen.server.device import Device, SimulatedDevice
from loadgen.server.instance_group import InstanceGroup
from loadgen.server.job import FinishedBatch, Job


class Finished:
    """Keep the batches that a group delivers, with the time at which each was."""

    def __init__(self) -> None:
        self.batches: list[FinishedBatch] = []
        self.told_ns: list[int] = []

    def __call__(self, batch: FinishedBatch) -> None:
        """Take one batch."""
        self.told_ns.append(now_ns())
        self.batches.append(batch)

    @property
    def jobs(self) -> int:
        """Return the number of jobs in all batches."""
        return sum(len(batch.jobs) for batch in self.batches)


@contextmanager
def running(config: ServerConfig, device: Device | None = None) -> Iterator[tuple[InstanceGroup, Finished]]:
    """Run a group on a config's policies, by default over its simulated device."""
    finished = Finished()
    group = InstanceGroup(
        config.batcher(), [device or SimulatedDevice(config.gpu())] * config.instances, deliver=finished
    )
    group.start()
    try:
        yield group, finished
    finally:
        group.stop()


def submit(group: InstanceGroup, count: int) -> None:
    """Queue jobs that arrive now."""
    for index in range(count):
        assert group.submit(Job(arrived_ns=0, inputs=index))


def wait(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_busy_instance_loses_no_time_between_batches() -> None:
    """With work waiting, each batch starts where the one before ended, and none is told of before its end."""
    config = ServerConfig(t0_ms=3, t1_ms=0.5, max_batch_size=4)
    with running(config) as (group, finished):
        submit(group, 100)
        wait(lambda: finished.jobs == 100)
    assert [batch.rows for batch in finished.batches] == [4] * 25
    pairs = list(zip(finished.batches, finished.batches[1:], strict=False))
    assert all(later.start_ns == earlier.end_ns for earlier, later in pairs)
    late_ns = sorted(told - batch.end_ns for told, batch in zip(finished.told_ns, finished.batches, strict=True))
    assert late_ns[0] >= 0
    assert late_ns[len(late_ns) // 2] < 5 * NS_PER_MS


def test_threads_do_what_virtual_time_says() -> None:
    """For the arrivals that one instance saw, the policies under virtual time give its batches to the nanosecond."""
    config = ServerConfig(t0_ms=1, t1_ms=0.2, jitter_sigma=0.2, max_batch_size=8, max_queue_delay_us=2000)
    with running(config) as (group, finished):
        for burst in (1, 3, 9, 2, 20, 1, 1, 5, 30, 4) * 3:
            submit(group, burst)
            time.sleep(0.003)
        wait(lambda: finished.jobs == 3 * 76)
    batcher, gpu, free_ns = config.batcher(), config.gpu(), 0
    for batch in finished.batches:
        for job in batch.jobs:
            batcher.offer(job)
    for batch in finished.batches:
        start_ns = max(batcher.due_ns() or 0, free_ns)
        jobs = batcher.take(start_ns)
        free_ns = gpu.end_ns(gpu.start(start_ns, len(jobs)))
        assert (jobs, start_ns, free_ns) == (batch.jobs, batch.start_ns, batch.end_ns)


def test_lone_job_leaves_after_the_delay() -> None:
    """A job that no other joins starts exactly when the queue delay is over, and keeps its inputs."""
    with running(ServerConfig(t0_ms=1, max_queue_delay_us=20_000)) as (group, finished):
        submit(group, 1)
        wait(lambda: finished.jobs == 1)
    (batch,) = finished.batches
    assert batch.start_ns - batch.jobs[0].arrived_ns == 20 * NS_PER_MS
    assert list(batch.outputs) == [0]  # type: ignore[arg-type]


def test_instances_overlap() -> None:
    """Two instances run two small batches at the same time; one instance runs them one after the other."""
    spans = {}
    for instances in (1, 2):
        config = ServerConfig(t0_ms=40, t1_ms=0, max_batch_size=1, max_queue_delay_us=0, instances=instances)
        with running(config) as (group, finished):
            submit(group, 2)
            wait(lambda: finished.jobs == 2)
        spans[instances] = max(b.end_ns for b in finished.batches) - min(b.start_ns for b in finished.batches)
    assert spans[2] < 60 * NS_PER_MS < spans[1]


def test_every_waiting_batch_finds_an_idle_instance() -> None:
    """A burst of several batches occupies all idle instances, not only the one that was woken."""
    config = ServerConfig(t0_ms=60, t1_ms=0, max_batch_size=2, instances=3)
    with running(config) as (group, finished):
        submit(group, 6)
        wait(lambda: finished.jobs == 6)
    starts = [batch.start_ns for batch in finished.batches]
    assert max(starts) - min(starts) < 50 * NS_PER_MS


def test_crashing_model_ends_its_batch_only() -> None:
    """Whatever a device raises is delivered with the batch, and the instance goes on."""

    class Fragile:
        def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
            if jobs[0].inputs == 0:
                raise ZeroDivisionError
            return [job.inputs for job in jobs], now_ns()

    with running(ServerConfig(max_batch_size=1, max_queue_delay_us=0), Fragile()) as (group, finished):
        submit(group, 2)
        wait(lambda: finished.jobs == 2)
        assert group.ready
    assert isinstance(finished.batches[0].outputs, ZeroDivisionError)
    assert finished.batches[1].outputs == [1]


def test_full_queue_refuses_and_stop_ends_the_threads() -> None:
    """A busy group refuses beyond its bound; stopping drops what waits and leaves no thread."""
    busy, release = Event(), Event()

    class Stuck:
        def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
            busy.set()
            release.wait(20)
            return [None for _ in jobs], now_ns()

    config = ServerConfig(max_batch_size=1, max_queue_delay_us=0, max_queue_size=2)
    with running(config, Stuck()) as (group, finished):
        submit(group, 1)
        busy.wait(20)
        submit(group, 2)
        assert not group.submit(Job(arrived_ns=0))
        assert group.waiting == 2
        release.set()
        wait(lambda: finished.jobs == 3)
    assert not group.ready


def test_drain_does_not_wait_for_a_batch_to_fill() -> None:
    """What was accepted is served at once, though the delay has half a minute to go: nothing more comes."""
    with running(ServerConfig(max_queue_delay_us=30_000_000)) as (group, finished):
        submit(group, 2)
        group.drain()
        wait(lambda: finished.jobs == 2, timeout_s=5.0)


class Wakes:
    """Count how often a condition wakes threads; a change waits for them as before."""

    def __init__(self, group: InstanceGroup) -> None:
        self.count = 0
        self._notify = group._changed.notify
        group._changed.notify = self  # type: ignore[method-assign]

    def __call__(self, n: int = 1) -> None:
        """Wake a thread."""
        self.count += 1
        self._notify(n)


def test_first_job_of_the_next_batch_does_not_wake_an_instance_that_looks_soon() -> None:
    """An instance that has just become free looks again after one delay; only the job that fills a batch wakes it."""
    config = ServerConfig(t0_ms=1, t1_ms=0, max_batch_size=4, max_queue_delay_us=400_000)
    with running(config) as (group, finished):
        submit(group, 4)
        wait(lambda: finished.jobs == 4)
        wait(lambda: bool(group._looks_ns))
        wakes = Wakes(group)
        submit(group, 3)
        assert wakes.count == 0
        submit(group, 1)
        assert wakes.count == 1
        wait(lambda: finished.jobs == 8)
    assert [batch.rows for batch in finished.batches] == [4, 4]


def test_job_after_a_long_pause_leaves_when_its_delay_is_over() -> None:
    """An instance that has looked in vain sleeps until a job wakes it, and that batch leaves at the policy's time."""
    config = ServerConfig(t0_ms=1, t1_ms=0, max_batch_size=4, max_queue_delay_us=5000)
    with running(config) as (group, finished):
        submit(group, 4)
        wait(lambda: finished.jobs == 4)
        wait(lambda: not group._looks_ns)
        submit(group, 1)
        wait(lambda: finished.jobs == 5)
    batch = finished.batches[1]
    assert batch.start_ns - batch.jobs[0].arrived_ns == 5 * NS_PER_MS
