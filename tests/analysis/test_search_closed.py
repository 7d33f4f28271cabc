"""The closed-loop search on simulated servers."""

from dataclasses import replace

import pytest

from analysis import SLA, OperatingPoint, Reason, Search, StepResult
from tests.analysis.simulators import GPU, Server, Simulator


def find(server: Server, sla: str, **options: object) -> tuple[OperatingPoint, Search, Simulator]:
    """Search to the end in a closed loop."""
    simulator, search = Simulator(server), Search(SLA.parse(sla), mode="closed", **options)  # type: ignore[arg-type]
    while (step := search.next()) is not None:
        search.add(simulator.run_step(step, search.overloaded))
    return search.answer(), search, simulator


def test_users_double_then_bisect() -> None:
    """96 users fill three batches of 56 ms; the 97th waits for a fourth: the answer is just below, never a rate."""
    answer, search, simulator = find(GPU, "p99<200ms")
    assert answer.verdict == "found"
    assert answer.rate_rps is None
    assert answer.safe_rps is None
    assert answer.users is not None
    assert 88 <= answer.users.value <= 97
    assert answer.users.high is not None
    assert answer.users.high <= 1.05 * answer.users.value + 1
    assert answer.throughput_rps is not None
    assert answer.throughput_rps.value == pytest.approx(571, rel=0.03)
    assert answer.p99 is not None
    assert answer.p99.value < 0.2
    assert [step.users for step in simulator.steps][:5] == [1, 2, 4, 8, 16]
    assert simulator.steps[-1].purpose == "confirm"
    assert search.spent_s < 60


def test_think_time_allows_more_users() -> None:
    """Users who think for half a second are five times as many."""
    answer, _, _ = find(replace(GPU, think_s=0.5), "p99<200ms")
    assert answer.users is not None
    assert answer.users.value > 300


def test_max_users_reached_while_passing() -> None:
    """The bound is named, and there is no upper end."""
    answer, _, _ = find(GPU, "p99<200ms", max_users=20)
    assert answer.verdict == "client_limited"
    assert answer.limited_by == "--max-users"
    assert answer.users is not None
    assert (answer.users.value, answer.users.high) == (20, None)


def test_unmet() -> None:
    """No number of users is served within five milliseconds."""
    answer, search, _ = find(GPU, "p99<5ms")
    assert answer.verdict == "unmet"
    assert answer.users is None
    assert answer.limited_by == "p99<5ms"
    assert search.spent_s < 60


def test_the_budget_is_kept() -> None:
    """A short budget ends undecided with the highest number that passed."""
    answer, search, _ = find(GPU, "p99<200ms", budget_s=9.0)
    assert answer.verdict == "undecided"
    assert search.spent_s <= 9
    assert answer.users is not None


def test_the_client_is_the_limit() -> None:
    """Levels at which the client gave out are not used; the reason is quoted."""
    simulator, search = Simulator(GPU), Search(SLA.parse("p99<200ms"), mode="closed")
    while (step := search.next()) is not None:
        result = simulator.run_step(step, search.overloaded)
        if (step.users or 0) > 30:
            result = replace(result, reasons=(Reason("client", "too few connections"),))
        search.add(result)
    answer = search.answer()
    assert answer.verdict == "client_limited"
    assert answer.limited_by == "too few connections"


def test_the_target_refuses() -> None:
    """Every connection refused: the target failed."""
    answer, _, _ = find_refused()
    assert answer.verdict == "target_failed"


def find_refused() -> tuple[OperatingPoint, Search, StepResult]:
    """Run one step of which every connection is refused."""
    search = Search(SLA.parse("p99<200ms"), mode="closed")
    step = search.next()
    assert step is not None
    result = StepResult.from_arrays(step, [0, 1], [2, 3], [2, 2])
    search.add(result)
    assert search.next() is None
    return search.answer(), search, result


def test_empty_and_early_answers() -> None:
    """Before the first step and after an empty one there is an answer without numbers."""
    search = Search(SLA.parse("p99<200ms"), mode="closed")
    assert search.answer().verdict == "undecided"
    step = search.next()
    assert step is not None
    search.add(StepResult.from_arrays(step, [], [], []))
    assert search.answer().users is None
    again = search.next()
    assert again is not None
    assert again.duration_s > step.duration_s
