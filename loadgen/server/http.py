"""HTTP/1.1 for the server: one asyncio Protocol a connection, parsed by httptools, no task and no future a request.

Why not aiohttp: a request of `/predict` took 151 µs of the server's CPU with it (closed loop of 32 connections, 612
req/s, two cores, 2026-11-28), more than the 150 µs that a whole KServe request may take here; and it bounds neither the
time that a header or a body takes to arrive nor the number of connections. The load generator parses replies with
httptools too, and shares no code with this.
"""

from asyncio import Protocol, Transport
from collections import deque
from http import HTTPStatus
from typing import Any, cast

import httptools

from loadgen.clock import NS_PER_S, now_ns
from loadgen.server.connections import Connections
from loadgen.server.messages import Cancel, Request, Response, error

_LINGER_S = 2.0
_HEADER_FRAME = 3  # bytes of a header line besides name and value, with no space
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_NEVER = 1 << 62
_CLOSE = b"Connection: close\r\n"
_KEEP_ALIVE = b"Connection: keep-alive\r\n"


class Connection(Protocol):
    """Serve one connection: requests one after the other, replies in their order."""

    __slots__ = (
        "_body", "_body_bytes", "_body_here", "_cancel", "_connection", "_has_ended", "_head_bytes", "_header_bytes",
        "_is_blocked", "_is_deaf", "_is_head", "_is_lingering", "_is_stepping", "_owes_continue", "_parser",
        "_pipelined", "_request", "_shared", "_transport", "_turn", "_url", "deadline_ns", "is_accepted", "is_working",
    )  # fmt: skip

    def __init__(self, shared: Connections) -> None:
        self._shared = shared
        self._parser = httptools.HttpRequestParser(self)
        self._pipelined: deque[tuple[Request | Response, bytes]] = deque()  # a Response here refuses what came
        self._request: Request | None = None  # while it comes
        self._body: list[bytes] = []
        self._cancel: Cancel | None = None
        self._connection = b""  # the reply's header line of that name
        self._is_blocked = self._is_lingering = False
        self._is_deaf = False  # what comes is dropped
        self._is_head = self._is_stepping = self._owes_continue = False
        self._has_ended = False  # a request, within the data at hand
        self._body_here = self._head_bytes = self._header_bytes = self._turn = 0
        self.is_accepted = self.is_working = False
        self.deadline_ns = _NEVER

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = cast("Transport", transport)
        self.is_accepted = self._shared.add(self)
        self._turn_to_client()
        if not self.is_accepted:
            self._refuse(503, "The server has too many connections; try again later.", b"Retry-After: 1\r\n")

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._is_deaf:
            return
        self._head_bytes += len(data)
        self._has_ended = False
        self._body_here = 0
        try:
            self._feed(memoryview(data))
        except httptools.HttpParserCallbackError as error:
            raise RuntimeError("a request's handler failed") from error
        except httptools.HttpParserError as error:
            self._refuse(400, f"The request is not HTTP/1.1: {error}.")
        if self._request is None:
            return
        if self._has_ended and not self._request.method:  # this head began behind another request
            # The parser does not say where. It is behind the last empty line, and behind the body, if there is one; a
            # body that holds an empty line makes this less than it is, never more.
            self._head_bytes = len(data) - (data.rfind(b"\r\n\r\n") + 4) - self._body_here
        if self._head_bytes > self._shared.limits.max_head_bytes:
            self._too_long()

    def pause_writing(self) -> None:
        """Give the client its time to take what was sent."""
        self._is_blocked = True
        self.deadline_ns = now_ns() + self._shared.body_ns

    def resume_writing(self) -> None:
        """Go on with the next request."""
        self._is_blocked = False
        if self._is_lingering:
            self.deadline_ns = now_ns() + round(_LINGER_S * NS_PER_S)
            return
        self.deadline_ns = _NEVER
        self._next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Forget everything, the request in progress too.

        The parser and this hold each other, so without this only a rare garbage collection would free the two.
        """
        self._shared.remove(self)
        self._pipelined.clear()
        self._is_lingering = self._is_deaf = True
        self._request = None
        self._body = []
        if self._cancel is not None:
            cancel, self._cancel = self._cancel, None
            cancel()
        del self._parser, self._transport

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url = b""
        self._body_bytes = self._header_bytes = 0
        if not self._is_deaf:
            self._request = Request()
            self._turn_to_client()

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those that follow a body in chunks are dropped."""
        if self._request is not None and not self._request.method:
            self._request.headers[name.lower()] = value
            self._header_bytes += len(name) + len(value) + _HEADER_FRAME

    def on_headers_complete(self) -> None:
        """See what kind of request it is, and whether its body may come."""
        request = self._request
        if request is None:
            return
        request.method = self._parser.get_method()
        request.path, _, request.query = self._url.partition(b"?")
        self._head_bytes = self._body_here = 0
        if len(self._url) + self._header_bytes > self._shared.limits.max_head_bytes:
            self._too_long()
            return
        if self._is_offer(request):
            return
        length = int(request.headers.get(b"content-length", b"0"))  # the parser lets only digits pass
        if length > self._shared.limits.max_body_bytes:
            self._too_large()
            return
        if b"expect" in request.headers:
            has_body = length > 0 or b"transfer-encoding" in request.headers
            self._owes_continue = has_body and self._parser.get_http_version() != "1.0"
        self._turn_to_client()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        if self._request is None:
            return
        self._head_bytes = 0  # from here on what is no body counts: a chunk's extensions, and headers after the last
        self._body_bytes += len(body)
        self._body_here += len(body)
        if self._body_bytes > self._shared.limits.max_body_bytes:
            self._too_large()
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer a request, or keep it until the one before it is answered."""
        request = self._request
        if request is None or self._is_offer(request):
            return
        body, self._body = self._body, []
        self._request = None
        self._head_bytes = 0
        self._has_ended = True
        self._owes_continue = False
        request.body = body[0] if len(body) == 1 else b"".join(body)
        request.began_ns = now_ns()
        if request.method == b"CONNECT" or not self._parser.should_keep_alive():
            connection = _CLOSE
        elif b"connection" in request.headers and self._parser.get_http_version() == "1.0":
            connection = _KEEP_ALIVE
        else:
            connection = b""
        if self.is_working or self._is_blocked:
            self._pipelined.append((request, connection))
            self._transport.pause_reading()  # what has come is kept, and nothing more until it is answered
            return
        self._work(request, connection)

    # What the server calls.

    def expire(self) -> None:
        """End the connection, because its client took too long."""
        if self._request is None or self.is_working or self._is_blocked or self._is_lingering:
            self._transport.abort()
        else:
            what = "body" if self._request.method else "head"
            self._refuse(408, f"The request's {what} took too long.")

    def abort(self) -> None:
        """End the connection now, whatever is in progress."""
        self._transport.abort()

    def close(self) -> None:
        """End the connection once all that was written is sent."""
        self._transport.close()

    def drain(self) -> None:
        """End the connection now if it is idle, else after its reply."""
        if not self.is_working and self._request is None and not self._is_blocked:
            self._transport.close()

    def _feed(self, data: memoryview) -> None:
        """Parse, and answer a request that offers another protocol as if it had not: its body follows all the same."""
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                request = self._request
                if request is None:  # refused, or CONNECT, which nothing can follow
                    self._is_deaf = True
                    return
                data = data[offer.args[0] :]
                head = self._head_without_offer(request)
                self._parser = httptools.HttpRequestParser(self)
                self._parser.feed_data(head)
            else:
                return

    def _is_offer(self, request: Request) -> bool:
        """Say whether the parser takes what follows a request's head for another protocol, which it is not here."""
        return self._parser.should_upgrade() and request.method != b"CONNECT"

    def _head_without_offer(self, request: Request) -> bytes:
        connection = b"keep-alive" if self._parser.should_keep_alive() else b"close"
        headers = request.headers | {b"connection": connection}
        del headers[b"upgrade"]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers.items())
        version = self._parser.get_http_version().encode()
        return b"%s %s HTTP/%s\r\n%s\r\n" % (request.method, self._url, version, lines)

    def _turn_to_client(self) -> None:
        """Give the client its time for what it does next, unless it waits for a reply."""
        if self.is_working or self._is_blocked or self._pipelined or self._is_lingering:
            return
        if self._owes_continue:
            self._owes_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        shared, request = self._shared, self._request
        time_ns = shared.idle_ns
        if request is not None:
            time_ns = shared.body_ns if request.method else shared.head_ns
        self.deadline_ns = now_ns() + time_ns

    def _too_large(self) -> None:
        self._refuse(413, f"The body is larger than {self._shared.limits.max_body_bytes} bytes.")

    def _too_long(self) -> None:
        self._refuse(431, f"The request's head is longer than {self._shared.limits.max_head_bytes} bytes.")

    def _work(self, request: Request, connection: bytes) -> None:
        self.is_working = True
        self._connection = connection
        self._is_head = request.method == b"HEAD"
        self._turn = turn = self._turn + 1
        self.deadline_ns = _NEVER
        cancel = self._shared.handle(request, lambda response: self._send(response, turn))
        if self.is_working and self._turn == turn:
            self._cancel = cancel

    def _send(self, response: Response, turn: int) -> None:
        """Send the reply to the request of a turn, once, and go on with the next request."""
        if self._is_lingering or not self.is_working or turn != self._turn:  # the client has left, or has its reply
            return
        self._cancel = None
        self.is_working = False
        connection = _CLOSE if self._shared.is_draining else self._connection
        self._write(response, connection, is_head=self._is_head)
        if connection is _CLOSE:
            self._close()
        elif not self._is_stepping:
            self._next()

    def _next(self) -> None:
        """Answer what came meanwhile, in a loop that those who reply at once come back to."""
        self._is_stepping = True
        while self._pipelined and not self.is_working and not self._is_blocked:
            asked, connection = self._pipelined.popleft()
            if not self._pipelined:
                self._transport.resume_reading()
            if isinstance(asked, Response):
                self._write(asked, connection)
                self._close()
            else:
                self._work(asked, connection)
        self._is_stepping = False
        self._turn_to_client()

    def _write(self, response: Response, connection: bytes, *, is_head: bool = False) -> None:
        head = b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s%s\r\n" % (
            response.status, _REASONS.get(response.status, b""), response.content_type, len(response.body),
            response.extra, connection,
        )  # fmt: skip
        self._transport.write(head if is_head else head + response.body)

    def _refuse(self, status: int, sentence: str, extra: bytes = b"") -> None:
        """Answer what is no request, after the requests before it, and end the connection."""
        if self._is_deaf:
            return
        self._is_deaf = True
        self._request = None
        self._body = []
        self._owes_continue = False
        refusal = error(status, sentence, extra)
        if self.is_working or self._pipelined:
            self._pipelined.append((refusal, _CLOSE))
            self._transport.pause_reading()
            return
        self._write(refusal, _CLOSE)
        self._close()

    def _close(self) -> None:
        """Send the end of the stream, and let what the client still sends pass unread for a moment.

        Closing at once would reset a connection on which something is unread, and the client might lose the reply. The
        moment begins when all of the reply is sent.
        """
        self._is_lingering = self._is_deaf = True
        self._request = None
        self._body = []
        if self._pipelined:
            self._pipelined.clear()
            self._transport.resume_reading()
        if not self._is_blocked:
            self.deadline_ns = now_ns() + round(_LINGER_S * NS_PER_S)
        self._transport.set_write_buffer_limits(0)  # writing resumes when nothing is left of the reply
        if self._shared.is_draining or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._transport.write_eof()
