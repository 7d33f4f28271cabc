"""How flags are read: text in, values out. Each error is a sentence that says what to write."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Literal


def duration_s(text: str) -> float:
    """Read `200ms`, `90s` or `3m` as seconds, above zero."""
    from scenarios.duration import parse_duration_s  # noqa: PLC0415 (it brings scipy, which `--help` can do without)

    seconds = parse_duration_s(text)
    if seconds <= 0:
        raise ValueError(f"'{text}' must be above zero, such as 3m")
    return seconds


def share(text: str) -> float:
    """Read `0.05` or `5%` as a share in [0, 1)."""
    from scenarios.share import parse_share  # noqa: PLC0415 (as in `duration_s`)

    return parse_share(text)


def precision(text: str) -> float:
    """Read a share above zero."""
    value = share(text)
    if value == 0:
        raise ValueError(f"'{text}' cannot be reached: write a share above zero, such as 5%")
    return value


def rate_rps(text: str) -> float:
    """Read a rate, requests per second, above zero: `500`, `0.5/s`, `1e6`."""
    match = re.fullmatch(r"\s*((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:/s|rps)?\s*", text)
    value = float(match[1]) if match else 0.0
    if not 0 < value <= 1e9:
        raise ValueError(f"'{text}' is not a rate: write requests per second, above zero, such as 500")
    return value


def count(text: str) -> int:
    """Read a whole number from 1 to a million."""
    if not text.isdecimal() or not 1 <= int(text) <= 10**6:
        raise ValueError(f"'{text}' is not a whole number from 1 to 1000000")
    return int(text)


def seed(text: str) -> int:
    """Read a seed."""
    if not text.isdecimal() or int(text) > 2**53:
        raise ValueError(f"'{text}' is not a whole number from 0 to 2^53")
    return int(text)


def port(text: str) -> int:
    """Read a TCP port, or 0 for any free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"'{text}' is not a port from 0 to 65535")
    return int(text)


def folder(text: str) -> Path:
    """Read a folder's name."""
    if not text:
        raise ValueError("the name is empty: name a folder, or leave -o out")
    return Path(text)


def path(text: str) -> Path:
    """Read the name of something that is there already."""
    if not text:
        raise ValueError("the name is empty")
    return Path(text)


def sizes(text: str) -> tuple[int, ...]:
    """Read at least two whole numbers between commas, increasing, as in `1,2,4`."""
    words = text.split(",")
    found = tuple(int(word) for word in words if word.isdecimal() and len(word) < 6)
    if len(found) != len(words) or len(found) < 2 or any(a >= b for a, b in pairwise((0, *found))):
        raise ValueError(f"'{text}' is not a list of increasing whole numbers such as 1,2,4,8")
    return found


def place(text: str) -> int | None:
    """Read `cpu` as None, and the number of a GPU, with or without `cuda:`."""
    number = text.removeprefix("cuda:")
    if text != "cpu" and not (number.isdecimal() and int(number) < 64):
        raise ValueError(f"'{text}' is neither cpu nor a GPU such as 0 or cuda:0")
    return None if text == "cpu" else int(number)


def workers(text: str) -> int | Literal["auto"]:
    """Read a number of processes, or `auto`."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise ValueError(f"'{text}' is neither auto nor a whole number from 1 to 1024")
    return int(text)


def arrivals(text: str) -> tuple[str, str]:
    """Read `poisson`, `constant`, `gamma:CV` or `replay:FILE` as a name and its detail."""
    match = re.fullmatch(r"(poisson|constant)()|(gamma):(\d+(?:\.\d*)?|\.\d+)|(replay):(.+)", text)
    if match is None or (match[3] and not float(match[4]) > 0):
        raise ValueError(f"'{text}' is not one of poisson, constant, gamma:CV (such as gamma:2), replay:FILE")
    name, detail = (group for group in match.groups() if group is not None)
    return name, detail


def header(text: str) -> tuple[str, str]:
    """Read `Name: value` as a pair; the error never shows the text, which may be a secret."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ValueError("write 'Name: value'")
    return name.strip(), value.strip()
