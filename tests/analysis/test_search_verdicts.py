"""How the open-loop search ends, and what it makes of steps that went wrong."""

from dataclasses import replace

import numpy as np
import pytest

from analysis import SLA, Outcome, Reason, Search, Step, StepResult
from tests.analysis.simulators import GPU, Server, Simulator
from tests.analysis.test_search_open import find

P99 = SLA.parse("p99<200ms")


@pytest.mark.parametrize(
    ("server", "sla"), [(GPU, "p99<5ms"), (Server(t0_s=0.5, sigma=0.1), "p99<100ms"), (GPU, "p99<18ms")]
)
def test_unmet(server: Server, sla: str) -> None:
    """A limit below the service time is unmet at every rate, known within a minute or so, with the capacity."""
    answer, search, _ = find(server, sla)
    assert answer.verdict == "unmet"
    assert answer.rate_rps is None
    assert answer.safe_rps is None
    assert answer.limited_by == sla
    assert answer.capacity_rps is not None
    assert search.spent_s < 120
    assert sla in answer.stop_reason


def test_max_rps_reached_while_passing() -> None:
    """The bound is the answer's lower end; it has no upper one, and the flag is named."""
    answer, _, simulator = find(GPU, "p99<200ms", max_rps=100.0)
    assert answer.verdict == "client_limited"
    assert answer.limited_by == "--max-rps"
    assert answer.rate_rps is not None
    assert (answer.rate_rps.value, answer.rate_rps.high) == (100.0, None)
    assert answer.safe_rps == 100.0
    assert max(step.rate_rps or 0 for step in simulator.steps) == 100.0


def test_max_rps_above_the_crossing_does_not_matter() -> None:
    """A bound beyond the capacity leaves the answer alone."""
    answer, _, _ = find(GPU, "p99<200ms", 1, max_rps=2000.0)
    assert answer.verdict == "found"


def test_max_rps_between_the_crossing_and_the_capacity() -> None:
    """Where the SLA fails at the bound, the answer lies below it although overload was never seen."""
    answer, _, _ = find(GPU, "p99<40ms", 1, max_rps=320.0)
    assert answer.rate_rps is not None
    assert answer.rate_rps.value == pytest.approx(271, rel=0.06)
    assert answer.limited_by == "p99<40ms"


def test_the_client_is_the_limit() -> None:
    """Rates at which the client gave out are not fitted: the answer is a lower bound that quotes the reason."""
    answer, _, _ = find(replace(GPU, client_limit_rps=150.0), "p99<200ms")
    assert answer.verdict == "client_limited"
    assert answer.limited_by == "the client's CPU is full"
    assert answer.rate_rps is not None
    assert answer.rate_rps.high is None
    assert 120 < answer.rate_rps.value <= 150


def test_a_client_limit_above_the_capacity_does_not_matter() -> None:
    """A client that gives out in overload does not limit the answer, once a lower overload is seen."""
    answer, _, _ = find(replace(GPU, client_limit_rps=700.0), "p99<200ms", 1)
    assert answer.verdict == "found"


def test_errors_that_come_with_load() -> None:
    """Two percent failures above 300 req/s: the error budget binds there, and is named."""
    answer, _, _ = find(replace(GPU, error_share=lambda rate: 0.02 if rate > 300 else 0.0), "p99<200ms")
    assert answer.limited_by == "error budget"
    assert answer.rate_rps is not None
    assert answer.rate_rps.low <= 300 <= (answer.rate_rps.high or 0) * 1.001
    assert answer.safe_rps is not None
    assert answer.safe_rps <= 303


def test_errors_at_every_rate() -> None:
    """Two percent failures at every rate: unmet, by the error budget."""
    answer, _, _ = find(replace(GPU, error_share=lambda _rate: 0.02), "p99<200ms")
    assert answer.verdict == "unmet"
    assert answer.limited_by == "error budget"


def test_errors_within_the_budget() -> None:
    """Two failures in ten thousand are allowed."""
    answer, _, _ = find(replace(GPU, error_share=lambda _rate: 0.0002), "p99<200ms", 1)
    assert answer.verdict == "found"
    assert answer.limited_by == "p99<200ms"


@pytest.mark.parametrize("dead_above", [0.0, 100.0])
def test_the_target_dies(dead_above: float) -> None:
    """Connections refused at a rate that worked, and again by a probe: the target failed."""
    answer, search, simulator = find(replace(GPU, dead_above_rps=dead_above), "p99<200ms")
    assert answer.verdict == "target_failed"
    assert "refused" in answer.stop_reason
    assert simulator.steps[-1].purpose == "probe"
    assert search.spent_s < 20


def test_a_target_reason_ends_the_search() -> None:
    """What the runner learnt of the target ends it, in its words."""
    search = Search(P99)
    step = search.next()
    assert step is not None
    search.add(StepResult.from_arrays(step, [], [], [], reasons=(Reason("target", "the server exited with 1"),)))
    assert search.next() is None
    assert search.answer().verdict == "target_failed"
    assert search.answer().stop_reason == "the server exited with 1"


def test_refused_only_in_overload() -> None:
    """A server that refuses everything at a high rate and is back at a low one was overloaded there."""
    search, simulator = Search(P99), Simulator(GPU)
    seen: list[str] = []
    while (step := search.next()) is not None and search.spent_s < 60:
        result = simulator.run_step(step, search.overloaded)
        if step.level > 700:
            result = replace(result, outcome=np.full(result.offered, Outcome.CONNECT_ERROR, np.uint8))
        seen.append(step.purpose)
        search.add(result)
    assert "probe" in seen
    assert search.answer().rate_rps is not None


def test_answer_is_valid_at_any_moment() -> None:
    """Before the first step, after each, and after the last, there is an answer that holds together."""
    search, simulator = Search(P99), Simulator(GPU)
    assert search.answer().verdict == "undecided"
    while (step := search.next()) is not None:
        search.add(simulator.run_step(step, search.overloaded))
        answer = search.answer()
        assert (answer.rate_rps is None) == (answer.safe_rps is None)
        if answer.rate_rps is not None and answer.safe_rps is not None:
            assert answer.rate_rps.low <= answer.safe_rps <= answer.rate_rps.value
    assert answer.verdict == "found"


def test_an_interrupted_search_says_so() -> None:
    """Steps cut short by the user count for what they are; the reason does not blame the budget."""
    search, simulator = Search(P99), Simulator(GPU)
    for _ in range(9):
        step = search.next()
        assert step is not None
        search.add(simulator.run_step(step, search.overloaded))
    step = search.next()
    assert step is not None
    cut = simulator.run_step(replace(step, duration_s=0.4), lambda _p: False)
    search.add(replace(cut, step=step, aborted=True))
    answer = search.answer()
    assert answer.verdict == "undecided"
    assert "stopped before its end" in answer.stop_reason
    assert answer.rate_rps is not None


def test_empty_results_are_asked_again_for_longer() -> None:
    """A rung in which nothing fell due is repeated with more time."""
    search = Search(P99)
    first = search.next()
    assert first is not None
    search.add(StepResult.from_arrays(first, [], [], [], start_ns=0, end_ns=int(first.duration_s * 1e9)))
    second = search.next()
    assert second is not None
    assert second.rate_rps == first.rate_rps
    assert second.duration_s > first.duration_s


def test_only_empty_results_end_with_the_budget() -> None:
    """A runner that never sends cannot hold the search for ever."""
    search, clock = Search(P99, budget_s=60.0), 0
    while (step := search.next()) is not None:
        end = clock + int(step.duration_s * 1e9)
        search.add(StepResult.from_arrays(step, [], [], [], start_ns=clock, end_ns=end))
        clock = end
    assert search.answer().verdict == "undecided"
    assert search.answer().rate_rps is None


def test_timeouts_are_followed_by_probes_until_the_floor_is_back() -> None:
    """A step that left requests behind is followed by low-rate probes until their latency is the idle one again."""
    search, simulator = Search(P99), Simulator(GPU)
    purposes: list[str] = []
    slow = 0
    while (step := search.next()) is not None and len(purposes) < 40:
        result = simulator.run_step(step, search.overloaded)
        if len(purposes) == 3:
            result = replace(result, drained=False)
            slow = 2
        elif slow and step.purpose == "probe":
            slow -= 1
            result = replace(result, done_ns=result.done_ns + 300_000_000)
        purposes.append(step.purpose)
        search.add(result)
    assert purposes[4:7] == ["probe", "probe", "probe"]
    assert purposes[7] != "probe"
    assert search.answer().verdict == "found"


def test_unsound_steps_are_not_fitted() -> None:
    """A measuring step whose books do not close leaves the answer as it was."""
    search, simulator = Search(P99), Simulator(GPU)
    for _ in range(9):
        step = search.next()
        assert step is not None
        search.add(simulator.run_step(step, search.overloaded))
    before = search.answer().rate_rps
    step = search.next()
    assert step is not None
    result = simulator.run_step(step, search.overloaded)
    search.add(replace(result, reasons=(Reason("books", "two requests are missing"),)))
    assert search.answer().rate_rps == before


def test_a_failed_confirmation_moves_the_answer() -> None:
    """Where the safe rate fails on fresh arrivals, the answer comes down and the search goes on."""
    search, simulator = Search(P99), Simulator(GPU)
    failed_at: float | None = None
    confirms = 0
    while (step := search.next()) is not None:
        result = simulator.run_step(step, search.overloaded)
        if step.purpose == "confirm":
            confirms += 1
            if failed_at is None:
                failed_at = step.rate_rps
                result = replace(result, done_ns=result.done_ns + 250_000_000)
        search.add(result)
        if step.purpose == "confirm" and confirms == 1:
            after = search.answer()
            assert after.verdict == "undecided"
            assert after.safe_rps is not None
            assert after.safe_rps < (failed_at or 0)
    assert confirms >= 1


@pytest.mark.parametrize(
    "options", [{"precision": 0.0}, {"budget_s": -1.0}, {"start_rps": 0.0}, {"max_rps": -5.0}, {"mode": "half"}]
)
def test_arguments_are_validated(options: dict[str, object]) -> None:
    """A number that makes no sense is named."""
    with pytest.raises(ValueError, match=next(iter(options))):
        Search(P99, **options)  # type: ignore[arg-type]


def test_no_sla_is_refused() -> None:
    """There is nothing to search for."""
    with pytest.raises(ValueError, match="at least one SLA"):
        Search([])


def test_every_step_is_open_loop() -> None:
    """An open search never asks for users."""
    _, _, simulator = find(GPU, "p99<200ms", budget_s=30.0)
    assert all(isinstance(step, Step) and step.users is None for step in simulator.steps)
