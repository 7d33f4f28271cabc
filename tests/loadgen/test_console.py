"""The live view and the answer, painted into text and read as a user reads them."""

import io
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis import SLA, Estimate, OperatingPoint, Reason, Run, Step, StepRecord, StepResult
from loadgen import console, progress_words
from loadgen.plot import Mark, plot
from loadgen.progress import Progress
from tests.factories import P99, TWIN, make_answer, make_load, make_records, make_run, of_users

RECORDS = make_records()


def _progress(index: int = 12, **changes: Any) -> Progress:
    record = RECORDS[index]
    fields: dict[str, Any] = {
        "elapsed_s": 47.0,
        "budget_s": 180.0,
        "index": index,
        "step": record.step,
        "step_elapsed_s": 5.2,
        "ended": False,
        "sla": P99,
        "judgement": record.judgement,
        "quantile": record.p99,
        "offered_rps": 546.1,
        "achieved_rps": 545.2,
        "in_flight": 83,
        "records": RECORDS[:index],
    }
    return Progress(**(fields | changes))


def _painted(progress: Progress, width: int = 80, height: int = 24) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False).print(console.view(progress, "opfind: p99<200ms", width, height))
    return stream.getvalue().splitlines()


def _answered(tmp_path: Path, **changes: Any) -> str:
    stream = io.StringIO()
    console.print_answer(make_run(steps=RECORDS, **changes), tmp_path, stream)
    return stream.getvalue()


def _flat(text: str) -> str:
    return " ".join(text.split())


class _Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 50), (50, 16), (30, 10), (12, 4), (80, 8)])
def test_the_view_fits_its_terminal(width: int, height: int) -> None:
    """No line is wider than the terminal, and the last row stays free, so that nothing scrolls."""
    lines = _painted(_progress(), width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_the_view_says_what_a_user_waits_for() -> None:
    """Step, verdict, quantile with its interval against the SLA, load, bracket and time are on the screen."""
    shown = "\n".join(_painted(_progress()))
    assert "13 confirm, 546 req/s   5.2 s of 9 s" in shown
    assert "PASS" in shown
    assert re.search(r"p99 +\d+ ms \[\d+, (\d+\]|∞\)) +SLA 200 ms", shown)
    assert "offered 546 req/s, achieved 545 req/s   in flight 83" in shown
    assert "holds at 512 req/s, fails at 565 req/s" in shown
    assert "47 s used, 2 min 13 s left" in shown


def test_the_view_stands_before_anything_is_known() -> None:
    """The first update of a run, without verdict, quantile or records, is shown as such."""
    shown = "\n".join(_painted(_progress(records=(), judgement=None, quantile=None)))
    assert "none yet" in shown
    assert "not known" in shown
    assert "no step has decided yet" in shown


def test_the_view_of_a_closed_loop_counts_users() -> None:
    """In a closed loop the level is users, in the step's line and on the axis."""
    shown = "\n".join(_painted(_progress(step=Step(users=64, duration_s=5), records=())))
    assert "64 users" in shown
    assert re.search(r"0 +67\.2 users", shown)


@pytest.mark.parametrize(
    ("sla", "legend"), [("p50<90ms", "p50:"), ("p95<150ms", "p95:"), ("p99<200ms", "p99:"), ("p90<150ms", "p99:")]
)
def test_the_plot_shows_the_quantile_that_it_names(sla: str, legend: str) -> None:
    """Past points are the SLA's own quantile where records hold it; else the legend says which each is."""
    progress = _progress(sla=SLA.parse(sla), quantile=Estimate(value=0.123, low=0.1, high=0.2))
    marks = console._marks(progress)
    past = [getattr(record, legend.rstrip(":")) for record in progress.records]
    assert [mark.latency_s for mark in marks] == [*(one.value for one in past if one), 0.123]
    line = _painted(progress)[-1].rstrip()
    assert line.startswith(legend)
    assert line.endswith("◆ now (p90)" if sla.startswith("p90") else "◆ now")


def test_a_drain_is_named() -> None:
    """When a step is over its time, the view says that it waits for replies."""
    assert any("draining after 9 s" in line for line in _painted(_progress(step_elapsed_s=12.0)))


def test_time_beyond_the_budget_is_not_negative() -> None:
    """A run that drains past its budget shows a full bar and nothing left."""
    line = next(line for line in _painted(_progress(elapsed_s=300.0)) if line.startswith("time"))
    assert "0 s left" in line
    assert "─" not in line


def test_plot_puts_marks_where_they_belong() -> None:
    """The limit is a line; a mark above it is slower, below it faster, further right more load."""
    rows = plot(
        [Mark(x=10, latency_s=0.02, sign="a", style=""), Mark(x=100, latency_s=1.0, sign="b", style="")],
        0.2,
        60,
        12,
        "req/s",
    )
    lines = ["".join(text for text, _ in row) for row in rows]
    assert len(lines) == 12
    assert {len(line) for line in lines} == {60}
    limit = next(i for i, line in enumerate(lines) if "╌" in line)
    above = next(i for i, line in enumerate(lines) if "b" in line)
    below = next(i for i, line in enumerate(lines) if "a" in line)
    assert above < limit < below
    assert lines[above].index("b") > lines[below].index("a")
    assert "200 ms" in lines[limit]


def test_plot_keeps_a_collapse_at_the_edge() -> None:
    """A latency of an hour is drawn in the top row and does not press the rest flat."""
    marks = [Mark(x=1, latency_s=3600, sign="z", style=""), Mark(x=1, latency_s=1e-9, sign="y", style="")]
    lines = ["".join(text for text, _ in row) for row in plot(marks, 0.2, 60, 12, "req/s")]
    assert any("z" in line for line in lines[:2])
    assert "7.2 s" in lines[0]


def test_a_pipe_gets_one_line_a_step() -> None:
    """Where nobody watches, each finished step is one line, without escape codes, and updates are silent."""
    stream = io.StringIO()
    with console.live("title", stream) as show:
        for index in range(len(RECORDS)):
            show(_progress(index))
            show(_progress(index, ended=True, records=RECORDS[: index + 1]))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "title"
    assert "\x1b" not in stream.getvalue()
    assert len([line for line in lines if line.startswith("step ")]) == len(RECORDS)
    assert "step 10 measure 565 req/s p99 310 ms" in _flat(lines[11])
    assert "FAIL" in lines[11]
    assert "not sound: The client was late" in stream.getvalue()


def test_a_terminal_gets_a_view_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the view is drawn in place and erased, so that only the answer stays."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = _Terminal()
    with console.live("title", stream) as show:
        show(_progress())
    assert "13 confirm" in stream.getvalue()
    assert "\x1b[2K" in stream.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR no escape code sets a colour; marks differ by shape anyway."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = _Terminal()
    with console.live("title", stream) as show:
        show(_progress())
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", stream.getvalue())


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM=dumb cannot move its cursor, so it gets what a pipe gets."""
    monkeypatch.setenv("TERM", "dumb")
    stream = _Terminal()
    with console.live("title", stream) as show:
        show(_progress(ended=True, records=RECORDS))
    assert "\x1b" not in stream.getvalue()


def test_a_slow_terminal_never_holds_up_the_search() -> None:
    """While writing blocks, updates beyond the queue are dropped at once and counted."""
    gate, lines = threading.Event(), []

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait()
            lines.append(text)
            return len(text)

    with console.live("title", Slow()) as show:
        started = time.monotonic()
        for _ in range(10_000):
            show(_progress())
        took_s = time.monotonic() - started
        gate.set()
    assert took_s < 2
    assert re.search(r"9\d\d\d updates of the view were dropped", "".join(lines))


def test_a_stopped_terminal_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that takes nothing at all, as after Ctrl-S, is waited for only briefly at the end."""
    monkeypatch.setattr(console, "_PATIENCE_S", 0.05)
    gate = threading.Event()

    class Stopped(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait()
            return len(text)

    started = time.monotonic()
    with console.live("title", Stopped()) as show:
        for _ in range(100):
            show(_progress())
    assert time.monotonic() - started < 2
    gate.set()


def test_a_closed_terminal_ends_the_view_and_not_the_run() -> None:
    """A view that cannot write gives up; the search goes on."""

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with console.live("title", Closed()) as show:
        for _ in range(100):
            show(_progress())


def test_the_answer_fits_a_screen_and_has_everything(tmp_path: Path) -> None:
    """A found point shows rate, interval, safe rate, quantiles, capacity, knee, use, limit, reason and files."""
    for name in ("run.json", "report.html"):
        (tmp_path / name).touch()
    shown = _answered(tmp_path)
    assert len(shown.splitlines()) <= 22
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.startswith("Found: p99<200ms holds up to 553 req/s (95 % interval 545 to 561); configure at")
    for words in (
        "Operating point 553 req/s [545, 561]",
        "Safe rate to configure 546 req/s",
        "p50 there 84 ms [79, 90]",
        "p95 there 152 ms [141, 167]",
        "p99 there 198 ms [183, 221]",
        "Capacity 571 req/s [568, 574]",
        "Knee 517 req/s [504, 529]",
        "Utilisation 96.9 %",
        "Limited by p99<200ms. Search stopped: the interval is narrower than",
        "(report.html, run.json)",
    ):
        assert words in _flat(shown)


def test_the_answer_explains_itself(tmp_path: Path) -> None:
    """Method, server, confirmation, rule of thumb and, where asked, replicas; notes come before the numbers."""
    run = make_run(steps=RECORDS, answer=make_answer(**TWIN, notes=("the server became 6 % slower",)))
    stream = io.StringIO()
    console.print_answer(replace(run, scenario={**run.scenario, "plan_rps": 5000.0}), tmp_path, stream)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 36
    openings = [line.partition(":")[0] for line in lines if re.match(r"[A-Z][a-z ]+: ", line)]
    assert openings == [
        "Found", "Note", "Method", "Server", "Confirmation", "Rule of thumb", "Fleet", "Generator", "Files",
    ]  # fmt: skip
    assert lines.index("Note: The server became 6 % slower.") < 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expected_s": 72.0}, ", about 25 s to go"),
        ({"expected_s": 30.0}, ", about 0 s to go"),
        ({"expected_s": 181.0}, ", the budget may end first"),
    ],
)
def test_the_view_says_how_long_it_will_take(changes: dict[str, Any], words: str) -> None:
    """The time that is left comes from the search's own forecast; without one, nothing is said."""
    time_row = next(line for line in _painted(_progress(**changes)) if line.startswith("time"))
    assert time_row.rstrip().endswith(f"2 min 13 s left{words}")
    assert words not in "".join(_painted(_progress()))


def test_what_each_precision_costs_is_told_once_it_is_known() -> None:
    """In the live view, and once in a log; of precisions that cost the same the narrowest, and none that is past."""
    known = _progress(ended=True, records=RECORDS, costs=((0.05, 72.0), (0.02, 72.4), (0.01, 240.0)), elapsed_s=40.0)
    plan = "±2 % takes about 72 s, ±1 % takes about 4 min of load in all"
    assert any(line.startswith("plan") and line.rstrip().endswith(plan) for line in _painted(known, 100))
    stream = io.StringIO()
    with console.live("t", stream) as show:
        for progress in (_progress(ended=True, records=RECORDS), known, known):
            show(progress)
    assert stream.getvalue().count(f"on this server {plan}") == 1
    assert progress_words.costs(_progress(costs=((0.05, 30.0),), elapsed_s=40.0)) == ""


def test_the_view_and_the_lines_show_the_interval_so_far() -> None:
    """The operating rate with its interval and half-width, as soon as there is one; open above, it has none."""
    rate = Estimate(value=540.0, low=520.0, high=560.0)
    assert any("540 req/s [520, 560], ±3.7 %" in line for line in _painted(_progress(interval=rate), 100))
    ended = console.step_line(_progress(ended=True, records=RECORDS, interval=rate, expected_s=72.0)).plain
    assert "; so far 540 req/s [520, 560], ±3.7 %, about 25 s to go" in ended
    least = Estimate(value=540.0, low=520.0, high=None)
    assert console.step_line(_progress(ended=True, records=RECORDS, interval=least)).plain.endswith("[520, ∞)")


def test_lines_end_where_their_words_do(tmp_path: Path) -> None:
    """In a file or a log no line of the answer has spaces at its end, whether it wrapped or is empty."""
    shown = _answered(tmp_path)
    assert len(shown.splitlines()) > 10
    assert [line for line in shown.split("\n") if line != line.rstrip()] == []
    assert shown.endswith("\n")


def _without_rate(**changes: Any) -> OperatingPoint:
    return make_answer(rate_rps=None, safe_rps=None, **changes)


_AT_LEAST = Estimate(value=100, low=100, high=None)
_USERS = {
    "users": Estimate(value=40, low=38, high=43),
    "throughput_rps": Estimate(value=500, low=490, high=510),
}


@pytest.mark.parametrize(
    ("exit_code", "answer", "words"),
    [
        (3, make_answer(verdict="undecided"), ["Undecided: ", "Next: ", "--budget"]),
        (4, make_answer(verdict="client_limited", limited_by="--max-rps", rate_rps=_AT_LEAST), ["≥ 100", "--max-rps"]),
        (4, _without_rate(verdict="client_limited", limited_by="client CPU"), ["client CPU", "Next: ", "--workers"]),
        (1, _without_rate(verdict="unmet", limited_by="error budget"), ["Unmet", "x HTTP 503", "Next: "]),
        (5, _without_rate(verdict="target_failed"), ["The target failed", "Next: "]),
        (130, make_answer(), ["Interrupted: ", "Next: "]),
        (143, make_answer(), ["Terminated: ", "Next: "]),
        (0, _without_rate(**_USERS), ["40 users in flight", "Users in flight 40 [38, 43]", "500 req/s [490, 510]"]),
    ],
)  # fmt: skip
def test_every_other_end_says_so_and_what_to_do(
    tmp_path: Path, exit_code: int, answer: OperatingPoint, words: list[str]
) -> None:
    """Each verdict has its own truthful words, fits a screen, and names the next step."""
    shown = _answered(tmp_path, exit_code=exit_code, answer=answer)
    assert len(shown.splitlines()) <= 22
    for word in words:
        assert word in _flat(shown)


def test_hostile_words_of_a_target_do_nothing(tmp_path: Path) -> None:
    """Control characters are gone, and what looks like markup is printed as it is."""
    hostile = "HTTP 500: \x1b[2J\r\n[bold red]owned[/] \x07:smile:"
    step = Step(rate_rps=10.0, duration_s=1.0)
    result = StepResult.from_arrays(step, [0, 10**8], [10**6, 2 * 10**8], [1, 1])
    record = StepRecord.of(result, (P99,), index=0, origin_ns=0, errors={hostile: 2})
    stream = io.StringIO()
    answer = make_answer(verdict="target_failed", rate_rps=None, safe_rps=None, stop_reason=hostile)
    console.print_answer(make_run(steps=(record,), answer=answer, exit_code=5), tmp_path, stream)
    shown = stream.getvalue()
    assert "[bold red]owned[/]" in _flat(shown)
    assert ":smile:" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown)
    with console.live(f"title {hostile}", stream) as show:
        show(_progress(ended=True, records=(replace(record, reasons=(RECORDS[6].reasons)),)))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", stream.getvalue())


def _loaded(run: Run, folder: Path, width: int = 100) -> str:
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        console.print_answer(run, folder, stream)
    return stream.getvalue()


def test_a_load_is_shown_as_wrk_users_expect_it_and_more(tmp_path: Path) -> None:
    """Throughput, books, both latency columns, lateness, CPU and connections are on the screen, and no search."""
    shown = _loaded(make_load(), tmp_path)
    assert shown.startswith("Load: 400 req/s offered for 3 s: p50 ")
    assert re.search(r"Throughput +\d+ req/s +of \d+ req/s offered", shown)
    assert re.search(r"Requests +([\d,]+) offered = \1 ok \+ 0 errors \+ 0 timeouts \+ 0 lost \+ 0 unsent", shown)
    assert re.search(r"Latency +from due +from sent", shown)
    for quantile in ("50", "75", "90", "95", "99", "99.9", "100"):
        assert re.search(rf"^ *{quantile} % +[\d.]+ ms +[\d.]+ ms +━+", shown, re.MULTILINE), quantile
    assert re.search(r"Lateness +p50 40 µs, p99 90 µs, max 1\.2 ms", shown)
    assert re.search(r"Client CPU +12\.3 µs a request +1 worker, the busiest at 23 % of a core", shown)
    assert re.search(r"Connections +64 at once +59 opened during the load", shown)
    assert "SLA" not in shown
    assert "Operating point" not in shown


def test_a_load_says_why_due_and_sent_differ(tmp_path: Path) -> None:
    """The words fit the loop: a schedule in an open one, a user in a closed one."""
    assert "due by the schedule" in _flat(_loaded(make_load(), tmp_path))
    assert "since the user was free to ask" in _flat(_loaded(of_users(make_load(), 64), tmp_path))


def test_the_client_s_limit_is_loud(tmp_path: Path) -> None:
    """A client-limited load opens with it, and names the resource and the flag; its numbers are still there."""
    busy = Reason("client", "a worker used 97 % of its core: raise --workers")
    shown = _flat(_loaded(make_load(reasons=(busy,), exit_code=4), tmp_path))
    assert shown.startswith("Client-limited: ")
    assert "was the limit. A worker used 97 % of its core: raise --workers." in shown
    assert "Latency from due" in shown


def test_a_loads_failures_are_told_in_their_words(tmp_path: Path) -> None:
    """What the target said, and how often; a quantile among failures has no number, and a line says why."""
    shown = _loaded(make_load(failing_share=0.05), tmp_path)
    assert 'Where a row says "failed", more requests failed than its share leaves out.' in _flat(shown)
    assert re.search(r"Errors: \d+ x HTTP 503: queue is full", shown)
    assert re.search(r"99 % +failed +failed$", shown, re.MULTILINE)


def test_one_fact_is_told_once(tmp_path: Path) -> None:
    """Where every request failed in one way, that way is named once; no blank line is doubled."""
    shown = _loaded(make_load(failing_share=1.0, exit_code=5), tmp_path)
    assert _flat(shown).count("HTTP 503: queue is full") == 1
    assert "\n\n\n" not in shown + _loaded(make_load(), tmp_path)


def test_a_load_that_never_began_is_told_without_numbers(tmp_path: Path) -> None:
    """Interrupted before its first request, a load has a headline and nothing else."""
    shown = _loaded(replace(make_load(exit_code=130), steps=()), tmp_path)
    assert shown.startswith("Interrupted: The load ended before the first request.")
    assert "Latency" not in shown


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_load_fits_its_terminal(tmp_path: Path, width: int) -> None:
    """No line is wider than the terminal, and no number is cut off in eighty columns."""
    shown = _loaded(make_load(failing_share=0.05), tmp_path / "out", width)
    assert max(map(len, shown.splitlines())) <= width
    assert width < 80 or "…" not in shown


@pytest.mark.parametrize("sla", [None, P99])
def test_the_view_of_a_load_shows_no_search(sla: SLA | None) -> None:
    """A load has a clock, a rate and a quantile; a verdict only with an SLA, and neither a bracket nor a plot."""
    step = Step(rate_rps=400, duration_s=10, purpose="load")
    judgement = RECORDS[12].judgement if sla else None
    shown = "\n".join(_painted(_progress(step=step, sla=sla, judgement=judgement, records=()), 100, 40))
    assert re.search(r"p99 +\d+ ms", shown)
    assert ("SLA" in shown) is ("verdict" in shown) is (sla is not None)
    assert "so far" not in shown
    assert "┤" not in shown


def test_the_lines_of_a_load_leave_the_step_to_the_answer() -> None:
    """Without a terminal only the title is printed: a step's line would repeat the answer."""
    stream = io.StringIO()
    record = make_load().steps[0]
    with console.live("opfind: a load", stream) as show:
        show(_progress(step=record.step, sla=None, judgement=None, records=(record,), ended=True))
    assert stream.getvalue().splitlines() == ["opfind: a load"]
