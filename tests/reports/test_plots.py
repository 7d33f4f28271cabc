from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import SLA, Histogram, Run
from reports.curve import curve, curve_figure
from reports.plot import COLOURS
from reports.spectrum import spectrum, spectrum_figure, spectrum_lines
from reports.throughput import completions, throughput_figure
from tests.factories import CLIFF, P99, make_answer, make_load, make_records, make_run, with_bracket

RUN = make_run()
SOUND = [0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 12]
UNSOUND, ABORTED, WITH_ERRORS = 6, 4, 11


def _figure(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def _line(axes: Axes, gid: str) -> Line2D:
    (line,) = (line for line in axes.lines if line.get_gid() == gid)
    return line


def _xy(axes: Axes, gid: str) -> list[tuple[float, float]]:
    line = _line(axes, gid)
    return [(float(x), float(y)) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]  # type: ignore[arg-type]


def test_curve_draws_each_sound_step_at_its_achieved_rate() -> None:
    """Solid markers are the sound steps' quantiles, in seconds, over the rate that was achieved."""
    whole = _figure(curve_figure(RUN))[0]
    for name in ("p50", "p95", "p99"):
        wanted = [(r.achieved_rps, e.value) for i in SOUND if (e := getattr(r := RUN.steps[i], name)) is not None]
        assert _xy(whole, f"{name}-sound") == pytest.approx(np.array(wanted))


def test_curve_joins_only_sound_steps_in_order_of_load() -> None:
    """No line runs through an unsound or aborted step, nor through a quantile among failures."""
    whole = _figure(curve_figure(RUN))[0]
    order = sorted((i for i in SOUND if i != WITH_ERRORS), key=lambda i: RUN.steps[i].step.level)
    assert [x for x, _ in _xy(whole, "p99-line")] == pytest.approx([RUN.steps[i].achieved_rps for i in order])


def test_curve_shows_unsound_steps_hollow_and_marks_aborted_ones() -> None:
    """What does not count is still to be seen, and looks different."""
    whole = _figure(curve_figure(RUN))[0]
    hollow, crossed = _line(whole, "p99-unsound"), _line(whole, "p99-aborted")
    assert hollow.get_markerfacecolor() == COLOURS["paper"]
    assert crossed.get_marker() == "x"
    assert _xy(whole, "p99-unsound")[0][0] == pytest.approx(RUN.steps[UNSOUND].achieved_rps)
    assert _xy(whole, "p99-aborted")[0][0] == pytest.approx(RUN.steps[ABORTED].achieved_rps)


def test_curve_shows_a_first_bracket_hollow() -> None:
    """What users gave lies at the rate that they achieved, in no line through what was offered."""
    whole = _figure(curve_figure(with_bracket(RUN)))[0]
    achieved = [RUN.steps[k].achieved_rps for k in range(3)]
    assert [x for x, _ in _xy(whole, "p99-unsound")][:3] == pytest.approx(achieved)
    assert not {x for x, _ in _xy(whole, "p99-line")} & set(achieved)


def test_curve_marks_a_quantile_among_failures_at_the_top() -> None:
    """A p99 that failures swallow is not dropped from the figure."""
    whole = _figure(curve_figure(RUN))[0]
    assert [x for x, _ in _xy(whole, "p99-failures")] == pytest.approx([RUN.steps[WITH_ERRORS].achieved_rps])


def test_curve_bars_are_the_intervals() -> None:
    """Each bar runs from the interval's low end to its high end, or only to the value where that end is open."""
    whole = _figure(curve_figure(RUN))[0]
    (bars,) = (c for c in whole.collections if c.get_gid() == "p50-sound-interval")
    assert isinstance(bars, LineCollection)
    spans = [(float(segment[0][1]), float(segment[1][1])) for segment in bars.get_segments()]
    wanted = [(e.low, e.high or e.value) for i in SOUND if (e := RUN.steps[i].p50) is not None]
    assert np.array(spans) == pytest.approx(np.array(wanted))


def test_curve_holds_the_data_against_sla_point_safe_rate_and_knee() -> None:
    """The four lines that explain the verdict stand where the answer says."""
    for axes in _figure(curve_figure(RUN)):
        assert _line(axes, "sla-p99<200ms").get_ydata() == [0.2, 0.2]
        for gid, at in (("point", 553.4), ("safe", 546.7), ("knee", 517.0)):
            assert _line(axes, gid).get_xdata() == [at, at]


def test_second_panel_frames_the_operating_point() -> None:
    """The neighbourhood shows the whole interval and the capacity, and little else."""
    near = _figure(curve_figure(RUN))[1]
    low, high = near.get_xlim()
    assert 480 < low < 545.2
    assert 571.2 < high < 610


def test_a_cliff_is_drawn_as_its_bracket() -> None:
    """Where the latency jumps there is an interval and no point in it, and the legend says so."""
    run = make_run(steps=RUN.steps, answer=make_answer(**CLIFF))
    drawn = {artist.get_gid() for artist in _figure(curve_figure(run))[1].get_children()}
    assert {"interval", "safe"} <= drawn
    assert "point" not in drawn
    plotted = curve(run)
    assert plotted is not None
    assert ("interval", "cliff 535 to 565") in plotted.legend


def test_curve_has_one_panel_without_a_point() -> None:
    """Without an operating point there is no neighbourhood to show."""
    run = make_run(steps=RUN.steps, answer=make_answer(verdict="unmet", rate_rps=None, safe_rps=None))
    assert len(_figure(curve_figure(run))) == 1


def test_curve_draws_the_quantile_that_an_sla_is_about() -> None:
    """An SLA on p99.9 is held against p99.9, not against p99."""
    p999 = SLA.parse("p99.9<250ms")
    whole = _figure(curve_figure(make_run(steps=RUN.steps, slas=(P99, p999))))[0]
    assert _xy(whole, "p99.9-sound")[-1][1] == pytest.approx(RUN.steps[-1].histogram.quantile_ns(0.999) / 1e9)


@pytest.mark.parametrize(("limit", "scale"), [("200ms", "log"), ("20ms", "linear")])
def test_latency_axis_is_logarithmic_only_when_it_must_be(limit: str, scale: str) -> None:
    """A span of a decade needs a logarithm, and less is read more easily without."""
    steps = RUN.steps if scale == "log" else RUN.steps[:3]
    assert _figure(curve_figure(make_run(steps=steps, slas=(SLA.parse(f"p99<{limit}"),))))[0].get_yscale() == scale


def test_legend_names_only_what_is_drawn() -> None:
    """A run without unsound, aborted or failing steps explains no such marker."""
    clean, full = curve(make_run(steps=RUN.steps[5:6])), curve(RUN)
    assert clean is not None
    assert full is not None
    assert [swatch for swatch, _ in clean.legend] == ["p50", "p95", "p99", "sla", "point", "safe", "knee"]
    assert [swatch for swatch, _ in full.legend][7:] == ["unsound", "aborted", "failures"]


def test_spectrum_reads_the_histograms_own_quantiles() -> None:
    """Each point of a line is the quantile that the histogram gives by rank ceil(q n)."""
    due, sent, failing = spectrum_lines(RUN)
    for line, histogram in (
        (due, RUN.steps[10].histogram),
        (sent, RUN.steps[10].service),
        (failing, RUN.steps[9].histogram),
    ):
        assert histogram is not None
        for nines, seconds in zip(line.nines[::24], line.seconds[::24], strict=True):
            assert seconds == pytest.approx(histogram.quantile_ns(1 - 10**-nines) / 1e9)


def test_spectrum_lines_never_fall_and_waiting_only_adds() -> None:
    """Latency grows with the percentile, and from the due time it is never shorter than from the send."""
    due, sent, _ = spectrum_lines(RUN)
    assert all(a <= b for a, b in pairwise(due.seconds))
    assert np.all(due.seconds >= sent.seconds * 0.999)


def test_spectrum_ends_where_failures_begin() -> None:
    """A step with 2 % failures has no p99, so its line ends before two nines."""
    record = replace(make_records()[WITH_ERRORS], index=0)
    (due, _) = spectrum_lines(make_run(steps=(record,)))
    assert 1.5 < due.nines[-1] < 2


def test_spectrum_marks_the_slas_corner() -> None:
    """The corner lies at the SLA's quantile and limit."""
    (axes,) = _figure(spectrum_figure(RUN, spectrum_lines(RUN)))
    assert _xy(axes, "sla-p99<200ms")[1] == pytest.approx((2.0, 0.2))


def test_throughput_keeps_every_completion() -> None:
    """Merging bins loses no reply: the integral over time is what the steps counted."""
    edges, per_second = completions(RUN)
    assert float((per_second * np.diff(edges)).sum()) == pytest.approx(sum(sum(r.completions) for r in RUN.steps))
    assert per_second.size <= 300


def test_throughput_bins_lie_at_the_steps_own_time() -> None:
    """A step's completions are drawn after its start."""
    late = replace(RUN.steps[0], start_s=30.0, end_s=31.2)
    edges, per_second = completions(make_run(steps=(late,)))
    assert edges[np.flatnonzero(per_second)[0]] >= 29.9
    assert len(_figure(throughput_figure(make_run(steps=(late,))))) == 1


def _drawings(run: Run) -> list[Any]:
    return [curve(run), spectrum(run)]


def test_figures_take_colours_and_font_from_the_page() -> None:
    """No colour or font is fixed in a figure, so that it follows the page into the dark and into print."""
    for plot in _drawings(RUN):
        assert "var(--p99)" in plot.svg
        assert "#0101" not in plot.svg
        assert "font-family" not in plot.svg
        assert "DejaVu" not in plot.svg


def test_spectrum_of_failures_alone_has_an_axis() -> None:
    """Where failures begin at once the line is a point; matplotlib must not be asked for an axis without length."""
    (record,) = make_load().steps
    nearly_all = Histogram.of([1_000_000], overflow=199)
    run = make_load(step=record.step)
    run = replace(run, steps=(replace(record, blocks=(nearly_all,), service=nearly_all),))
    (axes,) = _figure(spectrum_figure(run, spectrum_lines(run)))
    assert axes.get_xlim()[1] > 0
