"""Replies held against what is expected of them: alone, and as they come over a connection."""

import struct
from typing import Any

import pytest

from analysis import Outcome
from loadgen import checked
from loadgen.checked import BodyConnection, CheckedConnection, CheckedHeadConnection, Checks, connection
from loadgen.http1 import Connection, HeadConnection
from scenarios.expect import Expect


def wrong(body: str | bytes, **expect: Any) -> str:
    """Return what is wrong with a body."""
    content = body.encode() if isinstance(body, str) else body
    return Checks.of(Expect(**expect)).wrong_body(content)


# a body


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"outputs": [4]}', "/outputs/0=4"),
        ('{"outputs": [4.0]}', "/outputs/0=4"),
        ('{"a/b": {"m~n": null}}', "/a~1b/m~0n=null"),
        ('{"": true}', "/=true"),
        ('[{"x": 1, "y": [1, 2]}]', '/0={"y": [1, 2.0], "x": 1}'),
        (" 4 ", "=4"),
        ('{"0": "text"}', '/0="text"'),
    ],
)
def test_a_value_that_is_as_expected(body: str, text: str) -> None:
    """Values are compared as JSON does: numbers by their value, objects without an order."""
    assert wrong(body, json=(text,)) == ""


@pytest.mark.parametrize(
    ("body", "text", "says"),
    [
        ('{"outputs": [3]}', "/outputs/0=4", "/outputs/0 is 3, not 4"),
        ('{"ok": 1}', "/ok=true", "/ok is 1, not true"),
        ('{"ok": false}', "/ok=0", "/ok is false, not 0"),
        ('{"ok": [true]}', "/ok=[1]", "/ok is [true], not [1]"),
        ('{"ok": "1"}', "/ok=1", '/ok is "1", not 1'),
        ('{"outputs": [3]}', "/outputs/1=4", "/outputs/1 is missing, not 4"),
        ('{"outputs": [3]}', "/outputs/00=3", "/outputs/00 is missing, not 3"),
        ('{"outputs": [3]}', "/outputs/-=3", "/outputs/- is missing, not 3"),
        ('{"outputs": [3]}', "/outputs/²=3", "/outputs/² is missing, not 3"),
        ('{"outputs": [3]}', "/outputs/0/x=3", "/outputs/0/x is missing, not 3"),
        ('{"a": 1}', '={"a": 1, "b": 2}', 'the body is {"a":1}, not {"a":1,"b":2}'),
        ("queue full", "/outputs/0=4", "the body is not JSON"),
        ("", "/outputs/0=4", "the body is not JSON"),
        (b'{"outputs": "\xff"}', "/outputs/0=4", "the body is not JSON"),
        ("[" * 100_000, "/outputs/0=4", "the body is not JSON"),
    ],
)
def test_a_value_that_is_not(body: str | bytes, text: str, says: str) -> None:
    """The words say where, what is there, and what should be."""
    assert wrong(body, json=(text,)) == says


def test_the_first_wrong_value_is_told() -> None:
    """All must hold."""
    assert wrong('{"a": 1, "b": 2}', json=("/a=1", "/b=3", "/a=9")) == "/b is 2, not 3"


def test_a_body_is_searched() -> None:
    """The expression may match anywhere, and matches bytes, whatever they mean."""
    assert wrong("all is ok\n", body_regex="o[k]") == ""
    assert wrong("Grüße", body_regex="ü") == ""
    assert wrong(b"\xff\x00ok", body_regex="ok$") == ""
    assert wrong("queue full", body_regex="^ok") == "the body does not match '^ok'"
    assert wrong("", body_regex="ok") == "the body does not match 'ok'"


def test_words_are_short_and_printable() -> None:
    """What a target sends is cut, and cannot steer a terminal."""
    said = wrong('{"a": "' + "\u202e" + "x" * 10_000 + '"}', json=("/a=1",))
    assert said.isprintable()
    assert len(said) < 100
    assert len(wrong("no", body_regex="x" * 10_000)) < 120


# a connection


class FakeEngine:
    """Keep what connections say; each is free for the next request at once."""

    def __init__(self) -> None:
        self.usual_reply = b""
        self.outcomes: list[Outcome] = []
        self.words: list[str] = []

    def connected(self, _connection: Connection) -> None:
        """Nothing waits."""

    forget = connected

    def free(self, _connection: Connection, _at_ns: int) -> None:
        """Nothing waits."""

    def freed(self, at_ns: int, *, pause_ns: int = 0) -> None:
        """Nobody waits."""

    def record(self, row: bytes) -> None:
        """Keep the outcome."""
        self.outcomes.append(Outcome(struct.unpack("=5q", row)[4]))

    def note(self, words: str) -> None:
        """Keep the words."""
        self.words.append(words)

    def fail(self, _due: int, _sent: int, _first: int, outcome: Outcome, words: str) -> None:
        """Keep both."""
        self.outcomes.append(outcome)
        self.words.append(words)


class FakeTransport:
    """Swallow what is written."""

    def get_extra_info(self, name: str) -> object:
        """Claim to be TLS, which is written through the transport."""
        return self if name == "sslcontext" else None

    def write(self, _data: bytes) -> None:
        """Swallow it."""

    def abort(self) -> None:
        """Nothing to end."""

    close = abort


def judged(*replies: bytes, is_head: bool = False, **expect: Any) -> tuple[list[Outcome], list[str]]:
    """Send a request for each reply over one connection; return what became of them, and the words."""
    engine: Any = FakeEngine()
    transport: Any = FakeTransport()
    made = connection(is_head=is_head, expect=expect)(engine)
    made.connection_made(transport)
    for reply in replies:
        made.send(1, b"request")
        for at in range(0, len(reply), 65536):
            made.data_received(reply[at : at + 65536])
    return engine.outcomes, engine.words


def reply(body: str | bytes, status: str = "200 OK", header: str = "") -> bytes:
    """Build a reply."""
    content = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 {status}\r\n{header}Content-Length: {len(content)}\r\n\r\n".encode() + content


def test_without_expectations_the_plain_connection_is_used() -> None:
    """What is not asked for costs nothing: a status alone needs no body."""
    assert connection(is_head=False, expect=None) is Connection
    assert connection(is_head=True, expect=None) is HeadConnection
    made = connection(is_head=True, expect={"status": "404"})(FakeEngine())  # type: ignore[arg-type]
    assert isinstance(made, CheckedHeadConnection)
    made = connection(is_head=False, expect={"status": "404"})(FakeEngine())  # type: ignore[arg-type]
    assert not hasattr(made, "on_body")
    assert isinstance(made, CheckedConnection)


def test_replies_are_judged_one_by_one() -> None:
    """Each is held against its own body, not against the last one's."""
    outcomes, words = judged(reply("[4]"), reply("[3]"), reply("[4]"), json=("/0=4",))
    assert outcomes == [Outcome.OK, Outcome.WRONG_REPLY, Outcome.OK]
    assert words == ["unexpected reply: /0 is 3, not 4"]


def test_a_body_in_pieces_is_put_together() -> None:
    """Chunks, interim replies before, and nothing left of the last reply."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[4\r\n1\r\n]\r\n0\r\n\r\n"
    interim = b"HTTP/1.1 103 Early Hints\r\nContent-Encoding: gzip\r\n\r\n"
    outcomes, words = judged(reply("[" + "0," * 200_000), chunked, interim + chunked, json=("/0=4",))
    assert outcomes == [Outcome.WRONG_REPLY, Outcome.OK, Outcome.OK]
    assert words == ["unexpected reply: the body is not JSON"]


def test_a_status_is_expected_as_it_is_said() -> None:
    """What a success is, --expect-status alone decides; any other status is a failure in the target's words."""
    outcomes, words = judged(reply("", "404 Not Found"), reply("{}"), reply("", "503 Busy"), status="404")
    assert outcomes == [Outcome.OK, Outcome.HTTP_STATUS, Outcome.HTTP_STATUS]
    assert words == ["HTTP 200 OK, not 404", "HTTP 503 Busy, not 404"]


def test_an_expected_failure_may_have_an_expected_body() -> None:
    """The body is looked at where the status is the expected one."""
    outcomes, words = judged(
        reply("no such model", "404 Not Found"), reply("oops", "404 Not Found"), status="404", body_regex="model"
    )
    assert outcomes == [Outcome.OK, Outcome.WRONG_REPLY]
    assert words == ["unexpected reply: the body does not match 'model'"]


@pytest.mark.parametrize(
    ("header", "is_ok"),
    [
        ("content-ENCODING: gzip\r\n", False),
        ("Content-Encoding:BR\r\n", False),
        ("Content-Encoding: identity, gzip\r\n", False),
        ("Content-Encoding:  Identity \r\n", True),
        ("X-Content-Encoding: gzip\r\n", True),
    ],
)
def test_a_compressed_body_is_not_read(header: str, is_ok: bool) -> None:
    """It is a wrong reply that says what to ask for, and the next reply is read again."""
    outcomes, words = judged(reply("ok", header=header), reply("ok\r\nContent-Encoding: gzip\r\n\r\n"), body_regex="ok")
    assert outcomes == [Outcome.OK if is_ok else Outcome.WRONG_REPLY, Outcome.OK]
    assert [word for word in words if "compressed: ask for identity" not in word] == []


def test_a_long_body_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of a body that is kept is bounded; a longer one is a wrong reply, and the next one is read again."""
    monkeypatch.setattr(checked, "_MOST_BODY_BYTES", 1 << 20)
    outcomes, words = judged(reply(b"x" * (1 << 20)), reply(b"x" * ((1 << 20) + 1)), reply("x"), body_regex="x")
    assert outcomes == [Outcome.OK, Outcome.WRONG_REPLY, Outcome.OK]
    assert words == ["unexpected reply: the body is longer than 1 MiB"]
    engine: Any = FakeEngine()
    made = BodyConnection(engine, Checks.of(Expect(body_regex="x")))
    for _ in range(100):
        made.on_body(b"x" * 65536)
    assert len(made._body) <= (1 << 20) + 65536


def test_a_reply_to_head_has_a_status() -> None:
    """It ends with its headers, and is judged by its status."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    outcomes, words = judged(head, b"HTTP/1.1 404 No\r\n\r\n", is_head=True, status="404")
    assert outcomes == [Outcome.HTTP_STATUS, Outcome.OK]
    assert words == ["HTTP 200 OK, not 404"]
