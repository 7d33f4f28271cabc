"""Tests of drift and warm-up: found where they are, not where a queue is merely busy."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.stationarity import Stationarity, stationarity, warmup_s
from analysis.step import Step, StepResult
from tests.analysis.simulators import Server, Simulator

MG2 = Server(t0_s=0.005, instances=2, sigma=0.3)  # capacity 400 req/s


def _run(server: Server, seed: int, *, steps: int = 20, seconds: float = 8.0) -> Stationarity:
    sim, rng = Simulator(server, seed=seed), np.random.default_rng(seed)
    dwells = []
    for k in range(steps):
        rate = 400.0 * (0.6 + 0.1 * float(rng.random()))
        result = sim.run_step(Step(rate_rps=rate, duration_s=seconds, seed=k), lambda _p: False)
        dwells.append(Dwell.of(result, 0.1 * seconds, 0.0, 8))
    return stationarity(tuple(dwells), Capacity(rate_rps=400.0, error=0.01, n=1000))


@pytest.mark.parametrize("sigma", [0.0, "exponential", 1.0])
def test_a_server_that_stays_the_same_is_not_flagged(sigma: float | str) -> None:
    """Deterministic, exponential and heavy lognormal service, ten runs each: no change is found."""
    assert all(_run(replace(MG2, sigma=sigma), seed) == Stationarity() for seed in range(10))


@pytest.mark.parametrize("sigma", [0.0, "exponential"])
def test_a_server_that_slows_down_is_flagged(sigma: float | str) -> None:
    """Service that grows by 25 % with a time constant of 60 s: found in nine of ten runs, what came before it cut."""
    found = [_run(replace(MG2, sigma=sigma, drift=0.25), seed) for seed in range(10)]
    changed = [one for one in found if one.since]
    assert len(changed) >= 9
    assert 0.02 < np.median([one.change for one in changed]) < 0.2
    assert all(one.change_per_s > 0 for one in changed)


def test_a_cold_server_that_warms_up_is_flagged_as_faster() -> None:
    """A third slower for the first 60 of 160 s: only steps after that are kept."""
    found = _run(replace(MG2, cold_s=60.0, cold_factor=1.33), 1)
    assert found.since >= 6
    assert found.change < 0


def test_one_step_shows_no_change() -> None:
    """A single step of 8 s is too little to tell."""
    assert _run(replace(MG2, drift=0.2), 3, steps=1) == Stationarity()


def test_a_change_inside_a_long_step_is_seen() -> None:
    """Four steps of 60 s, the server slower from the second's middle on: the third is the first that counts."""
    found = _run(replace(MG2, cold_s=90.0, cold_factor=0.8), 3, steps=4, seconds=60.0)
    assert found.since >= 2
    assert found.change > 0.03


def _step(server: Server, rate: float, seconds: float, seed: int) -> StepResult:
    return Simulator(server, seed=seed).run_step(Step(rate_rps=rate, duration_s=seconds, seed=seed), lambda _p: False)


@pytest.mark.parametrize("rate", [120.0, 240.0, 380.0])
def test_a_busy_start_is_no_warm_up(rate: float) -> None:
    """From a third of the capacity to 95 % of it, thirty steps: no start is cut."""
    server = replace(MG2, sigma="exponential")
    assert [warmup_s(_step(server, rate, 8.0, seed)) for seed in range(30)] == [0.0] * 30


def test_a_cold_start_is_cut() -> None:
    """Service three times as slow for the first 3 s, at a rate that it cannot carry then: mostly cut."""
    server = replace(MG2, cold_s=3.0, cold_factor=3.0)
    cuts = [warmup_s(_step(server, 200.0, 15.0, seed)) for seed in range(10)]
    assert sum(2.8 < cut < 6.0 for cut in cuts) >= 7


def test_few_requests_show_no_warm_up() -> None:
    """A hundred requests, and none, are not enough."""
    assert warmup_s(_step(MG2, 50.0, 2.0, 0)) == 0.0
    assert warmup_s(StepResult.from_arrays(Step(rate_rps=1.0, duration_s=1.0), [], [], [])) == 0.0
