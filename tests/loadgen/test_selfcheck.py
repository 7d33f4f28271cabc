"""What selfcheck measures in which order, prints and returns, over a fake bench."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from loadgen import console, selfcheck, session
from loadgen.cli import main
from loadgen.errors import OpfindError, TargetError
from loadgen.selfcheck import Selfcheck, Touch
from loadgen.trust import Ceiling, Row
from reports import html, markdown
from tests.factories import make_run
from tests.loadgen.selfchecks import CEILING, checked, row

TOUCH = Touch(
    url="https://models/predict", connect_s=0.0012, tls_s=0.0051, response_p50_s=0.005, requests=20,
    errors={"HTTP 405 Method\x1b Not Allowed": 20},
)  # fmt: skip
QUIET = checked(row(100), row(5000, added_p99_s=0.0008), row(50_000, cpu_share=0.95))


class FakeBench:
    """Stand in for an engine before a null server: every rate up to `most_rps` is held."""

    server = SimpleNamespace(core=None)
    fleet = SimpleNamespace(pacing="a clock")

    def __init__(self, most_rps: float) -> None:
        self.most_rps = most_rps
        self.asked: list[float] = []

    def ceiling(self, users: int, duration_s: float) -> Ceiling:
        """Give the ceiling."""
        self.asked.append(users)
        return CEILING

    def row(self, rate_rps: float, duration_s: float) -> Row:
        """Give a row."""
        self.asked.append(rate_rps)
        return row(rate_rps, cpu_share=0.9 * rate_rps / self.most_rps)


def _bench(monkeypatch: pytest.MonkeyPatch, most_rps: float = 1000.0) -> FakeBench:
    bench = FakeBench(most_rps)

    @contextmanager
    def fake(workers: int, users: int, is_over: selfcheck.IsOver) -> Iterator[FakeBench]:
        yield bench

    monkeypatch.setattr(selfcheck, "_bench", fake)
    return bench


def _measure(bench: FakeBench, stop_after: int = 99) -> Selfcheck:
    """Measure until `stop_after` loads have been asked for; that one is cut off."""
    return selfcheck.measure(
        None, workers=1, users=64, cores=2, say=lambda _: None, is_over=lambda: len(bench.asked) >= stop_after
    )


def _printed(found: Selfcheck) -> list[str]:
    stream = io.StringIO()
    console.print_selfcheck(found, stream)
    return stream.getvalue().splitlines()


def test_the_rates_are_measured_until_the_bound_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """First the ceiling, then rates as `next_rate` says, then the conclusion."""
    found = _measure(bench := _bench(monkeypatch))
    assert bench.asked == [64, 100, 1000, 5000, 2200, 1500, 1200]
    assert found.trust is not None
    assert (found.trust.rate_rps, found.exit_code) == (1000, 0)
    assert (found.pacing, found.null_server_core) == ("a clock", None)


def test_no_rate_to_trust_is_exit_4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that cannot hold the lowest rate is told so."""
    found = _measure(_bench(monkeypatch, most_rps=50))
    assert found.exit_code == 4
    assert "Trust no latency" in "\n".join(_printed(found))


@pytest.mark.parametrize(("stop_after", "rows"), [(1, 0), (2, 0), (4, 2)])
def test_an_interruption_keeps_what_is_whole(monkeypatch: pytest.MonkeyPatch, stop_after: int, rows: int) -> None:
    """What was cut off is dropped, what was measured is printed, and nothing is concluded."""
    found = _measure(_bench(monkeypatch, most_rps=1e5), stop_after)
    assert (len(found.rows), found.trust, found.exit_code) == (rows, None, 0)
    assert (found.ceiling is None) == (stop_after == 1)
    assert "Interrupted" in _printed(found)[-1]


def test_a_run_s_short_form_is_plain_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst and a step at 1,000 requests per second; names say the unit."""
    bench = _bench(monkeypatch)
    own = selfcheck.brief(1, lambda: False)
    assert bench.asked == [64, 1000]
    assert own["ceiling_rps"] == CEILING.rate_rps
    assert (own["rate_rps"], own["added_p99_s"], own["lateness_p99_s"]) == (1000, 0.0003, 0.0001)
    assert json.loads(json.dumps(own)) == own
    assert all(isinstance(value, float) for value in own.values())


def test_a_short_form_never_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure, and an interruption, become a note."""

    @contextmanager
    def broken(*_: Any) -> Iterator[None]:
        raise OpfindError("the null server did not start")
        yield

    monkeypatch.setattr(selfcheck, "_bench", broken)
    assert selfcheck.brief(1, lambda: False) == {"note": "the selfcheck failed: the null server did not start"}
    assert selfcheck.brief(1, lambda: True) == {"note": "interrupted"}


def test_the_answer_fits_a_terminal_of_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """No number is cut, the conclusion is one sentence, and what limits it comes with what to do."""
    monkeypatch.setenv("COLUMNS", "80")
    bad = row(
        1_000_000, achieved_share=1.0, added_p50_s=0.2, added_p99_s=1.2, lateness_p99_s=0.08765, lateness_max_s=1.25,
        cpu_us_per_request=188.1,
    )  # fmt: skip
    lines = _printed(checked(row(100, cpu_us_per_request=188.1), row(50_000, added_p99_s=0.00987), bad, bad))
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "…" not in text
    assert "at least 83,000 req/s" in text
    assert text.count("no: slow") == 1
    flat = " ".join(text.split())
    assert "slow: the added p99 is above 10 ms" in flat
    assert "A rate that failed is tried once more; the better try is shown." in flat
    assert "timerfd" not in text
    assert "Trust rates up to 50,000 req/s and SLA limits down to 200 ms; up to 100 req/s, limits down to 6 ms." in flat
    assert "Limited by: " in flat
    assert "Next: " in flat


def test_the_table_has_a_row_a_rate() -> None:
    """By rate, whatever the order in which they were measured; of two tries the one that held."""
    bad = row(5000, added_p99_s=0.1)
    text = "\n".join(_printed(checked(row(100), bad, row(5000), row(20_000, cpu_share=0.95), row(10_000))))
    assert re.findall(r"^ *([\d,]+) +100\.0 ", text, re.MULTILINE) == ["100", "5,000", "10,000", "20,000"]
    assert "no: slow" not in text
    assert "no: CPU" in text


def test_a_target_s_own_words_do_nothing() -> None:
    """Times of the target, the generator's part of them, and its errors without control characters."""
    text = " ".join("\n".join(_printed(checked(row(100), target=TOUCH))).split())
    assert "connect 1.2 ms, TLS 5.1 ms, response p50 5 ms (20 requests at 20 req/s)" in text
    assert "add 100 µs (2 %)" in text
    assert "20 x HTTP 405 Method" in text
    assert "\x1b" not in text


def test_one_core_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where engine and null server share a core, the reader learns that the figures are pessimistic."""
    monkeypatch.setenv("COLUMNS", "100")
    assert "the truth is better" in _printed(checked(row(100), cores=1, null_server_core=None))[0]
    assert "on any core" in _printed(checked(row(100), cores=4, null_server_core=None))[0]


@pytest.mark.parametrize("found", [None, QUIET, checked(row(100), target=TOUCH), checked(ceiling=None, trust=None)])
def test_json_has_the_same_keys_for_every_end(found: Selfcheck | None) -> None:
    """Flat but for the rows; null where there is nothing."""
    plain = selfcheck.as_json(found, exit_code=0, error=None, version="1")
    assert list(plain) == list(selfcheck.as_json(QUIET, exit_code=0, error=None, version="1"))
    assert [name for name, value in plain.items() if isinstance(value, list | dict)] == (
        ["target_errors", "rows"] if found and found.target else ["rows"]
    )
    json.dumps(plain, allow_nan=False)


def test_json_says_what_the_words_say() -> None:
    """Trusted rate and limit, ceiling, and each row with its limit or its flaw."""
    plain = selfcheck.as_json(QUIET, exit_code=0, error=None, version="1")
    assert (plain["trusted_rate_rps"], plain["trusted_limit_s"]) == (5000, pytest.approx(0.016))
    assert plain["ceiling_rate_rps"] == 83_000
    assert [(r["rate_rps"], r["flaw"]) for r in plain["rows"]] == [(100, None), (5000, None), (50_000, "CPU")]


def _play(monkeypatch: pytest.MonkeyPatch, end: Selfcheck | Exception) -> list[dict[str, Any]]:
    """Let `measure` return or raise what the test wants; note what it is given."""
    given: list[dict[str, Any]] = []

    def fake(target: Any, **settings: Any) -> Selfcheck:
        given.append({"target": target, **settings})
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(selfcheck, "measure", fake)
    return given


def test_the_command_prints_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without flags: the machine itself, with as many workers as a run takes."""
    given = _play(monkeypatch, QUIET)
    assert main(["selfcheck"]) == 0
    assert (given[0]["target"], given[0]["users"], given[0]["workers"]) == (None, 64, session.workers_of(None))
    out, err = capsys.readouterr()
    assert "Trust rates up to 5,000 req/s" in out
    assert err == ""


def test_the_command_s_flags_arrive(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """URL, workers and connections; with --json one object on standard output and the words on standard error."""
    given = _play(monkeypatch, QUIET)
    assert main(["selfcheck", "https://host/x", "--insecure", "--workers", "3", "--connections", "8", "--json"]) == 0
    target = given[0]["target"]
    assert (target.url, target.insecure, given[0]["workers"], given[0]["users"]) == ("https://host/x", True, 3, 8)
    out, err = capsys.readouterr()
    assert json.loads(out)["trusted_rate_rps"] == 5000
    assert "Trust rates" in err


def test_a_target_that_is_not_there_is_exit_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json the object says so too."""
    _play(monkeypatch, TargetError("cannot connect to http://a/: Connection refused"))
    assert main(["selfcheck", "http://a/", "--json"]) == 5
    out, err = capsys.readouterr()
    assert (json.loads(out)["exit_code"], json.loads(out)["rows"]) == (5, [])
    assert "Connection refused" in json.loads(out)["error"]
    assert "Connection refused" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["ftp://a/"], "http"), (["--insecure"], "--insecure"), (["--workers", "0"], "--workers"), (["a", "b"], "b")],
)
def test_a_mistake_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """One sentence that names the thing, and nothing is measured."""
    given = _play(monkeypatch, QUIET)
    assert main(["selfcheck", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert given == []


def test_the_reports_say_it_in_one_line() -> None:
    """report.html and summary.md tell what the machine was good for; the list of the environment does not repeat it."""
    own = {
        "ceiling_rps": 58_000.0,
        "rate_rps": 1000.0,
        "added_p50_s": 1e-4,
        "added_p99_s": 3e-4,
        "lateness_p99_s": 5e-5,
    }
    run = make_run(environment={"selfcheck": own})
    line = (
        "This machine: generator ceiling at least 58,000 req/s; at 1,000 req/s it adds 100 µs (p99 300 µs) "
        "and sends late by 50 µs (p99)."
    )
    assert html(run).count(line) == 1
    assert "ceiling rps" not in html(run)
    assert markdown(run).count(line) == 1


@pytest.mark.parametrize(
    ("own", "line"),
    [({"note": "<b>broken"}, "This machine was not measured: &lt;b&gt;broken."), ({}, "ceiling at least"), ("x", "")],
)
def test_the_reports_bear_what_they_do_not_know(own: Any, line: str) -> None:
    """A note, an empty record and one of another shape."""
    assert line in html(make_run(environment={"selfcheck": own}))
