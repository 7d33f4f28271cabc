"""The oracle's own oracles: simulated servers against queueing formulas."""

import numpy as np
import pytest

from analysis import Step, StepProgress, StepResult
from tests.analysis.simulators import GPU, Server, Simulator


def _run(server: Server, rate: float, seconds: float, arrivals: str = "poisson") -> StepResult:
    step = Step(rate_rps=rate, duration_s=seconds, arrivals=arrivals)
    return Simulator(server, seed=3).run_step(step, lambda _p: False)


def test_mm1_response_is_exponential() -> None:
    """M/M/1: p50 and p99 of the response are ln 2 and ln 100 over mu - lambda."""
    response = _run(Server(t0_s=0.01, sigma="exponential"), 60.0, 8000.0).response_ns / 1e9
    for quantile in (0.5, 0.99):
        assert np.quantile(response, quantile) == pytest.approx(-np.log(1 - quantile) / 40, rel=0.04)


def test_md1_mean_wait() -> None:
    """M/D/1: mean wait is rho s / (2 (1 - rho)) (Pollaczek-Khinchine)."""
    response = _run(Server(t0_s=0.01), 70.0, 4000.0).response_ns / 1e9
    assert response.mean() - 0.01 == pytest.approx(0.7 * 0.01 / (2 * 0.3), rel=0.03)


def test_mmc_share_that_waits() -> None:
    """M/M/2 at 60 %: Erlang's C says that 45 % of requests wait."""
    result = _run(Server(t0_s=0.01, sigma="exponential", instances=2), 120.0, 4000.0)
    # mean response = service + C / (c mu - lambda)
    waited = (float(result.response_ns.mean()) / 1e9 - 0.01) * (200 - 120)
    assert waited == pytest.approx(0.45, rel=0.05)


def test_dd1_never_waits() -> None:
    """Constant arrivals slower than constant service meet an idle server."""
    response = _run(Server(t0_s=0.01), 90.0, 20.0, "constant").response_ns / 1e9
    assert response == pytest.approx(np.full(response.size, 0.01), rel=1e-5)


def test_the_default_server_has_its_stated_point() -> None:
    """Half a percent below and above 553 req/s, one percent of requests lies between (long runs)."""
    below, above = (
        float((_run(GPU, rate, 1500.0).response_ns > 200_000_000).mean()) for rate in (553 * 0.99, 553 * 1.01)
    )
    assert below < 0.01 < above


def test_progress_comes_every_100_ms_and_stops_the_step() -> None:
    """The step ends within a tenth of a second of the stop, and what was sent is drained."""
    seen: list[StepProgress] = []

    def stop(progress: StepProgress) -> bool:
        seen.append(progress)
        return progress.elapsed_s > 0.95

    result = Simulator(GPU).run_step(Step(rate_rps=2000.0, duration_s=10.0), stop)
    assert len(seen) == 10
    assert result.aborted
    assert seen[-1].sent == result.offered
    assert seen[-1].in_flight == seen[-1].sent - seen[-1].done
    assert result.drained
    assert result.end_ns > result.due_ns[-1]


def test_closed_loop_obeys_littles_law() -> None:
    """Users without think time are always in the system: N = X R."""
    result = Simulator(GPU).run_step(Step(users=64, duration_s=20.0), lambda _p: False)
    throughput = result.offered / 20.0
    assert throughput * result.response_ns.mean() / 1e9 == pytest.approx(64, rel=0.02)
