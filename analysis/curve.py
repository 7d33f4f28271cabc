"""The latency-throughput curve of an open loop, and where it turns."""

from dataclasses import dataclass
from math import sqrt
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.estimate import Estimate

Floats = NDArray[np.float64]
_LEAST_GAP = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Fit mean response time = floor + slope * l / (M - l), with l the arrival rate and M the capacity.

    The knee is the rate with the highest power, rate / mean response time (Kleinrock, "Power and deterministic rules of
    thumb", ICC 1979); on this curve it is M s / (1 + s), s = sqrt(floor / slope): for M/G/1 one request in the system
    on average. It is an optimum of efficiency that knows no limit on latency: NOT the operating point of an SLA, which
    lies below or (mostly) above it. It was chosen because it moves little with the range of rates that was swept.

    Attributes:
        floor_s: Mean response time of an idle server, seconds.
        slope_s: Growth of the mean with l / (M - l), seconds.
        capacity_rps: M.
        knee_rps: The knee, with an interval from leaving out one step at a time.
    """

    floor_s: float
    slope_s: float
    capacity_rps: float
    knee_rps: Estimate

    @classmethod
    def fit(cls, rates_rps: ArrayLike, means_s: ArrayLike, requests: ArrayLike, capacity: Estimate) -> Self | None:
        """Fit the mean response times of steps, one entry a step.

        Returns:
            None with fewer than three steps below the capacity, or where the mean does not grow with the rate.
        """
        rates, means = np.asarray(rates_rps, dtype=np.float64), np.asarray(means_s, dtype=np.float64)
        n = np.asarray(requests, dtype=np.float64)
        top = capacity.value
        keep = (rates < (1 - _LEAST_GAP) * top) & np.isfinite(means) & (means > 0) & (n > 0)
        rates, means, n = rates[keep], means[keep], n[keep]
        if rates.size < 3:
            return None
        whole = _fit(rates / (top - rates), means, n)
        if whole is None:
            return None
        knees = []
        for left_out in range(rates.size):
            rest = np.arange(rates.size) != left_out
            fitted = _fit((rates / (top - rates))[rest], means[rest], n[rest])
            if fitted is not None:
                knees.append(_knee(*fitted, top))
        knee = _knee(*whole, top)
        # jackknife (Efron 1982): variance = (k - 1) / k * sum of squares
        spread = (
            float(np.sqrt((len(knees) - 1) / len(knees) * np.sum((np.array(knees) - knee) ** 2))) if knees else knee
        )
        relative = ((capacity.high or top) - capacity.low) / (2 * top)
        reach = float(np.hypot(2 * spread, relative * knee))
        estimate = Estimate(
            value=knee, low=max(0.0, knee - reach), high=min(knee + reach, max(top, knee)), n=int(n.sum())
        )
        return cls(floor_s=whole[0], slope_s=whole[1], capacity_rps=top, knee_rps=estimate)

    def mean_s(self, rate_rps: ArrayLike) -> Floats:
        """Return the mean response time at rates below the capacity, seconds; infinite from there on."""
        rate = np.asarray(rate_rps, dtype=np.float64)
        gap = self.capacity_rps - rate
        safe = np.where(gap > 0, gap, 1.0)
        mean: Floats = np.where(gap > 0, self.floor_s + self.slope_s * rate / safe, np.inf)
        return mean


def _fit(h: Floats, means: Floats, n: Floats) -> tuple[float, float] | None:
    """Return floor and slope by least squares on relative errors, steps of few requests counting less."""
    weight = np.sqrt(np.minimum(n / (n + 50), 1)) / means
    design = np.stack([weight, weight * h], axis=1)
    (floor, slope), *_ = np.linalg.lstsq(design, weight * means, rcond=None)
    return (float(floor), float(slope)) if floor > 0 and slope > 0 else None


def _knee(floor: float, slope: float, capacity: float) -> float:
    s = sqrt(floor / slope)
    return capacity * s / (1 + s)
