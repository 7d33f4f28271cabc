"""A run as lines of JSON that another program reads while it goes on, such as the process that shows Locust's page.

The first line is the `begin` event. A `progress` event follows about once a second, and one when a step has ended,
which also carries the step. Whoever runs the search prints the answer as the last line. Times are seconds, but `ms`.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from queue import Full, Queue
from threading import Thread
from typing import Any, TextIO
from urllib.parse import urlsplit

import numpy as np

from analysis import StepRecord, StepResult
from analysis.histogram import Histogram
from analysis.step import Outcome
from loadgen.progress import Progress, Show
from loadgen.progress_words import bracket, level, so_far, to_go, verdict_of
from scenarios import Scenario

_QUEUED = 64
_PATIENCE_S = 2.0
Line = Mapping[str, Any]


def begin(title: str, scenario: Scenario) -> Line:
    """Return the first line: what is searched, in one line and in parts; the first SLA is the one that is drawn."""
    first, target = scenario.slas[0], scenario.target
    return {
        "event": "begin",
        "title": title,
        "slas": [str(sla) for sla in scenario.slas],
        "limit_s": first.limit_s,
        "quantile": str(first).partition("<")[0],
        "closed": scenario.load.mode == "closed",
        "method": target.method or ("POST" if target.url is None or target.body else "GET"),
        "path": urlsplit(target.url or "http://embedded/predict").path or "/",
    }


@contextmanager
def lines(first: Line, out: TextIO) -> Iterator[Show]:
    """Write a search's lines while it runs. A thread writes; what it is given waits in a bounded queue.

    When that is full an update is dropped, so that a slow reader never holds up the load; only the end of a step, when
    nothing is being sent, waits a little for room. A reader that has gone ends the run as SIGTERM does: it was for
    nobody else.
    """
    queue: Queue[Progress | None] = Queue(_QUEUED)

    def show(progress: Progress) -> None:
        with suppress(Full):
            queue.put(progress, block=progress.ended, timeout=_PATIENCE_S)

    def write() -> None:
        _write(out, first)
        plain = Teller()
        for progress in iter(queue.get, None):
            assert progress is not None
            _write(out, plain(progress))

    thread = Thread(target=_until_left, args=(write,), name="opfind-stream", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        with suppress(Full):
            queue.put(None, timeout=_PATIENCE_S)
        thread.join(_PATIENCE_S)


def _until_left(write: Callable[[], None]) -> None:
    try:
        write()
    except (OSError, ValueError):
        os.kill(os.getpid(), signal.SIGTERM)


def _write(out: TextIO, line: Line) -> None:
    out.write(json.dumps(line, allow_nan=False) + "\n")
    out.flush()


class Teller:
    """Turn a search's progress into lines; each tells of the requests that no line before it told of."""

    def __init__(self) -> None:
        self._index = -1
        self._latest_ns = 0
        self._told = Histogram()

    def __call__(self, progress: Progress) -> Line:
        """Return the line of one update."""
        judgement, quantile = progress.judgement, progress.quantile
        traffic = None if progress.result is None else self._traffic(progress, progress.result)
        return {
            "event": "progress",
            "ended": progress.ended,
            "elapsed_s": progress.elapsed_s,
            "budget_s": progress.budget_s,
            "index": progress.index,
            "purpose": progress.step.purpose,
            "level": level(progress.step),
            "x": progress.step.place(progress.achieved_rps),
            "step_elapsed_s": progress.step_elapsed_s,
            "step_s": progress.step.duration_s,
            "verdict": judgement.verdict if judgement else None,
            "quantile": _finite(asdict(quantile)) if quantile else None,
            "offered_rps": progress.offered_rps,
            "achieved_rps": progress.achieved_rps,
            "in_flight": progress.in_flight,
            "bracket": bracket(progress.records),
            "so_far": so_far(progress),
            "interval": _finite(asdict(progress.interval)) if progress.interval else None,
            "to_go": to_go(progress).removeprefix(", "),
            "traffic": traffic,
            "step": _step(progress.records[-1]) if progress.ended and progress.records else None,
        }

    def _traffic(self, progress: Progress, result: StepResult) -> dict[str, Any]:
        """Return the response times that are new; at a step's end whatever its earlier lines left out."""
        if progress.index != self._index:
            self._index, self._latest_ns, self._told = progress.index, 0, Histogram()
        failed = result.outcome != Outcome.OK
        if progress.ended:
            fresh = Histogram.of(result.response_ns[~failed], overflow=int(failed.sum()))
            fresh.counts = np.maximum(fresh.counts - self._told.counts, 0)
            fresh.overflow = max(0, fresh.overflow - self._told.overflow)
        else:
            new = result.done_ns > self._latest_ns
            fresh = Histogram.of(result.response_ns[new & ~failed], overflow=int((new & failed).sum()))
            self._told += fresh
            self._latest_ns = int(result.done_ns.max(initial=self._latest_ns))
        highest_ns, _ = fresh.spectrum()
        return {
            "ms": [float(f"{value / 1e6:.7g}") for value in highest_ns],
            "count": fresh.counts[fresh.counts > 0].tolist(),
            "failed": fresh.overflow,
        }


def _step(record: StepRecord) -> dict[str, Any]:
    """Return what a table and a curve show of a step that has ended."""
    quantiles = {name: getattr(record, name) for name in ("p50", "p95", "p99")}
    return {
        "index": record.index,
        "purpose": record.step.purpose,
        "level": level(record.step),
        "x": record.step.place(record.achieved_rps),
        "achieved_rps": record.achieved_rps,
        "ok": record.counts["ok"],
        "offered": record.offered,
        **{name: _finite({"value": q.value})["value"] if q else None for name, q in quantiles.items()},
        "verdict": verdict_of(record),
        "aborted": record.aborted,
        "reasons": [reason.text for reason in record.reasons],
        "errors": dict(record.errors),
    }


def _finite(plain: dict[str, Any]) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in plain.items()}
