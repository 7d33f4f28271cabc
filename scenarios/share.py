import re

_SHARE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*")


def parse_share(text: str) -> float:
    """Read `0.05` or `5%` as a share in [0, 1).

    Raises:
        ValueError: The text is no number, or is 1 or more.
    """
    match = _SHARE.fullmatch(text)
    value = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if value >= 1:
        raise ValueError(f"'{text}' is not a share: write a number below 1 such as 0.05, or 5%")
    return value
