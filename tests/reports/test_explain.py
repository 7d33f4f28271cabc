"""How sure the answer is, and what it rests on, in words."""

from dataclasses import replace
from typing import Any

import pytest

from analysis import Estimate
from analysis.operating_point import ServerModel
from reports import explain, html, junit, markdown
from tests.factories import CLIFF, COUNTING, SEVERAL, TWIN, UNMET, make_answer, make_load, make_records, make_run

RECORDS = make_records()
MODEL: ServerModel = TWIN["server"]


def _lines(**answer: Any) -> dict[str, str]:
    return dict(explain.lines(make_run(steps=RECORDS, answer=make_answer(**answer))))


def test_the_method_comes_with_its_reason() -> None:
    """Twin or counting, and why that one."""
    assert _lines(**TWIN)["Method"] == (
        "A twin of the server, fitted to what was seen. Replayed with the same arrivals, it gives the latencies that "
        "were seen."
    )
    assert _lines(**COUNTING)["Method"].endswith("The twin was refused: service times depend on having waited.")
    assert _lines()["Method"] == "Counted violations, step by step."


def test_a_closed_loop_names_no_method() -> None:
    """Users are counted one way only."""
    users = Estimate(value=40, low=38, high=43)
    assert "Method" not in _lines(users=users, rate_rps=None, safe_rps=None, method_reason="because")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {},
            (
                "Batches of up to 32, 8 ms + 1.5 ms per item, one instance, waits up to 10 ms; explains 99 % of "
                "what was seen."
            ),
        ),
        (
            {"wait_s": 0.0, "instances": 3, "cv": 0.25},
            (
                "Batches of up to 32, 8 ms + 1.5 ms per item, 3 instances, waits "
                "for no fuller batch, times vary by 25 %; explains 99 % of what was seen."
            ),
        ),
        (
            {"max_batch": 1, "instances": 4, "base_s": 0.0101, "per_item_s": 0.0, "cv": 1.0},
            (
                "One request at a time on 4 "
                "instances, 10.1 ms on average, service times vary by 100 %; explains 99 % of what was seen."
            ),
        ),
        (
            {"max_batch": 1, "cv": 0.001},
            (
                "One request at a time on one instance, 9.5 ms on average, always the same; "
                "explains 99 % of what was seen."
            ),
        ),
        (
            {"delay_s": 0.004, "explained": 0.9999},
            (
                "Batches of up to 32, 8 ms + 1.5 ms per item, one instance, waits up "
                "to 10 ms, plus 4 ms outside the queue; explains 99 % of what was seen."
            ),
        ),
    ],
)
def test_the_server_in_plain_words(change: dict[str, Any], words: str) -> None:
    """What a user would say of it: batches, times, instances; a delay only where it matters; never more than is so."""
    assert explain.server(replace(MODEL, **change)) == words


def test_predicted_beside_observed() -> None:
    """A quantile a row, with how far the prediction is off; what failed has no latency."""
    rows = explain.predictions(replace(MODEL, quantiles=((0.5, 0.065, 0.066), (0.999, 0.131, 0.12), (0.99, 0.1, 0.0))))
    assert rows[:2] == [("p50", "65 ms", "66 ms", "\N{MINUS SIGN}1.5 %"), ("p99.9", "131 ms", "120 ms", "+9.2 %")]
    assert rows[2][3] == "\N{EN DASH}"


@pytest.mark.parametrize(
    ("change", "worth"),
    [({}, "it holds"), ({"high": 0.012}, "nothing speaks against it"), ({"passed": False}, "it did not hold")],
)
def test_a_confirmation_says_what_it_is_worth(change: dict[str, Any], worth: str) -> None:
    """Proved, not disproved, or missed; the rate is not rounded up above the safe one."""
    seen = replace(TWIN["confirmation"], **change)
    assert _lines(confirmation=seen)["Confirmation"].endswith(f"slower than 200 ms, 1 % allowed: {worth}.")
    assert _lines(**TWIN)["Confirmation"].startswith("At 546 req/s, 20 s of fresh arrivals: 0.4 % [0.1, 0.92] slower")


def test_a_confirmation_against_the_error_budget_counts_failures() -> None:
    """Where failures bind, they are what was counted."""
    assert "0.4 % [0.1, 0.92] failed, " in _lines(**TWIN, limited_by="error budget")["Confirmation"]


@pytest.mark.parametrize(
    ("inflation", "words"), [(1.0, "one by one"), (1.49, "one by one"), (29.3, "29 times"), (1234.0, "1,200 times")]
)
def test_bursts_in_plain_words(inflation: float, words: str) -> None:
    """The variance inflation is told as what it costs."""
    assert words in explain.bursts(inflation)


def test_the_time_that_a_precision_takes() -> None:
    """In the order given, two digits each."""
    assert _lines(needed_s=((0.02, 71.8), (0.05, 12.3)))["Precision"] == (
        "±2 % needs about 72 s of load on a server like this one, ±5 % about 12 s."
    )
    assert "Precision" not in _lines()


def test_several_slas_are_told_apart_and_the_binding_one_named() -> None:
    """Each with the rate up to which it holds; a single one needs no table."""
    assert _lines(**SEVERAL)["SLAs"].startswith("p99<200ms 553 req/s [545, 561] binds; p95<150ms 557 req/s [550, 564];")
    assert "error budget ≥ 571 req/s [568, ∞)." in _lines(**SEVERAL)["SLAs"]
    assert "SLAs" not in _lines(per_sla={"p99<200ms": Estimate(value=1, low=1, high=1)})


def test_a_terminal_gets_what_it_has_room_for() -> None:
    """Bursts, precision and the closed loop are left to the reports."""
    run = make_run(steps=RECORDS, answer=make_answer(**TWIN))
    assert {name for name, _ in explain.lines(run)} - {name for name, _ in explain.short_lines(run)} == {
        "Bursts", "Precision", "Closed loop",
    }  # fmt: skip


def test_a_load_by_hand_has_nothing_to_explain() -> None:
    """There was no search."""
    assert (explain.lines(make_load()), explain.notes(make_load())) == ([], [])


def test_notes_are_sentences_and_stand_before_the_numbers() -> None:
    """Drift is prominent in each report: before facts and figures, and in the test case file."""
    run = make_run(steps=RECORDS, answer=make_answer(**COUNTING))
    note = "The server became 6 % slower while it was measured; the estimate starts anew at step 9."
    assert explain.notes(run)[0] == note
    for page, facts in ((html(run), '<dl class="facts">'), (markdown(run), "| Operating point |")):
        assert 0 < page.index(note) < page.index(facts)
    assert f"Note: {note}" in junit(run)


@pytest.mark.parametrize("fields", [TWIN, COUNTING, CLIFF, UNMET, SEVERAL])
def test_every_line_is_in_every_report(fields: dict[str, Any]) -> None:
    """The page, the comment and the test case file say the same; in the page a table stands for the SLAs' line."""
    run = make_run(steps=RECORDS, answer=make_answer(**fields))
    for name, words in explain.lines(run):
        opening = words.replace("<", "&lt;")[:20]
        assert f"\n{name}: {opening}" in junit(run)
        assert f"- **{name}.** {words[:3]}" in markdown(run)
        assert f"<dt>{name}</dt><dd>{opening}" in html(run) or name == "SLAs"


def test_the_page_shows_the_fitted_server_and_the_slas() -> None:
    """Predicted against observed, and where each bound ends, are tables of the page."""
    page = html(make_run(steps=RECORDS, answer=make_answer(**SEVERAL)))
    assert "the fitted server at 546 req/s<th>p50<th>p90<th>p95<th>p99" in page
    assert "<td>predicted<td>65.1 ms<td>96.2 ms<td>108 ms<td>131 ms" in page
    assert '<tr><td>p99&lt;200ms<td><b>553 req/s</b><td>[545, 561]<td class="l">binds</tr>' in page


COUNTERS = {"requests": 640.0, "rows": 640.0, "batches": 40.0, "queue_s": 0.060, "compute_s": 0.020}


def _at_the_limit(*near: float, counters: dict[str, float] = COUNTERS, **answer: Any) -> str:
    """Return the line of runs whose steps ran at these shares of the answer's rate, each with the same counters."""
    rate = make_answer().rate_rps
    assert rate is not None
    steps = [
        replace(record, step=replace(record.step, rate_rps=share * rate.value), server=counters, reasons=())
        for record, share in zip(RECORDS, near, strict=False)
    ]
    return dict(explain.lines(make_run(steps=steps, answer=make_answer(**answer)))).get("At the limit", "")


def test_the_servers_own_counters_split_the_latency_at_the_limit() -> None:
    """Queueing as a share of queue and compute, and the mean batch, of the step nearest the answer."""
    words = _at_the_limit(0.95, 1.01, **TWIN)
    assert "a request waited 60 ms in the server's queue and took 20 ms to compute" in words
    assert "75 % of that is queueing" in words
    assert f"batches averaged 16 of {MODEL.max_batch}" in words


def test_a_device_that_tells_how_busy_it_was_is_named() -> None:
    """One device is the device, of several the busiest is meant, and nothing is said where none tells."""
    for devices, which in ((1, "the device"), (2, "the busiest device")):
        told = _at_the_limit(1.0, counters={**COUNTERS, "device_busy": 0.78, "devices": devices})
        assert f"; {which} was busy for 78 % of the time (the server's own counters)" in told
    assert "device" not in _at_the_limit(1.0)
    assert "device" not in _at_the_limit(1.0, counters={**COUNTERS, "device_busy": 0.0, "devices": 1})


def test_counters_far_from_the_answer_say_nothing_of_it() -> None:
    """Steps at half and at twice the rate are not the limit; without counters there is no line either."""
    assert _at_the_limit(0.5, 2.0) == ""
    assert "At the limit" not in _lines(**TWIN)
