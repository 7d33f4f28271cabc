"""Where the share of slow requests crosses what an SLA allows: one estimating equation over all steps near there.

Legend: M capacity; h(l) = l / (M - l), the load as queues feel it; y = ln h; alpha = 1 - quantile; T the SLA's limit.

Scale law: near the crossing every quantile of the response time goes like h^g. So a request at load y_i counts against
"the crossing is at y" when it took longer than T exp(g (y_i - y)), and under that hypothesis alpha of all requests do.
g has a prior (0.5 +- 0.17: 0.28 to 0.8 over the servers studied) that the steps' own quantiles revise.

Slow requests come in clusters of about phi = 0.9 l T M / (M - l) requests (relaxation time of the queue times the
rate; measured: 0.15 to 1.0 of l T M / (M - l)), which is why nothing here is binomial. Clusters are Poisson, so the
interval is Garwood's (Biometrika 1936) on cluster counts, their dispersion corrected by batch means, averaged over
what else is uncertain: g, M, and the shape of the tail.

Near saturation clusters are so rare that the count at T says nothing within minutes. Then the larger shares 10 %
and 30 % are counted instead, above limits f T: waits have an exponential tail (Kingman 1961; Abate, Choudhury and
Whitt 1994), so f follows from the two measured quantiles, q(1 %) = q(10 %) + (q(10 %) - q(30 %)) ln 10 / ln 3,
corrected for how far q(3 %) lies off that line as far as it is known (`Evidence`). On random queues this
misses by 0 to 10 %, more where the load is low and service itself varies; the interval allows for that. Where the
count at T contradicts the line, the interval covers both.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.estimate import Estimate
from analysis.evidence import REACHES, Evidence, Floats, floor_of, load
from analysis.sla import SLA

_NODES = np.array([-1.5, 0.0, 1.5])  # three-point rule for a normal of sd 1
_WEIGHTS = np.array([0.22, 0.56, 0.22])
_Y = np.linspace(-4.0, 6.2, 256)
_TWO_SIDED, _ONE_SIDED = 0.015, 0.027  # nominal 0.025 and 0.05, less for stopping when the interval looks narrow
_DRIFT_SIGMA = 3.0
_ENOUGH_BLUR = 0.6  # of ln t


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """Locate the highest rate within a bound.

    Attributes:
        rate_rps: Point estimate.
        low_rps: Lower end of the 95 % interval.
        high_rps: Upper end.
        safe_rps: One-sided 95 % lower bound.
        clusters: Independent looks at the tail: expected clusters of slow requests at the limit itself.
        n: Requests near the crossing.
        drift: Relative difference of the rate between the earlier and the later steps, 0 where chance explains it.
    """

    rate_rps: float
    low_rps: float
    high_rps: float
    safe_rps: float
    clusters: float = 0.0
    n: int = 0
    drift: float = 0.0
    cliff: bool = False
    inflation: float | None = None


@dataclass(frozen=True, slots=True)
class _Test:
    """Count a share above f T.

    Attributes:
        share: Share of requests expected above f T at the crossing.
        f: Fraction of the limit.
        bend: Standard deviation of ln f.
        dispersion: Variance of the clusters over Poisson.
        looks: Expected clusters, dispersion removed.
    """

    share: float
    f: float
    bend: float
    dispersion: float
    looks: float

    @classmethod
    def of(cls, evidence: Evidence, share: float, f: float, bend: float, limit_s: float) -> "_Test":
        dispersion = evidence.dispersion(limit_s, share, floor_of(share)) * (1 - share)
        return cls(share, f, bend, dispersion, evidence.expected(share) / dispersion)

    @property
    def blur(self) -> float:
        """Return the standard deviation of ln t that it leaves."""
        slope = max(float(-np.log(self.share)), 0.7)
        return float(np.hypot(self.bend, 1 / (slope * max(self.looks, 1e-9) ** 0.5)))


def locate(dwells: tuple[Dwell, ...], sla: SLA, capacity: Capacity, near_rps: float | None) -> Crossing:
    """Solve the estimating equation.

    Args:
        dwells: Sound steps in time order, at least one.
        sla: Gives alpha and T.
        capacity: M and its error.
        near_rps: The last answer, where known; steps count by how near they are to it.
    """
    top = capacity.rate_rps * (1 + capacity.error)
    loads = load(np.array([d.rate_rps for d in dwells]), top)
    centre = float(load(near_rps, top)) if near_rps else float(loads[-1])
    for _ in range(4):
        centre = min(max(centre, float(loads.min()) - REACHES[0]), float(loads.max()) + REACHES[0])
        evidence, tests = _gather(dwells, sla, top, centre)
        point = _solve(evidence, sla, tests[0])
        if abs(point - centre) < 0.05:
            break
        centre = point
    low, safe, high = _interval(evidence, sla, capacity, tests[0])
    rate = min(max(top / (1 + float(np.exp(-point))), low), high)
    for direct in tests[1:]:
        other = _interval(evidence, sla, capacity, direct)
        if not other[0] <= rate <= other[2]:  # the count at the limit itself contradicts the line
            low, safe, high = min(low, other[0]), min(safe, other[1]), max(high, other[2])
    drift = _drift(evidence) / (1 + float(np.exp(point)))
    return Crossing(
        rate_rps=rate, low_rps=low * (1 - drift), high_rps=high * (1 + drift),
        safe_rps=min(max(safe, low), rate) * (1 - drift), clusters=evidence.expected(sla.violation_share),
        n=int(evidence.n[evidence.weights > 0.3].sum()), drift=drift,
    )  # fmt: skip


def quantiles_at(
    dwells: tuple[Dwell, ...], sla: SLA, capacity: Capacity, rate_rps: float, quantiles: tuple[float, ...]
) -> list[Estimate | None]:
    """Return quantiles of the response time at a rate, from all steps scaled to it."""
    top = capacity.rate_rps * (1 + capacity.error)
    evidence, _ = _gather(dwells, sla, top, float(load(rate_rps, top)))
    return [evidence.estimate(quantile) for quantile in quantiles]


def _gather(dwells: tuple[Dwell, ...], sla: SLA, top: float, centre: float) -> tuple[Evidence, list[_Test]]:
    """Return the evidence about a load and its tests, from as near as gives enough."""
    for reach in REACHES:
        evidence = Evidence(
            dwells, limit_s=sla.limit_s, allowed=sla.violation_share, capacity_rps=top, at=centre, reach=reach
        )
        tests = _tests(evidence, sla)
        if tests[0].blur < _ENOUGH_BLUR:
            break
    return evidence, tests


def _tests(evidence: Evidence, sla: SLA) -> list[_Test]:
    """Return the sharpest test, and after it the count at the limit itself where that is another one."""
    alpha = sla.violation_share
    direct = _Test.of(evidence, alpha, 1.0, 0.0, sla.limit_s)
    line, reached = evidence.line(), evidence.extrapolate(alpha)
    if line is None or reached is None:
        return [direct]
    tests = [_Test.of(evidence, share, quantile / reached, bend, quantile) for share, quantile, bend in line]
    best = min([direct, *tests], key=lambda test: test.blur)
    return [direct] if best is direct else [best, direct]


def _solve(evidence: Evidence, sla: SLA, test: _Test) -> float:
    """Return the y at which the counted clusters are the median of what is expected."""
    limits = test.f * sla.limit_s * np.exp(evidence.exponent * (evidence.y[:, None] - _Y[None, :]))
    counted = evidence.counted(limits) / test.dispersion
    target = max(test.looks - 1 / 3, 0.69 * test.looks)
    if counted[-1] < target:
        return float(_Y[-1])
    rises = np.flatnonzero(np.diff(counted, prepend=-1.0) > 0)
    return float(np.interp(target, counted[rises], _Y[rises]))


def _interval(evidence: Evidence, sla: SLA, capacity: Capacity, test: _Test) -> tuple[float, float, float]:
    """Return the two-sided low, the one-sided low and the two-sided high end, requests per second."""
    grid = capacity.rate_rps * (1 + capacity.error) / (1 + np.exp(-_Y))
    few, many = np.zeros(grid.size), np.zeros(grid.size)
    nodes = list(zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True))
    for shift, w_shift in nodes:
        top = capacity.rate_rps * (1 + (shift + 1.0) * capacity.error)
        steps = load(evidence.rates, top)[:, None] - load(grid, top)[None, :]
        for g, w_g in nodes:
            scaled = test.f * sla.limit_s * np.exp((evidence.exponent + g * evidence.exponent_sd) * steps)
            for bend, w_bend in nodes if test.bend else [(0.0, 1.0)]:
                counted = evidence.counted(scaled * np.exp(bend * test.bend)) / test.dispersion
                few += w_shift * w_g * w_bend * special.gammaincc(counted + 1, test.looks)
                many += w_shift * w_g * w_bend * special.gammaincc(np.maximum(counted, 1e-9), test.looks)
    high = min(_first(grid, many, 1 - _TWO_SIDED), capacity.rate_rps * (1 + 2.5 * capacity.error))
    sure = 0.998 * capacity.rate_rps / (1 + 2 * capacity.error)  # no lower end above what the server surely completes
    low, safe = _first(grid, few, _TWO_SIDED), _first(grid, few, _ONE_SIDED)
    return min(low, sure, high), min(safe, sure, high), high


def _first(grid: Floats, probability: Floats, level: float) -> float:
    """Return where a non-decreasing probability first reaches a level; the end of the grid where it never does."""
    reached = np.maximum.accumulate(probability)
    if reached[-1] < level:
        return float(grid[-1])
    if reached[0] >= level:
        return float(grid[0])
    return float(np.exp(np.interp(level, reached + np.arange(grid.size) * 1e-12, np.log(grid))))


def _drift(evidence: Evidence) -> float:
    """Return how far in y the later half of the near steps lies from the earlier half; 0 where chance explains it."""
    share = 0.3
    near = np.flatnonzero((evidence.weights > 0.3) & (evidence.n > 0))
    if near.size < 4:
        return 0.0
    z = np.array([np.log(max(evidence.dwells[i].tail.quantile_s(1 - share), 1e-9)) for i in near])
    z = z - evidence.exponent * (evidence.y[near] - evidence.at)
    if not np.all(np.isfinite(z)):
        return 0.0
    weights = evidence.looks[near] * share
    half = near.size // 2
    early, late = (np.average(z[part], weights=weights[part]) for part in (slice(half), slice(half, None)))
    variance = sum(1.5 / max(weights[part].sum(), 1e-9) for part in (slice(half), slice(half, None)))
    spread = max(variance, float(np.average((z - np.average(z, weights=weights)) ** 2, weights=weights)) / half)
    difference = abs(float(late - early))
    return difference / evidence.exponent if difference > _DRIFT_SIGMA * spread**0.5 else 0.0
