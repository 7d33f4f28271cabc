from collections import deque
from collections.abc import Sequence

from loadgen.server.job import Job


class Batcher:
    """Decide when waiting jobs go to a free instance as one batch. Pure: time is passed in.

    The rules of Triton's dynamic batcher ("Batchers", Triton Inference Server user guide; GetDynamicBatch in its
    dynamic_batch_scheduler.cc), for an instance that is free at time `t`:

    - As soon as a preferred size is waiting, a batch of the largest preferred size that is waiting leaves.
      Without preferred sizes the only one is `max_batch_size`.
    - As soon as the oldest job has waited `max_queue_delay_ns`, everything that waits leaves, at most `max_batch_size`.

    So a batch leaves at max(instance free, min(arrival of the B-th waiting job, oldest arrival + W)) and takes what has
    arrived by then, at most B. A batch takes only jobs that had arrived when it left, so that a caller who is told late
    of a free instance can still pass the time at which it became free.

    Args:
        max_batch_size: Most rows in a batch.
        preferred_sizes: Rows at which a batch leaves at once, each at most `max_batch_size`; empty for none.
        max_queue_delay_ns: Longest wait of the oldest job while an instance is free.
        max_queue_size: Most waiting jobs.
    """

    def __init__(
        self,
        *,
        max_batch_size: int,
        max_queue_delay_ns: int,
        max_queue_size: int,
        preferred_sizes: Sequence[int] = (),
    ) -> None:
        self._max_rows = max_batch_size
        self._preferred = sorted(preferred_sizes) or [max_batch_size]
        self._delay_ns = max_queue_delay_ns
        self._max_jobs = max_queue_size
        self._queue: deque[Job] = deque()
        self._rows = 0
        self._preferred_at_ns: int | None = None  # arrival that brought the waiting rows to the smallest preferred size

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return len(self._queue)

    @property
    def oldest_ns(self) -> int | None:
        """Return the arrival of the oldest waiting job."""
        return self._queue[0].arrived_ns if self._queue else None

    def offer(self, job: Job) -> bool:
        """Queue a job, in order of arrival; False when the queue is full."""
        if len(self._queue) >= self._max_jobs:
            return False
        self._queue.append(job)
        self._rows += job.rows
        if self._preferred_at_ns is None and self._rows >= self._preferred[0]:
            self._preferred_at_ns = job.arrived_ns
        return True

    def due_ns(self) -> int | None:
        """Return when a free instance is to take a batch, should nothing more arrive; None when nothing waits."""
        if not self._queue:
            return None
        delayed_ns = self._queue[0].arrived_ns + self._delay_ns
        return delayed_ns if self._preferred_at_ns is None else min(delayed_ns, self._preferred_at_ns)

    def take(self, at_ns: int) -> list[Job]:
        """Remove and return the batch that leaves at `at_ns`, of jobs arrived by then; empty when none is due."""
        due_ns = self.due_ns()
        if due_ns is None or at_ns < due_ns:
            return []
        queue, room = self._queue, self._limit(at_ns)
        batch: list[Job] = []
        # The first job goes even when it alone has more rows than the preferred size.
        while queue and queue[0].arrived_ns <= at_ns and (not batch or queue[0].rows <= room):
            batch.append(queue.popleft())
            room -= batch[-1].rows
            self._rows -= batch[-1].rows
        self._preferred_at_ns = self._first_reaching(self._preferred[0])
        return batch

    def _limit(self, at_ns: int) -> int:
        """Return how many rows the batch that leaves at `at_ns` may have."""
        if at_ns >= self._queue[0].arrived_ns + self._delay_ns:
            return self._max_rows
        limit = self._preferred[0]
        for size in self._preferred[1:]:
            reached_ns = self._first_reaching(size)
            if reached_ns is None or reached_ns > at_ns:
                break
            limit = size
        return limit

    def _first_reaching(self, rows: int) -> int | None:
        """Return the arrival that brought the waiting rows to `rows`, or None when fewer wait."""
        if self._rows < rows:
            return None
        for job in self._queue:
            rows -= job.rows
            if rows <= 0:
                return job.arrived_ns
        return None
