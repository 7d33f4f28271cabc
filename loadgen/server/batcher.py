from collections.abc import Sequence

from loadgen.server.job import Job
from loadgen.server.waiting import Waiting


class Batcher:
    """Decide when waiting jobs go to a free instance as one batch. Pure: time is passed in.

    The rules of Triton's dynamic batcher ("Batchers", Triton Inference Server user guide; GetDynamicBatch in its
    dynamic_batch_scheduler.cc), for an instance that is free at time `t`:

    - As soon as the first jobs that wait add up to a preferred size exactly, the largest such batch leaves. Where the
      next job would make it larger than every preferred size, the batch without it counts as one.
    - As soon as the oldest job has waited `max_queue_delay_ns`, everything that waits leaves, at most `max_batch_size`
      rows. Without a delay (0) whatever waits leaves at once, in a preferred size where there is one.

    Sizes are rows: a job of three rows fills three places. A job is never split, and goes even when it alone has more
    rows than a batch may have. So with jobs of one row a batch leaves at max(instance free, min(arrival of the B-th
    waiting job, oldest arrival + W)) and takes what has arrived by then, at most B. A batch takes only jobs that had
    arrived when it left, so that a caller who is told late of a free instance can still pass the time at which it
    became free.

    The baselines are settings of the same rules. Static batching: `max_queue_delay_ns` None, so that only full batches
    leave. No batching: `max_batch_size` 1 and no delay, so that each job goes alone.

    Args:
        waiting: The queue; from now on only the batcher touches it.
        max_batch_size: Most rows in a batch.
        max_queue_delay_ns: Longest wait of the oldest job while an instance is free; None: for ever.
        preferred_sizes: Rows at which a batch leaves at once, each at most `max_batch_size`; empty: only that.
    """

    def __init__(
        self,
        waiting: Waiting,
        *,
        max_batch_size: int,
        max_queue_delay_ns: int | None,
        preferred_sizes: Sequence[int] = (),
    ) -> None:
        self._waiting = waiting
        self._max_rows = max_batch_size
        self._preferred = frozenset(preferred_sizes or [max_batch_size])
        self._least, self._most = min(self._preferred), max(self._preferred)
        self._delay_ns = max_queue_delay_ns
        self._ready_ns: int | None = None  # arrival with which what waits could leave without the delay's end

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return len(self._waiting)

    @property
    def delay_ns(self) -> int | None:
        """Return how long the oldest job waits for others at most; None: for ever."""
        return self._delay_ns

    @property
    def oldest_ns(self) -> int | None:
        """Return the arrival of the oldest waiting job."""
        return self._waiting.oldest_ns()

    def offer(self, job: Job) -> bool:
        """Queue a job, in order of arrival; False when the queue is full."""
        if not self._waiting.add(job):
            return False
        # The first test is cheap, and fails for all but the last job of a batch.
        if self._ready_ns is None and self._waiting.rows >= self._least and self._can_leave(job.arrived_ns):
            self._ready_ns = job.arrived_ns
        return True

    def cancel(self, job: Job) -> bool:
        """Take out a job whose sender has left; False when it waits no more."""
        is_out = self._waiting.remove(job)
        if is_out:
            self._ready_ns = self._first_ready_ns()
        return is_out

    def expire(self, at_ns: int) -> list[Job]:
        """Apply the time-outs up to `at_ns`; remove and return the jobs that are refused."""
        next_ns = self._waiting.next_expiry_ns()
        if next_ns is None or next_ns > at_ns:
            return []
        refused = self._waiting.expire(at_ns)
        self._ready_ns = self._first_ready_ns()
        return refused

    def due_ns(self) -> int | None:
        """Return when a free instance is to look, should nothing more arrive; None when there is nothing to wait for.

        It then calls `expire`, and `take`, which gives nothing where it was only a time-out that came.
        """
        leave_ns, expiry_ns = self._leave_ns(), self._waiting.next_expiry_ns()
        if leave_ns is None or expiry_ns is None:
            return expiry_ns if leave_ns is None else leave_ns
        return min(leave_ns, expiry_ns)

    def take(self, at_ns: int) -> list[Job]:
        """Remove and return the batch that leaves at `at_ns`, of jobs arrived by then; empty when none is due."""
        leave_ns = self._leave_ns()
        if leave_ns is None or at_ns < leave_ns:
            return []
        batch, preferred, is_full = self._form(at_ns)
        if self._delay_is_over(at_ns) or (is_full and not preferred):
            pass
        elif preferred:
            batch = batch[:preferred]
        elif self._delay_ns != 0:  # a job of a higher priority came between: what was ready is so no more
            self._ready_ns = None
            return []
        for job in batch:
            self._waiting.remove(job)
        self._ready_ns = self._first_ready_ns()
        return batch

    def flush(self, at_ns: int) -> list[Job]:
        """Remove and return the next batch, due or not: nothing more will arrive."""
        batch = self._form(at_ns)[0]
        for job in batch:
            self._waiting.remove(job)
        self._ready_ns = self._first_ready_ns()
        return batch

    def _leave_ns(self) -> int | None:
        """Return when a batch leaves, should an instance be free."""
        oldest_ns = None if self._delay_ns is None else self._waiting.oldest_ns()
        if oldest_ns is None:
            return self._ready_ns
        delayed_ns = oldest_ns + (self._delay_ns or 0)
        return delayed_ns if self._ready_ns is None else min(delayed_ns, self._ready_ns)

    def _delay_is_over(self, at_ns: int) -> bool:
        oldest_ns = self._waiting.oldest_ns() if self._delay_ns else None
        return oldest_ns is not None and at_ns >= oldest_ns + (self._delay_ns or 0)

    def _form(self, at_ns: int) -> tuple[list[Job], int, bool]:
        """Return the jobs of the largest batch, how many of them make a preferred one (or 0), and whether it is full.

        Full: it has the largest preferred size at least, or the next job does not fit.
        """
        batch: list[Job] = []
        rows = preferred = 0
        for job in self._waiting.in_order(at_ns):
            if batch:
                if rows + job.rows > self._most and not preferred:
                    preferred = len(batch)
                if rows + job.rows > self._max_rows:
                    return batch, preferred, True
            batch.append(job)
            rows += job.rows
            if rows in self._preferred:
                preferred = len(batch)
        return batch, preferred, rows >= self._most

    def _first_ready_ns(self) -> int | None:
        """Return the arrival with which what waits could leave without the delay's end, or None."""
        if self._waiting.rows < self._least:
            return None
        rows, is_fifo = 0, self._waiting.is_fifo  # then the first jobs to come are the first of the batch
        for job in self._waiting.by_arrival():
            rows += job.rows
            if rows >= self._least and ((is_fifo and rows in self._preferred) or self._can_leave(job.arrived_ns)):
                return job.arrived_ns
        return None

    def _can_leave(self, at_ns: int) -> bool:
        _, preferred, is_full = self._form(at_ns)
        return preferred > 0 or is_full
