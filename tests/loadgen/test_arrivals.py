"""Arrival processes against their own definitions."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from loadgen.arrivals import Arrivals, Constant, Gamma, Poisson, Replay, share


def draw(arrivals: Arrivals, rate_rps: float, duration_s: float, seed: int = 0) -> NDArray[np.int64]:
    """Return the whole schedule of a step."""
    return np.concatenate(list(arrivals.due_ns(rate_rps, duration_s, seed)))


@pytest.mark.parametrize("arrivals", [Poisson(), Constant(), Gamma(cv=3.0), Replay(recorded_s=(0.0, 0.1, 0.5, 0.6))])
def test_due_times_are_ordered_and_inside_the_step(arrivals: Arrivals) -> None:
    """Due times never decrease, and fall into [0, duration)."""
    due = draw(arrivals, 500.0, 20.0)
    assert np.all(np.diff(due) >= 0)
    assert 0 <= due[0] <= due[-1] < 20e9
    assert due.size == pytest.approx(10_000, rel=0.1)


def test_poisson_gaps_are_exponential() -> None:
    """A Kolmogorov-Smirnov test does not tell the gaps from exponential ones with the asked rate."""
    gaps_s = np.diff(draw(Poisson(), 1000.0, 50.0, seed=1)) / 1e9
    assert stats.kstest(gaps_s, "expon", args=(0, 1e-3)).pvalue > 0.01


def test_poisson_counts_are_as_dispersed_as_their_mean() -> None:
    """The dispersion index of the counts per 50 ms is 1 within its standard error."""
    counts = np.bincount(draw(Poisson(), 1000.0, 100.0, seed=2) // 50_000_000)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / counts.size))


def test_constant_gaps_are_equal() -> None:
    """Gaps are the inverse of the rate, to the nanosecond's rounding, over chunk borders too."""
    gaps = np.diff(draw(Constant(), 3000.0, 5.0))
    assert set(gaps.tolist()) == {333_333, 333_334}


def test_gamma_has_the_asked_burstiness() -> None:
    """The coefficient of variation of the gaps is the asked one."""
    gaps = np.diff(draw(Gamma(cv=2.0), 1000.0, 100.0, seed=3))
    assert gaps.std() / gaps.mean() == pytest.approx(2.0, rel=0.05)


def test_the_seed_is_the_schedule() -> None:
    """The same seed gives the same schedule, another one another."""
    assert np.array_equal(draw(Poisson(), 100.0, 5.0, seed=4), draw(Poisson(), 100.0, 5.0, seed=4))
    assert not np.array_equal(draw(Poisson(), 100.0, 5.0, seed=4)[:50], draw(Poisson(), 100.0, 5.0, seed=5)[:50])


def test_replay_keeps_the_shape_and_takes_the_asked_rate() -> None:
    """A recording is scaled in time, its gaps' proportions kept, and repeated."""
    due = draw(Replay(recorded_s=(10.0, 11.0, 14.0)), 3.0, 4.0)
    gaps = np.diff(due)
    assert gaps[1] == pytest.approx(3 * gaps[0], rel=1e-6)
    assert due.size == pytest.approx(12, abs=1)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_shares_add_up_to_the_stream(workers: int) -> None:
    """The workers' shares are disjoint and together exactly the stream."""
    shares = [np.concatenate(list(share(Poisson().due_ns(900, 20, 6), w, workers))) for w in range(workers)]
    assert np.array_equal(np.sort(np.concatenate(shares)), draw(Poisson(), 900, 20, seed=6))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("recording", [(), (1.0,), (1.0, 1.0), (2.0, 1.0)])
def test_a_recording_needs_two_increasing_times(recording: tuple[float, ...]) -> None:
    """A recording without a rate of its own is refused."""
    with pytest.raises(ValueError, match="at least two due times"):
        Replay(recorded_s=recording)


def test_gamma_refuses_no_variation() -> None:
    """A coefficient of variation of zero is `Constant`, not gamma."""
    with pytest.raises(ValueError, match="above zero"):
        Gamma(cv=0)
