"""A small latency-throughput plot in characters: which character in which style, row by row. The console paints it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from reports import text

_LABEL = 8
Span = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Put one step into the plot.

    Attributes:
        x: Load carried, requests per second.
        latency_s: Above zero.
        sign: One character.
        style: A style's name.
    """

    x: float
    latency_s: float
    sign: str
    style: str


def plot(marks: Sequence[Mark], limit_s: float, width: int, height: int, x_name: str) -> list[list[Span]]:
    """Plot latency, on a log axis, over load, with the limit as a line; the last mark lies on top.

    Latencies beyond 30 times the limit, up or down, are drawn at the edge: one collapse shall not flatten all else.

    Args:
        marks: Of the steps.
        limit_s: Of the SLA, seconds.
        width: Columns, labels included; at least 20.
        height: Rows, the two of the load axis included; at least 6.
        x_name: Unit of the load axis.

    Returns:
        `height` rows of (text, style); style "" is the default.
    """
    columns, rows = width - _LABEL - 2, height - 2
    seen = [min(max(mark.latency_s, limit_s / 30), limit_s * 30) for mark in marks]
    low, high = min([*seen, limit_s / 5]) / 1.2, max([*seen, limit_s * 2]) * 1.2
    right = max((mark.x for mark in marks), default=0.0) * 1.05 or 1.0
    cells: dict[tuple[int, int], Span] = {}

    def row_of(latency_s: float) -> int:
        return min(rows - 1, max(0, round((rows - 1) * log(high / latency_s) / log(high / low))))

    limit_row = row_of(limit_s)
    cells |= {(limit_row, column): ("╌", "yellow") for column in range(columns)}
    for mark, latency_s in zip(marks, seen, strict=True):
        cells[row_of(latency_s), min(columns - 1, int(columns * mark.x / right))] = (mark.sign, mark.style)
    labels = {0: text.latency(high), rows - 1: text.latency(low)} | {limit_row: text.latency(limit_s)}
    lines: list[list[Span]] = [
        [(f"{labels.get(row, ''):>{_LABEL}} {'┤' if row in labels else '│'}", "yellow" if row == limit_row else "dim")]
        + [cells.get((row, column), (" ", "")) for column in range(columns)]
        for row in range(rows)
    ]
    end = f"{text.number(right)} {x_name}"
    return [
        *lines,
        [(f"{'':{_LABEL}} └{'─' * columns}", "dim")],
        [(f"{'':{_LABEL}}  0{end:>{columns - 1}}", "dim")],
    ]
