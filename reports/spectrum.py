"""The latency spectrum: latency against percentile, at the operating point and where the SLA first fails."""

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from analysis import Histogram, Run, StepRecord
from reports import text
from reports.plot import COLOURS, SLA_DASHES, Plot, blank, latency_axis, render
from reports.steps import at_point, failing_above

_POINTS = 240
_MOST_NINES = 6.0
_SHARES = (0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Be one line of the spectrum.

    Attributes:
        name: Swatch and gid.
        words: For the legend.
        nines: float64 (m,), -log10(1 - quantile), increasing: 1 is p90, 2 is p99.
        seconds: float64 (m,), the latency there.
    """

    name: str
    words: str
    nines: NDArray[np.float64]
    seconds: NDArray[np.float64]


def spectrum(run: Run) -> Plot | None:
    """Draw the spectrum on a logarithmic percentile axis, in the manner of HdrHistogram; None without any answer."""
    lines = spectrum_lines(run)
    legend = [(line.name, line.words) for line in lines]
    legend += [("sla", f"{sla}: a line that meets it passes below the corner") for sla in run.slas]
    return render("spectrum", "Latency by percentile", lambda: spectrum_figure(run, lines), tuple(legend))


def spectrum_lines(run: Run) -> list[Line]:
    """Return the step at the operating point, from due time and from send, and the first failing step above it."""
    point, failing = at_point(run), failing_above(run)
    wanted: list[tuple[str, str, Histogram | None]] = []
    if point is not None:
        of, same = (f"{_name(point)}: ", "the same step ") if run.answer else ("", "")
        wanted.append(("due", f"{of}from the due time, what a user waits", point.histogram))
        wanted.append(("sent", f"{same}from the actual send, as a closed-loop tool would time it", point.service))
    if failing is not None:
        wanted.append(("failing", f"{_name(failing)}: first failing step above, from the due time", failing.histogram))
    return [_line(name, words, histogram) for name, words, histogram in wanted if histogram and histogram.counts.any()]


def _name(record: StepRecord) -> str:
    load = text.rate(record.step.rate_rps) if record.step.rate_rps is not None else f"{record.step.users} users"
    return f"step {record.index + 1} at {load}"


def _nines(quantile: float) -> float:
    return float(-np.log10(1 - quantile))


def _line(name: str, words: str, histogram: Histogram) -> Line:
    """Read a histogram at quantiles spaced evenly in nines, by the rule rank ceil(q n)."""
    latency_ns, share = histogram.spectrum()
    # Above 1 - 1/n there is no further request to tell apart; failures end the line at the share that succeeded.
    last = min(_nines(1 - 1 / max(2, histogram.total)), _MOST_NINES)
    quantile = 1 - 10 ** -np.linspace(0, last, _POINTS)
    quantile = quantile[quantile <= share[-1]]
    seconds = latency_ns[np.searchsorted(share, quantile - 1e-12)] / 1e9
    return Line(name=name, words=words, nines=-np.log10(1 - quantile), seconds=seconds)


def spectrum_figure(run: Run, lines: list[Line]) -> Figure | None:
    """Draw the lines and a corner for each SLA."""
    if not lines:
        return None
    figure = blank(300)
    axes = figure.subplots()
    for line in lines:
        colour, dashes, width = {
            "due": ("p99", "-", 2.0), "sent": ("p50", (0, (4, 2)), 2.0), "failing": ("knee", "-", 1.8),
        }[line.name]  # fmt: skip
        axes.plot(line.nines, line.seconds, color=COLOURS[colour], ls=dashes, lw=width, gid=line.name, zorder=3)
    for sla in run.slas:
        corner, top = _nines(sla.quantile), 1e4
        axes.plot(
            [corner, corner, 99], [top, sla.limit_s, sla.limit_s], color=COLOURS["sla"], lw=1.2, ls=SLA_DASHES,
            gid=f"sla-{sla}",
        )  # fmt: skip
    latency_axis(axes, [*np.concatenate([line.seconds for line in lines]), *(sla.limit_s for sla in run.slas)])
    _percentile_axis(
        axes, max([float(line.nines[-1]) for line in lines] + [_nines(s.quantile) + 0.3 for s in run.slas])
    )
    axes.set_xlabel("percentile of all requests, failures included")
    axes.grid()
    axes.set_axisbelow(True)
    return figure


def _percentile_axis(axes: Axes, last: float) -> None:
    axes.xaxis.set_major_locator(FixedLocator([_nines(share) for share in _SHARES]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda nines, _: f"{100 * (1 - 10**-nines):.7g} %"))
    axes.set_xlim(0, 1.02 * max(last, _nines(0.5)))  # a line that failures end at once has no length
