"""What a reply must be to count as a success. Pure: text in, rules out."""

import re
from typing import Any

import msgspec

_STATUS = re.compile(r"[1-5](?:\d\d|xx)")
_BAD_ESCAPE = re.compile(r"~(?![01])")  # RFC 6901, section 3


class Expect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say what a reply must be to count as a success; one that is not is a failure, as slow ones are.

    Attributes:
        status: Statuses, separated by commas; `2xx` is every one from 200 to 299.
        body_regex: Python's regular expression, found anywhere in the body's bytes; None: any body will do.
        json: Each `/pointer=VALUE`: the body is JSON, and its value at that place (RFC 6901) equals the JSON value.
    """

    status: str = "2xx"
    body_regex: str | None = None
    json: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        statuses(self.status)
        if self.body_regex is not None:
            body_pattern(self.body_regex)
        for text in self.json:
            json_value(text)

    @property
    def reads_body(self) -> bool:
        """Say that the body matters."""
        return self.body_regex is not None or bool(self.json)


def statuses(text: str) -> frozenset[int]:
    """Read `200,201` or `2xx`.

    Raises:
        ValueError: A part is no status.
    """
    found: set[int] = set()
    for part in text.split(","):
        status = part.strip().lower()
        if not _STATUS.fullmatch(status):
            raise ValueError(f"status: '{part.strip()}' is not an HTTP status: write 200, 200,201 or 2xx")
        first = int(status.replace("x", "0"))
        found |= set(range(first, first + 100)) if "x" in status else {first}
    return frozenset(found)


def body_pattern(text: str) -> re.Pattern[bytes]:
    """Compile a regular expression for bytes.

    Raises:
        ValueError: It is none.
    """
    try:
        return re.compile(text.encode())
    except (re.error, UnicodeError, RecursionError, OverflowError) as error:
        raise ValueError(f"body_regex: '{text}' is not a regular expression ({error})") from None


def json_value(text: str) -> tuple[tuple[str, ...], Any]:
    """Read `/outputs/0=4` as the steps of the pointer and the value; the first `=` parts them.

    Raises:
        ValueError: The pointer or the value breaks its rule.
    """
    pointer, equals, value = text.partition("=")
    if not equals or (pointer and not pointer.startswith("/")) or _BAD_ESCAPE.search(pointer):
        raise ValueError(f"json: '{text}' is not a pointer and a value: write them as in /outputs/0=4 (RFC 6901)")
    try:
        wanted = msgspec.json.decode(value.encode())
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ValueError(f"json: '{value}' is not a JSON value; text needs its quotes, as in /status=\"ok\"") from None
    steps = pointer.split("/")[1:]
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in steps), wanted
