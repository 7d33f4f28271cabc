"""The steps as evidence about one load: weighted by nearness, scaled to that load, counted in clusters.

Legend and sources: see `analysis.boundary`.
"""

from math import exp

import numpy as np
from numpy.typing import NDArray

from analysis.dwell import Dwell
from analysis.estimate import Estimate

Floats = NDArray[np.float64]
REACHES = (0.6, 0.9, 1.4)  # in y: how far a step's evidence counts; further where there is too little
_PHI = 0.9
_G, _G_SD, _G_LEAST_SD = 0.5, 0.17, 0.06
_LEAST_GAP = 0.002
_FLOOR, _FLOOR_FEW, _FEW = 0.03, 0.3, 4.0  # of the theoretical cluster; the more so the fewer there are
_LEAST_GROUPS = 6
_LEAST_WEIGHT = 0.05
FLATTEST = 1.2  # d ln P / dy: of ordinary queues 2.4 to 6, of rare pauses 1.4


def load(rate_rps: Floats | float, capacity_rps: Floats | float) -> Floats:
    """Return y = ln h of a rate, its distance to the capacity no less than 0.2 %."""
    rate = np.asarray(rate_rps, dtype=np.float64)
    y: Floats = np.log(rate / np.maximum(capacity_rps - rate, _LEAST_GAP * np.asarray(capacity_rps)))
    return y


def rate_at(capacity_rps: float, y: float) -> float:
    """Return the rate whose load is y, the inverse of `load`; d ln rate / dy = 1 / (1 + exp y)."""
    return capacity_rps / (1 + exp(-y))


def relaxation_s(rate_rps: float, capacity_rps: float, limit_s: float) -> float:
    """Return the time after which waits up to the limit have forgotten the past, seconds."""
    return _PHI * limit_s / max(1 - rate_rps / capacity_rps, _LEAST_GAP)


class Evidence:
    """Hold dwells as arrays, weighted by how near they are to the load `at`.

    Attributes:
        dwells: Steps in time order.
        rates: Their rates, requests per second.
        y: Their loads.
        n: Their requests.
        looks: Their sizes in clusters, n / phi.
        weights: In (0, 1].
        at: The load asked about.
        bursts: Slow requests come from few causes, so their number and not their latency is what other loads tell.
        exponent: g there.
        exponent_sd: Its standard deviation.
    """

    def __init__(
        self, dwells: tuple[Dwell, ...], *, limit_s: float, allowed: float, capacity_rps: float, at: float,
        reach: float, bursts: bool = False,
    ) -> None:  # fmt: skip
        self.dwells = dwells
        self.rates = np.array([d.rate_rps for d in dwells])
        self.n = np.array([d.tail.n for d in dwells], dtype=np.float64)
        self.y = load(self.rates, capacity_rps)
        # a queue far below the limit forgets within its own waits, not within the limit: twice its p90 is about its p99
        waits_s = np.minimum(limit_s, [2 * d.tail.quantile_s(0.9) if d.tail.n else limit_s for d in dwells])
        rates = self.rates
        if bursts:  # come as often in every step: one that met none, or ran at a lower rate, weighs no more than others
            waits_s, rates = np.full(rates.shape, limit_s), np.full(rates.shape, rate_at(capacity_rps, at))
        gap = np.maximum(1 - rates / capacity_rps, _LEAST_GAP)
        self.bursts = bursts
        self.looks = self.n / np.maximum(_PHI * rates * waits_s / gap * (1 + 0.7 * gap), 1.0)
        self.weights = np.exp(-0.5 * ((self.y - at) / reach) ** 2)
        self.at = at
        self.limit_s = limit_s
        self.allowed = allowed
        self.exponent, self.exponent_sd = self._fit_exponent(min(10 * allowed, 0.3))

    def _fit_exponent(self, share: float) -> tuple[float, float]:
        """Return g and its standard deviation: the prior, revised by a regression of ln quantile on y."""
        wide = np.exp(-0.5 * (self.y - self.at) ** 2)
        quantiles = np.array([d.tail.quantile_s(1 - share) for d in self.dwells])
        good = np.isfinite(quantiles) & (quantiles > 0) & (wide > 0.1)
        if good.sum() < 2:
            return _G, _G_SD
        weights = (10 * share * wide * self.looks)[good]  # about 1 / var(ln quantile): -d ln P / d ln t is above 2
        x, z = self.y[good], np.log(quantiles[good])
        x = x - np.average(x, weights=weights)
        precision = 1 / _G_SD**2 + float(weights @ x**2)
        g = (_G / _G_SD**2 + float(weights @ (x * z))) / precision
        return min(max(g, 0.15), 1.2), max(precision**-0.5, _G_LEAST_SD)

    @property
    def _per_request(self) -> Floats:
        """Return the weighted clusters that one request of each dwell stands for."""
        clusters: Floats = self.weights * self.looks / np.maximum(self.n, 1)
        return clusters

    @property
    def mean(self) -> float:
        """Return the mean load that was measured, weighted like the counts."""
        return float(np.average(self.y, weights=self.weights * self.looks))

    def expected(self, share: float) -> float:
        """Return the expected clusters above a limit that `share` of all requests exceed."""
        return float(share * (self.weights @ self.looks))

    def counted(self, limits_s: Floats) -> Floats:
        """Return the clusters above limits of shape (dwells, ...)."""
        total = np.zeros(limits_s.shape[1:])
        for dwell, factor, limit in zip(self.dwells, self._per_request, limits_s, strict=True):
            if factor > 1e-6:
                total += factor * dwell.tail.count_above(limit)
        return total

    def counted_at(self, steps: Floats, exponent: float, least_slope: float) -> Floats:
        """Return the clusters above the limit at loads that the dwells exceed by `steps` of shape (dwells, m).

        Above a dwell's own load the count grows with d ln P / dy >= least_slope, whatever the scale law says: behind a
        few pauses the law finds no more slow requests however far the limit is lowered. Below it failures become fewer
        as steeply, for they are above every limit.
        """
        total = np.zeros(steps.shape[1:])
        for dwell, factor, step in zip(self.dwells, self._per_request, steps, strict=True):
            if factor > 1e-6:
                count = dwell.tail.count_above(self.limit_s * np.exp(exponent * step))
                here = float(dwell.tail.count_above(np.asarray(self.limit_s)))
                grown = np.minimum(here * np.exp(np.minimum(-least_slope * step, 20.0)), dwell.tail.n)
                failed = float(dwell.tail.count_above(np.asarray(np.inf)))  # no limit is too high for these
                fewer = count - failed + failed * np.exp(-least_slope * np.maximum(step, 0.0))
                if self.bursts:
                    fewer = np.minimum(fewer, here * np.exp(-FLATTEST * np.maximum(step, 0.0)))
                total += factor * np.where(step < 0, np.maximum(count, grown), fewer)
        return total

    def quantile_s(self, share: float) -> float:
        """Return the response time that `share` of the requests exceed at `at`, seconds; 0 without requests."""
        return float(self._quantiles_s(np.array([share]))[0])

    def _quantiles_s(self, shares: Floats) -> Floats:
        largest = max((float(d.tail.values_s[-1]) for d in self.dwells if d.tail.values_s.size > 1), default=0.0)
        values = np.geomspace(1e-4, 10, 800) * largest
        scale = np.exp(self.exponent * (self.y - self.at))
        survival = self.counted(scale[:, None] * values[None, :])
        index = np.searchsorted(-survival, -np.array([self.expected(share) for share in shares]))
        quantiles: Floats = values[np.minimum(index, values.size - 1)]
        return quantiles

    def tail_slope(self) -> float:
        """Return the least -d ln P / d ln t over a decade of P from ten times down to a tenth of the allowed share.

        Where waits have an exponential tail it is above 3, with lognormal service 2.6 and more; where a few pauses or
        slow spells, starved requests or a second class of them make the tail, 1 to 2.5.
        """
        shares = self.allowed * np.array([10, 3.16, 1, 0.316, 0.1])
        q = np.log(np.maximum(self._quantiles_s(np.minimum(shares, 0.5)), 1e-9))
        return float(np.log(10) / max(float(np.max(q[2:] - q[:-2])), 0.1))

    def scaled(self, limit_s: float) -> Floats:
        """Return the limit that each dwell's requests must exceed to count as at `at`: float (dwells,), seconds."""
        scaled: Floats = limit_s * np.exp(self.exponent * (self.y - self.at))
        return scaled

    def dispersion(self, limits_s: Floats, shares: Floats) -> tuple[float, float]:
        """Return the variance of the clusters above limits over Poisson, and the causes that it was seen in.

        Batch means of single pieces of the steps, of two neighbours, of four and so on to groups of steps; the largest
        variance counts, so that short clusters and slow changes both do. The causes are the effective number of
        deviating groups, (sum e^2)^2 / sum e^4, where most were seen.

        Args:
            limits_s: float (dwells,).
            shares: float (dwells,), of the requests, expected above them.
        """
        used = np.flatnonzero((self.weights >= _LEAST_WEIGHT) & (self.n > 0))
        per_request = self._per_request
        deviations = np.array([
            per_request[i] * float(part.count_above(limits_s[i]) - shares[i] * part.n)
            for i in used for part in self.dwells[i].parts
        ])  # fmt: skip
        expected = max(float(shares @ (self.weights * self.looks)), 1e-12)
        kernel = float(shares @ (self.weights**2 * self.looks)) / expected
        largest = kernel * (_FLOOR + _FLOOR_FEW * min(1.0, _FEW / expected))
        causes = 1.0
        while deviations.size >= _LEAST_GROUPS:
            squares = deviations**2
            largest = max(largest, float(squares.sum()) * squares.size / (squares.size - 1) / expected)
            causes = max(causes, float(squares.sum() ** 2 / max(float(squares @ squares), 1e-300)))
            deviations = np.append(deviations, np.zeros(deviations.size % 2)).reshape(-1, 2).sum(axis=1)
        return largest, causes

    def runs(self) -> Floats:
        """Return the sizes, in clusters, of runs of neighbouring pieces of a step with requests above the limit."""
        sizes: list[float] = []
        limit = np.asarray(self.limit_s)
        for dwell, factor, weight in zip(self.dwells, self._per_request, self.weights, strict=True):
            counts = np.array([float(part.count_above(limit)) for part in dwell.parts])
            if weight < _LEAST_WEIGHT or not counts.any():
                continue
            hit = np.flatnonzero(counts)
            breaks = np.flatnonzero(np.diff(hit) > 1) + 1
            sizes += [factor * float(counts[run].sum()) for run in np.split(hit, breaks)]
        return np.array(sizes)

    def estimate(self, quantile: float) -> Estimate | None:
        """Return a quantile of the response time at `at` with its 95 % interval, seconds."""
        share = 1 - quantile
        value = self.quantile_s(share)
        if value <= 0:
            return None
        dispersion, _ = self.dispersion(self.scaled(value), np.full(self.n.size, share))
        looks = self.expected(share) / max(dispersion * (1 - share), 1e-9)
        blur = 1 / (max(-float(np.log(share)), 0.7) * max(looks, 1e-3) ** 0.5)
        # each quantile has its own exponent: what comes from other loads is off by a share of the distance
        blur = float(np.hypot(blur, 0.02 + 0.3 * abs(self.mean - self.at)))
        reach = float(np.exp(1.96 * min(blur, 1.0)))
        n = int(self.n[self.weights > 0.3].sum())
        return Estimate(value=value, low=value / reach, high=value * reach, n=n)
