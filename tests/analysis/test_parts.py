"""The pieces of the open-loop search: capacity, dwells, the knee, the crossing."""

from dataclasses import replace

import numpy as np
import pytest

from analysis.boundary import locate, quantiles_at
from analysis.capacity import Capacity, backlog_grew, completion_rate, measure_capacity, pool
from analysis.curve import Curve
from analysis.dwell import Dwell, Tail
from analysis.estimate import Estimate
from analysis.sla import SLA
from analysis.step import Outcome, Step, StepResult
from tests.analysis.simulators import GPU, Server, Simulator


def _step(server: Server, rate: float, seconds: float, seed: int = 0) -> StepResult:
    return Simulator(server, seed=seed).run_step(Step(rate_rps=rate, duration_s=seconds, seed=seed), lambda _p: False)


@pytest.mark.parametrize(
    ("server", "rate", "error"),
    [(GPU, 800.0, 0.015), (Server(t0_s=0.01, instances=4, sigma="exponential"), 600.0, 0.08)],
)
def test_capacity_intervals_cover(server: Server, rate: float, error: float) -> None:
    """Two seconds of overload, drain included: the interval holds the capacity in nearly all of forty runs."""
    hits = 0
    for seed in range(40):
        capacity = measure_capacity(_step(server, rate, 2.0, seed))
        assert capacity is not None
        assert capacity.error < error
        hits += capacity.estimate.low <= server.capacity_rps <= (capacity.estimate.high or 0)
    assert hits >= 36


def test_few_completions_show_no_capacity() -> None:
    """Half a dozen requests are not a rate."""
    assert completion_rate(np.arange(6.0)) is None
    assert completion_rate(np.zeros(0)) is None
    assert measure_capacity(StepResult.from_arrays(Step(rate_rps=1.0, duration_s=1.0), [], [], [])) is None


def test_pooling_widens_where_measurements_disagree() -> None:
    """Two capacities ten percent apart are less certain than each says."""
    two = [Capacity(rate_rps=r, error=0.005, n=100) for r in (100.0, 110.0)]
    pooled = pool(two)
    assert pooled is not None
    assert 100 < pooled.rate_rps < 110
    assert pooled.error > 0.03
    assert pool([]) is None


@pytest.mark.parametrize(("rate", "grew"), [(300.0, False), (540.0, False), (900.0, True)])
def test_backlog_tells_overload_from_load(rate: float, *, grew: bool) -> None:
    """A backlog beyond chance means overload; a busy server has none."""
    assert backlog_grew(_step(GPU, rate, 3.0)) is grew


def test_tails_keep_their_counts() -> None:
    """Thinning to some hundred points keeps exceedance counts within two percent, and the slowest exactly."""
    values = np.sort(np.random.default_rng(0).exponential(1.0, 100_000))
    tail = Tail.of(values, failed=7)
    assert tail.values_s.size < 2500
    assert tail.n == 100_007
    for limit in (0.1, 1.0, 4.0, 8.0):
        exact = int((values > limit).sum()) + 7
        assert float(tail.count_above(np.asarray(limit))) == pytest.approx(exact, rel=0.02)
    assert float(tail.count_above(np.asarray(1e9))) == 7
    assert tail.quantile_s(0.99) == pytest.approx(np.log(100), rel=0.05)


def test_the_tail_of_nothing() -> None:
    """No requests: nothing above, no quantile."""
    tail = Tail.of(np.zeros(0), failed=0)
    assert float(tail.count_above(np.asarray(0.0))) == 0
    assert np.isnan(tail.quantile_s(0.5))


def test_a_dwell_cuts_its_ends() -> None:
    """Requests due while the queue settles, and while the last batch fills, are left out; failures stay in."""
    due = np.arange(1000) * 1_000_000
    outcome = np.zeros(1000, np.uint8)
    outcome[500] = Outcome.TIMEOUT
    result = StepResult.from_arrays(Step(rate_rps=1000.0, duration_s=1.0), due, due + 10, outcome, start_ns=0)
    dwell = Dwell.of(result, 0.1, 0.05, 4)
    assert dwell.tail.n == 850
    assert sum(part.n for part in dwell.parts) == 850
    assert float(dwell.tail.count_above(np.asarray(1.0))) == 1
    assert (dwell.offered, dwell.failed) == (1000, 1)


def test_the_knee_of_mm1_is_half_its_capacity() -> None:
    """Mean response 1 / (mu - lambda) has its highest power at mu / 2 (Kleinrock 1979)."""
    rates = np.array([10.0, 30.0, 50.0, 70.0, 90.0])
    curve = Curve.fit(rates, 1 / (100 - rates), [500] * 5, Estimate(value=100, low=99, high=101))
    assert curve is not None
    assert curve.knee_rps.value == pytest.approx(50.0, rel=1e-6)
    assert curve.knee_rps.low < 50 < (curve.knee_rps.high or 0)
    assert curve.mean_s([50.0, 100.0]).tolist() == [pytest.approx(0.02), float("inf")]


@pytest.mark.parametrize("top", [0.8, 0.97])
def test_the_knee_moves_little_with_the_range(top: float) -> None:
    """The GPU server's knee is near 70 % of its capacity however far the sweep went."""
    rates = np.linspace(0.1, top, 8) * 571.4
    results = [_step(GPU, rate, 30.0, seed) for seed, rate in enumerate(rates.tolist())]
    means = [float(result.response_ns.mean()) / 1e9 for result in results]
    curve = Curve.fit(rates, means, [r.offered for r in results], Estimate(value=571.4, low=570, high=573))
    assert curve is not None
    assert 0.6 < curve.knee_rps.value / 571.4 < 0.85


def test_no_knee_without_a_curve() -> None:
    """Two steps, or a latency that falls with the rate, give none."""
    capacity = Estimate(value=100, low=99, high=101)
    assert Curve.fit([10, 20], [1, 2], [9, 9], capacity) is None
    assert Curve.fit([10, 50, 90], [3, 2, 1], [900] * 3, capacity) is None


def test_the_crossing_from_steps_on_one_side() -> None:
    """M/M/1 measured at 0.9 and 0.95 of its crossing: the interval holds the crossing above."""
    server, sla = Server(t0_s=0.001, sigma="exponential"), SLA.parse("p99<10ms")
    truth = 1000 - np.log(100) / 0.01
    results = [_step(server, truth * factor, 40.0, seed) for seed, factor in enumerate((0.9, 0.95, 0.9, 0.95))]
    dwells = tuple(Dwell.of(result, 0.2, 0.0, 8) for result in results)
    crossing = locate(dwells, sla, Capacity(rate_rps=1000.0, error=0.01, n=100), None)
    assert crossing.low_rps <= crossing.safe_rps <= crossing.rate_rps <= crossing.high_rps
    assert crossing.low_rps < truth < crossing.high_rps
    assert crossing.high_rps / crossing.low_rps < 1.4


def test_quantiles_are_scaled_to_the_rate() -> None:
    """M/M/1: p50 and p99 at a rate between two steps come out as ln 2 and ln 100 over mu - lambda, within intervals."""
    server, sla = Server(t0_s=0.001, sigma="exponential"), SLA.parse("p99<10ms")
    dwells = tuple(Dwell.of(_step(server, rate, 60.0, int(rate)), 0.2, 0.0, 8) for rate in (480.0, 560.0))
    estimates = quantiles_at(dwells, sla, Capacity(rate_rps=1000.0, error=0.003, n=100), 520.0, (0.5, 0.95, 0.99))
    for estimate, share in zip(estimates, (0.5, 0.05, 0.01), strict=True):
        assert estimate is not None
        truth = -np.log(share) / 480
        assert estimate.low <= truth <= (estimate.high or 0)
        assert estimate.value == pytest.approx(truth, rel=0.12)


def test_a_server_that_changes_widens_the_interval() -> None:
    """The later half of the steps a quarter slower: flagged, the answer of the later half, wider than without."""
    sla, capacity = SLA.parse("p99<10ms"), Capacity(rate_rps=1000.0, error=0.005, n=100)
    fast, slow = Server(t0_s=0.001, sigma="exponential"), Server(t0_s=0.00125, sigma="exponential")
    crossings = []
    for second in (fast, slow):
        dwells: list[Dwell] = []
        for k in range(6):
            sim = Simulator(fast if k < 3 else second, seed=k, clock_s=20.0 * k)
            step = Step(rate_rps=(340.0, 360.0)[k % 2], duration_s=20.0, seed=k)
            dwells.append(Dwell.of(sim.run_step(step, lambda _p: False), 0.2, 0.0, 8))
        crossings.append(locate(tuple(dwells), sla, capacity, None))
    same, changed = crossings
    assert same.drift == 0
    assert 0.1 < changed.drift < 0.4
    assert changed.rate_rps < same.rate_rps
    assert changed.low_rps <= 800 - np.log(100) / 0.01 <= changed.high_rps


def test_a_batch_that_arrives_over_a_millisecond_counts_once() -> None:
    """Replies of a batch that come one after another, as over a real socket, do not add a batch to the capacity."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.normal(0.056, 0.0017, 40))
    done = np.sort((ends[:, None] + np.linspace(0, 0.0015, 32)).ravel())
    capacity = completion_rate(done)
    assert capacity is not None
    assert abs(capacity.rate_rps / (32 / 0.056) - 1) < 0.01
    assert capacity.error < 0.02


def test_a_pause_at_the_end_of_a_step_is_no_steady_backlog() -> None:
    """A little above the capacity the backlog grows steadily; a pause in the last tenth leaves one as large at once."""
    behind, busy = _step(GPU, 650.0, 6.0), _step(GPU, 500.0, 10.0)
    assert not backlog_grew(behind)
    assert backlog_grew(behind, steadily=True)
    done = np.where(busy.done_ns - busy.start_ns > 9.2e9, busy.start_ns + int(10.5e9), busy.done_ns)
    paused = replace(busy, done_ns=done, end_ns=int(done.max()))
    assert int((paused.done_ns - paused.start_ns > 10e9).sum()) > 4 * 5000**0.5
    assert not backlog_grew(paused, steadily=True)
    assert not backlog_grew(busy, steadily=True)
