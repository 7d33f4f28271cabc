import heapq
from collections.abc import Callable
from itertools import count
from threading import Condition, Thread

from loadgen.clock import now_ns
from loadgen.server.instance_group import sharpen_timers


class Alarms:
    """Call functions at given times, to about 0.1 ms, from one thread: an event loop's timers are 1 ms coarse."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._due: list[tuple[int, int, Callable[[], object]]] = []
        self._number = count()
        self._stopping = False
        self._thread = Thread(target=self._work, name="alarms", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what is yet to come is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(1.0)

    def at(self, due_ns: int, call: Callable[[], object]) -> None:
        """Call `call`, which must not block or raise, at `due_ns`; calls of one time in the order of their asking."""
        with self._changed:
            heapq.heappush(self._due, (due_ns, next(self._number), call))
            if self._due[0][2] is call:
                self._changed.notify()

    def _work(self) -> None:
        sharpen_timers()
        while (call := self._next()) is not None:
            call()

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next call; None when it is over."""
        with self._changed:
            while not self._stopping:
                left_ns = self._due[0][0] - now_ns() if self._due else None
                if left_ns is None:
                    self._changed.wait()
                elif left_ns > 0:
                    self._changed.wait(left_ns / 1e9)
                else:
                    return heapq.heappop(self._due)[2]
        return None
