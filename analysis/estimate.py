from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Hold a measured number with its interval.

    Attributes:
        value: The point estimate, in the unit of the field that holds it.
        low: Lower end of the interval.
        high: Upper end, or None where nothing measured bounds the number from above.
        confidence: Nominal coverage of [low, high], in (0, 1).
        n: Number of requests that the estimate rests on.
    """

    value: float
    low: float
    high: float | None
    confidence: float = 0.95
    n: int = 0

    def __post_init__(self) -> None:
        if not self.low <= self.value or (self.high is not None and self.value > self.high):
            raise ValueError(f"Estimate: low <= value <= high is violated by {self.low}, {self.value}, {self.high}")

    @property
    def relative_half_width(self) -> float:
        """Return half the interval's width over the value; infinite when `high` is open."""
        if self.high is None or self.value == 0:
            return float("inf")
        return (self.high - self.low) / (2 * self.value)
