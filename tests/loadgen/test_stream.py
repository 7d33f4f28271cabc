"""The lines of a run: what they say, that they count every request once, and what happens when nobody reads them."""

import io
import json
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import scenarios
from analysis import SLA, Estimate, Step, StepRecord, StepResult
from analysis.step import Outcome
from loadgen import stream
from loadgen.progress import Progress
from tests.factories import P99

STEP = Step(rate_rps=100.0, duration_s=2.0)
SCENARIO = scenarios.load("default", {"slas": (SLA.parse("p99<200ms"),)})


def _result(done_ms: list[float], *, failed: int = 0) -> StepResult:
    """Return a step's result: requests due every 10 ms, done after `done_ms` each, the first `failed` of them reset."""
    due = np.arange(len(done_ms), dtype=np.int64) * 10_000_000
    outcome = np.zeros(len(done_ms), dtype=np.uint8)
    outcome[:failed] = Outcome.RESET
    done = due + np.asarray(np.multiply(done_ms, 1e6), dtype=np.int64)
    return StepResult.from_arrays(STEP, due, done, outcome)


def _progress(result: StepResult, *, ended: bool = False, index: int = 0) -> Progress:
    record = StepRecord.of(result, (P99,), index=index, origin_ns=0, errors={"connection reset": 2})
    return Progress(
        elapsed_s=1.5, budget_s=60.0, index=index, step=STEP, step_elapsed_s=1.0, ended=ended, sla=P99, judgement=None,
        quantile=Estimate(value=0.1, low=0.05, high=None), offered_rps=100.0, achieved_rps=99.0, in_flight=3,
        records=(record,) if ended else (), expected_s=20.0, interval=Estimate(value=500.0, low=490.0, high=510.0),
        result=result,
    )  # fmt: skip


def _counted(lines: list[stream.Line]) -> int:
    return sum(sum(line["traffic"]["count"]) + line["traffic"]["failed"] for line in lines)


def test_every_request_is_told_once() -> None:
    """Whatever the lines under way left out, the last one of a step has; failures are counted apart."""
    whole = [float(20 + n % 7) for n in range(50)]
    tell = stream.Teller()
    lines = [tell(_progress(_result(whole[:20]))), tell(_progress(_result(whole[:30])))]
    lines.append(tell(_progress(_result(whole, failed=2), ended=True)))
    assert _counted(lines) == 50
    assert lines[-1]["traffic"]["failed"] == 2
    again = [tell(_progress(_result(whole), index=1, ended=True))]
    assert _counted(again) == 50


def test_times_are_not_rounded_to_two_digits() -> None:
    """They keep the histogram's three digits: 147.3 ms does not become 150."""
    line = stream.Teller()(_progress(_result([147.3]), ended=True))
    assert line["traffic"]["ms"] == [pytest.approx(147.3, rel=1e-3)]


def test_a_line_says_what_a_page_shows() -> None:
    """Words and numbers of the step, the rate so far and the time to go; of an ended step its row; all of it JSON."""
    line = json.loads(json.dumps(stream.Teller()(_progress(_result([20.0] * 5), ended=True)), allow_nan=False))
    assert (line["event"], line["level"], line["to_go"]) == ("progress", "100 req/s", "about 18 s to go")
    assert line["so_far"] == "500 req/s [490, 510], ±2 %"
    assert line["interval"]["low"] == 490
    step = line["step"]
    assert (step["level"], step["ok"], step["errors"]) == ("100 req/s", 5, {"connection reset": 2})
    assert step["p50"] == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ({}, ("POST", "/predict")),
        ({"url": "http://127.0.0.1:1/a?b=c"}, ("GET", "/a")),
        ({"url": "http://127.0.0.1:1/", "body": b"x"}, ("POST", "/")),
        ({"url": "http://127.0.0.1:1", "method": "PUT"}, ("PUT", "/")),
    ],
)
def test_the_first_line_names_the_requests(target: dict[str, Any], named: tuple[str, str]) -> None:
    """Method and path are what is sent, without a query."""
    scenario = scenarios.load("default", {"slas": SCENARIO.slas, "target": target})
    line = stream.begin("a title", scenario)
    assert (line["method"], line["path"]) == named
    assert (line["limit_s"], line["quantile"], line["closed"]) == (0.2, "p99", False)


def test_lines_come_in_order_and_end_with_the_search() -> None:
    """One line an update, each whole; all of them are there when the search is over."""
    out = io.StringIO()
    with stream.lines(stream.begin("a title", SCENARIO), out) as show:
        for index in range(5):
            show(_progress(_result([20.0]), ended=True, index=index))
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["event"] for event in events] == ["begin", *["progress"] * 5]
    assert [event["index"] for event in events[1:]] == [0, 1, 2, 3, 4]


def test_a_reader_that_has_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as SIGTERM would tell it, once, and showing goes on without an error."""
    sent: list[int] = []
    monkeypatch.setattr("loadgen.stream.os.kill", lambda pid, number: sent.append(number))

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with stream.lines(stream.begin("a title", SCENARIO), Gone()) as show:
        show(replace(_progress(_result([20.0]))))
    assert sent == [signal.SIGTERM]
