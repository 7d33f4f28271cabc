"""The generator's sentence and table: all well said once, and what was not named by its step."""

from dataclasses import replace
from typing import Any

import pytest

from analysis import Reason, Run, StepRecord
from reports import generator, html
from reports.text import NONE
from tests.factories import make_records, make_run

SOUND = tuple(record for record in make_records() if not record.reasons)[1:4]


def run_of(*changes: dict[str, Any], reasons: tuple[Reason, ...] = ()) -> Run:
    """Return a run of as many sound steps, their generator's numbers changed, the last one with reasons."""
    records: list[StepRecord] = []
    for record, change in zip(SOUND, changes, strict=False):
        client = {**record.client, "delivery": "as intended", "lateness_p99_s": 6e-5, **change}
        records.append(replace(record, client=client))
    return make_run(steps=(*records[:-1], replace(records[-1], reasons=reasons)))


def test_a_run_that_went_well_has_one_sentence() -> None:
    """Lateness, delivery, books: said once for all steps."""
    assert generator.verdict(run_of({}, {}, {})) == (
        "Lateness (p99) at most 60 µs, schedule delivered as intended, every request accounted for, and Little's law "
        "holds in all 3 steps."
    )


@pytest.mark.parametrize(
    ("changes", "reasons", "words"),
    [
        (({}, {"lateness_p99_s": 0.002}), (), "Lateness (p99) at most 2 ms"),
        (({}, {"delivery": None}), (), "schedule delivered as intended in the step that can tell"),
        (({"delivery": None}, {"delivery": None}), (), "Lateness (p99) at most 60 µs, every request"),
        (
            ({}, {"delivery": "uneven", "dispersion_sent": 1.4, "dispersion_intended": 1.0}),
            (),
            "schedule not delivered evenly in step 3 (dispersion 1.40 where 1.00 was intended)",
        ),
        (
            ({}, {"lateness_p99_s": 0.4}),
            (Reason("client", "late"),),
            "The limit itself in step 3, lateness (p99) 60 µs",
        ),
        (
            ({}, {"in_flight_counted": 5.0, "in_flight_implied": 4.0}),
            (Reason("books", "open"),),
            "Little's law broken in step 3 (5.00 in flight counted, 4.00 by rate x latency)",
        ),
        (({}, {"in_flight_counted": None}), (), "Little's law holds in the step that can tell."),
    ],
)
def test_what_went_wrong_is_named(changes: Any, reasons: tuple[Reason, ...], words: str) -> None:
    """Each shortcoming has its step and its numbers."""
    assert words in (generator.verdict(run_of(*changes, reasons=reasons)) or "")


def test_a_run_in_which_every_step_was_the_client_s_has_a_sentence() -> None:
    """No sound step is left to praise."""
    said = generator.verdict(run_of({}, reasons=(Reason("client", "late"),)))
    assert said == "The limit itself, every request accounted for, and Little's law holds."


def test_an_older_file_says_nothing_of_it() -> None:
    """Runs of before these numbers were kept have neither sentence nor table, and a page all the same."""
    run = make_run(steps=(replace(SOUND[0], client={"lateness_p99_s": 1e-4}),))
    assert generator.verdict(run) is None
    assert generator.table(run) == ([], [])
    assert "<p>Generator:" not in html(run)


def test_the_page_has_a_row_a_step() -> None:
    """Sent and intended stand side by side, workers one after the other, and what is not known is a dash."""
    page = html(run_of({"worker_cpu_share": [0.31, 0.29]}, {"dispersion_sent": None, "gap_distance": None}))
    for cell in ("31 %, 29 %", "1.03 / 1.02", NONE, "100 %"):
        assert f"<td>{cell}" in page
