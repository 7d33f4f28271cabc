"""Connections that read what they are told: a reply that is not as expected counts as a failure."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from analysis import Outcome
from loadgen.http1 import Connection, HeadConnection
from scenarios.expect import Expect, body_pattern, json_value, statuses

if TYPE_CHECKING:
    from loadgen.engine import Engine

_MOST_BODY_BYTES = 8 * 1024 * 1024
_MOST_SHOWN = 60
_MISSING = object()
_ENCODED = re.compile(rb"\ncontent-encoding:[ \t]*+(?!identity[ \t]*(?:\r|\Z))")
_COMPRESSED = "the body is compressed: ask for identity with -H 'Accept-Encoding: identity'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """Hold a reply against what is expected of it; compiled once, used for each reply.

    Attributes:
        expect: As the user wrote it.
        statuses: Those that may come.
        body: What must be found in the body, or None.
        values: Each a pointer as written, its steps, and the value that must be there.
    """

    expect: Expect
    statuses: frozenset[int]
    body: re.Pattern[bytes] | None
    values: tuple[tuple[str, tuple[str, ...], Any], ...]

    @classmethod
    def of(cls, expect: Expect) -> Self:
        """Compile."""
        return cls(
            expect=expect,
            statuses=statuses(expect.status),
            body=None if expect.body_regex is None else body_pattern(expect.body_regex),
            values=tuple((text.partition("=")[0], *json_value(text)) for text in expect.json),
        )

    def wrong_body(self, body: bytes | bytearray) -> str:
        """Say what is wrong with a body, in a few words; nothing where it is as expected."""
        if len(body) > _MOST_BODY_BYTES:
            return f"the body is longer than {_MOST_BODY_BYTES >> 20} MiB"
        if self.body is not None and not self.body.search(body):
            return f"the body does not match '{_shown(self.expect.body_regex or '')}'"
        return self._wrong_value(body) if self.values else ""

    def _wrong_value(self, body: bytes | bytearray) -> str:
        try:
            whole = msgspec.json.decode(body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return "the body is not JSON"
        for pointer, steps, wanted in self.values:
            found = _at(whole, steps)
            if not _same(found, wanted):
                place = _shown(pointer) or "the body"
                return f"{place} is {'missing' if found is _MISSING else _json(found)}, not {_json(wanted)}"
        return ""


def _at(value: Any, steps: tuple[str, ...]) -> Any:
    """Follow a JSON pointer (RFC 6901, section 4)."""
    for step in steps:
        match value:
            case dict() if step in value:
                value = value[step]
            case list() if step.isdecimal() and step == str(int(step)) and int(step) < len(value):
                value = value[int(step)]
            case _:
                return _MISSING
    return value


def _same(one: Any, other: Any) -> bool:
    """Compare as JSON does: 4 equals 4.0, and true is not 1, whatever Python thinks of it."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _json(value: Any) -> str:
    return _shown(msgspec.json.encode(value)[: 4 * _MOST_SHOWN].decode(errors="replace"))


def _shown(text: str) -> str:
    """Make text short and printable."""
    short = text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"
    return "".join(c if c.isprintable() else "?" for c in short)


class CheckedConnection(Connection):
    """Judge a reply by its status."""

    __slots__ = ("_checks",)
    _judges: ClassVar[bool] = True
    _may_skip: ClassVar[bool] = False

    def __init__(self, engine: "Engine", checks: Checks) -> None:
        self._checks = checks
        super().__init__(engine)

    def _judge(self, status: int) -> Outcome:
        if status in self._checks.statuses:
            return Outcome.OK
        self._engine.note(f"{self._status_words(status)}, not {_shown(self._checks.expect.status)}")
        return Outcome.HTTP_STATUS


class CheckedHeadConnection(CheckedConnection, HeadConnection):
    """Judge a reply to HEAD, which has a status and no body."""

    __slots__ = ()


class BodyConnection(CheckedConnection):
    """Keep the body of a reply, within bounds, and judge the reply by status and body."""

    __slots__ = ("_body",)

    def __init__(self, engine: "Engine", checks: Checks) -> None:
        self._body: bytes | bytearray = b""
        super().__init__(engine, checks)

    def on_body(self, data: bytes) -> None:
        """Keep it: most bodies come in one piece; of one that is too long, only as much as shows that."""
        body = self._body
        if not body:
            self._body = data
        elif len(body) <= _MOST_BODY_BYTES:
            if isinstance(body, bytes):
                self._body = body = bytearray(body)
            body += data

    def _judge(self, status: int) -> Outcome:
        body, self._body = self._body, b""
        outcome = super()._judge(status)
        if outcome is not Outcome.OK:
            return outcome
        head = self._head[: self._head.find(b"\r\n\r\n")].lower()
        wrong = _COMPRESSED if _ENCODED.search(head) else self._checks.wrong_body(body)
        if not wrong:
            return Outcome.OK
        self._engine.note(f"unexpected reply: {wrong}")
        return Outcome.WRONG_REPLY


def connection(*, is_head: bool, expect: Mapping[str, Any] | None) -> "Callable[[Engine], Connection]":
    """Return what makes a connection: a plain one, unless replies are to be checked."""
    if expect is None:
        return HeadConnection if is_head else Connection
    checks = Checks.of(msgspec.convert(expect, Expect))
    checked = BodyConnection if checks.expect.reads_body else CheckedConnection
    kind = CheckedHeadConnection if is_head else checked
    return lambda engine: kind(engine, checks)
