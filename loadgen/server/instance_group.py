import ctypes
import sys
from asyncio import Future
from collections.abc import Callable
from threading import Condition, Thread
from typing import Any

from loadgen.clock import now_ns
from loadgen.server.batcher import Batcher
from loadgen.server.device import Device
from loadgen.server.job import FinishedBatch, Job, Reply

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1000


class InstanceGroup:
    """Run batches of one queue on N instances: a thread each, over a blocking device.

    Threads take their batches from the batcher themselves, so the next batch does not wait for an event loop that is
    busy with requests. A batch leaves at the time the policy says (an instance free, and a batch due), not at the time
    the thread learnt of it, so late wake-ups do not shift the device's schedule.

    Args:
        batcher: The policy; from now on only the group touches it.
        device: Shared by all instances.
        instances: Number of threads.
        deliver: Called in an instance's thread with each finished batch; must not block or raise.
    """

    def __init__(
        self, batcher: Batcher, device: Device, *, instances: int, deliver: Callable[[FinishedBatch], object]
    ) -> None:
        self._batcher = batcher
        self._device = device
        self._deliver = deliver
        self._changed = Condition()
        self._stopping = False
        # Daemons: a batch that outlasts the shutdown's bound must not hold the process.
        self._threads = [Thread(target=self._work, name=f"instance-{i}", daemon=True) for i in range(instances)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 1.0) -> None:
        """End the threads; what still waits is dropped, and a running batch is waited for at most `timeout_s`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout_s)

    @property
    def ready(self) -> bool:
        """Say that every instance runs."""
        return not self._stopping and all(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Return the number of jobs in the queue."""
        return len(self._batcher)

    def submit(self, inputs: Any, reply: Future[Reply] | None = None) -> bool:
        """Queue a job that arrives now; False when the queue is full."""
        with self._changed:
            due_ns = self._batcher.due_ns()
            # Its arrival is read under the lock: no batch that has been taken could have contained it.
            accepted = self._batcher.offer(Job(arrived_ns=now_ns(), inputs=inputs, reply=reply))
            if self._batcher.due_ns() != due_ns:  # else whoever waits for that time needs no wake-up
                self._changed.notify()
        return accepted

    def _work(self) -> None:
        _sharpen_timers()
        free_ns = 0
        while True:
            taken = self._take(free_ns)
            if taken is None:
                return
            jobs, start_ns = taken
            try:
                outputs, free_ns = self._device.run(jobs, start_ns)
                batch = FinishedBatch(jobs=jobs, start_ns=start_ns, end_ns=free_ns, outputs=outputs)
            except Exception as error:  # noqa: BLE001 (whatever a model raises ends its batch, never its instance)
                free_ns = now_ns()
                batch = FinishedBatch(jobs=jobs, start_ns=start_ns, end_ns=free_ns, outputs=error)
            if self._stopping:
                return
            self._deliver(batch)

    def _take(self, free_ns: int) -> tuple[list[Job], int] | None:
        """Wait for a batch for an instance that is free since `free_ns`; None when the group stops."""
        with self._changed:
            while not self._stopping:
                due_ns, at_ns = self._batcher.due_ns(), now_ns()
                if due_ns is None:
                    self._changed.wait()
                elif due_ns > at_ns:
                    self._changed.wait((due_ns - at_ns) / 1e9)
                else:
                    start_ns = max(due_ns, free_ns)
                    jobs = self._batcher.take(start_ns)
                    if len(self._batcher):
                        self._changed.notify()  # another idle instance may be due, or has to wait for what is left
                    return jobs, start_ns
        return None


def _sharpen_timers() -> None:
    """Let this thread's sleeps end some 0.05 ms nearer to their time, by asking for less than the kernel's slack."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
