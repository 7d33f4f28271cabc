import pytest

from analysis import Estimate
from reports import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (54.34, "54.3"),
        (99.97, "100"),
        (553.4, "553"),
        (12_345.6, "12,346"),
        (float("inf"), "∞"),
    ],
)
def test_number_has_three_digits(value: float, shown: str) -> None:
    """A measured number shows three significant digits and never an exponent."""
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(546.99, "546"), (54.39, "54.3"), (5.0, "5"), (0.0299, "0.0299"), (0.0, "0")]
)
def test_floor_number_never_exceeds_the_bound(value: float, shown: str) -> None:
    """The safe rate is rounded down, since a rounded-up bound is no bound."""
    assert text.floor_number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(8e-5, "80 µs"), (0.0842, "84.2 ms"), (0.9997, "1 s"), (2.345, "2.35 s"), (None, text.NONE), (0.0, "0 µs")],
)
def test_latency_chooses_its_unit(seconds: float | None, shown: str) -> None:
    """A latency is printed in the unit that keeps its digits before the point."""
    assert text.latency(seconds) == shown


def test_interval_keeps_the_values_unit() -> None:
    """Both ends are in the unit of the value beside them, and an open end is infinite."""
    assert text.latency_ends(Estimate(value=0.95, low=0.9, high=1.2)) == "[900, 1,200]"
    assert text.latency_ends(Estimate(value=0.95, low=0.9, high=None)) == "[900, ∞)"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, "0 %"), (0.00018, "0.018 %"), (0.0689, "6.89 %"), (1.0, "100 %"), (1e-7, "0.00001 %")]
)
def test_share_is_a_percentage(value: float, shown: str) -> None:
    """A share of requests is a percentage of three digits."""
    assert text.share(value) == shown


def test_clean_replaces_what_no_report_may_carry() -> None:
    """Control characters, lone surrogates and marks that reverse text are replaced; tabs and line ends stay."""
    assert text.clean("a\x00b\x1b[31m\ud800\u202e\x9b\ufffec\t\n") == "a�b�[31m����c\t\n"


def test_clean_cuts_long_text() -> None:
    """A target cannot fill the report."""
    assert text.clean("x" * 50, 10) == "x" * 9 + "…"
