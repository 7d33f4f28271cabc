"""The model of a GPU's time. Pure: time is passed in, so that tests run it years ahead of any clock."""

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

_CHUNK = 4096


def lognormal_noise(sigma: float, seed: int) -> Iterator[float]:
    """Yield independent lognormal factors of mean 1; `sigma` is the standard deviation of their logarithm."""
    rng = np.random.default_rng([seed, 0x5E7])  # the service stream: never shared with arrivals
    while True:
        yield from rng.lognormal(-sigma * sigma / 2, sigma, _CHUNK).tolist()


@dataclass(slots=True, kw_only=True)
class RunningBatch:
    """Follow a batch on the device.

    Attributes:
        occupancy: Share of the device that it keeps busy while alone, in [0, 1].
        finish_mark: The device's progress at which it is over.
        ended_ns: When it was over, or None.
    """

    occupancy: float
    finish_mark: float
    ended_ns: int | None = None


class SimulatedGpu:
    """Model batches that share one device.

    A batch of b rows that is alone takes (t0 + t1 * b) * noise. Of that, t1 * b is work that the device does at its
    full throughput of 1 / t1 rows a second; t0 is launch and latency, during which it could serve others. So by the
    utilisation law (Denning & Buzen, "The Operational Analysis of Queueing Network Models", ACM Computing Surveys
    10(3), 1978) the batch occupies the share

        occupancy(b) = t1 * b / (t0 + t1 * b).

    Batches of several instances run at full speed while their occupancies sum to at most 1, and overlap. Above 1 the
    device is full and every running batch is slowed by that sum: processor sharing (Kleinrock, Queueing Systems vol. 2,
    1976, ch. 4), the fluid limit of time slices that are short against a batch. Never more than 1 / t1 rows a second
    leave the device, however many instances there are.

    With t0 = t1 = 0 a batch takes no time. With t1 = 0 nothing is shared: every instance is a server of its own.

    Time never runs backwards here: a batch that starts before the latest event seen, because its thread was told late,
    starts at that event. Ends are rounded up to a nanosecond.

    Args:
        t0_ns: Time of a batch that does not depend on its size.
        t1_ns: Time for each row.
        noise: Factor on the time of each batch, in the order in which batches start; mean 1.
    """

    def __init__(self, *, t0_ns: float, t1_ns: float, noise: Iterator[float]) -> None:
        self._t0_ns = t0_ns
        self._t1_ns = t1_ns
        self._noise = noise
        self._running: list[RunningBatch] = []  # in order of their ends
        self._load = 0.0  # sum of the running batches' occupancies
        self._now_ns = 0
        self._progress = 0.0  # full-speed nanoseconds that any batch here since the device was last idle has received

    def start(self, at_ns: int, rows: int) -> RunningBatch:
        """Put a batch on the device at `at_ns`."""
        self.advance(at_ns)
        if not self._running:
            self._progress = self._load = 0.0  # no rounding error outlives a busy period
        work_ns = self._t0_ns + self._t1_ns * rows
        batch = RunningBatch(
            occupancy=self._t1_ns * rows / work_ns if work_ns else 0.0,
            finish_mark=self._progress + work_ns * next(self._noise),
        )
        insort(self._running, batch, key=lambda other: other.finish_mark)
        self._load += batch.occupancy
        return batch

    def advance(self, to_ns: int) -> None:
        """Let time pass until `to_ns`; batches whose end comes leave the device."""
        while self._running and (end_ns := self._first_end_ns()) <= to_ns:
            batch = self._running.pop(0)
            batch.ended_ns = self._now_ns = end_ns
            self._progress = batch.finish_mark
            self._load -= batch.occupancy
        if to_ns > self._now_ns:
            self._progress += (to_ns - self._now_ns) / max(1.0, self._load)
            self._now_ns = to_ns

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
