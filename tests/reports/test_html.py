import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from analysis import Estimate, Run, Step, StepRecord, StepResult
from reports import html
from reports.text import NONE
from tests.factories import P99, make_answer, make_records, make_run, run_step

RUN = make_run()
PAGE = html(RUN)
_LOADS = ("src", "srcset", "action", "formaction", "data", "poster", "background", "cite", "ping", "manifest")


class _References(HTMLParser):
    """Collect whatever a browser could fetch or run, all ids, and tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.used: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "image", "iframe", "object", "embed", "base", "form", "video", "audio"):
            self.fetched.append(tag)
        for name, value in attrs:
            if name in _LOADS or name.startswith("on") or (name.endswith("href") and not (value or "").startswith("#")):
                self.fetched.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
            if name.endswith("href"):
                self.used.add((value or "")[1:])
            self.used.update(re.findall(r"url\(#([^)]*)\)", value or ""))


def _references(page: str) -> _References:
    parser = _References()
    parser.feed(page)
    return parser


def test_page_loads_nothing() -> None:
    """The page is complete without a network: nothing in it names another address to fetch."""
    assert _references(PAGE).fetched == []
    assert not re.search(r"url\((?!#)|@import|xmlns|<!ENTITY", PAGE)
    assert "default-src 'none'" in PAGE


def test_ids_of_several_figures_do_not_collide() -> None:
    """Each id occurs once, and everything that is referred to exists."""
    found = _references(PAGE)
    assert len(found.ids) == len(set(found.ids))
    assert found.used <= set(found.ids)
    assert found.used


def test_page_is_small() -> None:
    """A normal run's page is far below 300 kB, and one of 60 steps still below it."""
    many = tuple(replace(record, index=i) for i, record in enumerate(RUN.steps * 5))
    assert len(PAGE.encode()) < 150_000
    assert len(html(make_run(steps=many)).encode()) < 300_000


def test_page_is_made_quickly() -> None:
    """The report takes a small part of a run's time."""
    before = time.process_time()
    html(RUN)
    assert time.process_time() - before < 2


def test_page_is_deterministic() -> None:
    """The same run gives the same page, byte for byte."""
    assert html(RUN) == PAGE


def test_verdict_comes_first() -> None:
    """What a reader came for stands before every figure and table."""
    order = [
        PAGE.index(mark) for mark in ("holds up to 553 req/s", "<svg", "<h2>Steps", "<h2>Latency spectrum", "<h2>Def")
    ]
    assert order == sorted(order)


def test_steps_that_matter_are_marked() -> None:
    """The step at the point, the failing one above it, and the unsound one with its reason can be found at a glance."""
    assert PAGE.count('tag">at the point</small>') == 1
    assert PAGE.count('tag">first failing above</small>') == 1
    assert "Client: The client was late: p99 of send lateness 41 ms; give it more --workers." in PAGE
    assert "63 http status, 7 reset" in PAGE


def test_client_health_shows_units_and_folds_what_is_constant() -> None:
    """Numbers carry the unit of their name, and what never changes is said once."""
    assert "workers <b>1</b>" in PAGE
    assert "<th>CPU, busiest worker" in PAGE
    assert "<td>18.6 %" in PAGE


def _empty(**fields: Any) -> Run:
    nothing = dict.fromkeys(("rate_rps", "safe_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "utilisation"))
    answer = make_answer(verdict="target_failed", stop_reason="connection refused", **nothing)
    return make_run(**({"steps": (), "answer": answer, "exit_code": 5, "scenario": {}, "environment": {}} | fields))


def test_run_without_steps_says_so() -> None:
    """A target that never answered gives a page without figures, not an error."""
    page = html(_empty())
    assert "<svg" not in page
    assert "No step was run." in page
    assert "No step measured anything." in page


def test_step_without_requests_is_shown() -> None:
    """A step that ended before its first request has a row and no numbers."""
    nothing = StepResult.from_arrays(Step(rate_rps=5.0, duration_s=1.0), [], [], [])
    page = html(_empty(steps=(StepRecord.of(nothing, (P99,), index=0, origin_ns=0),)))
    assert "<svg" not in page
    assert f"<td>{NONE}" in page


@pytest.mark.parametrize("failing_share", [0.0, 1.0])
def test_one_step_makes_a_page(failing_share: float) -> None:
    """One step is enough for a page, whether its requests succeed or all fail."""
    result = run_step(Step(rate_rps=50.0, duration_s=1.0, seed=3), failing_share=failing_share)
    page = html(_empty(steps=(StepRecord.of(result, (P99,), index=0, origin_ns=0),)))
    assert ("<svg" in page) is (failing_share == 0)
    assert ("<td>failed" in page) is (failing_share == 1)


def test_closed_loop_page_names_users() -> None:
    """In a closed loop the table's load column is users, and so is the headline's number."""
    records = []
    for index, users in enumerate((8, 16, 32)):
        open_step = run_step(Step(rate_rps=10.0 * users, duration_s=1.0, seed=users))
        result = replace(open_step, step=Step(users=users, duration_s=1.0))
        records.append(StepRecord.of(result, (P99,), index=index, origin_ns=0))
    users_answer = make_answer(
        rate_rps=None, safe_rps=None, users=Estimate(value=16.0, low=14.0, high=18.0),
        throughput_rps=Estimate(value=160.0, low=150.0, high=170.0),
    )  # fmt: skip
    page = html(make_run(steps=tuple(records), answer=users_answer))
    assert "<th>users<th>achieved" in page
    assert "16 users in flight at 160 req/s" in page
    assert "operating point 160 [150, 170]" in page


def test_many_errors_are_cut() -> None:
    """A target that words every failure anew cannot fill the page."""
    record = replace(make_records()[0], errors={f"no {i} {'x' * 5_000}": 1 for i in range(500)})
    page = html(make_run(steps=(record,)))
    assert len(page) < 150_000
    assert "And 480 further kinds" in page
