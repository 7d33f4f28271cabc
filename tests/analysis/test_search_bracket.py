"""The search in the open loop that begins with the users of a closed one."""

from dataclasses import replace

import pytest

from analysis import SLA, OperatingPoint, Reason, Search
from tests.analysis.simulators import GPU, Server, Simulator

P99 = SLA.parse("p99<200ms")


def find(server: Server, sla: SLA = P99, **options: object) -> tuple[OperatingPoint, Search, Simulator]:
    """Search to the end."""
    simulator, search = Simulator(server), Search(sla, bracket="closed", **options)  # type: ignore[arg-type]
    while (step := search.next()) is not None:
        search.add(simulator.run_step(step, search.overloaded))
    return search.answer(), search, simulator


def test_users_double_until_the_throughput_no_longer_grows() -> None:
    """Then overload is measured once, between 1.3 and 1.8 times that, and the answer is that of any other search."""
    answer, _, simulator = find(GPU)
    first = [step.users for step in simulator.steps if step.purpose == "bracket"]
    assert first == [2**k for k in range(len(first))]
    assert 6 <= len(first) <= 8
    rungs = [step for step in simulator.steps if step.purpose == "ramp"]
    assert [step.users for step in rungs] == [None]
    assert 1.3 * 571 < (rungs[0].rate_rps or 0.0) < 1.8 * 571
    assert answer.verdict == "found"
    assert answer.users is None
    assert answer.rate_rps is not None
    assert answer.rate_rps.low < 553 < (answer.rate_rps.high or 0.0)
    assert answer.capacity_rps is not None
    assert answer.capacity_rps.value == pytest.approx(571, rel=0.03)


def test_where_the_sla_fails_first_the_rate_is_raised_from_there() -> None:
    """At 8 users an exponential server of 1,000 req/s is far from idle, and its p99 above 8 ms."""
    answer, _, simulator = find(Server(t0_s=0.001, sigma="exponential"), SLA.parse("p99<8ms"))
    assert [step.users for step in simulator.steps if step.purpose == "bracket"] == [1, 2, 4]
    assert answer.verdict == "found"
    assert answer.rate_rps is not None
    assert answer.rate_rps.low < 1000 - 575.6 < (answer.rate_rps.high or 0.0)  # p99 is ln(100) / (1000 - rate)


def test_unmet_and_dead_targets_are_told_as_ever() -> None:
    """No rate meets 5 ms; and a target that refuses one user refuses all."""
    answer, search, _ = find(GPU, SLA.parse("p99<5ms"))
    assert answer.verdict == "unmet"
    assert search.spent_s < 60
    answer, _, _ = find(Server(t0_s=0.001, dead_above_rps=0.0))
    assert answer.verdict == "target_failed"


def test_a_client_that_cannot_hold_so_many_users_goes_on_by_rate() -> None:
    """A level that shows nothing of the server, for whatever reason, is tried twice and ends the bracket."""
    for kind in ("client", "books"):
        simulator, search = Simulator(GPU), Search(P99, bracket="closed")
        kinds = []
        while (step := search.next()) is not None:
            result = simulator.run_step(step, search.overloaded)
            if step.users == 8:
                result = replace(result, reasons=(Reason(kind, "not sound"),))
            search.add(result)
            kinds.append((step.purpose, step.users))
        users = [("bracket", 1), ("bracket", 2), ("bracket", 4), ("bracket", 8), ("bracket", 8)]
        assert kinds[:6] == [*users, ("ramp", None)]
        assert search.answer().verdict == "found"


def test_a_level_that_leaves_requests_behind_is_followed_by_a_probe() -> None:
    """A server that is not empty gets no overload to measure."""
    simulator, search = Simulator(GPU), Search(P99, bracket="closed")
    for _ in range(3):
        step = search.next()
        assert step is not None
        search.add(replace(simulator.run_step(step, search.overloaded), drained=step.users != 4))
    step = search.next()
    assert step is not None
    assert (step.purpose, step.users) == ("probe", None)


def test_a_cold_first_request_does_not_end_it() -> None:
    """One slow request in a few is no verdict."""
    _, _, simulator = find(replace(GPU, cold_s=0.3, cold_factor=30.0))
    assert len([step for step in simulator.steps if step.purpose == "bracket"]) >= 6


def test_it_takes_a_fifth_of_the_budget_at_most_and_is_part_of_what_is_foreseen() -> None:
    """Levels last ten limits: of 2 s that is 20 s each, too long for 60 s; and the foreseen end is the real one."""
    _, _, simulator = find(GPU, SLA.parse("p99<2s"), budget_s=60.0)
    assert not [step for step in simulator.steps if step.purpose == "bracket"]
    simulator, search = Simulator(GPU), Search(P99, bracket="closed")
    foreseen = []
    while (step := search.next()) is not None:
        search.add(simulator.run_step(step, search.overloaded))
        foreseen.append(search.expected_s())
    assert foreseen[-1] == pytest.approx(search.spent_s)
    known = [seconds for seconds in foreseen if seconds is not None]
    assert known[0] > 0.7 * search.spent_s


def test_a_bracket_is_open_or_closed() -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="bracket 'both'"):
        Search(P99, bracket="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="users keep to no rate"):
        Search(P99, bracket="closed", max_rps=100.0)
