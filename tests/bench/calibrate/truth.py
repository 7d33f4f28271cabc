"""The true operating point of a simulated server from long runs, and the least time in which counting can find it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, islice, pairwise
from math import exp, inf, log, sqrt

import numpy as np

from analysis import SLA, Step
from tests.bench.calibrate.des import Server, Simulator
from tests.bench.calibrate.kernels import Floats

GRID = (0.995, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
WARM_UP = 0.1
BATCHES = 20
WANTED_ERROR = 0.0015
ALLOWED_ERROR = 0.003


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Hold lambda* and what counting could do at best.

    Attributes:
        rate_rps: Highest Poisson rate at which the settled server violates the SLA no more often than it may.
        error: Its standard error, relative.
        slope: d ln p / d ln rate there, p being the share of violations.
        inflation: Variance of the count of violations over the binomial one there.
        point_s: Seconds for 95 % of |error| <= eps, by eps as text, when counting at that rate with the slope known.
        bound_s: The same at the best of several rates.
    """

    rate_rps: float
    error: float
    slope: float
    inflation: float
    point_s: Mapping[str, float]
    bound_s: Mapping[str, float]


def shares(server: Server, sla: SLA, rate_rps: float, requests: int, seed: int) -> Floats:
    """Return the shares of violations in 20 consecutive parts of one long run, its first tenth cut."""
    step = Step(rate_rps=rate_rps, duration_s=requests / rate_rps)
    result = Simulator(server, seed, settled=True).run_step(step)
    violated = result.violations(round(sla.limit_s * 1e9))[int(WARM_UP * result.offered) :]
    size = violated.size // BATCHES
    return np.asarray(violated[: size * BATCHES].reshape(BATCHES, size).mean(axis=1), dtype=np.float64)


def highest_passing(server: Server, sla: SLA, requests: int = 60_000) -> float | None:
    """Return the highest rate of a coarse grid that passes in a short run; None where none or the highest does."""
    for index, part in enumerate(GRID):
        rate = part * server.capacity_rps
        if shares(server, sla, rate, requests, 0).mean() <= 1 - sla.quantile:
            return rate if index else None
    return None


def solve(
    server: Server, sla: SLA, *, segment: int = 2_000_000, most: int = 128, wanted: float = WANTED_ERROR
) -> Truth:
    """Find lambda*: bisect coarsely from above, then follow pairs of long runs around it on fresh seeds.

    The runs of a pair share their random numbers. The last round is the verification: all its seeds are fresh, lambda*
    lies between the two rates, at most 0.5 % to either side, and the standard error over its segments is small.

    Args:
        server: Settled: drift is over, caches are warm.
        sla: Its p99 or the like.
        segment: Requests of one run.
        most: Most pairs of runs in a round.
        wanted: Relative standard error at which it stops; with `most` pairs up to 0.3 % is accepted.

    Raises:
        ArithmeticError: No crossing was found, or the runs do not settle.
    """
    allowed, rate = 1 - sla.quantile, _bisect(server, sla)
    seeds, pairs, reach = count(1), 8, 0.005
    for _ in range(40):
        runs = [_pair(server, sla, rate, reach, requests=segment, seed=seed) for seed in islice(seeds, pairs)]
        low, high = (np.array([run[side].mean() for run in runs]) for side in (0, 1))
        shift, slope = _crossing(low, high, reach, allowed)
        if slope * reach > 0.75 and reach > 2.5e-4:
            rate, reach = rate * exp(max(-reach, min(reach, shift))), reach / 2
        elif not abs(shift) <= reach:
            rate *= exp(max(-1.5 * reach, min(1.5 * reach, shift)))
        else:
            error = _jackknife(low, high, reach, allowed)
            if error <= wanted or (pairs >= most and error <= ALLOWED_ERROR):
                at_s = _seconds(runs, rate, reach, segment)
                return Truth(
                    rate_rps=rate * exp(shift), error=error, slope=slope, inflation=_inflation(runs, segment),
                    point_s=_by_eps(at_s), bound_s=_by_eps(min(at_s, *_elsewhere(server, sla, rate, slope, segment))),
                )  # fmt: skip
            if pairs >= most:
                break
            pairs *= 2
    raise ArithmeticError(f"truth: the runs around {rate:.4g} req/s do not settle")


Pair = tuple[Floats, Floats]


def _bisect(server: Server, sla: SLA) -> float:
    """Return the upper crossing within 1 %, from short runs with the same random numbers."""
    allowed = 1 - sla.quantile
    grid = (1.05, *GRID, 0.2, 0.1)
    for above, below in pairwise(grid):
        low, high = below * server.capacity_rps, above * server.capacity_rps
        if shares(server, sla, low, 200_000, 0).mean() <= allowed:
            break
    else:
        raise ArithmeticError("truth: the server violates the SLA at every rate")
    while high > 1.01 * low:
        middle = sqrt(low * high)
        passes = shares(server, sla, middle, 500_000, 0).mean() <= allowed
        low, high = (middle, high) if passes else (low, middle)
    return sqrt(low * high)


def _pair(server: Server, sla: SLA, rate: float, reach: float, *, requests: int, seed: int) -> Pair:
    """Run a little below and a little above a rate with the same random numbers."""
    return (
        shares(server, sla, rate * exp(-reach), requests, seed),
        shares(server, sla, rate * exp(reach), requests, seed),
    )


def _crossing(low: Floats, high: Floats, reach: float, allowed: float) -> tuple[float, float]:
    """Return where ln p crosses ln allowed, from the middle in ln rate, and d ln p / d ln rate."""
    below, above = (log(max(float(side.mean()), 1e-9)) for side in (low, high))
    slope = max((above - below) / (2 * reach), 1e-3)
    return (log(allowed) - (below + above) / 2) / slope, slope


def _jackknife(low: Floats, high: Floats, reach: float, allowed: float) -> float:
    """Return the standard error of the crossing over independent pairs."""
    left_out = [_crossing(np.delete(low, k), np.delete(high, k), reach, allowed)[0] for k in range(low.size)]
    return sqrt((low.size - 1) * float(np.var(left_out)))


def _inflation(runs: list[Pair], requests: int) -> float:
    """Return the variance of the count of violations over the binomial one, F, by batch means."""
    share = float(np.mean(runs))
    return _variance(runs) * _size(requests) / (share * (1 - share))


def _variance(runs: list[Pair]) -> float:
    """Return the variance of the share of violations of one part of a run, from the parts of all runs at one rate."""
    return float(np.mean([np.var(np.concatenate([run[side] for run in runs]), ddof=1) for side in (0, 1)]))


def _size(requests: int) -> float:
    return (1 - WARM_UP) * requests / BATCHES


def _seconds(runs: list[Pair], rate: float, reach: float, requests: int) -> float:
    """Return T eps^2, where counting for T seconds at a rate gives |error of ln lambda*| <= eps in 95 %.

    T = (1.96 / eps)^2 F p (1 - p) / (rate (dp / d ln rate)^2), by batch means. Infinite where the slope is noise.
    """
    slopes = np.array([(high.mean() - low.mean()) / (2 * reach) for low, high in runs])
    if not slopes.mean() > 3 * slopes.std(ddof=1) / sqrt(slopes.size):
        return inf
    return 1.96**2 * _variance(runs) * _size(requests) / (rate * float(slopes.mean()) ** 2)


def _elsewhere(server: Server, sla: SLA, rate: float, slope: float, requests: int) -> Iterator[float]:
    """Yield `_seconds` at rates with very roughly 3, 10 and 30 times the violations."""
    reach = min(0.005, 0.5 / slope)
    for more in (3.0, 10.0, 30.0):
        there = min(rate * exp(log(more) / slope), sqrt(rate * server.capacity_rps))
        runs = [_pair(server, sla, there, reach, requests=requests, seed=seed) for seed in range(4)]
        yield _seconds(runs, there, reach, requests)


def _by_eps(at_one: float) -> Mapping[str, float]:
    return {str(eps): at_one / eps**2 for eps in (0.05, 0.02)}
