from asyncio import Future
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """Ask for one inference.

    Attributes:
        arrived_ns: When it joined the queue, monotonic nanoseconds.
        inputs: What the device computes on.
        rows: How much of a batch it fills, at least 1.
        reply: Where its answer goes; None where nobody waits for one.
    """

    arrived_ns: int
    inputs: Any = None
    rows: int = 1
    reply: Future["Reply"] | None = None


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
        jobs: In order of arrival.
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
