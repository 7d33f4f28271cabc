"""A straight line through the share of slow requests: ln p = a + b y near the crossing, where enough was seen of it.

Legend: see `analysis.boundary`. It assumes nothing of how latencies scale with load, only that ln p bends little over
the loads near the crossing, and needs slow requests at several of them. A quasi-Poisson regression (McCullagh and
Nelder 1989, ch. 9): the clusters of a dwell have the variance of their mean times the dispersion that batch means show.
The ends of the interval are where the line, bent as it may be, has left its doubt about p behind.
"""

from dataclasses import dataclass
from math import log

import numpy as np
from scipy import stats

from analysis.dwell import Dwell
from analysis.evidence import Evidence, Floats
from analysis.sla import SLA

_REACH = 0.7  # in y: how far a step's evidence counts
_SLOPE, _SLOPE_SD, _LEAST_SLOPE = 3.0, 1.5, 0.3  # prior of d ln p / dy
_BEND = 0.3  # standard deviation of half the second derivative of ln p in y
_ENOUGH, _FEWEST = 3.0, 0.01  # independent looks; clusters of slow requests
_FURTHEST = 1.5  # in y: of the crossing from the mean load that was measured
_ROUNDS, _STEPS, _STEPS_TO_SETTLE = 8, 24, 6
_OF_A_CAUSE = 8.0  # degrees of freedom
_GRID = np.linspace(0.0, 3.0, 601)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Line:
    """Hold the line around its crossing.

    Attributes:
        y: Where ln p is what is allowed, less what a search puts it too high.
        slope: d ln p / dy.
        sd: Standard deviation of `y`, from that of ln p there.
        middle: Mean load measured, less `y`.
        causes: Groups in which the dispersion was seen.
        capacity_rps: From which the loads were taken.
    """

    y: float
    slope: float
    sd: float
    middle: float
    causes: float
    capacity_rps: float

    def ends(self, level: float) -> tuple[float, float]:
        """Return the y beyond which p is surely, at a one-sided level, below or above what is allowed."""
        z = float(stats.t.ppf(1 - level, _OF_A_CAUSE * max(self.causes, 1.5)))
        low, high = (
            float(_GRID[np.argmax(self.slope * _GRID >= z * np.hypot(self.sd * self.slope, bend))])
            for bend in (_BEND * (sign * _GRID - self.middle) ** 2 for sign in (-1, 1))
        )
        return self.y - (low or float(_GRID[-1])), self.y + (high or float(_GRID[-1]))


def fit_line(dwells: tuple[Dwell, ...], sla: SLA, capacity_rps: float, near_y: float, *, bursts: bool) -> Line | None:
    """Fit the line and find its crossing, from steps weighted by nearness to it; None where too little was seen.

    Args:
        dwells: Sound steps in time order, at least one.
        sla: Gives the limit and what is allowed.
        capacity_rps: For the loads.
        near_y: Where to look first.
        bursts: See `Evidence`.
    """
    allowed, limit_s, y = sla.violation_share, sla.limit_s, near_y
    limits_s = np.full(len(dwells), limit_s)
    slow = np.array([float(dwell.tail.count_above(np.asarray(limit_s))) for dwell in dwells])
    for _ in range(_ROUNDS):
        evidence = Evidence(
            dwells, limit_s=limit_s, allowed=allowed, capacity_rps=capacity_rps, at=y, reach=_REACH, bursts=bursts
        )
        seen = evidence.weights * evidence.looks
        clusters = slow * evidence.looks / np.maximum(evidence.n, 1)
        if not evidence.weights @ clusters > _FEWEST:
            return None
        intercept, slope, dispersion, causes = _regress(evidence, clusters, limits_s, log(allowed))
        moved = min(max((log(allowed) - intercept) / slope, -_FURTHEST), _FURTHEST)
        y += moved
        if abs(moved) < 0.02:
            break
    middle = float(np.average(evidence.y, weights=seen)) - y
    if allowed * float(seen.sum()) / dispersion < _ENOUGH or abs(middle) > _FURTHEST or abs(moved) >= 0.1:
        return None
    height = _deviation(evidence, evidence.y - y, log(allowed), slope, dispersion)
    # A search goes on from where it was lucky: on 17 simulated servers its line crossed 0.4 standard deviations too
    # high, the more so the fewer clusters it rested on, of which `height` is the inverse square root.
    return Line(
        y=y - height**2 / slope, slope=slope, sd=height / slope, middle=middle, causes=causes,
        capacity_rps=capacity_rps,
    )  # fmt: skip


def _regress(
    evidence: Evidence, clusters: Floats, limits_s: Floats, intercept: float
) -> tuple[float, float, float, float]:
    """Return intercept and slope of ln p, the dispersion, and the causes that it was seen in (Newton's method)."""
    weights, looks, x = evidence.weights, evidence.looks, evidence.y - evidence.at
    design, prior = np.stack([np.ones_like(x), x], axis=1), np.diag([1e-6, _SLOPE_SD**-2])
    slope, dispersion, causes = _SLOPE, 1.0, 1.0
    for step in range(1, _STEPS + 1):
        share = np.exp(np.clip(intercept + slope * x, -30, 0))
        mean = looks * share
        if step % _STEPS_TO_SETTLE == 0:  # of the weighted count: less than that of its clusters
            dispersion, causes = evidence.dispersion(limits_s, share)
            dispersion *= float(weights @ mean) / float(weights**2 @ mean)
        gradient = design.T @ (weights * (clusters - mean)) / dispersion
        gradient[1] -= (slope - _SLOPE) / _SLOPE_SD**2
        curvature = (design * (weights * mean)[:, None]).T @ design / dispersion + prior
        change = np.clip(np.linalg.solve(curvature, gradient), -1, 1)
        intercept, slope = intercept + float(change[0]), max(slope + float(change[1]), _LEAST_SLOPE)
    return intercept, slope, dispersion, causes


def _deviation(evidence: Evidence, x: Floats, intercept: float, slope: float, dispersion: float) -> float:
    """Return the standard deviation of the intercept; the weights make it a sandwich (Huber 1967)."""
    mean = evidence.looks * np.exp(np.clip(intercept + slope * x, -30, 0))
    design, prior = np.stack([np.ones_like(x), x], axis=1), np.diag([0.0, _SLOPE_SD**-2])
    bread = np.linalg.inv((design * (evidence.weights * mean)[:, None]).T @ design / dispersion + prior)
    filling = (design * (evidence.weights**2 * mean)[:, None]).T @ design / dispersion + prior
    return float(np.sqrt((bread @ filling @ bread)[0, 0]))
