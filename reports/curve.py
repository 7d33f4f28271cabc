"""The latency-throughput curve: p50, p95 and p99 against the achieved rate, and the operating point on it."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import Estimate, Run, StepRecord
from reports import text
from reports.plot import COLOURS, SLA_DASHES, Legend, Plot, blank, latency_axis, render
from reports.words import is_closed

_MARKERS = {"p50": "o", "p95": "s", "p99": "D", "other": "v"}
_RECORDED = (("p50", "p50", 0.5), ("p95", "p95", 0.95), ("p99", "p99", 0.99))


def curve(run: Run) -> Plot | None:
    """Draw the curve; None when no step measured anything, and for a single load, which is no curve."""
    if run.answer is None:
        return None
    return render("curve", "Latency against achieved rate", lambda: curve_figure(run), _legend(run))


def curve_figure(run: Run) -> Figure | None:
    """Draw the whole curve, and beside it the neighbourhood of the operating point where there is one."""
    records = _measured(run)
    if not records:
        return None
    point = _point(run)
    figure = blank(380)
    panels = figure.subplots(1, 1 if point is None else 2, sharey=True, squeeze=False, width_ratios=None
                             if point is None else [2.1, 1])[0]  # fmt: skip
    for axes in panels:
        _draw_marks(axes, run, point)
        for colour, name, quantile in _series(run):
            _draw_series(axes, records, colour, name, quantile)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
    _name_slas(panels[-1], run)
    latency_axis(panels[0], [*_seen(run, records), *(sla.limit_s for sla in run.slas)])
    panels[0].set_xlabel("achieved rate, req/s")
    panels[0].set_xlim(
        0, 1.06 * max([r.achieved_rps for r in records] + ([point.high or point.value] if point else []))
    )
    if point is not None:
        near = panels[1]
        near.set_xlim(*_neighbourhood(run, point))
        near.set_xlabel("around the operating point, req/s")
        near.xaxis.set_major_locator(MaxNLocator(5))
        near.tick_params(axis="y", left=False)
        near.spines["left"].set_visible(False)
    return figure


def _measured(run: Run) -> list[StepRecord]:
    return [record for record in run.steps if record.counts.get("ok", 0)]


def _point(run: Run) -> Estimate | None:
    """Return where on the achieved-rate axis the operating point lies."""
    if run.answer is None:
        return None
    return run.answer.throughput_rps if is_closed(run) else run.answer.rate_rps


def _is_cliff(run: Run) -> bool:
    return run.answer is not None and run.answer.cliff


def _safe(run: Run) -> float | None:
    return run.answer.safe_rps if run.answer else None


def _knee(run: Run) -> float | None:
    return run.answer.knee_rps.value if run.answer and run.answer.knee_rps else None


def _series(run: Run) -> list[tuple[str, str, float]]:
    """Return (colour, name, quantile): the recorded three, and the SLAs' own where those are others."""
    others = sorted({sla.quantile for sla in run.slas} - {quantile for _, _, quantile in _RECORDED})
    return [*_RECORDED, *(("other", f"p{100 * quantile:g}", quantile) for quantile in others)]


def _quantile(record: StepRecord, name: str, quantile: float) -> Estimate | None:
    """Return a step's quantile in seconds; one that is not among the recorded three comes without an interval."""
    if quantile in (0.5, 0.95, 0.99):
        estimate: Estimate | None = getattr(record, name)
        return estimate
    value = record.histogram.quantile_ns(quantile) / 1e9
    return Estimate(value=value, low=value, high=value) if np.isfinite(value) else None


def _seen(run: Run, records: list[StepRecord]) -> list[float]:
    estimates = [_quantile(r, name, quantile) for r in records for _, name, quantile in _series(run)]
    return [e.value for e in estimates if e is not None]


def _neighbourhood(run: Run, point: Estimate) -> tuple[float, float]:
    """Frame the point, its interval and the capacity, with a tenth of the rate to the left."""
    capacity = run.answer.capacity_rps if run.answer else None
    right = max(point.high or point.value, capacity.value if capacity else 0.0)
    left = min(point.low, _safe(run) or point.low)
    return left - 0.1 * point.value, right + 0.04 * point.value


def _draw_marks(axes: Axes, run: Run, point: Estimate | None) -> None:
    """Draw what the data is held against: SLA, operating point with its interval, safe rate, knee."""
    for sla in run.slas:
        axes.axhline(sla.limit_s, color=COLOURS["sla"], lw=1.2, ls=SLA_DASHES, gid=f"sla-{sla}", zorder=1.5)
    if point is not None:
        high = point.value if point.high is None else point.high
        axes.axvspan(point.low, high, color=COLOURS["point"], alpha=0.16, lw=0, gid="interval", zorder=0.6)
        if not _is_cliff(run):  # which is a bracket, and no point in it
            axes.axvline(point.value, color=COLOURS["point"], lw=1.6, gid="point", zorder=1.6)
    for gid, colour, dashes, at in (
        ("safe", "point", (0, (2, 2)), _safe(run)),
        ("knee", "knee", (0, (5, 2, 1, 2)), _knee(run)),
    ):
        if at is not None:
            axes.axvline(at, color=COLOURS[colour], lw=1.3, ls=dashes, gid=gid, zorder=1.4)


def _name_slas(axes: Axes, run: Run) -> None:
    """Write each SLA beside its line, outside the data; of two that lie close together only the lower one."""
    named = 0.0
    for sla in sorted(run.slas, key=lambda sla: sla.limit_ns):
        if sla.limit_s > 1.2 * named:
            at, named = (1.0, sla.limit_s), sla.limit_s
            axes.annotate(
                str(sla), at, xycoords=axes.get_yaxis_transform(), xytext=(5, 0), textcoords="offset points",
                va="center", color=COLOURS["sla"], annotation_clip=False,
            )  # fmt: skip


def _fitted(record: StepRecord) -> bool:
    """Say that a line may join a step's numbers: sound, complete, and one of the loads compared."""
    return not record.reasons and not record.aborted and record.step.counts


def _aborted(record: StepRecord) -> bool:
    return record.aborted


def _unsound(record: StepRecord) -> bool:
    return not record.aborted and not _fitted(record)


_KINDS: tuple[tuple[str, Callable[[StepRecord], bool]], ...] = (
    ("sound", _fitted), ("unsound", _unsound), ("aborted", _aborted),
)  # fmt: skip


def _draw_series(axes: Axes, records: list[StepRecord], colour: str, name: str, quantile: float) -> None:
    """Draw one quantile: a line through fitted steps, solid markers for them, hollow or crossed ones for the rest."""
    ink, paper = COLOURS[colour], COLOURS["paper"]
    placed = [(r, e) for r in records if (e := _quantile(r, name, quantile)) is not None]
    # In order of load, not of achieved rate: beyond capacity the rate no longer grows, and only the latency does.
    if fitted := sorted(((r.step.level, r.achieved_rps, e.value) for r, e in placed if _fitted(r))):
        _, rates, seconds = zip(*fitted, strict=True)
        axes.plot(rates, seconds, color=ink, lw=1.3, alpha=0.5, gid=f"{name}-line", zorder=2)
    for kind, belongs in _KINDS:
        if not (chosen := [(r.achieved_rps, e) for r, e in placed if belongs(r)]):
            continue
        at = [rate for rate, _ in chosen]
        bars = axes.vlines(
            at, [e.low for _, e in chosen], [e.high or e.value for _, e in chosen], color=ink, lw=1.2, zorder=2.5
        )
        bars.set(alpha=1.0 if kind == "sound" else 0.45, gid=f"{name}-{kind}-interval")
        axes.plot(
            at, [e.value for _, e in chosen], ls="none", marker="x" if kind == "aborted" else _MARKERS[colour],
            ms=5.5, mec=ink, mfc=paper if kind == "unsound" else ink, mew=0 if kind == "sound" else 1.3,
            gid=f"{name}-{kind}", zorder=3,
        )  # fmt: skip
    if lost := [r.achieved_rps for r in records if _quantile(r, name, quantile) is None]:
        axes.plot(
            lost, [0.98] * len(lost), transform=axes.get_xaxis_transform(), ls="none", marker="^", ms=6.5,
            mec=ink, mfc=paper, gid=f"{name}-failures", zorder=3,
        )  # fmt: skip


def _legend(run: Run) -> Legend:
    """Name what `curve_figure` draws, and nothing that it does not."""
    records, point = _measured(run), _point(run)
    entries = [(colour, name) for colour, name, _ in _series(run)] + [("sla", str(sla)) for sla in run.slas]
    if point is not None and _is_cliff(run):
        entries.append(("interval", f"cliff {text.number(point.low)} to {text.number(point.high or point.value)}"))
    elif point is not None:
        entries.append(("point", f"operating point {text.number(point.value)} {text.ends(point)}"))
    if (safe := _safe(run)) is not None:
        entries.append(("safe", f"safe rate {text.floor_number(safe)}"))
    if (knee := _knee(run)) is not None:
        entries.append(("knee", f"knee {text.number(knee)}"))
    if any(map(_unsound, records)):
        entries.append(("unsound", "unsound step, probe or first bracket, not fitted"))
    if any(map(_aborted, records)):
        entries.append(("aborted", "aborted step, not fitted"))
    if any(_quantile(r, name, quantile) is None for r in records for _, name, quantile in _series(run)):
        entries.append(("failures", "the quantile falls among failures"))
    return tuple(entries)
