import pytest

from analysis.estimate import Estimate
from analysis.operating_point import OperatingPoint
from analysis.sla import SLA


def test_relative_half_width() -> None:
    """Half the interval over the value."""
    assert Estimate(value=100, low=95, high=105).relative_half_width == pytest.approx(0.05)


def test_an_open_end_is_infinitely_wide() -> None:
    """A lower bound has no width that could be called precise."""
    assert Estimate(value=1, low=1, high=None).relative_half_width == float("inf")


@pytest.mark.parametrize(("low", "high"), [(2, 3), (0, 0.5), (float("nan"), 2)])
def test_the_interval_holds_the_value(low: float, high: float) -> None:
    """An interval beside its value is a defect."""
    with pytest.raises(ValueError, match="low <= value <= high"):
        Estimate(value=1, low=low, high=high)


def test_a_rate_without_a_safe_rate_is_refused() -> None:
    """Whoever reads a rate can configure a safe one."""
    with pytest.raises(ValueError, match="safe_rps"):
        OperatingPoint(
            verdict="found",
            sla=SLA.parse("p99<1s"),
            limited_by="",
            stop_reason="",
            rate_rps=Estimate(value=1, low=1, high=1),
        )
