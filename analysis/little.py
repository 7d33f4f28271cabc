"""Little's law, L = lambda W, as a check of the books: requests in flight as counted, and as the rows add up."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]

_LEAST = 20  # samples below which nothing is said
_SHARE = 0.01
_SINGLE = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Little:
    """Compare two ways to the mean number of requests in flight. They share no quantity.

    Attributes:
        counted: L: time average of the engine's counter.
        implied: lambda W: rate times mean latency from the send, over the same time.
        tolerance: How far apart the two may be.
    """

    counted: float
    implied: float
    tolerance: float

    @property
    def closes(self) -> bool:
        """Say that the two agree."""
        return abs(self.counted - self.implied) <= self.tolerance


def little(samples: Mapping[int, Times], sent_ns: Times, done_ns: Times, worker: Times) -> Little | None:
    """Check one step; None where the samples are too few.

    The average of the samples is not yet that over time: a grid of 10 ms is coarse beside latencies of 0.1 ms, and an
    event loop samples when it is awake, which is when it has just sent something. How far a grid misses is no secret
    though: the rows say how many requests were in flight at each of its points, and on average over time. That
    difference is taken off as a control variate (Law, "Simulation modeling and analysis", 5th ed., 11.4); it carries
    the whole error of the sampling, so the tolerance needs no statistics. It is one per cent, and three samples that
    are off by one. What is left unseen is an error that comes and goes between two samples, in step with them; the
    engine's timer drifts against every other clock.

    Args:
        samples: By worker, int64 (k, 2): time, and connections with a request under way.
        sent_ns: int64 (n,), 0 where a request was never sent.
        done_ns: int64 (n,).
        worker: int64 (n,), who sent it.
    """
    counted = implied = tolerance = 0.0
    was_sent = sent_ns > 0
    for index, points in samples.items():
        if len(points) < _LEAST:
            return None
        at, own = points[:, 0], was_sent & (worker == index)
        sent, done = sent_ns[own], done_ns[own]
        first, last = int(at[0]), int(at[-1])
        overlap = np.minimum(done, last) - np.maximum(sent, first)
        mean = float(np.maximum(overlap, 0).sum(dtype=np.float64)) / (last - first)
        ended = np.searchsorted(np.sort(done), at, side="right")
        on_grid = float((np.searchsorted(np.sort(sent), at, side="right") - ended).mean())
        counted += float(points[:, 1].mean()) - (on_grid - mean)
        implied += mean
        tolerance += _SHARE * mean + _SINGLE / len(points)
    return Little(counted=counted, implied=implied, tolerance=tolerance) if samples else None
