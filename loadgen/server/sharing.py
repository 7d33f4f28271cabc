from bisect import insort
from dataclasses import dataclass
from math import ceil


@dataclass(slots=True, kw_only=True)
class RunningBatch:
    """Follow a batch on a device.

    Attributes:
        occupancy: Share of the device that it keeps busy while alone, in [0, 1].
        finish_mark: The device's progress at which it is over.
        ended_ns: When it was over, or None.
    """

    occupancy: float
    finish_mark: float
    ended_ns: int | None = None


class SharedDevice:
    """Model batches that share one device. Pure: time is passed in, so that tests run it years ahead of any clock.

    A batch that is alone keeps a share of the device busy, its occupancy. Batches of several instances run at full
    speed while their occupancies sum to at most 1, and overlap. Above 1 the device is full and every running batch is
    slowed by that sum: processor sharing (Kleinrock, Queueing Systems vol. 2, 1976, ch. 4), the fluid limit of time
    slices that are short against a batch.

    Time never runs backwards here: a batch that starts before the latest event seen, because its thread was told late,
    starts at that event. Ends are rounded up to a nanosecond.
    """

    def __init__(self) -> None:
        self._running: list[RunningBatch] = []  # in order of their ends
        self._load = 0.0  # sum of the running batches' occupancies
        self._now_ns = 0
        self._progress = 0.0  # full-speed nanoseconds that any batch here since the device was last idle has received
        self._busy_ns = 0.0  # share of the device that was kept busy, times how long

    def place(self, at_ns: int, alone_ns: float, occupancy: float) -> RunningBatch:
        """Put a batch on the device at `at_ns` that takes `alone_ns` while it is alone."""
        self.advance(at_ns)
        if not self._running:
            self._progress = self._load = 0.0  # no rounding error outlives a busy period
        batch = RunningBatch(occupancy=occupancy, finish_mark=self._progress + alone_ns)
        insort(self._running, batch, key=lambda other: other.finish_mark)
        self._load += occupancy
        return batch

    def advance(self, to_ns: int) -> None:
        """Let time pass until `to_ns`; batches whose end comes leave the device."""
        while self._running and (end_ns := self._first_end_ns()) <= to_ns:
            batch = self._running.pop(0)
            self._busy_ns += (end_ns - self._now_ns) * min(1.0, self._load)
            batch.ended_ns = self._now_ns = end_ns
            self._progress = batch.finish_mark
            self._load -= batch.occupancy
        if to_ns > self._now_ns:
            if self._running:
                self._busy_ns += (to_ns - self._now_ns) * min(1.0, self._load)
            self._progress += (to_ns - self._now_ns) / max(1.0, self._load)
            self._now_ns = to_ns

    @property
    def busy_ns(self) -> float:
        """Return how long the device was busy up to the latest event; a time in which half of it was counts half."""
        return self._busy_ns

    def end_ns(self, batch: RunningBatch) -> int:
        """Return when a batch ends, exact once it is over; until then, what it will be should no other batch start.

        Another start only ever makes it later.
        """
        if batch.ended_ns is not None:
            return batch.ended_ns
        at_ns, progress, load = self._now_ns, self._progress, self._load
        for other in self._running:
            at_ns += ceil((other.finish_mark - progress) * max(1.0, load))
            if other is batch:
                break
            progress = other.finish_mark
            load -= other.occupancy
        return at_ns

    def next_end_ns(self) -> int | None:
        """Return when the first of the running batches ends, should no other start; None when the device is idle."""
        return self._first_end_ns() if self._running else None

    def _first_end_ns(self) -> int:
        return self._now_ns + ceil((self._running[0].finish_mark - self._progress) * max(1.0, self._load))
