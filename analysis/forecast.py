"""What the twin predicts: the rate at which an SLA's share of violations is reached, its interval, and a check.

Everything is simulated with `analysis.queueing` on Poisson arrivals that are never smoothed: fixed counts per second
would remove the bursts that make the tail. Legend: p share of requests slower than the limit, alpha the share allowed,
s = d ln p / d ln rate, M the twin's capacity.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np
from scipy import stats

from analysis.queueing import Floats, Law, places_of, poisson_lanes, simulate
from analysis.reconstruct import Trace
from analysis.sla import SLA
from analysis.twin import Twin, relaw

_GROUPS = 16  # resamples of the service law
_BLOCK = 25  # services that are resampled together
_COARSE, _FINE = 150_000, 800_000  # requests a simulation, warm-up left out
_LONGEST_LANE = 120_000
_LONGEST_LANE_SINGLE = 25_000
_REPLAYS = 12
_CHANCE = 4.0  # variances of chance below which a difference is none
_CHECKED = (0.9, 0.97, 0.99)
_SHOWN = (0.5, 0.95, 0.99)
_LEAST_REPLAYED, _LONGEST_REPLAY = 200, 12_000  # requests of a step
_REPLAYED = 6  # steps
_SETTLES = 0.995  # of the capacity
_FLOOR = 0.003  # standard deviation that no fit goes below, of ln rate
_RARE_SIGMA, _RARE_SHARE = 8.0, 0.25
_FEW = 60  # rare delays: more are known well enough by resampling
_TELLING = 0.15  # share of the violations that rare delays make up before their number matters
_FURTHEST = 0.5
_HIGHEST_Y, _LOWEST_Y = 6.2, -4.0
_NEAR_ENOUGH = 0.7  # of ln p, for the slope to hold
_ROUNDS, _ENOUGH_ROOTS = 5, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Say at which rate the twin reaches an SLA's share of violations.

    Attributes:
        rate_rps: The rate.
        sd: Standard deviation of its logarithm, all doubts together but that of rare delays.
        below: What the small number of rare delays adds on the lower side, as a standard deviation.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Compare the twin with what was seen, on the same arrivals.

    Attributes:
        misfit: Relative error of the rate that the difference of the tails amounts to, chance taken off.
        quantiles: (quantile, predicted, observed), seconds, over the steps that were replayed.
        rate_rps: Mean arrival rate of those steps.
        explained: Share of the variance of the logarithm of the observed quantiles that the prediction explains.
    """

    misfit: float
    quantiles: tuple[tuple[float, float, float], ...]
    rate_rps: float
    explained: float


def response_s(twin: Twin, laws: list[Law], rate_rps: float, shape: tuple[int, int, int], seed: int) -> Floats:
    """Simulate response times at a rate: float (lanes, requests), `shape` being lanes, requests and warm-up."""
    lanes, size, warm = shape
    size += twin.rule.max_batch  # the last batch of a lane waits in vain to fill: its requests are left out
    rng = np.random.default_rng([seed, 1])
    arrivals = poisson_lanes(lanes, size, rng) / rate_rps
    done = simulate(twin.rule, laws, arrivals, np.random.default_rng([seed, 2]))
    return (_left_s(twin, done, np.random.default_rng([seed, 3])) - arrivals)[:, warm : -twin.rule.max_batch]


def _left_s(twin: Twin, done_s: Floats, rng: np.random.Generator) -> Floats:
    """Return when replies were received: after service, what takes time outside it, and their place in the batch."""
    received: Floats = done_s + twin.delay_s
    if twin.rule.max_batch > 1:
        received += twin.place_s[np.minimum(places_of(done_s), twin.place_s.size - 1)]
        received += twin.spread_s[rng.integers(0, twin.spread_s.size, received.shape)]
    return received


def _shape(twin: Twin, rate_rps: float, limit_s: float, requests: int) -> tuple[int, int, int]:
    """Return lanes, requests of each and warm-up, such that a lane is long against the queue's memory."""
    gap = max(1 - rate_rps / twin.capacity_rps, 0.002)
    # relaxation of waits up to the limit, in requests (see `analysis.evidence.relaxation_s`)
    memory = 0.9 * rate_rps * limit_s / gap
    longest = _LONGEST_LANE if twin.rule.max_batch > 1 else _LONGEST_LANE_SINGLE
    warm = int(min(max(3 * memory, 300), longest / 2))
    size = 2 * warm
    lanes = max(_GROUPS, -(-requests // (size - warm) // _GROUPS) * _GROUPS)
    return lanes, size, warm


def _share(response: Floats, limit_s: float) -> tuple[float, float]:
    """Return the share of responses above a limit and its standard error, from the lanes' own shares."""
    shares = (response > limit_s).mean(axis=1)
    return float(shares.mean()), float(shares.std(ddof=1)) / shares.size**0.5


def steady_response_s(twin: Twin, rate_rps: float, limit_s: float, seed: int) -> Floats:
    """Simulate the settled server at a rate: response times in seconds, lane after lane."""
    return response_s(twin, [twin.law], rate_rps, _shape(twin, rate_rps, limit_s, _COARSE), seed).reshape(-1)


def _coarse_share(twin: Twin, rate_rps: float, limit_s: float) -> float:
    shape = _shape(twin, rate_rps, limit_s, _COARSE)
    return _share(response_s(twin, [twin.law], rate_rps, shape, seed=11), limit_s)[0]


def crossing(twin: Twin, sla: SLA) -> float | None:
    """Return about the highest rate at which the twin holds an SLA; None where it holds it at none.

    From just below the capacity downwards, for where batches wait to fill a low rate may violate the SLA too.
    """
    top, alpha, limit = twin.capacity_rps, sla.violation_share, sla.limit_s

    def excess(y: float) -> float:
        share = _coarse_share(twin, top / (1 + exp(-y)), limit)
        return log(max(share, 1e-6) / alpha)

    y = 3.0
    high = excess(y)
    while high <= 0:
        if y > _HIGHEST_Y:
            return top / (1 + exp(-y))
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
    return top / (1 + exp(-best))


def forecast(twin: Twin, sla: SLA, seed: int, load: float | None = None) -> Forecast | None:
    """Solve for the rate and for its doubt, by resampling the services in blocks (Kuensch 1989).

    Each resample simulates the rate scaled to its own capacity, so that what is left to differ is the shape.

    Args:
        twin: The fitted server.
        sla: Gives the limit and alpha.
        seed: Of the simulations.
        load: Rate over capacity that fewer data gave, where known: the search begins there.
    """
    rate = load * twin.capacity_rps if load is not None else crossing(twin, sla)
    if rate is None:
        return None
    limit = sla.limit_s
    shape = _shape(twin, rate, limit, _FINE if twin.rule.max_batch > 1 else 2 * _FINE)
    slope = min(max(4.4 * rate / max(twin.capacity_rps - rate, 0.002 * rate), 3.0), 900.0)
    roots: list[float] = []
    errors: list[float] = []
    for again in range(_ROUNDS):  # on other chances each, for p near saturation comes from few busy spells
        step = 0.25 / slope
        pair = _pair(twin, rate, step, shape, seed + again)
        before, off, slope, error = _secant(pair, rate, step, sla, slope)
        rate = min(before * exp(-off / slope), 0.999 * twin.capacity_rps)
        if abs(off) < _NEAR_ENOUGH:
            roots.append(log(rate))
            errors.append(error)
        if len(roots) == _ENOUGH_ROOTS:
            break
    if roots:
        rate = exp(float(np.mean(roots)))
        error = max(float(np.mean(errors)) / len(roots) ** 0.5, float(np.std(roots)))
    resampled, doubts = _spread(twin, sla, rate, slope, seed=seed)
    sd = sqrt(resampled**2 + error**2 + twin.trend**2 + _FLOOR**2)
    quantiles = _quantiles(pair, step, -off / slope, sd, doubts)  # where this pair itself crosses
    rare, below, above = _rare(twin, rate, sla, seed)
    return Forecast(
        rate_rps=rate, slope=slope, rare=rare, below=below, above=above, lately=resampled, quantiles=quantiles,
        sd=sd,
    )  # fmt: skip


def _pair(twin: Twin, rate_rps: float, step: float, shape: tuple[int, int, int], seed: int) -> list[Floats]:
    """Simulate a rate a step of ln rate lower and higher, on the same arrivals and services."""
    return [response_s(twin, [twin.law], rate_rps * exp(sign * step), shape, seed) for sign in (-1, 1)]


def _secant(
    pair: Sequence[Floats], rate_rps: float, step: float, sla: SLA, expected: float
) -> tuple[float, float, float, float]:
    """Return the rate, ln (p / alpha) there, the slope s and the simulation's standard error of ln rate."""
    shares = [max(_share(response, sla.limit_s)[0], 1e-6) for response in pair]
    slope = min(max(log(shares[1] / shares[0]) / (2 * step), 0.4 * expected), 2.5 * expected)
    error = _share(pair[1], sla.limit_s)[1] / shares[1] / slope
    return rate_rps, log(sqrt(shares[0] * shares[1]) / sla.violation_share), slope, error


def _quantiles(
    pair: Sequence[Floats], step: float, moved: float, sd: float, doubts: Sequence[float]
) -> tuple[tuple[float, float, float], ...]:
    """Return what `Forecast.quantiles` holds, from simulations around a rate that was then `moved` in ln rate."""
    ends = np.log([np.quantile(response, _SHOWN) for response in pair])
    slopes = (ends[1] - ends[0]) / (2 * step)
    values = np.exp(ends.mean(axis=0) + slopes * moved)
    rows = zip(_SHOWN, values.tolist(), doubts, slopes.tolist(), strict=True)
    return tuple((q, value, sqrt(doubt**2 + (slope * sd) ** 2)) for q, value, doubt, slope in rows)


def _spread(twin: Twin, sla: SLA, rate_rps: float, slope: float, *, seed: int) -> tuple[float, list[float]]:
    """Return the standard deviation of ln rate over resampled service laws, the simulation's own share taken off.

    And those of the logarithms of p50, p95 and p99 there.
    """
    rng = np.random.default_rng([seed, 4])
    laws = [_ordered(relaw(twin, _resample(twin.services, rng))) for _ in range(_GROUPS)]
    tops = np.array([_capacity(twin, law) for law in laws])
    scale = tops / twin.capacity_rps
    limit_s, alpha = sla.limit_s, sla.violation_share
    lanes, size, warm = _shape(twin, rate_rps, limit_s, _FINE)
    size += twin.rule.max_batch
    arrivals = np.tile(poisson_lanes(lanes // _GROUPS, size, np.random.default_rng([seed, 5])), (_GROUPS, 1))
    arrivals /= (rate_rps * np.repeat(scale, lanes // _GROUPS))[:, None]
    done = simulate(twin.rule, laws, arrivals, np.random.default_rng([seed, 6]), restart=1.0)
    response = (_left_s(twin, done, np.random.default_rng([seed, 7])) - arrivals)[:, warm : -twin.rule.max_batch]
    shares = (response > limit_s).mean(axis=1).reshape(_GROUPS, -1)
    apart = shares - shares.mean(axis=0)  # from the other laws, on the same arrivals
    own = apart.var(axis=1, ddof=1).mean() / shares.shape[1] if shares.shape[1] > 1 else 0.0
    mean = np.maximum(shares.mean(axis=1), 0.02 * alpha)
    logs = np.log(scale) - np.log(mean / alpha) / slope
    chance = float(own) / max(float(mean.mean()), 0.02 * alpha) ** 2 / slope**2
    variance = float(logs.var(ddof=1))
    doubts = np.log(np.quantile(response.reshape(_GROUPS, -1), _SHOWN, axis=1)).std(axis=1, ddof=1)
    return sqrt(max(variance - 0.7 * chance, 0.25 * variance, float(np.log(scale).var(ddof=1)))), doubts.tolist()


def _ordered(law: Law) -> Law:
    """Return a law with its services in order of length: one random number then gives like services from every law."""
    order = np.lexsort((law.delays_s, law.ratios))
    return Law(batch_s=law.batch_s, ratios=law.ratios[order], delays_s=law.delays_s[order])


def _resample(count: int, rng: np.random.Generator) -> "np.typing.NDArray[np.int64]":
    """Return indices of as many services, drawn in blocks."""
    block = max(1, min(_BLOCK, count // 8))
    starts = rng.integers(0, count - block + 1, -(-count // block))
    index: np.typing.NDArray[np.int64] = (starts[:, None] + np.arange(block)).reshape(-1)[:count]
    return index


def _capacity(twin: Twin, law: Law) -> float:
    rule = twin.rule
    mean = float(law.ratios.mean()) * float(law.batch_s[rule.max_batch]) + float(law.delays_s.mean())
    return rule.instances * rule.max_batch / mean


def _rare(twin: Twin, rate_rps: float, sla: SLA, seed: int) -> tuple[int, float, float]:
    """Return how many rare long delays were seen, and what their small number means for ln rate, below and above.

    Of k events the true number lies within Garwood's Poisson limits (Biometrika 1936). Their share of the violations,
    as they come and without them, is simulated at rates further and further away, until alpha is met with so many.
    """
    law = twin.law
    usual = np.median(law.ratios)
    robust = 1.4826 * float(np.median(np.abs(law.ratios - usual))) + 1e-6
    late = (law.ratios - usual) * float(law.batch_s[1:].mean()) + law.delays_s
    is_rare = late > _RARE_SHARE * sla.limit_s
    is_rare &= ((law.ratios - usual) > _RARE_SIGMA * robust) | (law.delays_s > 0)
    count = int(is_rare.sum())
    if not 0 < count <= _FEW:
        return 0, 0.0, 0.0
    without = Law(
        batch_s=law.batch_s, ratios=np.where(is_rare, usual, law.ratios), delays_s=np.where(is_rare, 0, law.delays_s)
    )

    def shares(rate: float) -> tuple[float, float]:
        shape = _shape(twin, rate, sla.limit_s, _COARSE * 2)
        both = (_share(response_s(twin, [one], rate, shape, seed), sla.limit_s)[0] for one in (law, without))
        first, second = both
        return first, min(first, second)

    def reach(times: float, sign: int) -> float:
        apart, step = 0.0, 0.005
        while apart < _FURTHEST:
            further = apart + step
            rate = rate_rps * exp(sign * further)
            if rate > 0.999 * twin.capacity_rps:
                break
            seen, plain = shares(rate)
            if sign * (plain + times * (seen - plain) - sla.violation_share) > 0:
                break
            apart, step = further, 1.5 * step
        return apart + 0.5 * step

    seen, plain = shares(rate_rps)
    if seen - plain < _TELLING * seen:
        return count, 0.0, 0.0
    many = float(stats.gamma.ppf(0.975, count + 1)) / count
    few = float(stats.gamma.ppf(0.025, count)) / count
    return count, reach(many, -1) / 1.96, reach(few, 1) / 1.96


def replay(twin: Twin, traces: Sequence[Trace], seed: int) -> Check | None:
    """Simulate the twin on the arrivals of the steps nearest the answer and compare the tails.

    A quantile's difference counts by d ln quantile / d ln rate, from replays of the same arrivals a little faster.
    Differences are pooled over steps; what chance explains, from the scatter of the replays, is taken off.
    """
    most = _SETTLES * twin.capacity_rps  # above that a step shows nothing settled
    calm = [t for t in traces if not t.overload and t.arrival_s.size >= _LEAST_REPLAYED and t.rate_rps < most]
    top = max((trace.rate_rps for trace in calm), default=0.0)
    near = sorted((t for t in calm if t.rate_rps > 0.85 * top), key=lambda t: t.start_s)[-_REPLAYED:]
    near = [trace.head(_LONGEST_REPLAY) for trace in near]
    if not near:
        return None
    faster = 0.015 if twin.capacity_rps > 1.05 * top else 0.004
    rows = []
    for index, trace in enumerate(near):
        seen = trace.done_s - trace.arrival_s
        skip = min(int(0.05 * seen.size), 200)
        modelled = [
            _replay(twin, np.tile(trace.arrival_s / (1 + more), (_REPLAYS, 1)), np.random.default_rng([seed, 8, index]))
            for more in (0.0, faster)  # the same services in both
        ]
        quantiles = np.log(np.quantile(np.stack(modelled)[:, :, skip:], _CHECKED, axis=2))
        rows.append((quantiles, np.log(np.quantile(seen[skip:], _CHECKED))))
    return _compare(near, rows, faster)


def _replay(twin: Twin, arrivals_s: Floats, rng: np.random.Generator) -> Floats:
    return _left_s(twin, simulate(twin.rule, [twin.law], arrivals_s, rng), rng) - arrivals_s


def _compare(near: Sequence[Trace], rows: Sequence[tuple[Floats, Floats]], faster: float) -> Check:
    """Pool the steps; `rows` holds of each the replays' quantiles (checked, 2, replays) and the seen ones."""
    simulated = np.array([modelled for modelled, _ in rows])  # (steps, quantiles, pace, replays)
    seen = np.array([real for _, real in rows])
    mean = simulated.mean(axis=3)
    slope = np.maximum((mean[:, :, 1] - mean[:, :, 0]) / log(1 + faster), 0.3)
    variance = simulated[:, :, 0].var(axis=2, ddof=1)
    variance = 0.5 * (variance + variance.mean(axis=0)) * (1 + 1 / _REPLAYS) + 1e-6  # of few replays: drawn together
    apart = (seen - mean[:, :, 0]) / slope
    weight = slope**2 / variance
    pooled = (weight * apart).sum(axis=0) / weight.sum(axis=0)
    excess = np.maximum(0.0, pooled**2 - _CHANCE / weight.sum(axis=0))
    spread = float(((seen - seen.mean()) ** 2).sum())
    explained = 1 - float(((seen - mean[:, :, 0]) ** 2).sum()) / spread if spread > 0 else 0.0
    table = zip(_CHECKED, np.exp(mean[:, :, 0].mean(axis=0)).tolist(), np.exp(seen.mean(axis=0)).tolist(), strict=True)
    return Check(
        misfit=sqrt(float(excess.mean())), quantiles=tuple(table), explained=max(0.0, explained),
        rate_rps=float(np.mean([trace.rate_rps for trace in near])),
    )  # fmt: skip
