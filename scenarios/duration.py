import re
from fractions import Fraction

_S_PER_UNIT = {
    "us": Fraction(1, 1_000_000),
    "µs": Fraction(1, 1_000_000),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s|m|h)\s*")


def parse_duration_s(text: str) -> float:
    """Read a length of time such as `200ms`, `90s`, `3m` or `1m30s` as seconds.

    Raises:
        ValueError: The text has no unit, or is no number.
    """
    stripped = text.strip()
    parts = _PART.findall(stripped)
    if not parts or _PART.sub("", stripped):
        raise ValueError(
            f"'{text}' is not a duration: write a number with a unit us, ms, s, m or h, such as 200ms or 3m"
        )
    return float(sum(Fraction(number) * _S_PER_UNIT[unit] for number, unit in parts))
