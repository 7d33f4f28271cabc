"""What the answer means for sizing: rule of thumb, marks, a closed loop's answer, replicas."""

from dataclasses import replace
from typing import Any

import pytest

from analysis import Estimate, Run
from analysis.operating_point import ClosedAnswer
from reports import html, markdown, sizing
from tests.factories import CLIFF, TWIN, UNMET, make_answer, make_records, make_run

RECORDS = make_records()


def _run(*, plan_rps: float | None = None, exit_code: int = 0, **answer: Any) -> Run:
    run = make_run(steps=RECORDS, answer=make_answer(**answer), exit_code=exit_code)
    return replace(run, scenario={**run.scenario, "plan_rps": plan_rps})


def _at(low: float, value: float, high: float) -> dict[str, Any]:
    return {"rate_rps": Estimate(value=value, low=low, high=high), "safe_rps": low}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            (
                "Running it at 70 to 80 % of its capacity would have wasted 17 to 28 % of what this server carries "
                "within the SLA."
            ),
        ),
        (
            _at(420, 430, 440),
            (
                "Running it at 70 to 80 % of its capacity would have been about right: the SLA ends at "
                "75.3 % of the capacity."
            ),
        ),
        (
            _at(250, 257, 260),
            ("Running it at 70 to 80 % of its capacity would have broken the SLA, which ends at 45 % of the capacity."),
        ),
        ({"capacity_rps": None}, ""),
    ],
)
def test_one_sentence_on_the_rule_of_thumb(change: dict[str, Any], words: str) -> None:
    """Wasted, right or broken, and by how much."""
    assert sizing.rule(make_answer(**change)) == words


@pytest.mark.parametrize(
    ("closed", "words"),
    [
        (
            ClosedAnswer(users=64, throughput_rps=570.9, quantile_s=1.93),
            (
                "A closed-loop test (64 users) would have reported 571 req/s, 3.2 % above the highest rate that "
                "holds the SLA; at that rate the p99 would be 1.93 s."
            ),
        ),
        (
            ClosedAnswer(users=1, throughput_rps=400.0, quantile_s=0.05),
            (
                "A closed-loop test (1 user) would have reported "
                "400 req/s, 28 % below the highest rate that holds the SLA; at that rate the p99 would be 50 ms."
            ),
        ),
        (
            ClosedAnswer(users=64, throughput_rps=553.4, quantile_s=None),
            (
                "A closed-loop test (64 users) would have reported 553 req/s, just the highest rate that holds "
                "the SLA; at that rate the queue would grow without end."
            ),
        ),
    ],
)
def test_what_a_closed_loop_would_have_said(closed: ClosedAnswer, words: str) -> None:
    """Its rate, how far off that is, and what it does to requests that arrive by themselves."""
    assert sizing.closed(make_answer(closed=closed)) == words


def test_the_marks_stand_in_the_order_of_their_rates_with_knee_and_point() -> None:
    """60, 70, 80 and 85 % of the capacity, the knee with its interval, the point; each with its p99."""
    rows = sizing.mark_rows(_run(**TWIN))
    assert [row[0].split(",")[0] for row in rows] == [
        "60 % of capacity", "70 % of capacity", "80 % of capacity", "85 % of capacity", "knee", "operating point",
    ]  # fmt: skip
    assert rows[1] == ("70 % of capacity", "400 req/s", "62 ms", "holds")
    assert rows[4][1] == "517 req/s [504, 529]"


def test_marks_beyond_the_point_are_broken() -> None:
    """A mark is judged against the operating point's interval."""
    rows = sizing.mark_rows(_run(**_at(390, 395, 410)))
    assert {row[0]: row[3] for row in rows if "of capacity" in row[0]} == {
        "60 % of capacity": "holds", "70 % of capacity": "too close to call", "80 % of capacity": "broken",
        "85 % of capacity": "broken",
    }  # fmt: skip


def test_a_cliff_stands_among_the_marks_as_its_bracket() -> None:
    """No crossing was fitted, so none is shown."""
    assert sizing.mark_rows(_run(**CLIFF))[-1][1] == "535 to 565 req/s"


def test_replicas_for_a_rate() -> None:
    """N+1, and what each carries with all up and with one down."""
    words = (
        "11 replicas carry 5,000 req/s, split evenly (10 at 546 req/s at most, and one to spare): 454 req/s each, 83 % "
        "of the safe rate, 80 % of capacity; with one down 500 req/s, 91 % of the safe rate, 88 % of capacity."
    )
    run = _run(plan_rps=5000.0)
    assert sizing.fleet(run) == words
    assert sizing.fleet_rows(run) == []
    assert f"<dt>Fleet</dt><dd>{words}" in html(run)
    assert f"- **Fleet.** {words}" in markdown(run)


@pytest.mark.parametrize(
    ("fields", "exit_code", "words"),
    [
        ({"verdict": "client_limited"}, 4, "only a lower bound, so fewer may do."),
        ({"verdict": "undecided"}, 3, "Provisional: the search did not end"),
        ({"verdict": "found"}, 130, "Provisional: the search did not end"),
        ({"verdict": "target_failed"}, 5, "Provisional: the search did not end"),
        (UNMET, 1, "No number of replicas carries 5,000 req/s: one alone misses the SLA at every rate."),
        (
            {"rate_rps": None, "safe_rps": None},
            3,
            "No plan for 5,000 req/s: no rate of one server is known to be safe.",
        ),
    ],
)
def test_a_plan_is_no_surer_than_its_answer(fields: dict[str, Any], exit_code: int, words: str) -> None:
    """A bound, an unfinished search or no answer at all is said beside the number."""
    assert words in sizing.fleet(_run(plan_rps=5000.0, exit_code=exit_code, **fields))


def test_without_a_rate_the_page_has_a_short_table() -> None:
    """1 and 10 times the safe rate; with one down each replica is at its safe rate."""
    rows = sizing.fleet_rows(_run())
    assert [(row["target"][:2], row["replicas"]) for row in rows] == [("1 ", "2"), ("10", "11")]
    assert {row["down"][1] for row in rows} == {"100 % of the safe rate, 96 % of capacity"}
    assert "--plan-rps 5000 plans for that rate" in html(_run())
    assert sizing.fleet(_run()) == ""
