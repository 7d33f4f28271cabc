import ctypes
import sys
from collections.abc import Callable, Sequence
from threading import Condition, Thread

from loadgen.clock import now_ns
from loadgen.server.batcher import Batcher
from loadgen.server.device import Device
from loadgen.server.in_order import InOrder
from loadgen.server.job import FinishedBatch, Job

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1000


class InstanceGroup:
    """Run batches of one queue on N instances: a thread each, over blocking devices.

    Threads take their batches from the batcher themselves, so the next batch does not wait for an event loop that is
    busy with requests. A batch leaves at the time the policy says (an instance free, and a batch due), not at the time
    the thread learnt of it, so late wake-ups do not shift the device's schedule.

    Args:
        batcher: The policy; from now on only the group touches it.
        devices: One for each instance; the same one for instances that share it.
        deliver: Called in an instance's thread with each finished batch; must not block or raise.
        expire: Called in such a thread with jobs whose time ran out in the queue; must not block or raise.
        preserve_ordering: Deliver in the order in which batches were formed.
    """

    def __init__(
        self,
        batcher: Batcher,
        devices: Sequence[Device],
        *,
        deliver: Callable[[FinishedBatch], object],
        expire: Callable[[list[Job]], object] = lambda _: None,
        preserve_ordering: bool = False,
    ) -> None:
        self._batcher = batcher
        self._deliver = deliver
        self._expire = expire
        self._changed = Condition()
        self._stopping = self._draining = False
        self._looks_ns: list[int] = []  # when instances that wait will look by themselves
        self._taken = 0
        self._order = InOrder() if preserve_ordering else None
        # Daemons: a batch that outlasts the shutdown's bound must not hold the process.
        self._threads = [
            Thread(target=self._work, args=(device,), name=f"instance-{i}", daemon=True)
            for i, device in enumerate(devices)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Let what waits leave at once: nothing more comes that could fill a batch."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

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

    def submit(self, job: Job) -> bool:
        """Queue a job, which arrives now; False when the queue is full."""
        with self._changed:
            due_ns = self._batcher.due_ns()
            # Its arrival is read under the lock: no batch that has been taken could have contained it.
            job.arrived_ns = now_ns()
            accepted = self._batcher.offer(job)
            new_ns = self._batcher.due_ns()
            if new_ns is not None and new_ns != due_ns and not any(look_ns <= new_ns for look_ns in self._looks_ns):
                self._changed.notify()
        return accepted

    def cancel(self, job: Job) -> bool:
        """Take out a job whose sender has left; False when it waits no more."""
        with self._changed:
            return self._batcher.cancel(job)

    def _work(self, device: Device) -> None:
        sharpen_timers()
        free_ns = 0
        while True:
            taken = self._take(free_ns)
            if taken is None:
                return
            number, jobs, start_ns = taken
            try:
                outputs, free_ns = device.run(jobs, start_ns)
                batch = FinishedBatch(jobs=jobs, start_ns=start_ns, end_ns=free_ns, outputs=outputs)
            except Exception as error:  # noqa: BLE001 (whatever a model raises ends its batch, never its instance)
                free_ns = now_ns()
                batch = FinishedBatch(jobs=jobs, start_ns=start_ns, end_ns=free_ns, outputs=error)
            if self._stopping:
                return
            self._hand_on(number, batch)

    def _hand_on(self, number: int, batch: FinishedBatch) -> None:
        if self._order is None:
            self._deliver(batch)
            return
        with self._changed:  # so that two threads deliver one after the other
            for released in self._order.add(number, batch):
                self._deliver(released)

    def _take(self, free_ns: int) -> tuple[int, list[Job], int] | None:
        """Wait for a batch for an instance that is free since `free_ns`; None when the group stops.

        Where nothing waits, look once more after the queue's delay: the first job of the next batch, if it comes soon,
        then need not wake this thread, which would contend for the interpreter with the thread that takes the others.
        """
        looks_again = True
        with self._changed:
            while not self._stopping:
                at_ns = now_ns()
                if self._draining and len(self._batcher):  # nothing more comes that could fill a batch
                    if expired := self._batcher.expire(at_ns):
                        self._expire(expired)
                    if jobs := self._batcher.flush(at_ns):
                        return self._number(), jobs, max(at_ns, free_ns)
                    continue
                due_ns = self._batcher.due_ns()
                if due_ns is None:
                    self._wait(self._batcher.delay_ns if looks_again else None)
                    looks_again = False
                elif due_ns > at_ns:
                    self._wait(due_ns - at_ns)
                elif taken := self._leave(max(due_ns, free_ns)):
                    return taken
        return None

    def _wait(self, time_ns: int | None) -> None:
        """Wait for a change, and if a time is given no longer than that."""
        if not time_ns:
            self._changed.wait()
            return
        look_ns = now_ns() + time_ns
        self._looks_ns.append(look_ns)
        self._changed.wait(time_ns / 1e9)
        self._looks_ns.remove(look_ns)

    def _leave(self, start_ns: int) -> tuple[int, list[Job], int] | None:
        """Take what is due; None where it was only a time-out that came."""
        expired = self._batcher.expire(start_ns)
        if expired:
            self._expire(expired)
        jobs = self._batcher.take(start_ns)
        if len(self._batcher):
            self._changed.notify()  # another idle instance may be due, or has to wait for what is left
        return (self._number(), jobs, start_ns) if jobs else None

    def _number(self) -> int:
        self._taken += 1
        return self._taken - 1


def sharpen_timers() -> None:
    """Let this thread's sleeps end some 0.05 ms nearer to their time, by asking for less than the kernel's slack."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
