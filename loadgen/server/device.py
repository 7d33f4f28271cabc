"""What runs batches: the blocking seam, and the simulated GPU behind it."""

import time
from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

from loadgen.clock import now_ns
from loadgen.server.job import Job
from loadgen.server.sharing import RunningBatch
from loadgen.server.simulated_gpu import SimulatedGpu

_LAST_NAP_NS = 150_000


class InjectedFailureError(Exception):
    """The batch failed because the device's profile says that some do."""


class Device(Protocol):
    """Run batches. Each instance calls from a thread of its own, and a call blocks until its batch is done."""

    def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
        """Run a batch that left the queue at `start_ns`; return one output a job, and when the batch ended.

        The end is never later than the return. From it on, the instance counts as free.
        """


class SimulatedDevice:
    """Run the model `SimulatedGpu` in real time, as an identity: each job's outputs are its inputs.

    A batch starts at the time that the caller passes, not at the call, and ends at the time that the model says: the
    device keeps its own time, as a real one does that has its next batch queued. A thread that wakes 0.1 ms late so
    delivers a reply 0.1 ms late, and costs the device nothing: overshoot never adds up to lost capacity. A batch is
    never reported before its end.

    Args:
        gpu: The model.
        lock: Of the device that the model's batches share with others.
        before_ns: CPU work for each row that the instance does before it starts its batch, nanoseconds.
        after_ns: The same, after the batch.
    """

    def __init__(
        self, gpu: SimulatedGpu, lock: "Lock | None" = None, *, before_ns: float = 0.0, after_ns: float = 0.0
    ) -> None:
        self._gpu = gpu
        self._lock = lock or Lock()
        self._before_ns, self._after_ns = before_ns, after_ns

    def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
        """Sleep until the model says that the batch is done."""
        rows = sum(job.rows for job in jobs)
        if self._before_ns:
            start_ns += round(self._before_ns * rows)
            _sleep_until(start_ns)
        with self._lock:
            fails = self._gpu.fails()
            batch = self._gpu.start(start_ns, rows)
        while (left_ns := self._left_ns(batch)) > 0:  # the end moves when another instance starts a batch
            time.sleep(_nap_s(left_ns))
        assert batch.ended_ns is not None
        end_ns = batch.ended_ns + round(self._after_ns * rows)
        if self._after_ns:
            _sleep_until(end_ns)
        if fails:
            raise InjectedFailureError
        return [job.inputs for job in jobs], end_ns

    def _left_ns(self, batch: RunningBatch) -> int:
        """Return how long to sleep; at its end, let the batch leave the model."""
        with self._lock:
            end_ns, at_ns = self._gpu.end_ns(batch), now_ns()
            if end_ns <= at_ns:
                # Not to `at_ns`: batches of instances whose threads are yet to wake may start before it.
                self._gpu.advance(end_ns)
            return 0 if batch.ended_ns is not None else max(1, end_ns - at_ns)


def _sleep_until(at_ns: int) -> None:
    while (left_ns := at_ns - now_ns()) > 0:
        time.sleep(_nap_s(left_ns))


def _nap_s(left_ns: int) -> float:
    """Return how long to sleep of the time that is left: all of it, or all but a last short nap.

    A core that slept for 13 ms wakes 0.11 to 0.14 ms late, and one that slept for 0.15 ms 0.04 to 0.06 ms (sharpened
    timers, a virtual machine). To spin instead would take the interpreter from the thread that answers requests.
    """
    return (left_ns - _LAST_NAP_NS if left_ns > 2 * _LAST_NAP_NS else left_ns) / 1e9
