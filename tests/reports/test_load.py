"""Reports of a load by hand: one step, no operating point, and without an SLA no verdict either."""

import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from analysis import SLA, Reason, Run, Step
from reports import html, junit, markdown
from reports.headline import facts, headline
from reports.load import bound, shown
from tests.factories import P99, make_load, of_users

LOAD = make_load()
PAGE = html(LOAD)
BUSY = Reason("client", "a worker used 97 % of its core: raise --workers")


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
        (make_load(abort_after_s=1.0, exit_code=130), "unsure", "Interrupted", " s of 3 s: "),
        (replace(LOAD, steps=(), exit_code=143), "unsure", "Terminated", "The load ended before the first request."),
        (replace(LOAD, steps=(), exit_code=70), "unsure", "Internal error", "The load ended before the first request."),
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


def test_an_interrupted_load_has_its_length_and_its_verdict() -> None:
    """Requests fell due for a second, however long the replies were waited for; an SLA is judged on them."""
    run = make_load(slas=(P99,), abort_after_s=1.0, exit_code=130)
    run = replace(run, steps=(replace(run.steps[0], end_s=2.9),))
    said = headline(run)
    assert re.match(r"400 req/s offered for (0\.99\d|1) s of 3 s: ", said.title)
    assert said.limits.startswith("Until then p99<200ms holds: p99<200ms: no request of ")


def test_throughput_is_of_the_time_in_which_requests_fell_due() -> None:
    """What the drain brings is answered, and in the books, but it is no throughput; as wrk counts."""
    (record,) = make_load().steps
    late = replace(record, completions=(40,) * 30 + (0,) * 10 + (51,), achieved_rps=300.0)
    run = replace(LOAD, steps=(late,))
    assert facts(run)[0].value == "400 req/s"
    assert headline(of_users(run, 64)).title.startswith("64 users for 3 s: 400 req/s answered")


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step(rate_rps=400, duration_s=3, seed=17), "of 417 req/s offered (400 asked; Poisson arrivals vary)"),
        (Step(rate_rps=400, duration_s=3, seed=17, arrivals="replay"), "of 417 req/s offered (400 asked)"),
    ],
)
def test_a_rate_that_is_not_the_one_asked_for_is_explained(step: Step, words: str) -> None:
    """Chance makes it so; a closed loop offers what it carries, so nothing is said there."""
    assert facts(make_load(step=step))[0].note == words
    assert facts(of_users(LOAD, 64))[0].note == ""


def test_no_violation_is_never_a_certainty() -> None:
    """The interval of what was not seen ends above 0, and the words say where its end comes from."""
    judgement = make_load(slas=(P99,)).steps[0].judgement
    assert judgement is not None
    said = bound(replace(judgement, share=0.0, low=0.0, high=0.0, n=199))
    assert said == (
        "p99<200ms: no request of 199 violates it (95 % interval 0 % to < 0.01 %, by how far below the limit the tail "
        "ends), 1 % may"
    )
    assert "(95 % interval 0 % to 2 %)" in bound(replace(judgement, share=0.0, low=0.0, high=0.02, n=199))


def test_an_error_budget_is_spent_by_failures() -> None:
    """They failed: nothing else is violated."""
    limits = headline(make_load(slas=(P99,), failing_share=0.1, exit_code=1)).limits
    assert re.match(
        r"[\d.]+ % of requests failed \(95 % interval [\d.]+ % to [\d.]+ %\), the error budget is 0\.1 %\.", limits
    )


def test_a_failed_target_does_not_hide_the_client_s_part() -> None:
    """Both are said, as sentences."""
    late = Reason("client", "requests left 0.4 s late")
    limits = headline(make_load(failing_share=1.0, exit_code=5, reasons=(late,))).limits
    assert re.fullmatch(
        r"HTTP 503: queue is full \([\d,]+ times\)\. The client was at its limit too\. Requests left 0\.4 s late\.",
        limits,
    )


@pytest.mark.parametrize(
    ("kind", "words", "advice"),
    [
        ("http_status", "HTTP 302 Found", "A redirect is not followed"),
        ("http_status", "HTTP 404 Not Found", "Check the URL and --method"),
        ("http_status", "HTTP 401 Unauthorized", "Check the credentials"),
        ("http_status", "HTTP 422 Unprocessable", "Check --method, --header and the body"),
        ("http_status", "HTTP 500 Oh no", "Look into the target's own log"),
        ("http_status", "HTTP 200 OK, not 201", "The target answered, with a status that was not asked for"),
        ("wrong_reply", "unexpected reply: the body is not JSON", "Compare a reply with what --expect-json"),
        ("timeout", "timeout", "Lower the load, or allow requests more time"),
        ("connect_error", "cannot connect: Connection refused", "Check that the target is up"),
        ("protocol_error", "not HTTP/1.1", "Check that the target speaks HTTP/1.1"),
        ("unsent", "", "Check that the target is up and answers one request."),
    ],
)
def test_advice_fits_the_failure(kind: str, words: str, advice: str) -> None:
    """A wrong URL is not mended by looking whether the target is up."""
    run = make_load(failing_share=1.0, exit_code=5)
    (record,) = run.steps
    counts = dict.fromkeys(record.counts, 0) | {kind: record.offered}
    run = replace(run, steps=(replace(record, counts=counts, errors={words: record.offered}),))
    assert (headline(run).advice or "").startswith(advice)


def test_a_timeout_has_its_length() -> None:
    """The run file holds the timeout that was in force."""
    run = make_load(failing_share=1.0, exit_code=5)
    (record,) = run.steps
    run = replace(run, scenario={"target": {"timeout_s": 0.4}}, steps=(replace(record, errors={"timeout": 9}),))
    assert headline(run).limits == "Timeout after 0.4 s (9 times)."


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
