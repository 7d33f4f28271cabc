"""How sure the twin's rate is: the services resampled, the few rare delays counted, the bend of ln p followed.

Legend: see `analysis.simulation`; s = d ln p / d ln rate.
"""

from dataclasses import replace
from math import exp, log, sqrt

import numpy as np
from scipy import stats

from analysis.queueing import Ints, Law, capacity_rps
from analysis.simulation import Steady, steady_responses
from analysis.sla import SLA
from analysis.twin import Twin, relaw

SHOWN = (0.5, 0.95, 0.99)  # quantiles of the answer
FLOOR = 0.003  # standard deviation that no fit goes below, of ln rate
_LAWS = 32  # that are resampled
_MOST = 40_000  # services of a resample
_RESAMPLED, _ROUNDS = 400_000, 8  # requests of a round of all resamples, rounds
_EXACTLY = 160_000  # requests of a simulation that is compared with others
_RARE_SIGMA, _RARE_SHARE = 8.0, 0.25
_FEW = 60  # rare delays: more are known well enough by resampling
_TELLING = 0.15  # share of the violations that rare delays make up before their number matters
_FURTHEST = 0.5
_HARDLY = 1e-6  # a share that no simulation shows
_STRAIGHT, _FURTHEST_SD = 0.025, 1.0  # of ln rate: up to there ln p is straight; a factor of ten in the interval


def resampled_doubt(twin: Twin, sla: SLA, rate_rps: float, slope: float, *, seed: int) -> tuple[float, list[float]]:
    """Return the standard deviation of ln rate over resampled service laws, the simulation's own share taken off.

    And those of the logarithms of p50, p95 and p99 there. Of many services fewer are drawn, and the variances, which
    go as 1 / services, taken for those of them all (m out of n: Bickel, Goetze and van Zwet 1997).
    """
    rng = np.random.default_rng([seed, 4])
    many = min(twin.services, _MOST)
    laws = [_ordered(relaw(twin, _resample(twin.services, many, twin.run, rng))) for _ in range(_LAWS)]
    of_all = many / twin.services
    tops = np.array([capacity_rps(twin.rule, law) for law in laws])
    scale = tops / twin.capacity_rps
    alpha = sla.violation_share
    cases = [(law, rate_rps * its) for law, its in zip(laws, scale.tolist(), strict=True)]
    steady = Steady(twin, cases, sla.limit_s, _RESAMPLED // _LAWS, [seed, 5])
    slow = counts = np.zeros(1, dtype=np.int64)
    for _ in range(_ROUNDS):
        seen = steady.more()
        slow, counts = slow + np.array([one.slow for one in seen]), counts + np.array([one.counts for one in seen])
        shares = slow / counts  # (laws, lanes)
        apart = shares - shares.mean(axis=0)  # from the other laws, on the same arrivals
        own = float(apart.var(axis=1, ddof=1).mean()) / shares.shape[1]
        mean = np.maximum(shares.mean(axis=1), 0.02 * alpha)
        variance = of_all * float((np.log(scale) - np.log(mean / alpha) / slope).var(ddof=1))
        chance = of_all * own / (max(float(mean.mean()), 0.02 * alpha) * slope) ** 2
        if chance < max(0.3 * variance, (0.5 * FLOOR) ** 2):
            break
    doubts = np.log([np.quantile(one.seconds, SHOWN) for one in seen]).std(axis=0, ddof=1) * sqrt(of_all)
    least = max(0.25 * variance, of_all * float(np.log(scale).var(ddof=1)))
    return sqrt(max(variance - 0.7 * chance, least)), doubts.tolist()


def _ordered(law: Law) -> Law:
    """Return a law with its services in order of length: one random number then gives like services from every law.

    Not where services depend on one another for long: their order matters.
    """
    if law.restart < 1:
        return law
    if not law.delays_s.any():
        return replace(law, ratios=np.sort(law.ratios))
    order = np.lexsort((law.delays_s, law.ratios))
    return Law(batch_s=law.batch_s, ratios=law.ratios[order], delays_s=law.delays_s[order])


def _resample(count: int, many: int, run: int, rng: np.random.Generator) -> Ints:
    """Return indices of so many of the services, drawn in blocks of a run."""
    block = max(1, min(run, count // 8, many))
    starts = rng.integers(0, count - block + 1, -(-many // block))
    index: Ints = (starts[:, None] + np.arange(block)).reshape(-1)[:many]
    return index


def rare_doubt(twin: Twin, rate_rps: float, sla: SLA, seed: int) -> tuple[int, float, float]:
    """Return how many rare long delays were seen, and what their small number means for ln rate, below and above.

    A pause holds up everything that comes in it: services so long that began within one of them of each other count as
    one event. Of k events the true number lies within Garwood's Poisson limits (Biometrika 1936). Their share of the
    violations, as they come and without them, is simulated at rates further and further away, until alpha is met with
    so many.
    """
    law = twin.law
    usual = np.median(law.ratios)
    robust = float(stats.median_abs_deviation(law.ratios, scale="normal")) + 1e-6
    late = (law.ratios - usual) * float(law.batch_s[1:].mean()) + law.delays_s
    is_rare = late > _RARE_SHARE * sla.limit_s
    is_rare &= ((law.ratios - usual) > _RARE_SIGMA * robust) | (law.delays_s > 0)
    if not is_rare.any():
        return 0, 0.0, 0.0
    apart = np.diff(twin.dates_s[is_rare])
    count = 1 + int((apart > float(late[is_rare].max())).sum())
    if count > _FEW:
        return 0, 0.0, 0.0
    without = replace(law, ratios=np.where(is_rare, usual, law.ratios), delays_s=np.where(is_rare, 0, law.delays_s))

    def shares(rate: float) -> tuple[float, float]:
        both = steady_responses(twin, [(law, rate), (without, rate)], sla.limit_s, [seed, 6], _EXACTLY)
        first, second = (responses.share for responses in both)
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


def bent_doubt(twin: Twin, rate_rps: float, sla: SLA, *, slope: float, sd: float, seed: int) -> tuple[float, float]:
    """Return standard deviations of ln rate, below and above, that follow the curve of ln p instead of its tangent.

    Where p comes from the tail of the service itself it hardly depends on the rate, and less the lower that is: twice
    the doubt about ln p then reaches further down than the tangent says.
    """
    if sd < _STRAIGHT:
        return sd, sd
    ends = {-1: _FURTHEST_SD, 1: max(0.5 * log(0.999 * twin.capacity_rps / rate_rps), sd)}

    def excess(apart: float) -> float:
        rate = rate_rps * exp(apart)
        (responses,) = steady_responses(twin, [(twin.law, rate)], sla.limit_s, [seed, 7], _EXACTLY)
        return log(max(responses.share, _HARDLY))

    middle = excess(0.0)

    def reach(sign: int) -> float:
        near, far = 0.0, sd
        wanted = min(2 * slope * sd, middle - log(_HARDLY)) if sign < 0 else 2 * slope * sd

        def short(apart: float) -> bool:
            return sign * (excess(sign * 2 * apart) - middle) < wanted - 1e-9

        while far < ends[sign] and short(far):
            near, far = far, min(1.5 * far, ends[sign])
        for _ in range(3 if far > sd else 0):
            half = 0.5 * (near + far)
            near, far = (half, far) if short(half) else (near, half)
        return far

    return reach(-1), reach(1)
