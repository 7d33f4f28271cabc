"""The figures of a set of answers whose truth is known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, nan, sqrt

import numpy as np
from numpy.typing import ArrayLike

from tests.bench.calibrate.replicate import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Hold hits out of n, and print them in percent with Wilson's 95 % interval (runs are independent)."""

    hits: int
    n: int

    @property
    def percent(self) -> float:
        """Return the share in percent; not a number where there is none."""
        return 100 * self.hits / self.n if self.n else nan

    @property
    def interval(self) -> tuple[float, float]:
        """Return Wilson's interval, in percent."""
        if not self.n:
            return 0.0, 100.0
        z, share = 1.96, self.hits / self.n
        centre = (share + z * z / (2 * self.n)) / (1 + z * z / self.n)
        reach = z * sqrt(share * (1 - share) / self.n + z * z / (4 * self.n**2)) / (1 + z * z / self.n)
        return max(0.0, 100 * (centre - reach)), min(100.0, 100 * (centre + reach))

    def __str__(self) -> str:
        if not self.n:
            return "-"
        low, high = self.interval
        return f"{self.percent:.0f} ({low:.0f}-{high:.0f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Say how good answers were.

    Attributes:
        covered: Intervals that hold the truth, of those given.
        unsafe: Safe rates more than 1 % above the truth, of all runs.
        none: Runs without an answer.
        twin: Answers given by the twin.
        found: Verdicts "found".
        error95: 95th percentile of the error, percent.
        bias: Mean error, percent.
        half_width: Median half-width, percent.
        spent_s: Median test time.
        most_s: Longest test time.
        cpu_s: Median CPU time of the search itself.
    """

    covered: Share
    unsafe: Share
    none: Share
    twin: Share
    found: Share
    error95: float
    bias: float
    half_width: float
    spent_s: float
    most_s: float
    cpu_s: float


def figures(answers: Sequence[tuple[Record | None, float]]) -> Figures:
    """Sum answers up, each with its lambda*; None where a run broke."""
    n = len(answers)
    ran = [answer for answer, _ in answers if answer is not None]
    given = [(answer, truth) for answer, truth in answers if answer is not None and answer["rate"] is not None]
    errors = [100 * (answer["rate"] / truth - 1) for answer, truth in given]
    highs: list[float] = [inf if answer.get("high") is None else answer["high"] for answer, _ in given]
    safes: list[float] = [answer["safe"] if "safe" in answer else answer["rate"] for answer, _ in given]
    widths = [
        50 * (high - answer.get("low", nan)) / answer["rate"] for (answer, _), high in zip(given, highs, strict=True)
    ]
    within = [answer.get("low", nan) <= truth <= high for (answer, truth), high in zip(given, highs, strict=True)]
    return Figures(
        covered=Share(hits=sum(within), n=len(given)),
        unsafe=Share(hits=sum(safe > 1.01 * truth for safe, (_, truth) in zip(safes, given, strict=True)), n=n),
        none=Share(hits=n - len(given), n=n),
        twin=Share(hits=sum(answer.get("method") == "twin" for answer, _ in given), n=len(given)),
        found=Share(hits=sum(answer.get("verdict") == "found" for answer in ran), n=n),
        error95=_of(np.quantile, np.abs(errors), 0.95),
        bias=_of(np.mean, errors),
        half_width=_of(np.median, widths),
        spent_s=_of(np.median, [answer["spent_s"] for answer in ran]),
        most_s=_of(np.max, [answer["spent_s"] for answer in ran]),
        cpu_s=_of(np.median, [answer.get("cpu_s", nan) for answer in ran]),
    )


def _of(statistic: Callable[..., np.floating], values: ArrayLike, *more: float) -> float:
    """Return a statistic, or not a number where there is nothing."""
    return float(statistic(values, *more)) if np.size(values) else nan
