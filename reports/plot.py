"""What the figures share: inline SVG that takes its colours and its font from the page, and an axis for latencies.

Plain matplotlib objects, no pyplot and no global state. Data lies in artists that `gid` names, so a test can read it.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports import text

# Stand-ins that `_inline` replaces by the page's custom properties, so that a figure follows the page into the dark.
COLOURS = {
    "ink": "#010101",
    "muted": "#010102",
    "grid": "#010103",
    "p50": "#010104",
    "p95": "#010105",
    "p99": "#010106",
    "other": "#010107",
    "sla": "#010108",
    "point": "#010109",
    "knee": "#01010a",
    "paper": "#01010b",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "opfind",
    "font.size": 11.0,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 0.7,
    "text.color": COLOURS["ink"],
}
_WIDTH = 860
_LOG_SPAN = 12
SLA_DASHES = (0, (6, 3))
Legend = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """Hold a figure for the page.

    Attributes:
        svg: Trusted markup.
        legend: (swatch, words) of what is drawn; a swatch is a class of the style sheet. The page shows it beside
            the figure, where it cannot cover data.
    """

    svg: str
    legend: Legend


def render(name: str, label: str, draw: Callable[[], Figure | None], legend: Legend) -> Plot | None:
    """Draw a figure in the page's style; `name` begins every id in it, `label` names it to a screen reader."""
    with mpl.rc_context(_STYLE):
        figure = draw()
        if figure is None:
            return None
        buffer = StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Plot(svg=_inline(buffer.getvalue(), name, label), legend=legend)


def blank(height: int) -> Figure:
    """Return a figure of the page's width; `height` in the same units."""
    return Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")


def _inline(svg: str, name: str, label: str) -> str:
    """Make a file's markup fit for a page: no declaration, no address, ids of its own, the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    svg = re.sub(r"<svg[^>]*>", f'<svg {box[0] if box else ""} role="img" aria-label="{label}">', svg, count=1)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL).replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)  # a hundredth of a pixel
    for colour, stand_in in COLOURS.items():
        svg = svg.replace(stand_in, f"var(--{colour})")
    return svg


def latency_axis(axes: Axes, values_s: Iterable[float]) -> None:
    """Give the y axis a scale and ticks for latencies in seconds: logarithmic when they span more than a decade."""
    finite = [v for v in values_s if np.isfinite(v) and v > 0] or [1.0]
    low, high = min(finite), max(finite)
    if high > _LOG_SPAN * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.5, high * 1.5)
        few = np.log10(high / low) < 2.6
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, high * 1.12)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: text.latency(seconds) if seconds else "0"))
