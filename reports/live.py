"""A search while it runs, as a piece of HTML that a page renews every second: verdict, time to go, curve, steps."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log10
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from reports import text
from reports.words import Fact, Headline

_WIDTH, _HEIGHT = 860, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 36
_BEYOND = 30  # times the limit: latencies further off are drawn at the edge
_QUANTILES = ("p50", "p95", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """Name a search that has ended; `number` is that of its report."""

    number: int
    label: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Hold all that is shown.

    Attributes:
        first: The stream's `begin` event; empty before it.
        live: Its last `progress` event, or None.
        steps: Those that have ended, in order, as the stream tells of them.
        interval: Lower and upper end of the operating point as far as it is known, in what the axis shows; the upper
            one may be open, and either unknown.
        headline: The verdict, when there is one.
        facts: Its numbers.
        proof: What the generator's own part was, one sentence, or None.
        error: Why the search failed, one sentence, or None.
        notice: What is to be known about what was just asked for, or None.
        is_running: A search is under way.
        report: Number of the report that can be had, or None.
        past: Searches before this one.
    """

    first: Mapping[str, Any]
    live: Mapping[str, Any] | None
    steps: tuple[Mapping[str, Any], ...]
    interval: tuple[float | None, float | None]
    headline: Headline | None
    facts: tuple[Fact, ...]
    proof: str | None
    error: str | None
    notice: str | None
    is_running: bool
    report: int | None
    past: tuple[Past, ...]


def fragment(view: View) -> str:
    """Return the piece of HTML; whatever came from a target or a user is escaped."""
    return _ENVIRONMENT.get_template("live.html.j2").render(view=view, plot=_plot(view))


def page(live_url: str) -> str:
    """Return the page that shows `fragment`, which it fetches from `live_url` every second."""
    return _ENVIRONMENT.get_template("live_page.html.j2").render(live_url=live_url)


def banner(headline: Headline | None, error: str | None) -> str:
    """Return the verdict as a section that brings its own style along; empty where there is no verdict."""
    if headline is None and error is None:
        return ""
    return _ENVIRONMENT.get_template("live_banner.html.j2").render(headline=headline, error=error)


def _plot(view: View) -> dict[str, Any] | None:
    """Place the steps, latency on a log axis over the load carried; None without an SLA or without a step."""
    limit_s = view.first.get("limit_s", 0.0)
    marks = list(_marks(view, limit_s)) if limit_s else []
    if not marks:
        return None
    low = min(limit_s / 5, *(s for _, s, _, _ in marks)) / 1.2
    high = max(limit_s * 2, *(s for _, s, _, _ in marks)) * 1.2
    right = max(x for x, _, _, _ in marks) * 1.06 or 1.0

    def across(x: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * x / right, 1)

    def down(seconds: float) -> float:
        share = log10(high / seconds) / log10(high / low)
        return round(_TOP + (_HEIGHT - _TOP - _BOTTOM) * share, 1)

    ticks = [10.0**power * digit for power in range(-6, 4) for digit in (1, 2, 5)]
    return {
        "width": _WIDTH, "height": _HEIGHT, "left": _LEFT, "right": _WIDTH - _RIGHT, "bottom": _HEIGHT - _BOTTOM,
        "marks": [{"x": across(x), "y": down(s), "series": series, "kind": kind, "told": f"{text.latency(s)} at "
                   f"{text.number(x)}"} for x, s, series, kind in marks],
        "limit": down(limit_s), "limit_name": view.first["slas"][0],
        "rows": [(down(s), text.latency(s)) for s in ticks if low <= s <= high],
        "columns": [(across(x), text.number(x)) for x in _round_numbers(right)],
        "interval": _interval(view, across, right),
        "unit": "users" if view.first["closed"] else "achieved rate, req/s",
    }  # fmt: skip


def _marks(view: View, limit_s: float) -> Iterable[tuple[float, float, str, str]]:
    """Yield (load, latency, series, kind) of every quantile of every step, and of the step under way."""
    for step in view.steps:
        for name in _QUANTILES:
            if step[name]:
                kind = "unsound" if step["reasons"] or step["aborted"] else "sound"
                yield step["x"], _inside(step[name], limit_s), name, kind
    live = view.live
    if live and not live["ended"] and live["quantile"] and live["quantile"]["value"]:
        yield live["x"], _inside(live["quantile"]["value"], limit_s), "now", "sound"


def _inside(seconds: float, limit_s: float) -> float:
    return min(max(seconds, limit_s / _BEYOND), limit_s * _BEYOND)


def _interval(view: View, across: Callable[[float], float], right: float) -> tuple[float, float] | None:
    """Return where the operating point lies, left and right, in the plot."""
    low, high = view.interval
    return None if low is None else (across(min(low, right)), across(min(high or right, right)))


def _round_numbers(right: float) -> list[float]:
    """Return four to ten round numbers from 0 to `right`."""
    unit = 10.0 ** int(log10(right) // 1)
    step = next(unit * factor for factor in (0.1, 0.2, 0.5, 1, 2) if right / (unit * factor) <= 10)
    return [step * index for index in range(int(right / step) + 1)]


_ENVIRONMENT = Environment(
    loader=PackageLoader("reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.finalize = lambda value: text.clean(value) if type(value) is str else value
_ENVIRONMENT.filters |= {"latency": text.latency, "number": text.number, "rate": text.rate, "duration": text.duration,
                         "sentence": text.sentence}  # fmt: skip
