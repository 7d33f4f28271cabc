"""Reports of a load by hand: one step, no operating point, and without an SLA no verdict either."""

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from analysis import SLA, Reason, Run, Step
from reports import html, junit, markdown
from reports.headline import facts, headline
from reports.load import shown
from tests.factories import P99, make_load, of_users

LOAD = make_load()
PAGE = html(LOAD)
BUSY = Reason("client", "an engine process used 97% of its core: raise --workers")


def test_the_headline_is_the_load_and_its_latency() -> None:
    """What was asked, median and p99, and whether every request was answered; no word of an SLA or a search."""
    said = headline(LOAD)
    assert (said.tone, said.label, said.advice) == ("good", "Load", None)
    assert re.fullmatch(
        r"400 req/s offered for 3 s: p50 [\d.]+ ms, p99 [\d.]+ ms, every request answered\.", said.title
    )


def test_a_closed_loop_says_what_it_carried() -> None:
    """With users the throughput is a result, so it is in the headline."""
    said = headline(of_users(LOAD, 64))
    assert re.match(r"64 users for 3 s: [\d.,]+ req/s answered, p50 ", said.title)
    assert headline(of_users(LOAD, 1)).title.startswith("1 user for")


def test_failures_are_counted_in_the_headline() -> None:
    """Failures without an SLA are no verdict, but no good news either."""
    said = headline(make_load(failing_share=0.05))
    assert said.tone == "unsure"
    assert re.search(r"p99 failed, \d+ of [\d,]+ failed \([\d.]+ %\)\.", said.title)
    assert said.advice is not None


@pytest.mark.parametrize(
    ("run", "tone", "label", "words"),
    [
        (make_load(slas=(P99,)), "good", "Pass", "p99<200ms holds at 400 req/s"),
        (make_load(slas=(SLA.parse("p99<5ms"),), exit_code=1), "bad", "Fail", "p99<5ms does not hold at"),
        (
            make_load(slas=(SLA.parse("p50<1s"), P99), exit_code=3, step=Step(rate_rps=20, duration_s=1)),
            "unsure", "Undecided", "p50<1s and p99<200ms are undecided at",
        ),
        (make_load(reasons=(BUSY,), exit_code=4), "unsure", "Client-limited", "400 req/s offered"),
        (make_load(reasons=(Reason("books", "off"),), exit_code=4), "unsure", "Not sound", "400 req/s offered"),
        (make_load(failing_share=1.0, exit_code=5), "bad", "Target failed", "requests failed at 400 req/s"),
        (
            make_load(reasons=(Reason("target", "it stopped answering"),), exit_code=5),
            "bad", "Target failed", "The target failed under 400 req/s offered",
        ),
        (make_load(abort_after_s=1.0, exit_code=130), "unsure", "Interrupted", "until then, 400 req/s offered for 1"),
        (replace(LOAD, steps=(), exit_code=143), "unsure", "Terminated", "terminated before the first request"),
        (replace(LOAD, steps=(), exit_code=70), "unsure", "Internal error", "broken off by an internal error"),
        (
            make_load(step=Step(rate_rps=0.01, duration_s=0.1, purpose="load")),
            "unsure", "Load", "No request fell due.",
        ),
    ],
)  # fmt: skip
def test_each_end_has_its_words_and_its_reports(run: Run, tone: str, label: str, words: str) -> None:
    """Every end of a load has a headline, and a page, a summary and a test file that say the same."""
    said = headline(run)
    assert (said.tone, said.label) == (tone, label)
    assert words in said.title
    assert words.replace("<", "&lt;") in html(run)
    assert words.replace("<", "&#60;") in markdown(run)
    suite = ET.fromstring(junit(run)).find("testsuite")
    assert suite is not None
    assert len(list(suite.iter("testcase"))) >= 1
    is_green = (suite.attrib["failures"], suite.attrib["errors"]) == ("0", "0")
    assert is_green is (run.exit_code == 0)


def test_the_client_s_limit_names_the_flag() -> None:
    """A client-limited load says first what ran out, and which flag helps."""
    said = headline(make_load(reasons=(BUSY,), exit_code=4))
    assert "raise --workers" in said.limits


def test_the_page_shows_a_load_and_nothing_of_a_search() -> None:
    """Spectrum and throughput are drawn; operating point, curve, step table and SLA are not mentioned."""
    assert PAGE.count("<svg") == 2
    for absent in ("perating point", "SLA", "<h2>Steps", "No step", "Knee", "verdict ", "Search stopped", "step 1"):
        assert absent not in PAGE.split("</style>")[1], absent
    assert "<b>0</b> timeouts" in PAGE
    assert "from sent" in PAGE


def test_the_summary_shows_a_load_and_nothing_of_a_search() -> None:
    """The pull request comment has the books and the spectrum as a table."""
    said = markdown(LOAD)
    assert re.search(r"([\d,]+) offered = \1 ok \+ 0 errors \+ 0 timeouts \+ 0 lost \+ 0 unsent\.", said)
    table = [line for line in said.splitlines() if re.match(r"\| (share|from)|\|---\|--:", line)]
    assert len(table) == 4
    assert len({line.count("|") for line in table}) == 1
    for absent in ("Limited by", "Search stopped", "Operating point", "SLA", "Curve"):
        assert absent not in said


@pytest.mark.parametrize("failing_share", [0.0, 0.05, 1.0])
def test_the_books_of_every_page_close(failing_share: float) -> None:
    """What the reports list adds up to what was offered."""
    load = shown(make_load(failing_share=failing_share))
    assert load is not None
    assert sum(load.books.values()) == load.record.offered


def test_a_quantile_stands_on_at_least_one_request() -> None:
    """p99.9 of 300 requests would be the slowest one under another name, so it is left out."""
    few = shown(make_load(step=Step(rate_rps=100, duration_s=3, seed=1, purpose="load")))
    assert few is not None
    assert [row.quantile for row in few.rows] == [0.5, 0.75, 0.9, 0.95, 0.99, 1.0]


def test_headline_facts_and_spectrum_agree() -> None:
    """The same quantile is the same number wherever it stands."""
    load = shown(LOAD)
    assert load is not None
    by_name = {fact.name: fact.value for fact in facts(LOAD)}
    for name, row in zip(("p50", "p99"), (load.rows[0], load.rows[4]), strict=True):
        assert by_name[name] == f"{row.due_s * 1e3:.3g} ms"
        assert f"{name} {by_name[name]}" in headline(LOAD).title


def _endings(run: Run) -> dict[str, str]:
    return {
        case.attrib["name"]: case[0].tag if len(case) else "passed"
        for case in ET.fromstring(junit(run)).iter("testcase")
    }


@pytest.mark.parametrize(
    ("fields", "endings"),
    [
        ({}, {"load": "passed"}),
        ({"exit_code": 4, "reasons": (BUSY,)}, {"load": "error"}),
        ({"slas": (P99,)}, {"p99<200ms": "passed"}),
        (
            {"slas": (P99, SLA.parse("p50<1ms")), "exit_code": 1},
            {"p99<200ms": "skipped", "p50<1ms": "failure"},
        ),
        ({"slas": (P99, SLA.parse("p50<1s")), "exit_code": 1, "failing_share": 0.9}, None),
        ({"slas": (P99,), "exit_code": 3}, {"p99<200ms": "error"}),
    ],
)
def test_test_cases(fields: dict[str, Any], endings: dict[str, str] | None) -> None:
    """One case per SLA, or one for the load; an SLA that another one kept from being judged is skipped."""
    found = _endings(make_load(**fields))
    assert found == endings if endings else "failure" in found.values()


def test_a_hostile_target_cannot_write_into_the_page() -> None:
    """What the target says of itself is escaped in a load's reports too."""
    (record,) = make_load(failing_share=1.0, exit_code=5).steps
    evil = "<script>alert(1)</script>\x1b[31m"
    run = make_load(failing_share=1.0, exit_code=5)
    run = replace(run, steps=(replace(record, errors={evil: record.offered}),))
    assert "<script>" not in html(run)
    assert "\x1b" not in html(run) + markdown(run) + junit(run)
    assert "<script>" not in markdown(run).replace("`<script>alert(1)</script>\ufffd[31m`", "")
