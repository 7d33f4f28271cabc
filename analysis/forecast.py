"""What the twin predicts: the rate at which an SLA's share of violations is reached, and how sure that is.

Legend: see `analysis.simulation`; s = d ln p / d ln rate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt

import numpy as np

from analysis.doubt import FLOOR, SHOWN, bent_doubt, rare_doubt, resampled_doubt
from analysis.evidence import rate_at
from analysis.queueing import Floats
from analysis.simulation import Steady, steady_responses
from analysis.sla import SLA
from analysis.twin import Twin

_FINE = 150_000  # requests of a round at each load, or more
_HIGHEST_Y, _LOWEST_Y = 6.2, -4.0
_STEP, _NEAR_Y, _FURTHEST_Y = 0.06, 0.2, 0.8  # in y: of a round's loads; up to which rounds stay; between two of them
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
    at = y = log(rate / max(top - rate, 1e-3 * rate))
    steady = _pair(twin, sla, y, seed)
    rounds: list[_Round] = []
    doubts: list[float] = []
    for again in range(_MOST_ROUNDS):  # on other chances each, for p near saturation comes from few busy spells
        if abs(y - at) > _NEAR_Y:
            at, steady = y, _pair(twin, sla, y, seed + again)
        low, high = steady.more()
        ends = np.log([np.quantile(responses.seconds, SHOWN) for responses in (low, high)])
        rounds.append(_Round(at, low.share, high.share, high.error, ends))
        moved, per_y, error = _pooled([done for done in rounds if abs(done.y - y) < _FURTHEST_Y], y, alpha)
        is_pinned = y == _HIGHEST_Y and moved >= 0  # it holds the SLA as far up as is asked
        y = min(y + moved, _HIGHEST_Y)
        if is_pinned and len(rounds) >= _FEWEST_ROUNDS:
            break
        if len(rounds) < _FEWEST_ROUNDS or abs(moved) > 0.5 * _FURTHEST_Y:
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
    near = [done for done in rounds if abs(done.y - y) < _FURTHEST_Y] or rounds[-1:]
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
        (responses,) = steady_responses(twin, [(twin.law, rate_at(top, y))], limit, seed=11)
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


def _pair(twin: Twin, sla: SLA, y: float, seed: int) -> Steady:
    """Simulate at loads a step below and a step above y, on the same chances."""
    cases = [(twin.law, rate_at(twin.capacity_rps, y + sign * _STEP)) for sign in (-1, 1)]
    return Steady(twin, cases, sla.limit_s, _FINE, seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Round:
    """Hold the shares of slow responses at loads a step below and above y, on the same chances; their error.

    And the logarithms of the quantiles shown, float (2, 3).
    """

    y: float
    below: float
    above: float
    error: float
    ends: Floats

    @property
    def middle(self) -> float:
        return 0.5 * (self.below + self.above)


def _pooled(rounds: Sequence[_Round], y: float, alpha: float) -> tuple[float, float, float]:
    """Return how far from y the shares reach alpha, d ln p / dy, and the standard error of that place.

    Shares are averaged, not their logarithms: the mean of ln p is below the logarithm of the mean.
    """
    below, above = (sum(getattr(done, name) for done in rounds) for name in ("below", "above"))
    slope = (
        _USUAL_SLOPE if not below else min(max(log(max(above, 1e-9) / below) / (2 * _STEP), _LEAST_SLOPE), _MOST_SLOPE)
    )
    shares = np.array([done.middle * exp(-slope * (done.y - y)) for done in rounds])
    mean = max(float(shares.mean()), 1e-3 * alpha)
    moved = min(max(-log(mean / alpha) / slope, -_FURTHEST_Y), _FURTHEST_Y)
    if shares.size < _FEWEST_ROUNDS:
        return moved, slope, _FURTHEST_Y
    # the scatter of a few rounds, or that of the lanes within them where it is more
    error = max(float(shares.std(ddof=1)), float(np.mean([done.error for done in rounds])))
    return moved, slope, error / shares.size**0.5 / mean / slope


def _quantiles(
    rounds: Sequence[_Round], per_y: float, alpha: float, sd_y: float, doubts: Sequence[float]
) -> tuple[tuple[float, float, float], ...]:
    """Return what `Forecast.quantiles` holds: the rounds' quantiles at the load at which they reach alpha together."""
    far = log(max(float(np.mean([done.middle for done in rounds])), 0.1 * alpha) / alpha) / per_y
    slopes = np.mean([done.ends[1] - done.ends[0] for done in rounds], axis=0) / (2 * _STEP)
    values = np.exp(np.mean([done.ends.mean(axis=0) for done in rounds], axis=0) - slopes * far)
    rows = zip(SHOWN, values.tolist(), doubts, slopes.tolist(), strict=True)
    return tuple((q, value, sqrt(doubt**2 + (slope * sd_y) ** 2)) for q, value, doubt, slope in rows)
