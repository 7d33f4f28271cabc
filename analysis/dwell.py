"""What the search keeps of a step: a few thousand numbers, whatever the number of requests."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from analysis.step import Outcome, StepResult

Floats = NDArray[np.float64]
_EXACT = 256  # the slowest requests are kept one by one, the others as 256 points of the distribution


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """Hold a distribution of response times as points of its survival function.

    Attributes:
        values_s: Ascending, seconds.
        above: above[i] requests lie above values_s[i]; above[0] == n, with values_s[0] == -inf.
        n: Requests, failures included: they lie above every value.
    """

    values_s: Floats
    above: Floats
    n: int

    @classmethod
    def of(cls, ordered_s: Floats, failed: int) -> "Tail":
        """Thin ascending response times of the successful requests, and count `failed` above all of them."""
        size = ordered_s.size
        ranks = np.arange(size)
        if size > 2 * _EXACT:
            coarse = np.linspace(0, size - 1 - _EXACT, _EXACT).round().astype(np.int64)
            fine = size - 1 - np.unique(np.geomspace(1, size, 4 * _EXACT).round().astype(np.int64) - 1)
            ranks = np.unique(np.concatenate([coarse, fine]))
        values = np.concatenate([[-np.inf], ordered_s[ranks]])
        above = np.concatenate([[size + failed], size - 1 - ranks + failed]).astype(np.float64)
        return cls(values, above, size + failed)

    def count_above(self, limit_s: Floats) -> Floats:
        """Return how many requests took longer than each limit."""
        count: Floats = self.above[np.searchsorted(self.values_s, limit_s, side="right") - 1]
        return count

    def quantile_s(self, quantile: float) -> float:
        """Return the response time that a share `quantile` does not exceed; infinite among failures, NaN if empty."""
        if self.n == 0:
            return float("nan")
        index = int(np.searchsorted(-self.above, -(1 - quantile) * self.n - 1e-9))
        return float(self.values_s[index]) if index < self.values_s.size else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dwell:
    """Hold the evidence of one sound step, its start-up from an empty server cut.

    Attributes:
        rate_rps: Asked arrival rate.
        length_s: Time over which the kept requests fell due.
        tail: Response times of the kept requests.
        parts: The same in equal pieces in time order, to see how correlated they are.
        offered: Requests of the whole step.
        failed: Those of them that did not succeed.
        mean_s: Mean response time of the kept successful requests.
        aborted: The step was stopped early.
        end_s: End of the step on the run's clock.
    """

    rate_rps: float
    length_s: float
    tail: Tail
    parts: tuple[Tail, ...]
    offered: int
    failed: int
    mean_s: float
    aborted: bool
    end_s: float

    @classmethod
    def of(cls, result: StepResult, settle_s: float, close_s: float, parts: int) -> "Dwell":
        """Reduce a result; requests due in the first `settle_s` and the last `close_s` seconds are left out."""
        length = result.offered_span_s
        kept = result.start_ns + np.array([settle_s, max(settle_s, length - close_s)]) * 1e9
        first, last = np.searchsorted(result.due_ns, kept).tolist()
        response = result.response_ns[first:last] / 1e9
        ok = result.outcome[first:last] == Outcome.OK
        edges = np.linspace(0, response.size, parts + 1).round().astype(np.int64)
        pieces = tuple(
            Tail.of(np.sort(response[low:high][ok[low:high]]), int(high - low - ok[low:high].sum()))
            for low, high in pairwise(edges.tolist())
        )
        return cls(
            rate_rps=float(result.step.rate_rps or result.offered / result.offered_span_s),
            length_s=max(1e-9, length - settle_s - close_s),
            tail=Tail.of(np.sort(response[ok]), int(response.size - ok.sum())),
            parts=pieces,
            offered=result.offered,
            failed=int((result.outcome != Outcome.OK).sum()),
            mean_s=float(response[ok].mean()) if ok.any() else float("nan"),
            aborted=result.aborted,
            end_s=result.end_ns / 1e9,
        )
