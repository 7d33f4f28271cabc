"""The page of a search under way: what it shows when, and that nothing in it is taken for markup."""

import re
from dataclasses import replace
from typing import Any

import pytest

from reports import live
from reports.words import Fact, Headline

FIRST = {"title": "opfind: p99<200ms", "slas": ["p99<200ms"], "limit_s": 0.2, "quantile": "p99", "closed": False}
STEP: dict[str, Any] = {
    "index": 0, "purpose": "ramp", "level": "100 req/s", "x": 99.0, "achieved_rps": 99.0, "ok": 60, "offered": 60,
    "p50": 0.02, "p95": 0.03, "p99": 0.04, "verdict": "pass", "aborted": False, "reasons": [], "errors": {},
}  # fmt: skip
LIVE: dict[str, Any] = {
    "ended": False, "elapsed_s": 12.0, "budget_s": 60.0, "index": 1, "purpose": "measure", "level": "500 req/s",
    "x": 480.0, "verdict": None, "quantile": {"value": 0.15}, "offered_rps": 500.0, "achieved_rps": 480.0,
    "in_flight": 12, "bracket": "holds at 100 req/s", "so_far": "", "interval": None, "to_go": "about 30 s to go",
}  # fmt: skip
HEAD = Headline(tone="good", label="Found", title="It holds up to 552 req/s.", limits="Limited by p99.", advice=None)
EMPTY = live.View(
    first={}, live=None, steps=(), interval=(None, None), headline=None, facts=(), proof=None, error=None, notice=None,
    is_running=False, report=None, past=(),
)  # fmt: skip
RUNNING = replace(EMPTY, first=FIRST, live=LIVE, steps=(STEP,), is_running=True)


def _words(view: live.View) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", live.fragment(view)).split())


def test_before_a_search() -> None:
    """The page says what to do."""
    assert "Press Start" in _words(EMPTY)


def test_while_it_searches() -> None:
    """Bracket, time to go, step and curve are there; a mark for each quantile of the step, and one for now."""
    words, html = _words(RUNNING), live.fragment(RUNNING)
    assert "Holds at 100 req/s" in words
    assert "12 s of at most 60 s, about 30 s to go" in words
    assert "Step 2, measure at 500 req/s: no verdict yet" in words
    assert re.findall(r'<circle class="(\w+) sound"', html) == ["p50", "p95", "p99", "now"]


def test_the_curve_grows_to_the_right_and_up() -> None:
    """More load lies further right, more latency further up, and the limit's line between what holds and what fails."""
    slow = STEP | {"index": 1, "x": 500.0, "p99": 0.4, "verdict": "fail"}
    html = live.fragment(replace(RUNNING, live=None, steps=(STEP, slow)))
    at = [(float(x), float(y)) for x, y in re.findall(r'class="p99 sound" cx="([\d.]+)" cy="([\d.]+)"', html)]
    limit = float(re.findall(r'class="limit"[^>]* y1="([\d.]+)"', html)[0])
    assert at[0][0] < at[1][0]
    assert at[1][1] < limit < at[0][1]


def test_the_operating_point_is_shaded() -> None:
    """From its lower end to its upper one, or to the right edge where that is open; named, and only where known."""
    slow = STEP | {"index": 1, "x": 500.0}
    ended = replace(RUNNING, live=None, steps=(STEP, slow), is_running=False, headline=HEAD)
    places = []
    for interval in ((200.0, 300.0), (200.0, None)):
        html = live.fragment(replace(ended, interval=interval))
        (place,) = re.findall(r'<rect class="interval" x="([\d.]+)" y="12" width="([\d.]+)"', html)
        places.append((float(place[0]), float(place[0]) + float(place[1])))
        assert '<i class="interval"></i>operating point' in html
    (x,) = re.findall(r'class="p50 sound" cx="([\d.]+)" cy="[\d.]+" r="4.5"><title>p50 20 ms at 500', html)
    closed, is_open = places
    assert closed[0] == is_open[0] < closed[1] < float(x) < is_open[1]
    assert "interval" not in live.fragment(ended)


def test_latencies_far_off_are_drawn_at_the_edge() -> None:
    """A collapse to an hour, and a step in which everything failed, leave the curve readable."""
    html = live.fragment(
        replace(RUNNING, steps=(STEP | {"p99": 3600.0}, STEP | {"p50": None, "p95": None, "p99": None}))
    )
    assert all(0 <= float(y) <= 300 for y in re.findall(r'cy="([\d.]+)"', html))


@pytest.mark.parametrize("x", [0.0, 0.004, 1.0, 9.99, 10.0, 1e6])
def test_any_load_has_an_axis(x: float) -> None:
    """From nothing achieved to a million a second there are a few round numbers below the curve."""
    html = live.fragment(replace(RUNNING, live=None, steps=(STEP | {"x": x},)))
    assert 2 <= len(re.findall(r'text-anchor="middle"', html)) <= 12


def test_when_it_has_ended() -> None:
    """The verdict, its numbers, the report and the earlier searches are there, and nothing still runs."""
    past = live.Past(number=1, label="Undecided", title="Not yet.")
    fact = Fact(name="Operating point", value="552 req/s", note="[545, 558]")
    view = replace(
        RUNNING,
        live=None,
        is_running=False,
        headline=HEAD,
        facts=(fact,),
        report=2,
        past=(past,),
        proof="It was never late.",
    )
    words, html = _words(view), live.fragment(view)
    assert "Found It holds up to 552 req/s. Limited by p99." in words
    assert 'href="report/2/download"' in html
    assert "Undecided : Not yet." in words
    assert "It was never late." in words
    assert "Searching" not in words


def test_a_failure_and_a_notice_are_sentences() -> None:
    """They stand at the top, as sentences."""
    view = replace(EMPTY, error="the target is gone", notice="a search is under way")
    assert "A search is under way. Failed The target is gone." in _words(view)


def test_nothing_is_taken_for_markup() -> None:
    """Whatever a target or a user says is text, on the page and in the banner."""
    evil = "<script>alert(1)</script>\x00"
    step = STEP | {"reasons": [evil], "errors": {evil: 3}, "level": evil}
    view = replace(RUNNING, first=FIRST | {"title": evil}, steps=(step,), error=evil, notice=evil)
    for html in (live.fragment(view), live.banner(None, evil), live.banner(replace(HEAD, title=evil), None)):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
        assert "\x00" not in html


def test_no_banner_before_a_verdict() -> None:
    """Somebody else's page stays as it is until there is something to say."""
    assert live.banner(None, None) == ""
    assert "Operating point: Found" in live.banner(HEAD, None)


def test_the_page_asks_for_what_it_shows() -> None:
    """It names where it gets its contents from, and loads nothing from elsewhere."""
    html = live.page("live")
    assert 'fetch("live")' in html
    assert "http" not in html.replace("http-equiv", "")
