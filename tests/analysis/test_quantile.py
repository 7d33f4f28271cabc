import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.quantile import quantile_estimate, variance_inflation
from analysis.step import Step
from tests.analysis.simulators import Server, Simulator


def _none(n: int) -> NDArray[np.bool_]:
    return np.zeros(n, dtype=np.bool_)


def test_independent_flags_are_not_inflated() -> None:
    """Coin flips keep a factor near one."""
    rng = np.random.default_rng(0)
    factors = [variance_inflation(rng.random(20_000) < 0.1) for _ in range(50)]
    assert 1.0 <= np.median(factors) < 1.7


def test_clusters_are_seen() -> None:
    """Flags that come in runs of fifty vary about fifty times as much."""
    rng = np.random.default_rng(1)
    factors = [variance_inflation(np.repeat(rng.random(2_000) < 0.1, 50)) for _ in range(20)]
    assert 25 < np.median(factors) < 120


@pytest.mark.parametrize("flags", [np.zeros(0, bool), np.ones(5, bool), np.zeros(1000, bool), np.ones(1000, bool)])
def test_flags_without_variation_say_nothing(flags: NDArray[np.bool_]) -> None:
    """No flag, few flags, all alike: one."""
    assert variance_inflation(flags) == 1.0


def test_the_value_is_the_order_statistic() -> None:
    """The p99 of 1..1000 is 990."""
    estimate = quantile_estimate(np.arange(1, 1001) * 1_000_000, _none(1000), 0.99)
    assert estimate is not None
    assert estimate.value == pytest.approx(0.990)


def test_failures_are_slower_than_every_answer() -> None:
    """Two fast failures in a hundred push the p99 out of reach."""
    failed = _none(100)
    failed[:2] = True
    response = np.full(100, 1_000_000)
    assert quantile_estimate(response, failed, 0.99) is None
    median = quantile_estimate(response, failed, 0.5)
    assert median is not None
    assert median.value == 0.001


def test_a_small_sample_does_not_bound_its_tail() -> None:
    """The p99 of thirty requests has no upper end."""
    estimate = quantile_estimate(np.arange(30) * 1_000_000, _none(30), 0.99)
    assert estimate is not None
    assert estimate.high is None


def test_nothing_has_no_quantile() -> None:
    """An empty step has no latency."""
    assert quantile_estimate(np.zeros(0, np.int64), _none(0), 0.5) is None


def test_intervals_cover_the_formula_in_a_queue() -> None:
    """M/M/1 at 70 %: the true p90 lies within most intervals although waits are strongly correlated.

    Response time is exponential with rate mu - lambda, so p90 = ln 10 / (mu - lambda) (Kleinrock, vol. 1, 3.2).
    """
    truth, hits, runs = np.log(10) / 30, 0, 40
    for seed in range(runs):
        sim = Simulator(Server(t0_s=0.01, sigma="exponential"), seed=seed)
        result = sim.run_step(Step(rate_rps=70.0, duration_s=60.0, seed=seed), lambda _p: False)
        estimate = quantile_estimate(result.response_ns, _none(result.offered), 0.9)
        assert estimate is not None
        hits += estimate.low <= truth and (estimate.high is None or truth <= estimate.high)
    assert hits >= 0.9 * runs
