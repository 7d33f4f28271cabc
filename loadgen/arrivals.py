"""Arrival processes: seeded, drawn ahead as due times. Pure; the pacing is the worker's."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

_CHUNK = 4096
DueTimes = Iterator[NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gamma:
    """Draw gaps from a gamma distribution: independent, mean 1 / rate.

    Attributes:
        cv: Coefficient of variation of the gaps: 1 is Poisson, above 1 bursty, below 1 smooth; above zero.
    """

    cv: float = 1.0

    def __post_init__(self) -> None:
        if not self.cv > 0:
            raise ValueError(f"Gamma cv {self.cv}: must be above zero")

    def due_ns(self, rate_rps: float, duration_s: float, seed: int) -> DueTimes:
        """Yield chunks of due times in [0, duration), nanoseconds from the step's start, int64, increasing."""
        rng = np.random.default_rng([seed, 0x0A221])
        shape = 1 / self.cv**2
        end_ns, at_ns = duration_s * 1e9, 0.0
        while at_ns < end_ns:
            due = at_ns + np.cumsum(rng.gamma(shape, 1e9 / (rate_rps * shape), _CHUNK))
            at_ns = float(due[-1])
            yield due[due < end_ns].astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poisson:
    """Draw a Poisson process: independent exponential gaps."""

    def due_ns(self, rate_rps: float, duration_s: float, seed: int) -> DueTimes:
        """Yield chunks of due times in [0, duration), nanoseconds from the step's start, int64, increasing."""
        return Gamma(cv=1.0).due_ns(rate_rps, duration_s, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Space requests evenly, the first one half a gap after the start."""

    def due_ns(self, rate_rps: float, duration_s: float, seed: int) -> DueTimes:  # noqa: ARG002 (one signature for all)
        """Yield chunks of due times in [0, duration), nanoseconds from the step's start, int64, increasing."""
        for first in count(0, _CHUNK):
            due = (np.arange(first, first + _CHUNK) + 0.5) * (1e9 / rate_rps)
            yield due[due < duration_s * 1e9].astype(np.int64)
            if due[-1] >= duration_s * 1e9:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Replay recorded due times, scaled in time to the asked rate and repeated until the step ends.

    Attributes:
        recorded_s: Due times of the recording, seconds, increasing, at least two.
    """

    recorded_s: tuple[float, ...]

    def __post_init__(self) -> None:
        gaps = np.diff(self.recorded_s)
        if gaps.size == 0 or np.any(gaps < 0) or self.recorded_s[-1] <= self.recorded_s[0]:
            raise ValueError("Replay recorded_s: give at least two due times that increase")

    def due_ns(self, rate_rps: float, duration_s: float, seed: int) -> DueTimes:  # noqa: ARG002 (one signature for all)
        """Yield chunks of due times in [0, duration), nanoseconds from the step's start, int64, increasing."""
        times = np.asarray(self.recorded_s) - self.recorded_s[0]
        period = float(times[-1]) * times.size / (times.size - 1)  # one more mean gap before the recording starts again
        scale = times.size / period / rate_rps
        for lap in count():
            due = (times + lap * period) * scale
            yield (due[due < duration_s] * 1e9).astype(np.int64)
            if due[-1] >= duration_s:
                return


Arrivals = Poisson | Constant | Gamma | Replay


def share(chunks: DueTimes, worker: int, workers: int) -> DueTimes:
    """Thin a stream to one worker's share, every `workers`-th request: together they send exactly the stream."""
    first = worker
    for due in chunks:
        yield due[first::workers]
        first = (first - due.size) % workers
