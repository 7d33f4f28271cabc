"""The steps as evidence about one load: weighted by nearness, scaled to that load, counted in clusters.

Legend and sources: see `analysis.boundary`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.dwell import Dwell
from analysis.estimate import Estimate

Floats = NDArray[np.float64]
REACHES = (0.6, 0.9, 1.4)  # in y: how far a step's evidence counts; further where there is too little
_PHI = 0.9
_G, _G_SD, _G_LEAST_SD = 0.5, 0.17, 0.06
_LARGEST_SHARE = 0.4
_LEAST_GAP = 0.002
_DECADE = 2.303
_ENOUGH = 6.0  # clusters: then a quantile is read off, not extrapolated


def load(rate_rps: Floats | float, capacity_rps: Floats | float) -> Floats:
    """Return y = ln h of a rate, its distance to the capacity no less than 0.2 %."""
    rate = np.asarray(rate_rps, dtype=np.float64)
    y: Floats = np.log(rate / np.maximum(capacity_rps - rate, _LEAST_GAP * np.asarray(capacity_rps)))
    return y


def relaxation_s(rate_rps: float, capacity_rps: float, limit_s: float) -> float:
    """Return the time after which waits up to the limit have forgotten the past, seconds."""
    return _PHI * limit_s / max(1 - rate_rps / capacity_rps, _LEAST_GAP)


class Evidence:
    """Hold dwells as arrays, weighted by how near they are to the load `at`.

    Attributes:
        dwells: Steps in time order.
        y: Their loads.
        looks: Their sizes in clusters, n / phi.
        weights: In (0, 1].
        at: The load asked about.
        exponent: g there.
        exponent_sd: Its standard deviation.
    """

    def __init__(
        self, dwells: tuple[Dwell, ...], *, limit_s: float, allowed: float, capacity_rps: float, at: float, reach: float
    ) -> None:
        self.dwells = dwells
        self.rates = np.array([d.rate_rps for d in dwells])
        self.n = np.array([d.tail.n for d in dwells], dtype=np.float64)
        self.y = load(self.rates, capacity_rps)
        gap = np.maximum(1 - self.rates / capacity_rps, _LEAST_GAP)
        # a queue far below the limit forgets within its own waits, not within the limit: twice its p90 is about its p99
        waits_s = np.minimum(limit_s, [2 * d.tail.quantile_s(0.9) if d.tail.n else limit_s for d in dwells])
        self.looks = self.n / np.maximum(_PHI * self.rates * waits_s / gap * (1 + 0.7 * gap), 1.0)
        self.weights = np.exp(-0.5 * ((self.y - at) / reach) ** 2)
        self.at = at
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

    def expected(self, share: float) -> float:
        """Return the expected clusters above a limit that `share` of all requests exceed."""
        return float(share * (self.weights @ self.looks))

    def counted(self, limits_s: Floats) -> Floats:
        """Return the clusters above limits of shape (dwells, ...)."""
        total = np.zeros(limits_s.shape[1:])
        per_request = self.weights * self.looks / np.maximum(self.n, 1)
        for dwell, factor, limit in zip(self.dwells, per_request, limits_s, strict=True):
            if factor > 1e-6:
                total += factor * dwell.tail.count_above(limit)
        return total

    def quantile_s(self, share: float) -> float:
        """Return the response time that `share` of the requests exceed at `at`, seconds; 0 without requests."""
        largest = max((float(d.tail.values_s[-1]) for d in self.dwells if d.tail.values_s.size > 1), default=0.0)
        values = np.geomspace(1e-4, 10, 800) * largest
        scale = np.exp(self.exponent * (self.y - self.at))
        survival = self.counted(scale[:, None] * values[None, :])
        index = int(np.searchsorted(-survival, -self.expected(share)))
        return float(values[min(index, values.size - 1)])

    def dispersion(self, limit_s: float, share: float, least: float) -> float:
        """Return the variance of the clusters above a limit over Poisson, by batch means; not below a floor.

        The floor falls with the number of clusters and of groups, for both make the measured value trustworthy.
        """
        residuals: list[float] = []
        for dwell, y, looks, weight in zip(self.dwells, self.y, self.looks, self.weights, strict=True):
            if weight < 0.05 or dwell.tail.n == 0:
                continue
            limit = np.asarray(limit_s * np.exp(self.exponent * (y - self.at)))
            scale = weight * looks / dwell.tail.n
            residuals += [scale * float(part.count_above(limit) - share * part.n) for part in dwell.parts]
        expected = max(self.expected(share), 1e-12)
        kernel = float(self.weights**2 @ self.looks) * share / expected
        groups = min(20, max(4, len(residuals) // 3))
        floor = least * kernel * (0.1 + 0.6 * min(1.0, 8 / expected) + 1 / groups)
        if len(residuals) < groups:
            return floor
        sums = np.array([float(np.sum(group)) for group in np.array_split(np.array(residuals), groups)])
        student = float(stats.t.ppf(0.975, groups - 1)) / 1.96
        return max(float(sums.var(ddof=1)) * groups * student**2 / expected, floor)

    def line(self) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
        """Return (share, quantile, standard deviation of ln f) of the two shares that span the exponential line.

        The third says how far the line through both may miss the quantile at the allowed share. None where the allowed
        share is too large for a line.
        """
        large = 0.3 if self.allowed < 0.04 else _LARGEST_SHARE
        small = large / 3
        if small < 2 * self.allowed:
            return None
        q_large, q_small = self.quantile_s(large), self.quantile_s(small)
        if not 0 < q_large < q_small:
            return None
        idle = 1 / (1 + float(np.exp(self.at)))  # 1 - rate / capacity
        _, trust, noise = self._bow(q_large, q_small, small)
        miss = float(np.hypot(0.04 + 0.1 * idle * (1 - trust), (0.7 + 3 * idle) * noise))
        miss *= max(1.0, float(np.log(small / self.allowed)) / _DECADE)

        def bend(share: float, reach: float) -> float:
            return reach * float(np.hypot(miss, 0.11 / max(self.expected(share), 0.1) ** 0.5))

        return (small, q_small, bend(small, 1.0)), (large, q_large, bend(large, 1.5))

    def _bow(self, q_large: float, q_small: float, small: float) -> tuple[float, float, float]:
        """Return how far the tail bows from the line at a third of the smaller share, in ln t, the trust, the noise.

        The tail of lognormal service lies above the line, that of a batch server below. Trust in [0, 1] shrinks it.
        """
        share = 0.3 * small
        if self.allowed > 0.5 * share:
            return 0.0, 0.0, 0.0
        q = self.quantile_s(share)
        looks = self.expected(share) / max(self.dispersion(q, share, floor_of(share)), 1e-9)
        trust = looks / (looks + 4)
        bow = trust * float(np.log(q / _on_line(q_large, q_small, small, share)))
        return bow, trust, 0.2 * trust / max(looks, 1e-9) ** 0.5

    def extrapolate(self, share: float) -> float | None:
        """Return the quantile at a share below the line's from the line and its bow, seconds.

        From 3 % to 1 % the bow doubles (measured on eight servers: 1.6 to 2.9 times); it is taken to grow on like that.
        """
        known = self.line()
        if known is None:
            return None
        (small, q_small, _), (_, q_large, _) = known
        growth = max(0.0, 2 * float(np.log(small / share)) / _DECADE)
        bow = float(np.clip(growth * self._bow(q_large, q_small, small)[0], -0.4, 0.8))
        return max(_on_line(q_large, q_small, small, share) * float(np.exp(bow)), 1.02 * q_small)

    def estimate(self, quantile: float) -> Estimate | None:
        """Return a quantile of the response time at `at` with its 95 % interval, seconds."""
        share = 1 - quantile
        value, line = self.quantile_s(share), self.line()
        blur = self._blur(share, value)
        if line is not None and share < line[0][0] and blur > 1 / (-np.log(share) * _ENOUGH**0.5):
            small, q_small, bend = line[0]
            value = self.extrapolate(share) or value
            blur = float(np.hypot(bend, self._blur(small, q_small)))
        if value <= 0:
            return None
        # each quantile has its own exponent: what comes from other loads is off by a share of the distance
        blur = float(np.hypot(blur, 0.02 + 0.3 * abs(np.average(self.y, weights=self.weights * self.looks) - self.at)))
        reach = float(np.exp(1.96 * min(blur, 1.0)))
        n = int(self.n[self.weights > 0.3].sum())
        return Estimate(value=value, low=value / reach, high=value * reach, n=n)

    def _blur(self, share: float, value_s: float) -> float:
        """Return the standard deviation of ln t of a quantile that was read off."""
        dispersion = self.dispersion(value_s, share, floor_of(share)) * (1 - share)
        looks = self.expected(share) / max(dispersion, 1e-9)
        return float(1 / (max(-np.log(share), 0.7) * max(looks, 1e-3) ** 0.5))


def _on_line(q_large: float, q_small: float, small: float, share: float) -> float:
    """Return the quantile at `share` on the line of t on ln P through those at 3 * small and small."""
    return q_small + (q_small - q_large) * float(np.log(small / share) / np.log(3))


def floor_of(share: float) -> float:
    """Return how the dispersion falls with the share that is counted: clusters above a low limit are shorter."""
    return float(np.interp(np.log(share), np.log([0.02, 0.1, 0.3, 0.6]), [1.1, 0.75, 0.42, 0.3]))
