from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


class RefusedError(Exception):
    """A request is not served; the message is one sentence for its sender.

    Attributes:
        status: Of the HTTP reply.
        retry_after_s: When trying again may help, seconds, or None.
    """

    def __init__(self, status: int, sentence: str, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Ask for one inference.

    Attributes:
        arrived_ns: When it joined the queue, monotonic nanoseconds.
        inputs: What the device computes on.
        rows: How much of a batch it fills, at least 1.
        priority: Level, 1 the first to be served; 0, or one that is not there, for the model's default.
        timeout_ns: Longest wait that its sender asks for, or None.
        expires_ns: When its wait is over, by the queue's policy and what its sender asked for; None: never.
        began_ns: When the server began to work on it, before any stage; 0 where that is its arrival.
        reply: Called once, on the event loop, with its answer or with why there is none; None where nobody waits.
    """

    arrived_ns: int
    inputs: Any = None
    rows: int = 1
    priority: int = 0
    timeout_ns: int | None = None
    expires_ns: int | None = None
    began_ns: int = 0
    reply: "Callable[[Reply | RefusedError], object] | None" = None


@dataclass(slots=True, kw_only=True, eq=False)
class Reply:
    """Answer one job.

    Attributes:
        outputs: What the device gave for its inputs.
        batch_size: Rows of the batch that it was part of.
        queue_ns: From its arrival to the start of that batch, nanoseconds.
        compute_ns: From the start to the end of that batch, nanoseconds.
    """

    outputs: Any
    batch_size: int
    queue_ns: int
    compute_ns: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FinishedBatch:
    """Hold a batch that has left the device.

    Attributes:
        jobs: In the order in which they were taken.
        start_ns: When the batch took an instance, on the device's own time.
        end_ns: When it left it.
        outputs: One entry a job, or the error that ended the batch.
    """

    jobs: Sequence[Job]
    start_ns: int
    end_ns: int
    outputs: Sequence[Any] | Exception

    @property
    def rows(self) -> int:
        """Return the rows of all jobs together."""
        return sum(job.rows for job in self.jobs)
