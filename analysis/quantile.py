"""Quantiles of autocorrelated latencies, with intervals that do not assume independence."""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.estimate import Estimate

BATCHES = 20
_COARSE = 8  # fewer, longer batches, for correlation that outlasts a twentieth of the step


def variance_inflation(flags: NDArray[np.bool_]) -> float:
    """Return how much wider than binomial a count of these flags varies: batch means in time order.

    Waiting times near saturation are so strongly correlated that the factor runs from 29 to 1,600. The larger value of
    20 and of 8 batches: long batches see slow correlation, many batches make it certain. Never below 1; 1 too where
    the flags do not vary, for they say nothing of it.
    Source: Jones et al., "Fixed-width output analysis for MCMC", JASA 2006 (batch means).
    """
    share = float(flags.mean()) if flags.size else 0.0
    if flags.size < BATCHES or share in (0.0, 1.0):
        return 1.0
    factors = []
    for batches in (BATCHES, _COARSE):
        size = flags.size // batches
        means = flags[: size * batches].reshape(batches, size).mean(axis=1)
        factors.append(float(size * means.var(ddof=1) / (share * (1 - share))))
    return max(1.0, *factors)


def quantile_estimate(response_ns: NDArray[np.int64], failed: NDArray[np.bool_], quantile: float) -> Estimate | None:
    """Return a latency quantile over all requests, seconds, with its 95 % interval.

    A failure counts as slower than every answer, so that failing fast never looks fast. The interval comes from order
    statistics whose rank is widened by the variance inflation of the indicator "above the quantile".

    Args:
        response_ns: int64 (n,), in time order.
        failed: bool (n,).
        quantile: In (0, 1).

    Returns:
        None when there is no request, or when the quantile falls among the failures; `high` is None when
        only its upper end does, or when the sample is too small to bound it.
    """
    n = response_ns.size
    ordered = np.sort(response_ns[~failed])
    rank = max(1, int(np.ceil(quantile * n - 1e-9)))
    if n == 0 or rank > ordered.size:
        return None
    value = int(ordered[rank - 1])
    inflation = variance_inflation((response_ns > value) | failed)
    reach = float(stats.t.ppf(0.975, _COARSE - 1)) * float(np.sqrt(n * quantile * (1 - quantile) * inflation))
    low = int(ordered[max(0, int(np.floor(rank - 1 - reach)))])
    top = int(np.ceil(rank - 1 + reach))
    high = int(ordered[top]) / 1e9 if top < ordered.size else None
    return Estimate(value=value / 1e9, low=low / 1e9, high=high, n=n)
