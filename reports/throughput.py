"""The throughput histogram: completions per second over the whole run."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis import Run, StepRecord
from reports import text
from reports.plot import COLOURS, Legend, Plot, blank, render
from reports.steps import at_point

BIN_S = 0.1  # of `StepRecord.completions`
_MOST_BINS = 300


def throughput(run: Run) -> Plot | None:
    """Draw completions over time beside the offered rate of each step; None when nothing was completed."""
    edges, _ = completions(run)
    legend: Legend = (
        ("done", f"completed, in bins of {text.number(edges[-1] / max(1, edges.size - 1))} s"),
        ("offered", "offered"),
    )
    if _point(run) is not None:
        legend += (("interval", "step nearest the operating point"),)
    return render("throughput", "Completions per second over time", lambda: throughput_figure(run), legend)


def _point(run: Run) -> StepRecord | None:
    return at_point(run) if run.answer and (run.answer.rate_rps or run.answer.users) else None


def completions(run: Run) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bin edges, seconds since the run's start, shape (m + 1,), and completions per second, shape (m,)."""
    ends = [record.start_s + BIN_S * len(record.completions) for record in run.steps]
    bins = int(np.ceil(max(ends, default=0.0) / BIN_S - 1e-9))
    counts = np.zeros(bins + 1)
    for record in run.steps:
        first = int(record.start_s / BIN_S + 0.5)
        np.add.at(counts, np.minimum(first + np.arange(len(record.completions)), bins), record.completions)
    merge = max(1, int(np.ceil(bins / _MOST_BINS)))
    counts = np.pad(counts, (0, -counts.size % merge)).reshape(-1, merge).sum(axis=1)
    return np.arange(counts.size + 1) * merge * BIN_S, counts / (merge * BIN_S)


def throughput_figure(run: Run) -> Figure | None:
    """Draw the histogram as a step line, with each step's offered rate over the time in which requests fell due."""
    edges, per_second = completions(run)
    if not per_second.any():
        return None
    figure = blank(190)
    axes = figure.subplots()
    axes.stairs(per_second, edges, color=COLOURS["p95"], lw=0.9, baseline=None, gid="completions", zorder=2)
    spans = [(r.start_s, min(r.end_s, r.start_s + r.step.duration_s), r.offered_rps) for r in run.steps if r.offered]
    starts, stops, offered = zip(*spans, strict=True)
    lines = axes.hlines(offered, starts, stops, color=COLOURS["knee"], lw=1.6, zorder=3)
    lines.set_gid("offered")
    if (point := _point(run)) is not None:
        axes.axvspan(point.start_s, point.end_s, color=COLOURS["point"], alpha=0.16, lw=0, gid="point", zorder=0.6)
    axes.set_xlabel("time since the start, s")
    axes.set_xlim(0, float(edges[-1]))
    axes.set_ylim(0, 1.05 * max(float(per_second.max()), min(max(offered), 1.5 * float(per_second.max()))))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    return figure
