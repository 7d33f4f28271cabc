"""One connection by hand: what is written, what counts as the reply, and what an idle connection keeps."""

import errno
import os
from typing import Any

import numpy as np
import pytest

from analysis import Outcome
from loadgen.clock import now_ns
from loadgen.http1 import Connection, HeadConnection

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Transport:
    """Note what is written; stand for a socket of the given descriptor."""

    def __init__(self, descriptor: int = -1) -> None:
        self.written = b""
        self.descriptor = descriptor

    def get_extra_info(self, name: str) -> Any:
        """Return itself as the socket; there is no TLS."""
        return self if name == "socket" else None

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.descriptor

    def write(self, data: bytes) -> None:
        """Note data."""
        self.written += data

    def close(self) -> None:
        """Do nothing."""

    abort = close


class Engine:
    """Note what a connection tells."""

    def __init__(self) -> None:
        self.rows = bytearray()
        self.record = self.rows.extend
        self.told: list[str] = []
        self.usual_reply = b""

    def __getattr__(self, name: str) -> Any:
        """Note any other call by its name."""
        return lambda *_, **__: self.told.append(name)

    @property
    def table(self) -> Any:
        """Return the rows: due, sent, first byte, done, outcome."""
        return np.frombuffer(bytes(self.rows), dtype=np.int64).reshape(-1, 5)


def connected(kind: type[Connection] = Connection, descriptor: int = -1) -> tuple[Any, Engine, Transport]:
    """Return a connection, its engine and its transport."""
    engine, transport = Engine(), Transport(descriptor)
    connection: Any = kind(engine)  # type: ignore[arg-type]
    connection.connection_made(transport)
    return connection, engine, transport


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOBUFS, errno.EPIPE])
def test_what_the_system_does_not_take_the_transport_does(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """No request is taken for sent because writing it failed: the transport tries again, or tells that it is broken."""

    def refuse(_descriptor: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    connection, _, transport = connected(descriptor=7)
    monkeypatch.setattr("loadgen.http1.os.write", refuse)
    connection.send(now_ns(), b"GET / HTTP/1.1\r\n\r\n")
    assert transport.written == b"GET / HTTP/1.1\r\n\r\n"


def test_a_request_taken_in_part_goes_on_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest goes through the transport, and so does every later request, which might overtake it otherwise."""
    connection, _, transport = connected(descriptor=7)
    monkeypatch.setattr("loadgen.http1.os.write", lambda _descriptor, _data: 4)
    connection.send(now_ns(), b"first request")
    connection.send(now_ns(), b", second")
    assert transport.written == b"t request, second"


def test_the_first_byte_is_that_of_the_reply_proper() -> None:
    """An interim reply is not yet an answer: the time to the first byte runs on."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    connection.data_received(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    after = now_ns()
    connection.data_received(_OK)
    ((_, _, first, done, outcome),) = engine.table
    assert after <= first <= done
    assert outcome == Outcome.OK


def test_an_interim_reply_may_come_in_pieces_with_the_reply() -> None:
    """The reply proper begins in the middle of what was read; its own status is what counts."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    for piece in (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 50", b"3 Busy\r\nContent-Length: 0\r\n\r\n"):
        connection.data_received(piece)
    ((_, sent, first, done, outcome),) = engine.table
    assert sent < first < done
    assert outcome == Outcome.HTTP_STATUS


def test_an_idle_connection_at_its_end_is_not_used_again() -> None:
    """The end of the stream may be read before the connection is lost; no request goes out in between."""
    connection, engine, _ = connected()
    connection.eof_received()
    assert engine.told[-1] == "forget"


def test_a_large_reply_is_not_kept() -> None:
    """Ten thousand idle connections do not keep ten thousand replies."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    size = 1_000_000
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    assert engine.table[0, 4] == Outcome.OK
    assert len(connection._head) <= 2 * 64 * 1024


@pytest.mark.parametrize(
    ("head", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
    ],
)
def test_a_head_reply_needs_no_length_to_keep_its_connection(head: bytes, kept: bool) -> None:
    """HEAD replies have no body, whatever they say of one, so only the target's word closes the connection."""
    connection, engine, _ = connected(HeadConnection)
    connection.send(now_ns(), b"")
    connection.data_received(head)
    assert engine.table[0, 4] == Outcome.OK
    assert ("free" in engine.told) is kept


@pytest.mark.parametrize("coding", [b"gzip", b"chunked, gzip"])
def test_a_transfer_coding_other_than_chunked_ends_with_the_stream(coding: bytes) -> None:
    """A reply whose last coding is not chunked is complete at the end of the stream (RFC 9112, section 6.3)."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\nbytes")
    connection.eof_received()
    assert engine.table[0, 4] == Outcome.OK


def test_a_reply_like_the_last_one_is_a_reply_like_the_last_one() -> None:
    """What was parsed once counts again without parsing; what differs, or comes unasked, is looked at as ever."""
    connection, engine, _ = connected()
    bad = b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nok"
    for reply in (_OK, _OK, bad, bad, _OK):
        connection.send(now_ns(), b"")
        connection.data_received(reply)
    good, failed = Outcome.OK, Outcome.HTTP_STATUS
    assert engine.table[:, 4].tolist() == [good, good, failed, failed, good]
    connection.data_received(_OK)  # nobody asked
    assert "forget" in engine.told
    assert len(engine.table) == 5


@pytest.mark.parametrize("excess", [b"HT", _OK, b"x"])
def test_a_reply_with_something_behind_it_is_never_usual(excess: bytes) -> None:
    """Only a reply that ends where the read ended may be taken for granted."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    connection.data_received(_OK + excess)
    assert engine.usual_reply == b""


def test_a_reply_in_two_pieces_is_no_whole() -> None:
    """The second piece alone is not a reply, and the first neither."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    connection.data_received(_OK[:30])
    connection.data_received(_OK[30:])
    assert engine.table[0, 4] == Outcome.OK
    assert engine.usual_reply == b""


def test_the_second_half_of_a_reply_is_not_a_reply() -> None:
    """A reply of which the usual one is the tail is not cut short by it."""
    connection, engine, _ = connected()
    connection.send(now_ns(), b"")
    connection.data_received(_OK)
    connection.send(now_ns(), b"")
    connection.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (len(_OK) + 1))
    connection.data_received(_OK)
    assert len(engine.table) == 1
    connection.data_received(b".")
    assert len(engine.table) == 2
