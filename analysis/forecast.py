"""What the twin predicts: the rate at which an SLA's share of violations is reached, its interval, and a check.

Everything is simulated with `analysis.queueing` on Poisson arrivals that are never smoothed: fixed counts per second
would remove the bursts that make the tail. Legend: p share of requests slower than the limit, alpha the share allowed,
s = d ln p / d ln rate, M the twin's capacity, y = ln (rate / (M - rate)) the load, in which ln p is nearly straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, hypot, log, sqrt

import numpy as np
from scipy import stats

from analysis.evidence import relaxation_s
from analysis.queueing import RESTART, Floats, Ints, Law, capacity_rps, places_of, poisson_lanes, simulate
from analysis.reconstruct import Trace
from analysis.sla import SLA
from analysis.twin import Twin, relaw

_GROUPS, _SPREAD_ROUNDS = 16, 4  # resamples of the service law, simulations of them all
_BLOCK = 25  # services that are resampled together
_COARSE, _FINE = 80_000, 400_000  # requests a simulation, warm-up left out
_LONGEST_LANE = 120_000
_LONGEST_LANE_SINGLE = 25_000
_REPLAYS = 12
_CHANCE = 4.0  # variances of chance below which a difference is none
_CHECKED = (0.9, 0.97, 0.99)
_SHOWN = (0.5, 0.95, 0.99)
_LEAST_REPLAYED, _LONGEST_REPLAY = 200, 12_000  # requests of a step
_REPLAYED, _NEAR = 6, 0.16  # steps, of ln rate
_SETTLES = 0.995  # of the capacity
_FLOOR = 0.003  # standard deviation that no fit goes below, of ln rate
_RARE_SIGMA, _RARE_SHARE = 8.0, 0.25
_FEW = 60  # rare delays: more are known well enough by resampling
_TELLING = 0.15  # share of the violations that rare delays make up before their number matters
_FURTHEST = 0.5
_STRAIGHT, _FURTHEST_SD = 0.025, 1.0  # of ln rate: up to there ln p is straight; a factor of ten in the interval
_HIGHEST_Y, _LOWEST_Y = 6.2, -4.0
_STEP, _FURTHEST_Y = 0.06, 0.8  # in y: between the loads of a round, and from one round to the next
_USUAL_SLOPE, _LEAST_SLOPE, _MOST_SLOPE = 4.4, 0.3, 12.0  # d ln p / dy
_ROUNDS, _MOST_ROUNDS, _FEWEST_ROUNDS = 8, 24, 3
_MINOR = 0.9  # of the other doubts: up to there the simulation's error adds a third to them


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


def response_s(twin: Twin, law: Law, rate_rps: float, shape: tuple[int, int, int], seed: int) -> Floats:
    """Simulate response times at a rate: float (lanes, requests), `shape` being lanes, requests and warm-up."""
    lanes, size, warm = shape
    unit = poisson_lanes(lanes, size + twin.rule.max_batch, np.random.default_rng([seed, 1]))
    return _settled_s(twin, [law], unit / rate_rps, warm, seed)


def _settled_s(
    twin: Twin, laws: list[Law], arrivals_s: Floats, warm: int, seed: int, *, restart: float = RESTART
) -> Floats:
    """Return response times less those of the warm-up, and of the last batch of a lane, which waits in vain to fill."""
    done = simulate(twin.rule, laws, arrivals_s, np.random.default_rng([seed, 2]), restart=restart)
    response: Floats = _left_s(twin, done, np.random.default_rng([seed, 3])) - arrivals_s
    return response[:, warm : -twin.rule.max_batch]


def _left_s(twin: Twin, done_s: Floats, rng: np.random.Generator) -> Floats:
    """Return when replies were received: after service, what takes time outside it, and their place in the batch."""
    received: Floats = done_s + twin.delay_s
    if twin.rule.max_batch > 1:
        received += twin.place_s[np.minimum(places_of(done_s), twin.place_s.size - 1)]
        received += np.resize(np.roll(twin.spread_s, rng.integers(twin.spread_s.size)), received.shape)
    return received


def _shape(twin: Twin, rate_rps: float, limit_s: float, requests: int) -> tuple[int, int, int]:
    """Return lanes, requests of each and warm-up, such that a lane is long against the queue's memory."""
    memory = rate_rps * relaxation_s(rate_rps, twin.capacity_rps, limit_s)  # in requests
    longest = _LONGEST_LANE if twin.rule.max_batch > 1 else _LONGEST_LANE_SINGLE
    warm = int(min(max(3 * memory, 300), longest / 2))
    size = min((2 if twin.rule.max_batch > 1 else 4) * warm, longest)  # of batches many short lanes cost less
    lanes = max(_GROUPS, -(-requests // (size - warm) // _GROUPS) * _GROUPS)
    return lanes, size, warm


def _share(response: Floats, limit_s: float) -> tuple[float, float]:
    """Return the share of responses above a limit and its standard error, from the lanes' own shares."""
    shares = (response > limit_s).mean(axis=1)
    return float(shares.mean()), float(shares.std(ddof=1)) / shares.size**0.5


def steady_response_s(twin: Twin, rate_rps: float, limit_s: float, seed: int) -> Floats:
    """Simulate the settled server at a rate: response times in seconds, float (lanes, requests)."""
    return response_s(twin, twin.law, rate_rps, _shape(twin, rate_rps, limit_s, _COARSE), seed)


def crossing(twin: Twin, sla: SLA) -> float | None:
    """Return about the highest rate at which the twin holds an SLA; None where it holds it at none.

    From just below the capacity downwards, for where batches wait to fill a low rate may violate the SLA too.
    """
    top, alpha, limit = twin.capacity_rps, sla.violation_share, sla.limit_s

    def excess(y: float) -> float:
        share, _ = _share(steady_response_s(twin, _rate(top, y), limit, seed=11), limit)
        return log(max(share, 1e-6) / alpha)

    y = 3.0
    high = excess(y)
    while high <= 0:
        if y > _HIGHEST_Y:
            return _rate(top, y)
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
    return _rate(top, best)


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
    top, shape = twin.capacity_rps, _shape(twin, rate, sla.limit_s, _FINE)
    y, alpha = log(rate / max(top - rate, 1e-3 * rate)), sla.violation_share
    rounds: list[_Round] = []
    doubts: list[float] = []
    for again in range(_MOST_ROUNDS):  # on other chances each, for p near saturation comes from few busy spells
        pair = [response_s(twin, twin.law, _rate(top, y + sign * _STEP), shape, seed + again) for sign in (-1, 1)]
        below, above = (_share(response, sla.limit_s) for response in pair)
        rounds.append(_Round(y, below[0], above[0], above[1]))
        at = y
        moved, per_y, error = _pooled([done for done in rounds if abs(done.y - y) < _FURTHEST_Y], y, alpha)
        y = min(y + moved, _HIGHEST_Y)
        if len(rounds) < _FEWEST_ROUNDS or abs(moved) > 0.5 * _FURTHEST_Y:
            continue
        if not doubts:
            resampled, doubts = _spread(twin, sla, _rate(top, y), per_y * (1 + exp(y)), seed=seed)
        others, own = hypot(resampled, twin.trend, _FLOOR), error / (1 + exp(y))
        if own < _MINOR * others and not (others < wanted < hypot(others, own)):
            break
        if again >= _ROUNDS and not others < wanted:
            break
    rate, slope = _rate(top, y), per_y * (1 + exp(y))
    if not doubts and load is not None:  # that was not near, or ln p falls there: begin from above
        return forecast(twin, sla, seed, wanted=wanted)
    if not doubts:  # it never came near: as far off as the last round was
        error = max(error, abs(moved))
        resampled, doubts = _spread(twin, sla, rate, slope, seed=seed)
    sd = hypot(resampled, error / (1 + exp(y)), twin.trend, _FLOOR)
    here = log(max(rounds[-1].middle, 0.1 * alpha) / alpha)
    ends = (_rate(top, at - _STEP), _rate(top, at + _STEP))
    quantiles = _quantiles(pair, 0.5 * log(ends[1] / ends[0]), -here / slope, sd, doubts)  # where this pair crosses
    rare, *few = _rare(twin, rate, sla, seed)
    bent = _bent(twin, rate, sla, slope=slope, sd=sd, seed=seed)
    below, above = (max(more, sqrt(reach**2 - sd**2)) for more, reach in zip(few, bent, strict=True))  # one doubt
    return Forecast(
        rate_rps=rate, slope=slope, rare=rare, below=below, above=above, lately=resampled, quantiles=quantiles,
        sd=sd,
    )  # fmt: skip


def _bent(twin: Twin, rate_rps: float, sla: SLA, *, slope: float, sd: float, seed: int) -> tuple[float, float]:
    """Return standard deviations of ln rate, below and above, that follow the curve of ln p instead of its tangent.

    Where p comes from the tail of the service itself it hardly depends on the rate, and less the lower that is: twice
    the doubt about ln p then reaches further down than the tangent says.
    """
    if sd < _STRAIGHT:
        return sd, sd
    top = twin.capacity_rps

    def excess(apart: float) -> float:
        rate = min(rate_rps * exp(apart), 0.999 * top)
        shape = _shape(twin, rate, sla.limit_s, 2 * _COARSE)
        return log(max(_share(response_s(twin, twin.law, rate, shape, seed + 20), sla.limit_s)[0], 1e-6))

    middle = excess(0.0)

    def reach(sign: int) -> float:
        near, far, wanted = 0.0, sd, 2 * slope * sd
        while sign * (excess(sign * 2 * far) - middle) < wanted and far < _FURTHEST_SD:
            near, far = far, min(1.5 * far, _FURTHEST_SD)
        for _ in range(3 if far > sd else 0):
            half = 0.5 * (near + far)
            near, far = (half, far) if sign * (excess(sign * 2 * half) - middle) < wanted else (near, half)
        return far

    return reach(-1), reach(1)


def _rate(top_rps: float, y: float) -> float:
    """Return the rate whose load is y = ln (rate / (M - rate)); d ln rate / dy = 1 / (1 + exp y)."""
    return top_rps / (1 + exp(-y))


@dataclass(frozen=True, slots=True)
class _Round:
    """Hold the shares of slow responses at loads a step below and above y, on the same chances, and their error."""

    y: float
    below: float
    above: float
    error: float

    @property
    def middle(self) -> float:
        return 0.5 * (self.below + self.above)


def _pooled(rounds: Sequence[_Round], y: float, alpha: float) -> tuple[float, float, float]:
    """Return how far from y the shares reach alpha, d ln p / dy, and the standard error of that place.

    Shares are averaged, not their logarithms: the mean of ln p is below the logarithm of the mean.
    """
    below, above = (sum(getattr(done, name) for done in rounds) for name in ("below", "above"))
    slope = _USUAL_SLOPE if not below else min(max(log(above / below) / (2 * _STEP), _LEAST_SLOPE), _MOST_SLOPE)
    shares = np.array([done.middle * exp(-slope * (done.y - y)) for done in rounds])
    mean = max(float(shares.mean()), 1e-3 * alpha)
    moved = min(max(-log(mean / alpha) / slope, -_FURTHEST_Y), _FURTHEST_Y)
    if shares.size < _FEWEST_ROUNDS:
        return moved, slope, _FURTHEST_Y
    # the scatter of a few rounds, or that of the lanes within them where it is more
    error = max(float(shares.std(ddof=1)), float(np.mean([done.error for done in rounds])))
    return moved, slope, error / shares.size**0.5 / mean / slope


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
    tops = np.array([capacity_rps(twin.rule, law) for law in laws])
    scale = tops / twin.capacity_rps
    limit_s, alpha = sla.limit_s, sla.violation_share
    lanes, size, warm = _shape(twin, rate_rps, limit_s, 2 * _FINE)
    each = max(2, lanes // _GROUPS)
    shares: Floats = np.empty((_GROUPS, 0))
    for again in range(_SPREAD_ROUNDS):
        unit = poisson_lanes(each, size + twin.rule.max_batch, np.random.default_rng([seed + again, 5]))
        arrivals = np.tile(unit, (_GROUPS, 1)) / (rate_rps * np.repeat(scale, each))[:, None]
        response = _settled_s(twin, laws, arrivals, warm, seed + again, restart=1.0)
        shares = np.concatenate([shares, (response > limit_s).mean(axis=1).reshape(_GROUPS, each)], axis=1)
        apart = shares - shares.mean(axis=0)  # from the other laws, on the same arrivals
        own = float(apart.var(axis=1, ddof=1).mean()) / shares.shape[1]
        mean = np.maximum(shares.mean(axis=1), 0.02 * alpha)
        variance = float((np.log(scale) - np.log(mean / alpha) / slope).var(ddof=1))
        chance = own / (max(float(mean.mean()), 0.02 * alpha) * slope) ** 2
        if chance < max(0.3 * variance, (0.5 * _FLOOR) ** 2):
            break
    doubts = np.log(np.quantile(response.reshape(_GROUPS, -1), _SHOWN, axis=1)).std(axis=1, ddof=1)
    return sqrt(max(variance - 0.7 * chance, 0.25 * variance, float(np.log(scale).var(ddof=1)))), doubts.tolist()


def _ordered(law: Law) -> Law:
    """Return a law with its services in order of length: one random number then gives like services from every law."""
    order = np.lexsort((law.delays_s, law.ratios))
    return Law(batch_s=law.batch_s, ratios=law.ratios[order], delays_s=law.delays_s[order])


def _resample(count: int, rng: np.random.Generator) -> Ints:
    """Return indices of as many services, drawn in blocks."""
    block = max(1, min(_BLOCK, count // 8))
    starts = rng.integers(0, count - block + 1, -(-count // block))
    index: Ints = (starts[:, None] + np.arange(block)).reshape(-1)[:count]
    return index


def _rare(twin: Twin, rate_rps: float, sla: SLA, seed: int) -> tuple[int, float, float]:
    """Return how many rare long delays were seen, and what their small number means for ln rate, below and above.

    Of k events the true number lies within Garwood's Poisson limits (Biometrika 1936). Their share of the violations,
    as they come and without them, is simulated at rates further and further away, until alpha is met with so many.
    """
    law = twin.law
    usual = np.median(law.ratios)
    robust = float(stats.median_abs_deviation(law.ratios, scale="normal")) + 1e-6
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
        both = (_share(response_s(twin, one, rate, shape, seed), sla.limit_s)[0] for one in (law, without))
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


def replay(twin: Twin, traces: Sequence[Trace], rate_rps: float, seed: int) -> Check | None:
    """Simulate the twin on the arrivals of steps near a rate and compare the tails.

    A quantile's difference counts by d ln quantile / d ln rate, from replays of the same arrivals a little faster.
    Differences are pooled over steps; what chance explains, from the scatter of the replays, is taken off.
    """
    most = _SETTLES * twin.capacity_rps  # above that a step shows nothing settled
    calm = [t for t in traces if not t.overload and t.arrival_s.size >= _LEAST_REPLAYED and t.rate_rps < most]
    calm = [t for t in calm if twin.since_s is None or t.start_s > twin.since_s] or calm[-1:]
    if not calm:
        return None
    calm.sort(key=lambda trace: abs(log(trace.rate_rps / rate_rps)))
    near = [trace for trace in calm if abs(log(trace.rate_rps / rate_rps)) < _NEAR] or calm[:1]
    near = [t.head(_LONGEST_REPLAY) for t in sorted(near, key=lambda t: min(t.arrival_s.size, _LONGEST_REPLAY))]
    near = near[-_REPLAYED:]
    top = max(trace.rate_rps for trace in near)
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
