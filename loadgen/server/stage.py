from collections import deque
from collections.abc import Iterator
from heapq import heapify, heapreplace


class Stage:
    """Model a stage of CPU work before or after the device: workers that share one bounded queue. Pure.

    Requests are served in order of arrival, each by the first worker that is free (a G/G/c queue; Kiefer & Wolfowitz,
    "On the theory of queues with many servers", Trans. AMS 78, 1955: with service times known at arrival, a request
    starts at the least of the times at which the workers become free). So the moment a request arrives says when it
    will be done, and nothing needs to wake up in between.

    Args:
        workers: Requests that can be worked on at once.
        time_ns: Work for each row, nanoseconds.
        max_queue_size: Most requests that wait for a worker; 0: none may.
        noise: Factor on the time of each request, in order of arrival; mean 1.
    """

    def __init__(self, *, workers: int, time_ns: float, max_queue_size: int, noise: Iterator[float]) -> None:
        self._free_ns = [0] * workers
        heapify(self._free_ns)
        self._time_ns = time_ns
        self._most = max_queue_size
        self._noise = noise
        self._starts: deque[int] = deque()  # of requests that wait; in order, because they are served so

    def offer(self, at_ns: int, rows: int = 1) -> tuple[int, int] | None:
        """Return when the work on a request that arrives now begins and ends; None when the queue is full."""
        waiting = self.waiting(at_ns)
        start_ns = max(at_ns, self._free_ns[0])
        if start_ns > at_ns:
            if waiting >= self._most:
                return None
            self._starts.append(start_ns)
        end_ns = start_ns + round(self._time_ns * rows * next(self._noise))
        heapreplace(self._free_ns, end_ns)
        return start_ns, end_ns

    def waiting(self, at_ns: int) -> int:
        """Return how many requests wait for a worker."""
        while self._starts and self._starts[0] <= at_ns:
            self._starts.popleft()
        return len(self._starts)
