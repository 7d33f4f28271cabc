"""What the twin predicts: the rate at which an SLA's share of violations is reached, and how sure that is.

Legend: see `analysis.simulation`; s = d ln p / d ln rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt

import numpy as np

from analysis.doubt import FLOOR, SHOWN, bent_doubt, rare_doubt, resampled_doubt
from analysis.evidence import rate_at
from analysis.simulation import Steady, steady_responses
from analysis.sla import SLA
from analysis.twin import Twin

_FINE = 150_000  # requests of a round at each load, or more
_HIGHEST_Y, _LOWEST_Y = 6.2, -4.0
_STEP = 0.06  # in y: of the two loads that are simulated beside each other, from the one between them
_NEAR_Y, _FURTHEST_Y = 0.2, 0.8  # in y: up to there a simulation goes on; the longest way, and what is pooled
_USUAL_SLOPE, _LEAST_SLOPE, _MOST_SLOPE = 4.4, 0.3, 12.0  # d ln p / dy
_ROUNDS, _MOST_ROUNDS, _FEWEST_ROUNDS = 20, 60, 4
_MINOR = 0.75  # of the other doubts: up to there the simulation's error adds a quarter to them


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Say at which rate the twin reaches an SLA's share of violations.

    Attributes:
        rate_rps: The rate.
        sd: Standard deviation of its logarithm, all doubts together but that of rare delays.
        below: What the small number of rare delays and the bend of ln p add on the lower side, a standard deviation.
        above: The same on the upper side.
        slope: s there.
        quantiles: (quantile, response time in seconds, standard deviation of its logarithm) there: p50, p95, p99.
        lately: sd without the floor and the misfit: what more services would narrow.
        rare: Delays that make up part of p and were seen so few times; 0 without.
    """

    rate_rps: float
    sd: float
    below: float
    above: float
    slope: float
    lately: float
    rare: int
    quantiles: tuple[tuple[float, float, float], ...]


def forecast(twin: Twin, sla: SLA, seed: int, load: float | None = None, *, wanted: float = 1.0) -> Forecast | None:
    """Solve for the rate and for its doubt, by resampling the services in blocks (Kuensch 1989).

    Each resample simulates the rate scaled to its own capacity, so that what is left to differ is the shape.

    Args:
        twin: The fitted server.
        sla: Gives the limit and alpha.
        seed: Of the simulations.
        load: Rate over capacity that is near, where known: the search begins there.
        wanted: Standard deviation of ln rate that is asked for: the simulation goes on while it alone is in the way.
    """
    rate = min(load, 0.999) * twin.capacity_rps if load is not None else crossing(twin, sla)
    if rate is None:
        return None
    top, limit, alpha = twin.capacity_rps, sla.limit_s, sla.violation_share
    y = log(rate / max(top - rate, 1e-3 * rate))
    stands: list[_Stand] = []
    doubts: list[float] = []
    for again in range(_MOST_ROUNDS):  # p near saturation comes from few busy spells
        if not stands or abs(y - stands[-1].y) > _NEAR_Y:
            stands.append(_Stand(twin, sla, y, [seed, 10 + len(stands)]))
        stands[-1].go_on()
        moved, per_y, error = _pooled([stand for stand in stands if abs(stand.y - y) < _FURTHEST_Y], y, alpha)
        is_pinned = y == _HIGHEST_Y and moved >= 0  # it holds the SLA as far up as is asked
        y = min(y + moved, _HIGHEST_Y)
        if is_pinned and again + 1 >= _FEWEST_ROUNDS:
            break
        if again + 1 < _FEWEST_ROUNDS or abs(moved) > 0.5 * _FURTHEST_Y:
            continue
        if not doubts:
            resampled, doubts = resampled_doubt(twin, sla, rate_at(top, y), per_y * (1 + exp(y)), seed=seed)
        others, own = hypot(resampled, twin.trend, FLOOR), error / (1 + exp(y))
        if own < _MINOR * others and not (others < wanted < hypot(others, own)):
            break
        if again >= _ROUNDS and not others < wanted:
            break
    rate, slope = rate_at(top, y), per_y * (1 + exp(y))
    if not doubts and load is not None and not is_pinned:  # that was not near, or ln p falls there: begin from above
        return forecast(twin, sla, seed, wanted=wanted)
    if not doubts:  # it never came near: as far off as the last round was
        error = max(error, abs(moved))
        resampled, doubts = resampled_doubt(twin, sla, rate, slope, seed=seed)
    sd = hypot(resampled, error / (1 + exp(y)), twin.trend, FLOOR)
    near = [stand for stand in stands if abs(stand.y - y) < _FURTHEST_Y] or stands[-1:]
    quantiles = _quantiles(near, per_y, alpha, slope * sd / per_y, doubts)
    if not is_pinned:  # at the crossing the SLA's own quantile is its limit: better than any simulation shows it
        quantiles = tuple((q, limit if q == sla.quantile else value, doubt) for q, value, doubt in quantiles)
    rare, *few = rare_doubt(twin, rate, sla, seed)
    bent = bent_doubt(twin, rate, sla, slope=slope, sd=sd, seed=seed)
    below, above = (max(more, sqrt(reach**2 - sd**2)) for more, reach in zip(few, bent, strict=True))  # one doubt
    return Forecast(
        rate_rps=rate, slope=slope, rare=rare, below=below, above=above, lately=resampled, quantiles=quantiles,
        sd=sd,
    )  # fmt: skip


def crossing(twin: Twin, sla: SLA) -> float | None:
    """Return about the highest rate at which the twin holds an SLA; None where it holds it at none.

    From just below the capacity downwards, for where batches wait to fill a low rate may violate the SLA too.
    """
    top, alpha, limit = twin.capacity_rps, sla.violation_share, sla.limit_s

    def excess(y: float) -> float:
        (responses,) = steady_responses(twin, [(twin.law, rate_at(top, y))], limit, [11])
        return log(max(responses.share, 1e-6) / alpha)

    y = 3.0
    high = excess(y)
    while high <= 0:
        if y > _HIGHEST_Y:
            return rate_at(top, y)
        y += 0.8
        high = excess(y)
    low_y, low, step = y, high, 0.4
    while low > 0:
        y, high = low_y, low
        low_y -= step
        step = min(1.7 * step, 1.0)
        if low_y < _LOWEST_Y:
            return None
        low = excess(low_y)
    for _ in range(5):  # false position, its ends drawn in
        if abs(high - low) < 0.05 or y - low_y < 0.02:
            break
        share = min(max(-low / (high - low), 0.15), 0.85)
        middle = low_y + share * (y - low_y)
        value = excess(middle)
        if value > 0:
            y, high = middle, value
        else:
            low_y, low = middle, value
    best = low_y + (y - low_y) * min(max(-low / max(high - low, 1e-9), 0.0), 1.0)
    return rate_at(top, best)


class _Stand:
    """Simulate at loads a step below and a step above y, on the same chances, in lanes that go on from round to round.

    Attributes:
        y: See `analysis.simulation`.
        slow: float (2, lanes), responses above the limit so far, at the load below and the one above.
        counts: float (2, lanes), all of them.
        ends: float (rounds, 2, 3), logarithms of the quantiles shown.
    """

    def __init__(self, twin: Twin, sla: SLA, y: float, seed: Sequence[int]) -> None:
        cases = [(twin.law, rate_at(twin.capacity_rps, y + sign * _STEP)) for sign in (-1, 1)]
        self._steady = Steady(twin, cases, sla.limit_s, _FINE, seed)
        self.y = y
        self.slow = self.counts = np.zeros((2, 1))
        self.ends = np.empty((0, 2, len(SHOWN)))

    def go_on(self) -> None:
        """Simulate another round."""
        pair = self._steady.more()
        self.slow = self.slow + np.array([responses.slow for responses in pair])
        self.counts = self.counts + np.array([responses.counts for responses in pair])
        ends = np.log([np.quantile(responses.seconds, SHOWN) for responses in pair])
        self.ends = np.concatenate([self.ends, ends[None]])


def _pooled(stands: Sequence[_Stand], y: float, alpha: float) -> tuple[float, float, float]:
    """Return how far from y the shares reach alpha, d ln p / dy, and the standard error of that place.

    Shares are averaged, not their logarithms: the mean of ln p is below the logarithm of the mean. The error is from
    how lanes differ, each of which has gone its own way for all its rounds.
    """
    slow, counts = (np.concatenate([getattr(stand, name) for stand in stands], axis=1) for name in ("slow", "counts"))
    below, above = (slow.sum(axis=1) / counts.sum(axis=1)).tolist()
    slope = (
        _USUAL_SLOPE if not below else min(max(log(max(above, 1e-9) / below) / (2 * _STEP), _LEAST_SLOPE), _MOST_SLOPE)
    )
    shifts = np.concatenate([np.full(stand.slow.shape[1], stand.y - y) for stand in stands])
    here, lanes = slow.mean(axis=0) * np.exp(-slope * shifts), counts.mean(axis=0)
    mean = max(float(here.sum() / lanes.sum()), 1e-3 * alpha)
    moved = min(max(-log(mean / alpha) / slope, -_FURTHEST_Y), _FURTHEST_Y)
    off = (here - mean * lanes) / lanes.sum()
    return moved, slope, sqrt(off.size / (off.size - 1) * float(off @ off)) / mean / slope


def _quantiles(
    stands: Sequence[_Stand], per_y: float, alpha: float, sd_y: float, doubts: Sequence[float]
) -> tuple[tuple[float, float, float], ...]:
    """Return what `Forecast.quantiles` holds: the rounds' quantiles at the load at which they reach alpha together."""
    share = sum(float(stand.slow.sum()) for stand in stands) / sum(float(stand.counts.sum()) for stand in stands)
    ends = np.concatenate([stand.ends for stand in stands])  # (rounds, 2, shown)
    far = log(max(share, 0.1 * alpha) / alpha) / per_y
    slopes = (ends[:, 1] - ends[:, 0]).mean(axis=0) / (2 * _STEP)
    values = np.exp(ends.mean(axis=(0, 1)) - slopes * far)
    rows = zip(SHOWN, values.tolist(), doubts, slopes.tolist(), strict=True)
    return tuple((q, value, sqrt(doubt**2 + (slope * sd_y) ** 2)) for q, value, doubt, slope in rows)
