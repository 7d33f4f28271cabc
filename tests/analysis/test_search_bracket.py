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
    assert max(step.users or 0 for step in simulator.steps) <= 8
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
    """A level at which the client was the limit ends the bracket, and tells nothing of the server."""
    simulator, search = Simulator(GPU), Search(P99, bracket="closed")
    kinds = []
    while (step := search.next()) is not None:
        result = simulator.run_step(step, search.overloaded)
        if step.users == 8:
            result = replace(result, reasons=(Reason("client", "no more connections"),))
        search.add(result)
        kinds.append((step.purpose, step.users))
    assert kinds[:5] == [("bracket", 1), ("bracket", 2), ("bracket", 4), ("bracket", 8), ("ramp", None)]
    assert search.answer().verdict == "found"


def test_a_bracket_is_open_or_closed() -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="bracket 'both'"):
        Search(P99, bracket="both")  # type: ignore[arg-type]
