"""Whether services take as long as before: pauses, spells, jumps and drifts over the time of a run.

Legend: a ratio is a service time over the mean of its batch size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Self

import numpy as np
from scipy import stats

from analysis.queueing import Floats, Ints

SPELLS = 0.03  # standard deviation of the means of seconds beyond chance: a server that is slow for stretches of time
SPELL_S = 2.0  # over which services depend on one another where there are any
_SECOND_S, _FEWEST_SECONDS, _SURELY = 1.0, 8, 0.999
_FAR, _RARE = 6.0, 0.01  # robust standard deviations; share of the services
_BLOCK_S = 2.0
_CHANGE_Z, _TREND_Z, _CHANGE, _USUAL_DRIFT = 4.5, 3.3, 0.004, 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seconds:
    """Hold the ratios of services by the second in which they began.

    Attributes:
        dates_s: float (k,), of the first service of each second, on the run's clock.
        counts: int (k,), of services.
        means: float (k,), of their ratios.
        squares: float (k,), sums of the squares of what the ratios are off the mean of their second.
    """

    dates_s: Floats
    counts: Ints
    means: Floats
    squares: Floats

    @classmethod
    def of(cls, dates_s: Floats, ratios: Floats) -> Self:
        """Take at least one service, in order of time."""
        edges = np.flatnonzero(np.diff(np.floor(dates_s / _SECOND_S), prepend=-np.inf))
        counts = np.diff(np.append(edges, ratios.size))
        means = np.add.reduceat(ratios, edges) / counts
        squares = np.add.reduceat((ratios - np.repeat(means, counts)) ** 2, edges)
        return cls(dates_s=dates_s[edges], counts=counts, means=means, squares=squares)


def spells(parts: Sequence[Seconds], since_s: float | None = None) -> float:
    """Return by how much the means of seconds scatter beyond chance, as a standard deviation; 0 where chance may do it.

    Args:
        parts: Of any steps.
        since_s: Seconds before that do not count.
    """
    if not parts:
        return 0.0
    columns = np.array(
        [np.concatenate([getattr(part, name) for part in parts]) for name in ("dates_s", "counts", "means", "squares")]
    )
    _, counts, means, squares = columns[:, columns[0] >= (since_s or 0.0)]
    services, seconds = float(counts.sum()), counts.size
    if seconds < _FEWEST_SECONDS or services < 2 * seconds:
        return 0.0
    within = float(squares.sum()) / (services - seconds)
    centre = float(np.average(means, weights=counts))
    excess = float((counts * (means - centre) ** 2).sum()) / (counts.size - 1) / max(within, 1e-12)
    if excess < stats.chi2.ppf(_SURELY, counts.size - 1) / (counts.size - 1):
        return 0.0
    return sqrt((excess - 1) * within / float(counts.mean()))


def usual(ratios: Floats) -> tuple[float, float]:
    """Return the range beyond which lies a rare pause, which is no change of the server: at most one in a hundred.

    More are no pauses but a class of requests, or a spell of which they must show how slow it is.
    """
    middle = float(np.median(ratios))
    reach = _FAR * max(float(stats.median_abs_deviation(ratios, scale="normal")), 0.01)
    reach = max(reach, float(np.quantile(np.abs(ratios - middle), 1 - _RARE)))
    return middle - reach, middle + reach


def stationary(dates_s: Floats, ratios: Floats) -> tuple[int, float, float]:
    """Return from which service on the ratios show no change, the size of the last change cut off, and of a trend left.

    Block means over about two seconds are split where their means differ most, by a t statistic; the earlier part goes
    while that is above 4.5 and 0.4 %. A trend above 3.3 standard errors of its slope, or what may be left of one after
    a cut, cannot be cut off: it is given as the change over the whole time seen, for as much may be still to come. Of a
    lesser one it is the less the better chance explains it, and the less a drift of some 2 % would be seen at all.
    """
    begin, change = 0, 0.0
    for _ in range(4):
        edges, means, weights = _blocks(dates_s[begin:], ratios[begin:])
        if means.size < 6:
            break
        cut, z, difference = _split(means, weights, float(ratios[begin:].var()))
        if abs(z) < _CHANGE_Z or abs(difference) < _CHANGE:
            break
        change = difference
        begin += int(edges[cut])
    edges, means, weights = _blocks(dates_s[begin:], ratios[begin:])
    if means.size < 4:
        return begin, change, abs(change)
    dates = dates_s[begin:][edges]
    at = dates - np.average(dates, weights=weights)
    apart = means - np.average(means, weights=weights)
    spread = float(weights @ at**2)
    slope = float(weights @ (at * apart)) / spread
    residual = float(weights @ (apart - slope * at) ** 2) / (means.size - 2)
    per_weight = max(residual, float(ratios[begin:].var()))
    error, seen = (per_weight / spread) ** 0.5, float(dates_s[-1] - dates_s[0])
    if change:  # what has changed is taken to go on changing as fast as the rest allows
        return begin, change, (abs(slope) + error) * seen
    trend, blur = abs(slope) * seen, max(error * seen, 1e-12)
    if trend > _TREND_Z * blur and trend > _CHANGE:
        return begin, change, trend
    return begin, change, trend * trend**2 / (trend**2 + 2 * blur**2) * _USUAL_DRIFT**2 / (_USUAL_DRIFT**2 + blur**2)


def _blocks(dates_s: Floats, ratios: Floats) -> tuple[Ints, Floats, Floats]:
    """Return where blocks begin, their means and their numbers of services; at least 20 services and 2 s each."""
    gaps = np.diff(dates_s, prepend=dates_s[:1])
    busy = np.cumsum(np.clip(gaps, 0.0, 0.5))
    length = max(_BLOCK_S, float(busy[-1]) / 60, 20 * float(busy[-1]) / max(1, dates_s.size))
    number = (busy / length).astype(np.int64)
    edges = np.flatnonzero(np.diff(number, prepend=-1))
    counts = np.diff(np.append(edges, ratios.size))
    means = np.add.reduceat(ratios, edges) / counts
    keep = counts >= 10
    return edges[keep], means[keep], counts[keep].astype(np.float64)


def _split(means: Floats, weights: Floats, variance: float) -> tuple[int, float, float]:
    """Return the block from which on means differ most, by how many standard errors, and by how much.

    The error is that of services with their `variance`, or more where the scatter of the blocks shows more: of a few
    blocks that alone is by chance much too small now and then.
    """
    best = (0, 0.0, 0.0)
    for cut in range(1, means.size - 1):
        early, late = (np.average(means[part], weights=weights[part]) for part in (slice(cut), slice(cut, None)))
        residual = np.concatenate([means[:cut] - early, means[cut:] - late])
        per_weight = max(variance, float(weights @ residual**2) / (means.size - 2))
        error = (per_weight * (1 / weights[:cut].sum() + 1 / weights[cut:].sum())) ** 0.5
        z = float(late - early) / max(error, 1e-9)
        if abs(z) > abs(best[1]):
            best = (cut, z, float(late - early))
    return best
