"""The server's HTTP against clients that are slow, wrong, greedy or hostile."""

import gc
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.server import connections, http
from loadgen.server.config import Limits
from loadgen.server.messages import Request, Response, Send
from tests.loadgen.server.serving import FAST, Gate, Served, serving, until

TIGHT = Limits(
    max_body_bytes=1000, max_head_bytes=2000, max_connections=3, head_timeout_s=0.2, body_timeout_s=0.2,
    idle_timeout_s=0.4,
)  # fmt: skip
ASK = b"GET /healthz HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


def answer(server: Served, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the server ends the connection."""
    with server.connect() as connection:
        connection.sendall(sent)
        return to_end(connection)


def to_end(connection: socket.socket) -> bytes:
    """Read until the end of the stream."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@contextmanager
def tight() -> Iterator[Served]:
    """Serve within tight limits."""
    with serving(FAST, limits=TIGHT) as server:
        yield server


def test_connection_is_kept_and_requests_may_follow_at_once() -> None:
    """Pipelined requests are answered in their order, those that take longer too, on one connection."""
    with serving() as server, server.connect() as connection:
        connection.sendall(b"GET /predict HTTP/1.1\r\n\r\n" + ASK * 99 + b"GET /ping HTTP/1.0\r\n\r\n")
        replies = to_end(connection).split(OK)[1:]
    assert len(replies) == 101
    assert b'"outputs"' in replies[0]
    assert all(b"ready" in reply for reply in replies[1:100])
    assert b"Connection: close" in replies[100]


def test_head_in_pieces_is_a_head() -> None:
    """A request that comes byte by byte is answered like any other."""
    with serving() as server, server.connect() as connection:
        for byte in b"POST /predict HTTP/1.1\r\nContent-Length: 13\r\nConnection: close\r\n\r\n" + b'{"inputs": 5}':
            connection.sendall(bytes([byte]))
        assert b'"outputs": 5' in to_end(connection)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 3000, b"431 Request Header Fields Too Large"),
        (b"GET /" + b"x" * 3000, b"431 Request Header Fields Too Large"),
        (b"GET / HTTP/1.1\r\n" + b"X: yy\r\n" * 400 + b"\r\n", b"431 Request Header Fields Too Large"),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", b"413 Request Entity Too Large"),
        (b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001, b"413 "),
        (b"POST /predict HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"400 Bad Request"),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400 Bad Request"),
        (b"GET / HTTP/9.9\r\n\r\n", b"400 Bad Request"),
        (b"POST /predict HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1001\r\n\r\n", b"413 "),
        (b"GET /ping HTTP/1.1\r\nX", b"408 Request Timeout"),
        (b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\n{", b"408 Request Timeout"),
    ],
)
def test_what_is_too_large_too_slow_or_not_http_is_told_and_ended(sent: bytes, status: bytes) -> None:
    """The reply says what is wrong, the connection ends, and the server goes on."""
    with tight() as server:
        reply = answer(server, sent)
        assert reply.startswith(b"HTTP/1.1 " + status)
        assert b"Connection: close" in reply
        assert server.ask("/healthz").status == 200


def test_a_head_just_below_the_limit_is_taken() -> None:
    """Header lines count as they came: 370 of five bytes each, without a space, are 1,850, and 2,000 are allowed."""
    with tight() as server:
        assert b" 200 OK" in answer(
            server, b"GET /healthz HTTP/1.1\r\n" + b"X:y\r\n" * 370 + b"Connection:close\r\n\r\n"
        )


@pytest.mark.parametrize("rest", [b"", b"\r\n\r\n"])
@pytest.mark.parametrize(
    "first",
    [
        ASK,
        b"POST /predict HTTP/1.1\r\nContent-Length: 900\r\n\r\n{" + b" " * 898 + b"}",
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ],
)
def test_a_head_that_comes_with_another_request_is_bounded_too(first: bytes, rest: bytes) -> None:
    """What stands before a head, a body too, is no part of it: 1,900 bytes may follow at once, 3,000 may not."""
    with tight() as server:
        replies = answer(server, first + b"GET / HTTP/1.1\r\nX: " + b"x" * 3000 + rest).split(b"HTTP/1.1 ")[1:]
        assert [reply[:3] for reply in replies] == [b"200", b"431"]
        replies = answer(server, first + b"GET / HTTP/1.1\r\nX: " + b"x" * 1900 + rest).split(b"HTTP/1.1 ")[1:]
        assert [reply[:3] for reply in replies] == [b"200", b"404" if rest else b"408"]


def test_idle_connection_ends_silently() -> None:
    """A connection on which nothing is asked ends after its time, without a word, before and after a request."""
    with tight() as server:
        assert answer(server, b"") == b""
        assert answer(server, ASK).endswith(b'{"ready":true}')


def test_a_request_that_waits_is_never_timed_out() -> None:
    """Limits on slow clients do not touch a client that waits for its reply."""
    gate = Gate()
    with serving(FAST, limits=TIGHT, device=gate) as server, server.connect() as connection:
        connection.sendall(b"GET /predict HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert gate.entered.wait(20)
        time.sleep(0.6)  # more than each of the limits
        gate.open.set()
        assert to_end(connection).startswith(OK)


def test_too_many_connections_are_refused_until_one_ends() -> None:
    """Beyond the bound a new connection gets 503 and its end; the open ones go on, and their place is given again."""
    with tight() as server:
        held = [server.connect() for _ in range(3)]
        until(lambda: len(server.app.connections.open) == 3)
        assert answer(server, b"").startswith(b"HTTP/1.1 503 Service Unavailable")
        held[0].sendall(ASK)
        assert held[0].recv(1000).startswith(OK)
        for connection in held:
            connection.close()
        until(lambda: not server.app.connections.open)
        assert server.ask("/healthz").status == 200


def test_each_of_many_connections_too_many_is_told_so() -> None:
    """Whoever comes in a crowd reads 503; few of them linger, and none takes the place of one that is let in."""
    with tight() as server:
        held = [server.connect() for _ in range(3)]
        until(lambda: len(server.app.connections.open) == 3)
        crowd = [server.connect() for _ in range(60)]
        assert all(one.recv(1000).startswith(b"HTTP/1.1 503 ") for one in crowd)
        until(lambda: len(server.app.connections.open) <= 3 + connections._MOST_REFUSED)
        held.pop().close()
        until(lambda: server.app.connections._accepted == 2)
        assert server.ask("/healthz").status == 200
        for one in (*held, *crowd):
            one.close()


def test_a_client_that_does_not_read_is_ended() -> None:
    """Replies that nobody takes do not pile up: reading stops, and then the connection ends."""
    body = b'{"inputs": "%s"}' % (b"x" * 900_000)
    request = b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    limits = Limits(body_timeout_s=0.3, head_timeout_s=0.3)
    with serving(FAST, limits=limits) as server, server.connect() as connection:
        connection.settimeout(0.2)
        with pytest.raises(OSError):  # noqa: PT012 (the server stops reading at some request, and then resets)
            for _ in range(50):
                connection.sendall(request)
        until(lambda: not server.app.connections.open)
        assert server.ask("/healthz").status == 200


def test_continue_is_said_only_where_the_body_may_come() -> None:
    """A client that asks whether its body is welcome is told to go on, or that it is too large."""
    with tight() as server:
        head = b"POST /predict HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: "
        with server.connect() as connection:
            connection.sendall(head + b"13\r\n\r\n")
            assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(b'{"inputs": 5}')
            assert to_end(connection).startswith(OK)
        assert answer(server, head + b"1001\r\n\r\n").startswith(b"HTTP/1.1 413")


def test_an_offer_to_upgrade_is_ignored() -> None:
    """A client that offers another protocol gets its reply in this one."""
    upgrade = b"GET /healthz HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    with tight() as server:
        assert answer(server, upgrade).startswith(OK)


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 13\r\n\r\n%s", b"Transfer-Encoding: chunked\r\n\r\nd\r\n%s\r\n0\r\n\r\n"]
)
def test_a_body_after_an_offer_to_upgrade_is_read(framing: bytes) -> None:
    """A client that offers HTTP/2 with its body gets the reply to that body, and may ask and offer again."""
    offer = b"POST /predict HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
    sent = offer + framing % b'{"inputs": 5}' + ASK + offer + framing % b'{"inputs": 6}'
    with serving(FAST) as server:
        for pieces in ([sent], [sent[i : i + 1] for i in range(len(sent))]):
            with server.connect() as connection:
                for piece in pieces:
                    connection.sendall(piece)
                connection.sendall(b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n")
                replies = to_end(connection).split(OK)[1:]
            assert len(replies) == 4
            assert b'"outputs": 5' in replies[0]
            assert b'"outputs": 6' in replies[2]


def test_a_closed_connection_is_freed_at_once() -> None:
    """Nothing of a connection stays in memory until a garbage collection, whatever it ended in."""
    with tight() as server:
        gc.collect()
        gc.disable()
        try:
            for sent in (
                ASK,
                b"GET /ping HTTP/1.0\r\n\r\n",
                b"POST /predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
                b"\0",
            ):
                answer(server, b"GET /predict HTTP/1.1\r\n\r\n" + sent)
            until(lambda: not any(type(one) is http.Connection for one in gc.get_objects()))
        finally:
            gc.enable()


@pytest.mark.parametrize("trailer", [b"X: y\r\n" * 1000, b"X: " + b"y" * 100_000])
def test_headers_after_a_body_are_bounded_and_dropped(trailer: bytes) -> None:
    """What follows the last chunk takes no memory and changes no header; too much of it is refused."""
    head = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n"
    with tight() as server:
        assert answer(server, head + b"Content-Encoding: br\r\n\r\n").startswith(OK)
        with server.connect() as connection:
            connection.sendall(head)
            until(lambda: any(one._body for one in server.app.connections.open))
            connection.sendall(trailer)
            assert to_end(connection).startswith(b"HTTP/1.1 431 ")


def test_any_number_of_requests_may_follow_at_once() -> None:
    """A thousand requests that are answered at once may wait behind one that is not."""
    with serving(FAST) as server:
        close = b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n"
        replies = answer(server, b"GET /predict HTTP/1.1\r\n\r\n" + ASK * 1000 + close).split(OK)
    assert len(replies) == 1003
    assert all(b"ready" in reply for reply in replies[2:])


def test_a_reply_is_sent_once() -> None:
    """A second reply to a request is dropped, and never answers the next one."""
    with serving() as server:
        sends: list[Send] = []

        def answer_twice(_: Request, send: Send) -> None:
            send(Response(b"1"))
            sends.append(send)

        def late(_: Request, send: Send) -> None:
            sends[0](Response(b"2"))
            send(Response(b"3"))

        server.app._routes[b"/twice"] = {b"GET": answer_twice}
        server.app._routes[b"/late"] = {b"GET": late}
        replies = answer(server, b"GET /twice HTTP/1.1\r\n\r\nGET /late HTTP/1.0\r\n\r\n")
    assert [reply[-1:] for reply in replies.split(OK)[1:]] == [b"1", b"3"]


@pytest.mark.parametrize(
    ("second", "status"),
    [
        (b"\0", b"400 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", b"413 "),
        (b"GET / HTTP/1.1\r\nX", b"408 "),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", b"408 "),
    ],
)
@pytest.mark.parametrize("between", [b"", ASK])
def test_a_bad_request_leaves_those_before_it_their_replies(between: bytes, second: bytes, status: bytes) -> None:
    """What is wrong with a request is said after the replies to those before it, and takes nothing from them."""
    gate = Gate()
    with serving(FAST, limits=TIGHT, device=gate) as server, server.connect() as connection:
        connection.sendall(b"GET /predict HTTP/1.1\r\n\r\n")
        assert gate.entered.wait(20)
        connection.sendall(between + second)
        time.sleep(0.5)  # more than the limits on a head and a body
        gate.open.set()
        replies = to_end(connection).split(b"HTTP/1.1 ")[1:]
    assert len(replies) == (3 if between else 2)
    assert replies[0].startswith(b"200 OK")
    assert b'"outputs"' in replies[0]
    assert replies[-1].startswith(status)


def test_continue_waits_for_the_replies_before_it() -> None:
    """A client that asks whether its next body is welcome is told so after the reply that it waits for."""
    gate = Gate()
    with serving(FAST, device=gate) as server, server.connect() as connection:
        connection.sendall(b"GET /predict HTTP/1.1\r\n\r\n")
        assert gate.entered.wait(20)
        head = b"POST /predict HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 13\r\n\r\n"
        connection.sendall(head)
        until(lambda: any(one._owes_continue for one in server.app.connections.open))
        gate.open.set()
        came = b""
        while not came.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"):
            came += connection.recv(1000)
        assert came.startswith(OK)
        connection.sendall(b'{"inputs": 5}')
        assert b'"outputs": 5' in to_end(connection)


@pytest.mark.parametrize("head", [b"GET /ping HTTP/1.1\r\n", b"POST /predict HTTP/1.0\r\nContent-Length: 2\r\n"])
def test_continue_is_not_said_to_those_who_cannot_expect_it(head: bytes) -> None:
    """A request without a body, and one of HTTP/1.0, gets its reply alone."""
    with serving(FAST) as server:
        assert answer(server, head + b"Expect: 100-continue\r\nConnection: close\r\n\r\n{}").startswith(OK)


def test_a_last_reply_is_sent_whole_to_a_slow_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that begins to read late gets all of the reply that ends its connection."""
    monkeypatch.setattr(http, "_LINGER_S", 0.1)
    with serving(FAST) as server, server.connect() as connection:
        server.app._routes[b"/large"] = {b"GET": lambda _, send: send(Response(b"x" * 20_000_000))}
        connection.sendall(b"GET /large HTTP/1.1\r\nConnection: close\r\n\r\n")
        time.sleep(0.5)
        assert len(to_end(connection)) > 20_000_000
        until(lambda: not server.app.connections.open)


def test_http_1_0_is_told_that_its_connection_is_kept() -> None:
    """A client of HTTP/1.0 that asks to keep its connection learns that it may."""
    with serving(FAST) as server, server.connect() as connection:
        connection.sendall(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert b"\r\nConnection: keep-alive\r\n" in connection.recv(1000)
        connection.sendall(b"GET /ping HTTP/1.1\r\nConnection: keep-alive\r\n\r\n")
        assert b"Connection" not in connection.recv(1000)


def test_drain_ends_idle_connections_and_finishes_the_others() -> None:
    """On shutdown an idle connection ends at once, a waiting one after its reply, and a new request gets 503."""
    gate = Gate()
    with serving(FAST, device=gate) as server:
        idle, busy, late = (server.connect() for _ in range(3))
        busy.sendall(b"GET /predict HTTP/1.1\r\n\r\n")
        late.sendall(b"GET /predict HTTP/1.1\r\n")
        assert gate.entered.wait(20)
        until(lambda: server.app.connections.working == 1 and len(server.app.connections.open) == 3)
        until(lambda: any(one._request for one in server.app.connections.open))
        server.call(server.app.drain)
        assert to_end(idle) == b""
        late.sendall(b"\r\n")
        reply = to_end(late)
        assert reply.startswith(b"HTTP/1.1 503")
        assert b"shutting down" in reply
        gate.open.set()
        reply = to_end(busy)
        assert reply.startswith(OK)
        assert b"Connection: close" in reply
        for connection in (idle, busy, late):
            connection.close()


def test_a_defect_of_ours_is_500() -> None:
    """Whatever a handler raises, its client is told, and the server lives."""
    with serving() as server:

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        server.app._routes[b"/broken"] = {b"GET": broken}
        reply = server.ask("/broken")
        assert (reply.status, reply.json()) == (500, {"error": "The server failed with ZeroDivisionError."})
        assert server.ask("/healthz").status == 200


_PIECES = st.sampled_from([
    b"GET /healthz HTTP/1.1\r\n", b"POST /predict HTTP/1.1\r\n", b"POST /v2/models/fast/infer HTTP/1.1\r\n", b"\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Connection: Upgrade\r\nUpgrade: x\r\n", b"5\r\n{}   \r\n", b"0\r\n\r\n", b"{}",
    b"CONNECT x:1 HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\n", b"Inference-Header-Content-Length: 2\r\n", b"\x00", b":", b" ",
])  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """Serve all examples of a test."""
    with serving(FAST) as server:
        yield server


@given(parts=st.lists(st.lists(st.one_of(_PIECES, st.binary(max_size=8)), max_size=8).map(b"".join), max_size=4))
@settings(deadline=None, max_examples=150)
def test_no_bytes_harm_the_server(shared: Served, parts: list[bytes]) -> None:
    """Whatever a client sends, each of its connections ends, and others are served."""
    server = shared
    with server.connect() as connection:
        for part in parts:
            try:
                connection.sendall(part)
            except OSError:
                break
        try:
            connection.shutdown(socket.SHUT_WR)
            to_end(connection)
        except OSError:
            pass
    assert server.ask("/healthz").status == 200
