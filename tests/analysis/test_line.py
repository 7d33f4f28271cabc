"""Tests of the line through the share of slow requests: right where latencies scale unlike a queue's, or not at all."""

from math import exp, log

import numpy as np
import pytest

from analysis.dwell import Dwell, Tail
from analysis.evidence import load
from analysis.line import Line, fit_line
from analysis.sla import SLA

LIMIT = SLA.parse("p99<10ms")
TOP, TRUE_Y = 1000.0, 0.5


def _tail(n: int, slow: int) -> Tail:
    """Return n response times of which `slow` are above the limit."""
    values = np.concatenate([np.full(n - slow, 0.004), np.full(slow, 0.050)])
    return Tail.of(np.sort(values), 0)


def _dwell(y: float, n: int, slope: float, rng: np.random.Generator | None = None, cluster: int = 1) -> Dwell:
    """Return a step at a load with the share of slow requests of a line through 1 % at TRUE_Y, or with a draw of it.

    In the draw they come in clusters of geometric size, of so many on average.
    """
    share = 0.01 * exp(slope * (y - TRUE_Y))
    expected = share * n / 8
    counts = [
        round(expected) if rng is None
        else int(rng.geometric(1 / cluster, size=rng.poisson(expected / cluster)).sum()) for _ in range(8)
    ]  # fmt: skip
    parts = tuple(_tail(n // 8, count) for count in counts)
    rate = TOP / (1 + exp(-y))
    return Dwell(
        rate_rps=rate, length_s=n / rate, tail=_tail(n, sum(counts)), parts=parts, offered=n, failed=0, mean_s=0.004,
        aborted=False, end_s=0.0,
    )  # fmt: skip


def _line(slope: float, n: int, seed: int | None = None, cluster: int = 1) -> Line | None:
    rng = None if seed is None else np.random.default_rng(seed)
    dwells = tuple(_dwell(TRUE_Y + apart, n, slope, rng, cluster) for apart in (-0.35, 0.0, 0.2) * 3)
    return fit_line(dwells, LIMIT, TOP, 0.0, bursts=False)


@pytest.mark.parametrize("slope", [0.8, 1.3, 3.0, 6.0])
def test_the_crossing_is_found_whatever_the_slope(slope: float) -> None:
    """From counts without chance, the crossing and its slope, though the prior expects 3."""
    line = _line(slope, 200_000)
    assert line is not None
    assert line.y == pytest.approx(TRUE_Y, abs=0.02)
    assert line.slope == pytest.approx(slope, rel=0.1)


@pytest.mark.parametrize("slope", [1.2, 3.0])
def test_the_ends_hold_the_crossing(slope: float) -> None:
    """Of 200 draws with independent slow requests, 93 % and more of the intervals hold the truth, 93 % of safe ends."""
    lines = [_line(slope, 8_000, seed) for seed in range(200)]
    found = [line for line in lines if line is not None]
    assert len(found) >= 190
    within = [low <= TRUE_Y <= high for low, high in (line.ends(0.025) for line in found)]
    assert sum(within) >= 0.93 * len(found)
    assert sum(line.ends(0.05)[0] <= TRUE_Y for line in found) >= 0.93 * len(found)


def test_the_ends_hold_the_crossing_where_slow_requests_come_in_clusters() -> None:
    """Of 300 draws of some 20 clusters of 20 few ends lie beyond the truth, on either side, but ends are no wider.

    What the line says of its own doubt is what draws scatter by.
    """
    lines = [_line(3.5, 8_000, seed, cluster=20) for seed in range(300)]
    found = [line for line in lines if line is not None]
    assert len(found) >= 290
    apart = [(line.y - TRUE_Y) / line.sd for line in found]
    assert 0.8 < np.std(apart) < 1.1
    assert abs(np.mean(apart)) < 0.15  # 0.2 where few clusters would not be allowed for
    ends = [line.ends(0.02) for line in found]
    assert sum(low > TRUE_Y for low, _ in ends) <= 0.03 * len(found)
    assert sum(high < TRUE_Y for _, high in ends) <= 0.03 * len(found)
    assert 2.0 < np.median([(line.y - line.ends(0.02)[0]) / line.sd for line in found]) < 2.6


def test_a_flatter_share_is_known_less() -> None:
    """The same counts on a flatter server leave a wider interval; and its lower end is further off than its upper."""
    flat, steep = _line(1.0, 20_000), _line(4.0, 20_000)
    assert flat is not None
    assert steep is not None
    widths = [high - low for low, high in (flat.ends(0.025), steep.ends(0.025))]
    assert widths[0] > 2 * widths[1]


@pytest.mark.parametrize("n", [0, 8, 80])
def test_too_little_gives_no_line(n: int) -> None:
    """Without slow requests, or with hardly any, nothing is drawn."""
    assert _line(3.0, n) is None


def test_steps_far_below_give_no_line() -> None:
    """What is seen two units of load below the crossing says nothing of it."""
    dwells = tuple(_dwell(TRUE_Y - 2 - 0.1 * k, 400_000, 2.0) for k in range(4))
    assert fit_line(dwells, LIMIT, TOP, float(load(500.0, TOP)), bursts=False) is None


def test_the_load_is_that_of_the_crossing() -> None:
    """What it calls y is ln (rate / (M - rate))."""
    line = _line(3.0, 200_000)
    assert line is not None
    rate = line.capacity_rps / (1 + exp(-line.y))
    assert log(rate / (TOP - rate)) == pytest.approx(TRUE_Y, abs=0.02)
