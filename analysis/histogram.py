"""HDR histogram (Gil Tene, hdrhistogram.org) over one numpy array: 3 significant digits from 1 ns to 1 hour.

The layout is HdrHistogram's own with lowest discernible value 1, so that counts go into its interval log unchanged.
"""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIGNIFICANT_DIGITS = 3
HIGHEST_NS = 3_600_000_000_000
_HALF_BITS = 10  # 2 * 10^3 rounded up to a power of two is 2^11 sub-buckets; half of them are 2^10
_SUB_BUCKETS = 2 << _HALF_BITS
_BUCKETS = HIGHEST_NS.bit_length() - (_HALF_BITS + 1) + 1
_SIZE = (_BUCKETS + 1) << _HALF_BITS


def _index(values_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map values in [0, HIGHEST_NS] to counter indices."""
    bits = np.frexp((values_ns | (_SUB_BUCKETS - 1)).astype(np.float64))[1].astype(np.int64)
    bucket = bits - (_HALF_BITS + 1)
    index: NDArray[np.int64] = (bucket << _HALF_BITS) + (values_ns >> bucket)
    return index


def _lowest_ns(index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the lowest value that falls into each counter."""
    bucket = np.maximum((index >> _HALF_BITS) - 1, 0)
    lowest: NDArray[np.int64] = (index - (bucket << _HALF_BITS)) << bucket
    return lowest


class Histogram:
    """Count latencies in nanoseconds; values above an hour, and failures, are overflow: counted, never dropped."""

    __slots__ = ("counts", "overflow")

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_SIZE, dtype=np.int64)
        self.overflow = 0

    @classmethod
    def of(cls, values_ns: ArrayLike, *, overflow: int = 0) -> "Histogram":
        """Count an array of non-negative values, and add `overflow` to the overflow."""
        histogram = cls()
        histogram.record(values_ns)
        histogram.overflow += overflow
        return histogram

    def record(self, values_ns: ArrayLike) -> None:
        """Fold an int64 array in, vectorised.

        Raises:
            ValueError: A value is negative.
        """
        values = np.asarray(values_ns, dtype=np.int64)
        if values.size and int(values.min()) < 0:
            raise ValueError("Histogram: a latency is negative")
        inside = values[values <= HIGHEST_NS]
        self.overflow += int(values.size - inside.size)
        self.counts += np.bincount(_index(inside), minlength=_SIZE)

    def __iadd__(self, other: "Histogram") -> Self:
        self.counts += other.counts
        self.overflow += other.overflow
        return self

    @property
    def total(self) -> int:
        """Return the number of values, overflow included."""
        return int(self.counts.sum()) + self.overflow

    def quantile_ns(self, quantile: float) -> float:
        """Return the value of rank ceil(quantile * total), as the highest value of its counter.

        Infinite when that rank lies in the overflow, NaN when the histogram is empty.
        """
        total = self.total
        if total == 0:
            return float("nan")
        rank = max(1, int(np.ceil(quantile * total - 1e-9)))
        cumulative = np.cumsum(self.counts)
        if rank > cumulative[-1]:
            return float("inf")
        index = np.asarray([np.searchsorted(cumulative, rank)])
        return float(_lowest_ns(index + 1)[0] - 1)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return (latency_ns, share): each occupied counter's highest value, and the share of all values up to it."""
        index = np.flatnonzero(self.counts)
        share = np.cumsum(self.counts[index]) / max(1, self.total)
        return (_lowest_ns(index + 1) - 1).astype(np.float64), share

    def as_json(self) -> dict[str, Any]:
        """Return the occupied counters, with their values in ns beside them so that other programs can read it."""
        index = np.flatnonzero(self.counts)
        return {
            "lowest_ns": _lowest_ns(index).tolist(),
            "count": self.counts[index].tolist(),
            "overflow": self.overflow,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Histogram":
        """Read back what `as_json` gave."""
        histogram = cls()
        histogram.counts[_index(np.asarray(data["lowest_ns"], dtype=np.int64))] = data["count"]
        histogram.overflow = int(data["overflow"])
        return histogram
