"""Where the share of slow requests crosses what an SLA allows: one estimating equation over all steps near there.

Legend: M capacity; h(l) = l / (M - l), the load as queues feel it; y = ln h; alpha = 1 - quantile; T the SLA's limit.

Scale law: near the crossing every quantile of the response time goes like h^g. So a request at load y_i counts against
"the crossing is at y" when it took longer than T exp(g (y_i - y)), and under that hypothesis alpha of all requests do.
g has a prior (0.5 +- 0.17: 0.28 to 0.8 over the servers studied) that the steps' own quantiles revise.

Slow requests come in clusters of up to phi = 0.9 l T M / (M - l) requests (relaxation time of the queue times the
rate), which is why nothing here is binomial. How much the count really varies is measured by batch means on every time
scale from a piece of a step to groups of steps (`Evidence.dispersion`). The interval is the count's standard deviation
over the measured slope of the count in y, with Student's t for the effective number of causes, and beside it what g and
M leave open.

A tail that falls slower than any queue's comes from few causes: pauses, slow spells, starved requests. Then the law
does not carry from one load to another, and the lower ends come from counting those causes: Garwood's upper bound
(Biometrika 1936) of a compound Poisson count at the mean load measured, carried down from there with the flattest slope
seen anywhere, never up. On every server the lower ends stay at or below the highest rate that was run.

Pauses rarer than one in a third of the time measured may not have been met, and those rarer than one in a tenth of it
were met so seldom that how often they come is hardly known.
"""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import stats

from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.estimate import Estimate
from analysis.evidence import FLATTEST, REACHES, Evidence, load, rate_at, relaxation_s
from analysis.line import Line, fit_line
from analysis.sla import SLA
from analysis.stationarity import Stationarity, stationarity

_Y = np.linspace(-4.0, 6.2, 256)
_TWO_SIDED, _ONE_SIDED = 0.020, 0.030  # nominal 0.025 and 0.05, less for stopping when the interval looks narrow
_ENOUGH = 3.0  # independent looks near the crossing: no need to go further for more
_SLOPE = 2.5  # d ln P / dy
_REGULAR = 2.5  # -d ln P / d ln t
_MISFIT = 0.003
_FAR = 0.3  # of the distance in y over which the law was used: how far its shape may be off
_SETTLES, _RULE_OF_THREE = 4.0, 3.0  # relaxation times; expected violations
_PASS_FAR = 0.5  # of the limit: the quantile of a step far below it
_STEEPEST = 1.5  # exponent that no queue exceeds


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
        drift: Relative change of the server between the earlier and the later steps, 0 where chance explains it.
        cliff: The latency jumps between `low_rps`, which passes by far, and `high_rps`, which fails.
        inflation: Variance of the count of slow requests over the binomial one; None where it was not measured.
        near_s: Seconds of load near the crossing.
        noise: Relative half-width that chance in those seconds explains.
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
    near_s: float = 0.0
    noise: float = 0.0


def needed_s(crossing: Crossing, precision: float) -> float:
    """Return the seconds of load near the crossing after which chance explains no more than a relative half-width.

    The noise falls with the square root of the time: (1.96 / precision)^2 F (1 - alpha) / (alpha l s^2) for a count
    with variance inflation F and slope s = d ln P / d ln l, all as measured.
    """
    return crossing.near_s * (crossing.noise / precision) ** 2


def locate(dwells: tuple[Dwell, ...], sla: SLA, capacity: Capacity, near_rps: float | None) -> Crossing:
    """Solve the estimating equation, or give the bracket of a cliff.

    Args:
        dwells: Sound steps in time order, at least one.
        sla: Gives alpha and T.
        capacity: M and its error; never taken below a rate that passed.
        near_rps: The last answer, where known; steps count by how near they are to it.
    """
    known = stationarity(dwells, capacity)
    dwells = dwells[known.since :]
    capacity = _at_least(capacity, dwells, sla)
    top = capacity.rate_rps * (1 + capacity.error)
    loads = load(np.array([d.rate_rps for d in dwells]), top)
    centre = float(load(near_rps, top)) if near_rps else float(loads[-1])
    for _ in range(4):
        centre = min(max(centre, float(loads.min()) - REACHES[0]), float(loads.max()) + REACHES[0])
        count = _gather(dwells, sla, top, centre)
        point = count.root(count.evidence.exponent)
        if abs(point - centre) < 0.05:
            break
        centre = point
    evidence = count.evidence
    highest = 1.02 * max(dwell.rate_rps for dwell in dwells)  # where the capacity is a guess it may be there
    seen = _most_seen(dwells, sla, top if capacity.n else highest)
    line = fit_line(dwells, sla, top, centre, bursts=evidence.bursts)
    found = _interval(count, capacity, seen) if line is None else _crossed(line, capacity)
    found = _drifted(found, dwells, known)
    near = evidence.weights > 0.3
    found = replace(
        found,
        clusters=evidence.expected(sla.violation_share),
        n=int(evidence.n[near].sum()),
        inflation=max(
            1.0, count.dispersion * float(evidence.weights @ evidence.n / (evidence.weights @ evidence.looks))
        ),
        near_s=float(evidence.weights @ [d.length_s for d in dwells]),
    )
    bracket = _cliff(dwells, sla, top)
    if bracket is None:
        return found
    low, high = bracket
    return replace(found, rate_rps=(low * high) ** 0.5, low_rps=low, high_rps=high, safe_rps=low, cliff=True)


def quantiles_at(
    dwells: tuple[Dwell, ...], sla: SLA, capacity: Capacity, rate_rps: float, quantiles: tuple[float, ...]
) -> list[Estimate | None]:
    """Return quantiles of the response time at a rate, from all steps scaled to it."""
    top = capacity.rate_rps * (1 + capacity.error)
    evidence = _gather(dwells, sla, top, float(load(rate_rps, top))).evidence
    return [evidence.estimate(quantile) for quantile in quantiles]


def _drifted(found: Crossing, dwells: tuple[Dwell, ...], known: Stationarity) -> Crossing:
    """Widen by what a change that was found may have gone on to since: its pace over the time of the later steps."""
    if not known.change:
        return found
    gone_on = known.change_per_s * (dwells[-1].end_s - dwells[0].end_s + dwells[0].length_s)
    more = min(max(abs(gone_on), 0.25 * abs(known.change)), 0.5)
    return replace(
        found, drift=abs(known.change), low_rps=found.low_rps * (1 - more), high_rps=found.high_rps * (1 + more),
        safe_rps=found.safe_rps * (1 - more),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Count:
    """Hold the evidence about a load, and how much its count of clusters varies.

    Attributes:
        evidence: The steps.
        expected: Clusters above the limit at the crossing.
        dispersion: Their variance over Poisson.
        causes: In how many groups that was seen.
    """

    evidence: Evidence
    expected: float
    dispersion: float
    causes: float

    @property
    def looks(self) -> float:
        """Return the expected clusters, dispersion removed."""
        return self.expected / self.dispersion

    def root(self, exponent: float, *, factor: float = 1.0, slope: float = _SLOPE, top: float | None = None) -> float:
        """Return the y at which the count is a factor times the median of what is expected.

        Args:
            exponent: g.
            factor: See above.
            slope: Least d ln P / dy above the load of a dwell.
            top: Capacity to take the loads from; that of the evidence where None.
        """
        loads = self.evidence.y if top is None else load(self.evidence.rates, top)
        counted = self.evidence.counted_at(loads[:, None] - _Y[None, :], exponent, slope) / self.dispersion
        target = factor * max(self.looks - 1 / 3, 0.69 * self.looks)  # median of a gamma variable
        if counted[-1] < target:
            return float(_Y[-1])
        rises = np.flatnonzero(np.diff(counted, prepend=-1.0) > 0)
        if counted[0] == 0 and rises.size > 1:  # where nothing is counted yet says nothing: begin at its end
            rises[0] = rises[1] - 1
        return float(np.interp(target, counted[rises], _Y[rises]))


def _gather(dwells: tuple[Dwell, ...], sla: SLA, top: float, centre: float) -> _Count:
    """Return the count about a load, from as near as gives enough."""
    for reach in REACHES:
        of = partial(
            Evidence, dwells, limit_s=sla.limit_s, allowed=sla.violation_share, capacity_rps=top, at=centre, reach=reach
        )
        evidence = of()
        if evidence.tail_slope() < _REGULAR:
            evidence = of(bursts=True)
        dispersion, causes = evidence.dispersion(
            evidence.scaled(sla.limit_s), np.full(len(dwells), sla.violation_share)
        )
        count = _Count(evidence, evidence.expected(sla.violation_share), max(dispersion, 1e-9), causes)
        if count.looks > _ENOUGH:
            break
    return count


def settled_rps(capacity_rps: float, limit_s: float, length_s: float) -> float:
    """Return the highest rate whose waits, up to the limit, a step of that length shows as they are in the long run."""
    idle_s = _SETTLES * relaxation_s(0.0, capacity_rps, limit_s)  # at a load of nearly none; it grows as 1 / (1 - load)
    return capacity_rps * (1 - min(idle_s / length_s, 0.95))


def _most_seen(dwells: tuple[Dwell, ...], sla: SLA, top: float) -> float:
    """Return the highest rate whose waits were seen as they are in the long run.

    A step at a rate shows them when it is longer than some relaxation times; a shorter one what a lower rate is like.
    At that rate and above so many requests must have come that none violating would say that few do (rule of three).
    """
    settled = [settled_rps(top, sla.limit_s, dwell.length_s) for dwell in dwells]
    rates = np.array([min(dwell.rate_rps, rate) for dwell, rate in zip(dwells, settled, strict=True)])
    order = np.argsort(-rates)
    requests = np.cumsum([dwells[i].tail.n for i in order])
    enough = np.flatnonzero(requests * sla.violation_share >= _RULE_OF_THREE)
    return float(rates[order][enough[0]]) if enough.size else 0.05 * float(rates.max())


def _crossed(line: Line, capacity: Capacity) -> Crossing:
    """Return where a line crosses what is allowed, with the ends of its intervals."""
    top = line.capacity_rps
    low, high = (rate_at(top, y) for y in line.ends(_TWO_SIDED))
    safe = rate_at(top, line.ends(_ONE_SIDED)[0])
    rate, more = rate_at(top, line.y), float(np.exp(1.96 * _MISFIT))
    high = max(min(high * more, capacity.rate_rps * (1 + 2.5 * capacity.error)), rate)
    return Crossing(
        rate_rps=rate, low_rps=low / more, high_rps=high, safe_rps=safe / more,
        noise=1.96 * line.sd / (1 + float(np.exp(line.y))),
    )  # fmt: skip


def _interval(count: _Count, capacity: Capacity, seen_rps: float) -> Crossing:
    """Return point, two-sided interval and one-sided lower bound, no lower end above `seen_rps`."""
    evidence, g, top = count.evidence, count.evidence.exponent, capacity.rate_rps * (1 + capacity.error)
    reach = min(max(count.looks**-0.5, 0.3), 1.2)  # in ln count: over which its slope in y is measured
    y = count.root(g)
    below, above = y - count.root(g, factor=float(np.exp(-reach))), count.root(g, factor=float(np.exp(reach))) - y
    flat = count.root(g, factor=float(np.exp(reach)), slope=0.0) - y
    chance = count.looks**-0.5 / reach * np.array([max(below, above), max(flat, above)])
    steep = [count.root(g + k * evidence.exponent_sd) for k in (-1, 1)]
    law = float(np.hypot(0.5 * (max(*steep, y) - min(*steep, y)), _FAR * (y - evidence.mean)))
    tops = [capacity.rate_rps * (1 + k * capacity.error) for k in (0.0, 2.0)]
    ends = [rate_at(m, count.root(g, top=m)) for m in tops]
    spread = 0.5 * abs(float(np.log(ends[1] / ends[0])))
    idle = 1 / (1 + float(np.exp(y)))  # d ln rate / dy
    sd = np.hypot(np.hypot(chance, law) * idle, np.hypot(spread, _MISFIT))
    two, one = (float(stats.t.ppf(1 - level, max(count.causes, 2.0))) for level in (_TWO_SIDED, _ONE_SIDED))
    high = min(rate_at(top, y) * float(np.exp(two * sd[1])), capacity.rate_rps * (1 + 2.5 * capacity.error))
    # nor above what the server surely completes
    known = min(seen_rps, 0.998 * capacity.rate_rps / (1 + 2 * capacity.error), high)
    low, safe = (min(rate_at(top, y) * float(np.exp(-z * sd[0])), known) for z in (two, one))
    if evidence.bursts:
        low, safe = (
            min(end, rate_at(top, _by_causes(count, level))) for end, level in ((low, _TWO_SIDED), (safe, _ONE_SIDED))
        )
    rate = min(max(rate_at(top, y), low), high)
    return Crossing(
        rate_rps=rate, low_rps=low, high_rps=high, safe_rps=min(max(safe, low), rate),
        noise=1.96 * float(chance[0]) * idle,
    )  # fmt: skip


def _by_causes(count: _Count, level: float) -> float:
    """Return a lower end in y from the number of causes that slow requests had, at most the mean load measured."""
    sizes, mean = count.evidence.runs(), count.evidence.mean
    if not sizes.size:
        return mean
    total = float(sizes.sum())
    causes = total**2 / float(sizes @ sizes)
    share = total * float(stats.gamma.ppf(1 - level, causes + 1)) / causes / count.expected
    return mean - max(float(np.log(share)), 0.0) / FLATTEST


def _passes(dwell: Dwell, sla: SLA, headroom: float = 1.0) -> bool:
    """Say that a step long enough to show the quantile kept it within a fraction of the limit."""
    enough = dwell.tail.n * sla.violation_share >= 1
    return enough and not dwell.aborted and dwell.tail.quantile_s(sla.quantile) <= headroom * sla.limit_s


def _at_least(capacity: Capacity, dwells: tuple[Dwell, ...], sla: SLA) -> Capacity:
    """Raise the capacity to the highest rate that passed; where that contradicts it, so does its error."""
    passed = max((dwell.rate_rps for dwell in dwells if _passes(dwell, sla)), default=0.0)
    if passed <= capacity.rate_rps:
        return capacity
    contradiction = passed / capacity.rate_rps - 1 if passed > capacity.rate_rps * (1 + 2 * capacity.error) else 0.0
    return replace(capacity, rate_rps=passed, error=max(capacity.error, min(contradiction, 0.2)))


def _fails_throughout(dwell: Dwell, sla: SLA) -> bool:
    """Say that more than half of a step's pieces violate: not one pause, which looks like a cliff too."""
    slow = [part.quantile_s(sla.quantile) > sla.limit_s for part in dwell.parts if part.n]
    return 2 * sum(slow) > len(slow)


def _cliff(dwells: tuple[Dwell, ...], sla: SLA, top: float) -> tuple[float, float] | None:
    """Return the rates between which the latency jumps, or None.

    Every step from the higher one up fails throughout, at least two do; every step up to the lower one passes by far;
    and scaled with an exponent that no queue exceeds its quantile would pass by far at the higher one too.
    """
    failing = [d for d in dwells if d.aborted or _fails_throughout(d, sla)]
    passing = [d for d in dwells if _passes(d, sla, _PASS_FAR)]
    if len(failing) < 2 or not passing or len(failing) + len(passing) < len(dwells):
        return None
    low, high = max(passing, key=lambda d: d.rate_rps), min(d.rate_rps for d in failing)
    if low.rate_rps >= high:
        return None
    growth = float(np.exp(_STEEPEST * (load(high, top) - load(low.rate_rps, top))))
    if max(d.tail.quantile_s(sla.quantile) for d in passing) * growth > _PASS_FAR * sla.limit_s:
        return None
    return low.rate_rps, high
