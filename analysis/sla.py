import re
from dataclasses import dataclass
from fractions import Fraction

_NS_PER_UNIT = {"us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_TEXT = re.compile(r"\s*p(?P<percent>\d+(?:\.\d+)?)\s*<=?\s*(?P<limit>.+?)\s*")
_DURATION = re.compile(r"\s*(?P<number>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>us|µs|ms|s)\s*")


def parse_latency_ns(text: str) -> int:
    """Read a latency such as `200ms`, `1.5s` or `80us` as nanoseconds.

    Raises:
        ValueError: The text has no unit, is no number, or is not above zero.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"'{text}' is not a latency: write a number with a unit us, ms or s, such as 200ms")
    ns = round(Fraction(match["number"]) * _NS_PER_UNIT[match["unit"]])
    if ns <= 0:
        raise ValueError(f"'{text}' is not a latency limit: it must be above zero, such as 200ms")
    return ns


@dataclass(frozen=True, slots=True, kw_only=True)
class SLA:
    """State one service-level agreement: at most 1 - quantile of all requests may be slow or fail.

    A request violates it when it took longer than the limit, counted from its due time, or when it
    did not succeed. The error budget binds separately.

    Attributes:
        quantile: In (0, 1); 0.99 for p99.
        limit_ns: Latency limit, nanoseconds, above zero.
        metric: What is limited; "response" is the time from due to done.
        error_budget: Highest tolerated share of requests that do not succeed, in [0, 1).
    """

    quantile: float
    limit_ns: int
    metric: str = "response"
    error_budget: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"SLA quantile {self.quantile}: must lie between 0 and 1, such as p99")
        if self.limit_ns <= 0:
            raise ValueError(f"SLA limit_ns {self.limit_ns}: must be above zero")
        if self.metric != "response":
            raise ValueError(f"SLA metric '{self.metric}': must be 'response'")
        if not 0 <= self.error_budget < 1:
            raise ValueError(f"SLA error_budget {self.error_budget}: must lie in [0, 1)")

    @classmethod
    def parse(cls, text: str, *, error_budget: float = 0.001) -> "SLA":
        """Read `p99<200ms`; any quantile with decimals, units us, ms and s.

        Raises:
            ValueError: The text is not of that form, or the limit is zero or has no unit.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"'{text}' is not an SLA: write a quantile and a limit, such as p99<200ms")
        percent = Fraction(match["percent"])
        if not 0 < percent < 100:
            raise ValueError(f"'{text}' is not an SLA: the quantile must lie between p0 and p100, such as p99")
        return cls(quantile=float(percent / 100), limit_ns=parse_latency_ns(match["limit"]), error_budget=error_budget)

    @property
    def limit_s(self) -> float:
        """Return the limit in seconds."""
        return self.limit_ns / 1e9

    @property
    def violation_share(self) -> float:
        """Return the tolerated share of slow or failed requests, 1 - quantile."""
        return float(1 - Fraction(str(self.quantile)))

    def __str__(self) -> str:
        """Return the form that `parse` reads, such as `p99<200ms`."""
        percent = float(Fraction(str(self.quantile)) * 100)
        for unit in ("s", "ms", "us"):
            if self.limit_ns >= _NS_PER_UNIT[unit]:
                return f"p{percent:g}<{self.limit_ns / _NS_PER_UNIT[unit]:.12g}{unit}"
        return f"p{percent:g}<{self.limit_ns / 1000:.12g}us"
