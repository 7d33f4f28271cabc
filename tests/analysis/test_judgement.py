import numpy as np
import pytest

from analysis.judgement import Verdict, judge, none_of
from analysis.sla import SLA
from analysis.step import Outcome, Step, StepResult
from tests.analysis.simulators import Server, Simulator

SLAS = (SLA.parse("p99<100ms"),)
STEP = Step(rate_rps=1000.0, duration_s=10.0)


def _result(latency_ms: np.ndarray[tuple[int], np.dtype[np.float64]], failed: float = 0.0, seed: int = 0) -> StepResult:
    """Build a result with a request each millisecond."""
    due = np.arange(latency_ms.size) * 1_000_000
    outcome = np.where(np.random.default_rng(seed).random(latency_ms.size) < failed, Outcome.HTTP_STATUS, Outcome.OK)
    return StepResult.from_arrays(STEP, due, due + (latency_ms * 1e6).astype(np.int64), outcome)


def test_far_below_the_limit_passes() -> None:
    """Ten thousand independent fast requests pass."""
    latency = np.random.default_rng(0).exponential(5, 10_000)
    assert judge(_result(latency), SLAS).verdict is Verdict.PASS


def test_far_above_the_limit_fails() -> None:
    """A step that is mostly slow fails, and names its SLA."""
    judgement = judge(_result(np.full(2000, 150.0)), SLAS)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.binding == "p99<100ms"


def test_one_slow_cluster_is_no_verdict() -> None:
    """One burst of slow requests just above the allowed share decides nothing: it is one observation, not 150."""
    latency = np.full(10_000, 10.0)
    latency[5000:5150] = 200.0
    judgement = judge(_result(latency), SLAS)
    assert judgement.verdict is Verdict.UNDECIDED
    assert judgement.inflation > 50


def test_no_violation_in_a_correlated_step_is_no_pass() -> None:
    """Slow waves that never reach the limit show how few independent looks there were."""
    latency = 40 + 40 * np.sin(np.arange(3000) / 3000 * 2 * np.pi * 3)
    judgement = judge(_result(latency), SLAS)
    assert judgement.share == 0
    assert judgement.verdict is Verdict.UNDECIDED


def test_headroom_passes_what_a_count_cannot() -> None:
    """The same few looks pass when the slowest request took half of the limit."""
    latency = 20 + 15 * np.sin(np.arange(3000) / 3000 * 2 * np.pi * 9)
    judgement = judge(_result(latency), SLAS)
    assert judgement.n / judgement.inflation < 300  # zero of so few do not show less than one percent
    assert judgement.verdict is Verdict.PASS
    assert judgement.high < 0.01


def test_a_few_requests_prove_nothing() -> None:
    """Thirty fast requests are no p99, however fast."""
    assert judge(_result(np.full(30, 1.0)), SLAS).verdict is Verdict.UNDECIDED


def test_the_error_budget_binds_separately() -> None:
    """Half a percent of fast failures keeps the p99 and breaks the budget."""
    judgement = judge(_result(np.full(20_000, 5.0), failed=0.005), SLAS)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.binding == "error budget"


def test_the_worst_of_several_slas_decides() -> None:
    """A p50 limit that fails beats a p99 limit that passes."""
    slas = (*SLAS, SLA.parse("p50<2ms"))
    judgement = judge(_result(np.random.default_rng(0).exponential(5, 10_000)), slas)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.binding == "p50<2ms"


def test_an_empty_step_is_undecided() -> None:
    """Nothing was seen."""
    judgement = judge(StepResult.from_arrays(STEP, [], [], []), SLAS)
    assert judgement.verdict is Verdict.UNDECIDED
    assert judgement.low == 0.0
    assert judgement.high > 0.999


def test_no_sla_is_refused() -> None:
    """There is nothing to judge against."""
    with pytest.raises(ValueError, match="at least one SLA"):
        judge(_result(np.ones(1)), ())


def test_wrong_verdicts_are_rare_in_a_queue() -> None:
    """M/M/1 two percent above and below its crossing: at most one step in twenty gets the wrong verdict.

    The crossing for p99 < 100 ms at mu = 200/s is 200 - ln(100) / 0.1 = 153.9 requests per second.
    """
    wrong = 0
    for seed in range(30):
        for factor, bad in ((0.98, Verdict.FAIL), (1.02, Verdict.PASS)):
            sim = Simulator(Server(t0_s=0.005, sigma="exponential"), seed=seed)
            step = Step(rate_rps=153.9 * factor, duration_s=40.0, seed=seed)
            wrong += judge(sim.run_step(step, lambda _p: False), SLAS).verdict is bad
    assert wrong <= 3


def test_no_failure_among_n_leaves_room_for_three() -> None:
    """The rule of three: 0 of n bounds the share by some 3 / n; a verdict does not hang on it."""
    assert none_of(1000) == pytest.approx(0.003, rel=0.01)
    assert none_of(1) == pytest.approx(0.95)
    assert (1 - none_of(40)) ** 40 == pytest.approx(0.05)
