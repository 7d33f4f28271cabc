from dataclasses import replace
from typing import Any

import pytest

from analysis import SLA, Estimate, Run, Step, StepRecord
from reports.headline import facts, headline, required_reached
from reports.steps import at_point, load
from reports.words import is_closed
from tests.factories import CLIFF, P99, UNMET, make_answer, make_run, run_step, with_bracket

NOTHING: dict[str, Any] = dict.fromkeys(
    ("rate_rps", "safe_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "utilisation")
)
LOW = Step(rate_rps=20.0, duration_s=2.0, seed=7, purpose="ramp")
RECORD = StepRecord.of(run_step(LOW), (P99,), index=0, origin_ns=0)


def _run(*, exit_code: int = 0, steps: tuple[StepRecord, ...] = (RECORD,), scenario: Any = None, **answer: Any) -> Run:
    return make_run(steps=steps, exit_code=exit_code, answer=make_answer(**answer), scenario=scenario or {})


def test_found_gives_the_point_its_interval_and_the_safe_rate() -> None:
    """The headline of an answer carries the three numbers a reader came for."""
    said = headline(_run())
    assert said.tone == "good"
    assert said.title == "p99<200ms holds up to 553 req/s (95 % interval 545 to 561); configure at most 546 req/s."
    assert said.limits == "Limited by p99<200ms. Search stopped: the interval is narrower than ±5 %."
    assert said.advice is None


def test_every_sla_is_named() -> None:
    """With two SLAs the headline claims both, since both hold at the point."""
    run = make_run(slas=(P99, SLA.parse("p95<150ms")), steps=())
    assert headline(run).title.startswith("p99<200ms and p95<150ms hold up to 553 req/s")


def test_three_slas_read_as_a_list() -> None:
    """More than two are set apart by commas."""
    slas = (P99, SLA.parse("p95<150ms"), SLA.parse("p50<90ms"))
    assert headline(make_run(slas=slas, steps=())).title.startswith("p99<200ms, p95<150ms and p50<90ms hold up to")


def test_missed_requirement_is_bad_although_a_point_was_found() -> None:
    """A required rate that is not reached comes before the operating point in the headline."""
    said = headline(_run(exit_code=1, scenario={"require_rps": 600}))
    assert said.tone == "bad"
    assert said.title.startswith("600 req/s required, but p99<200ms holds only up to 553 req/s")


def test_reached_requirement_is_mentioned() -> None:
    """A required rate that is reached is good news in the line below the headline."""
    said = headline(_run(scenario={"require_rps": 500}))
    assert (said.tone, said.limits.endswith("The required 500 req/s are reached.")) == ("good", True)


def test_unmet_names_the_lowest_load_and_its_latency() -> None:
    """An SLA that no rate meets is explained by what the lowest load gave."""
    said = headline(_run(exit_code=1, verdict="unmet", **NOTHING))
    assert (said.tone, said.title) == ("bad", "No load tried meets p99<200ms.")
    assert "The lowest load measured, 20 req/s, gave p50 19 ms and p99 " in said.limits
    assert said.advice is not None
    assert "relax the SLA" in said.advice


def test_unmet_gives_the_floor_in_its_title() -> None:
    """Where the floor is known it is the message: even at the lowest rate the latency is too long."""
    said = headline(_run(exit_code=1, **UNMET))
    assert said.title == "No load tried meets p99<200ms: even at 20 req/s the p99 is 240 ms [231, 256]."
    assert "The lowest load measured" not in said.limits


def test_a_cliff_is_told_as_its_bracket() -> None:
    """No root is claimed inside a jump: the two rates around it, and the one that passed to configure."""
    run = _run(**CLIFF)
    assert headline(run).title == (
        "p99<200ms holds up to a cliff: the latency jumps between 535 and 565 req/s; configure at most 535 req/s."
    )
    assert [(fact.value, fact.note) for fact in facts(run)][:2] == [
        ("535 to 565 req/s", "a cliff: it jumps there"),
        ("535 req/s", "the highest that passed"),
    ]


def test_undecided_says_how_much_time_would_do() -> None:
    """The advice to give more time says how much, where that is known."""
    said = headline(_run(exit_code=3, verdict="undecided", needed_s=((0.05, 190.0),)))
    assert said.advice is not None
    assert "--budget (±5 % needs about 3 min 10 s of load on a server like this one), or accept" in said.advice


def test_unmet_by_errors_advises_to_look_at_the_errors() -> None:
    """When failures are what violates the SLA, a shorter latency is no remedy."""
    failing = StepRecord.of(run_step(LOW, failing_share=1.0), (P99,), index=0, origin_ns=0)
    said = headline(_run(exit_code=1, verdict="unmet", limited_by="error budget", steps=(failing,), **NOTHING))
    assert "gave 100 % failures" in said.limits
    assert said.advice is not None
    assert "requests fail at low load" in said.advice


def test_undecided_gives_the_best_interval_and_how_to_go_on() -> None:
    """An undecided run keeps its estimate but does not sell it as an answer."""
    said = headline(_run(exit_code=3, verdict="undecided"))
    assert (said.tone, said.label) == ("unsure", "Undecided")
    assert said.title.startswith("The best estimate so far is 553 req/s (95 % interval 545 to 561)")
    assert said.advice is not None
    assert "--budget" in said.advice


def test_client_limited_is_a_lower_bound() -> None:
    """A client that ran out gives a bound, and no upper end is invented."""
    rate = Estimate(value=400.0, low=390.0, high=None)
    said = headline(_run(exit_code=4, verdict="client_limited", limited_by="client CPU", rate_rps=rate, safe_rps=390.0))
    assert said.title.startswith("p99<200ms holds at 400 req/s and perhaps beyond: the client, not the target, was the")
    assert said.advice is not None
    assert "--workers" in said.advice


def test_reaching_the_users_own_bound_advises_to_raise_it() -> None:
    """A search that --max-rps ended blames neither client nor target."""
    said = headline(_run(exit_code=4, verdict="client_limited", limited_by="--max-rps"))
    assert "--max-rps ended the search" in said.title
    assert said.advice == "Raise --max-rps and run again to find where the SLA ends."


def test_failed_target_without_a_measurement() -> None:
    """A target that never answered leaves no number to show."""
    said = headline(_run(exit_code=5, verdict="target_failed", steps=(), stop_reason="connection refused.", **NOTHING))
    assert said.title == "The target failed before anything was measured."
    assert said.limits == "Search stopped: connection refused."


def test_failed_target_keeps_what_was_measured() -> None:
    """A target that died on the way leaves the estimate up to there."""
    said = headline(_run(exit_code=5, verdict="target_failed"))
    assert said.title.startswith("The target failed; measured before that: 553 req/s")


@pytest.mark.parametrize(("exit_code", "label"), [(130, "Interrupted"), (143, "Terminated"), (70, "Internal error")])
def test_interruption_comes_before_the_answers_own_verdict(exit_code: int, label: str) -> None:
    """A run that was cut off is reported as such, whatever it had found."""
    said = headline(_run(exit_code=exit_code))
    assert (said.tone, said.label) == ("unsure", label)
    assert said.title.startswith("The best estimate so far is 553 req/s")


def test_closed_loop_speaks_of_users_in_flight() -> None:
    """A closed loop's answer is users and throughput, and says that it is no arrival rate."""
    users, flow = Estimate(value=46.0, low=44.0, high=48.0), Estimate(value=548.0, low=541.0, high=555.0)
    run = _run(users=users, throughput_rps=flow, rate_rps=None, safe_rps=None)
    said = headline(run)
    assert said.title == "p99<200ms holds up to 46 users in flight at 548 req/s (95 % interval 44 to 48)."
    assert "no rate for independent arrivals" in said.limits
    assert [fact.name for fact in facts(run)][:2] == ["Users in flight", "Throughput there"]


def test_facts_name_what_is_not_known() -> None:
    """A number that a run could not measure is said to be unknown, not left blank or zero."""
    assert {fact.value for fact in facts(_run(verdict="undecided", **NOTHING))} == {"not known"}


@pytest.mark.parametrize(
    ("exit_code", "verdict", "required", "reached"),
    [
        (0, "found", 550.0, True),
        (1, "found", 550.0, False),
        (1, "unmet", 1.0, False),
        (3, "undecided", 500.0, True),
        (3, "undecided", 550.0, None),
        (3, "undecided", 600.0, False),
        (4, "client_limited", 500.0, True),
    ],
)
def test_required_rate_is_decided_by_exit_code_or_interval(
    exit_code: int, verdict: str, required: float, reached: bool | None
) -> None:
    """A finished search has decided the requirement; otherwise only the interval's ends can."""
    run = _run(exit_code=exit_code, verdict=verdict, scenario={"require_rps": required})
    assert required_reached(run) is reached


def test_a_first_bracket_is_no_closed_loop() -> None:
    """A search over rates that began with users speaks of rates; the users' own steps stand in the table as such."""
    run = with_bracket(make_run())
    assert not is_closed(run)
    assert headline(run).title == headline(make_run()).title
    assert [load(record) for record in run.steps[:4]] == ["1 user", "2 users", "4 users", load(make_run().steps[3])]
    point = round(run.answer.rate_rps.value) if run.answer and run.answer.rate_rps else 0
    near = at_point(with_bracket(make_run(), (point, point, point)))
    assert near is not None
    assert near.step.rate_rps is not None
    unmet = make_answer(verdict="unmet", rate_rps=None, safe_rps=None)
    assert "user" not in headline(replace(run, answer=unmet)).title + headline(replace(run, answer=unmet)).limits
