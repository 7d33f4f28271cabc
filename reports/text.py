"""Numbers as words, and untrusted text made printable. The three reports and their figures share it."""

import math
import re
from collections.abc import Callable
from decimal import Decimal

from analysis import Estimate

# What XML 1.0 forbids, the C1 controls, and marks that turn the direction of text and so hide what it says.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
NONE = "\N{EN DASH}"


def clean(text: str, limit: int = 2_000) -> str:
    """Replace characters that no report may carry, and cut a text that is longer than `limit` characters."""
    kept = text if len(text) <= limit else text[: limit - 1] + "…"
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", kept)


def sentence(words: str) -> str:
    """Return words as a sentence: a capital letter first, one full stop at the end."""
    return f"{words[:1].upper()}{words[1:].rstrip('.')}." if words else ""


def number(value: float) -> str:
    """Return three significant digits or all of an integer's, with thousands separators: 0.0123, 54.3, 1,204."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else "∞"
    # Through Decimal, because :g turns to exponents below 0.0001.
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{Decimal(f'{value:.3g}'):f}"


def floor_number(value: float) -> str:
    """Return a number of three digits rounded down, for a bound that must not be exceeded."""
    if value <= 0:
        return "0"
    unit = 10.0 ** min(0, math.floor(math.log10(value)) - 2)
    return number(math.floor(value / unit + 1e-9) * unit)


def rate(value: float | None) -> str:
    """Return a rate with its unit."""
    return NONE if value is None else f"{number(value)} req/s"


def _unit(seconds: float) -> tuple[float, str]:
    """Choose the unit in which a latency has one to three digits before the point."""
    for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 0.9995:
            return factor, name
    return 1e6, "µs"


def latency(seconds: float | None) -> str:
    """Return a latency with the unit that suits it: 84 ms, 1.52 s."""
    if seconds is None or math.isnan(seconds):
        return NONE
    factor, name = _unit(seconds)
    return f"{number(seconds * factor)} {name}"


def share(value: float) -> str:
    """Return a share of requests as a percentage."""
    return f"{number(100 * value)} %"


def small_share(value: float) -> str:
    """Return a share that may be too small to print: never 0 % for what is only nearly so."""
    return "< 0.01 %" if 0 < value < 0.0001 else share(value)


def duration(seconds: float) -> str:
    """Return a length of time: 4 s, 1 min 23 s, 3 min."""
    whole = round(seconds)
    if whole < 100:
        return f"{number(seconds)} s"
    return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 else "")


def rough(value: float) -> float:
    """Round to two digits, as forecasts and comparisons of rates deserve."""
    return float(f"{value:.2g}")


def ends(estimate: Estimate, form: Callable[[float], str] = number) -> str:
    """Return an interval's ends as [low, high]; an open end is infinite."""
    return f"[{form(estimate.low)}, {'∞)' if estimate.high is None else form(estimate.high) + ']'}"


def latency_ends(estimate: Estimate) -> str:
    """Return a latency's interval in the unit of its value, which `latency` prints."""
    factor, _ = _unit(estimate.value)
    return ends(estimate, lambda seconds: number(seconds * factor))


def confidence(estimate: Estimate) -> str:
    """Name the interval, such as `95 % interval`."""
    return f"{100 * estimate.confidence:.3g} % interval"
