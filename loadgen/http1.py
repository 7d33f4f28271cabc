"""One HTTP/1.1 connection of the load engine: prebuilt bytes out, llhttp in, no task and no future per request."""

import asyncio
import re
from typing import TYPE_CHECKING, Any

from httptools import HttpParserError, HttpResponseParser

from analysis import Outcome
from loadgen.clock import now_ns

if TYPE_CHECKING:
    from loadgen.engine import Engine

_OK, _HTTP_STATUS = int(Outcome.OK), int(Outcome.HTTP_STATUS)
_HAS_LENGTH = re.compile(rb"\r\n(?:content-length|transfer-encoding)\s*:", re.IGNORECASE)
_MAX_WORDS = 120
_MOST_HEAD_BYTES = 65536


class Connection(asyncio.Protocol):
    """Carry one request at a time and write down when it was due, sent, first answered and done.

    Attributes:
        due_ns: When the request under way was due.
        sent_ns: When it was written.
        first_ns: When its reply began; 0 before that, and while idle.
        busy: A request is under way.
    """

    __slots__ = (
        "_at_ns",
        "_engine",
        "_feed",
        "_head",
        "_parser",
        "_transport",
        "busy",
        "due_ns",
        "first_ns",
        "sent_ns",
    )

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._transport: Any = None
        self._head = b""
        self._at_ns = 0
        self.busy = False
        self.due_ns = self.sent_ns = self.first_ns = 0
        self._renew_parser()

    def _renew_parser(self) -> None:
        self._parser: Any = HttpResponseParser(self)
        self._feed: Any = self._parser.feed_data

    def send(self, due_ns: int, request: bytes) -> None:
        """Write a request now."""
        self.due_ns = due_ns
        self.busy = True
        self.sent_ns = now_ns()
        self._transport.write(request)

    def give_up(self, outcome: Outcome, words: str = "") -> None:
        """End the request under way, if any, as a failure, and drop the connection."""
        self._transport.abort()
        self._engine.forget(self)
        if self.busy:
            self.busy = False
            self._engine.fail(self.due_ns, self.sent_ns, self.first_ns, outcome, words)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer this connection to the engine."""
        self._transport = transport
        self._engine.connected(self)

    def data_received(self, data: bytes) -> None:
        """Parse; a reply that is complete calls `on_message_complete` from inside."""
        self._at_ns = now = now_ns()
        if not self.first_ns:
            if not self.busy:
                self.give_up(Outcome.PROTOCOL_ERROR)
                return
            self.first_ns = now
            self._head = data
        elif b"\r\n\r\n" not in self._head and len(self._head) < _MOST_HEAD_BYTES:
            self._head += data
        try:
            self._feed(data)
        except HttpParserError as error:
            self.give_up(Outcome.PROTOCOL_ERROR, f"not HTTP/1.1: {error}")

    def eof_received(self) -> None:
        """End a reply that has no length of its own: its end is the end of the stream (RFC 9112, section 6.3)."""
        if self.busy and b"\r\n\r\n" in self._head and not _HAS_LENGTH.search(self._head) and self.first_ns:
            self._at_ns = now_ns()
            self.on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the target closed or reset the connection."""
        self._parser = self._feed = None  # it refers back to this connection, and the collector is off during a step
        self._engine.forget(self)
        if self.busy:
            self.busy = False
            words = "connection reset" if exc else "connection closed before the reply was complete"
            self._engine.fail(self.due_ns, self.sent_ns, self.first_ns, Outcome.RESET, words)

    # httptools

    def on_message_complete(self) -> None:
        """Record the request, and take the next one."""
        status = self._parser.get_status_code()
        if status < 200:  # llhttp reports each interim reply as a message of its own
            self._head = self._head.partition(b"\r\n\r\n")[2]
            return
        first = self.first_ns
        if not first or not self.busy:
            self.give_up(Outcome.PROTOCOL_ERROR, "a second reply to one request")
            return
        engine = self._engine
        self.busy = False
        self.first_ns = 0
        if 200 <= status < 300:
            engine.record((self.due_ns, self.sent_ns, first, self._at_ns, _OK))
        else:
            engine.record((self.due_ns, self.sent_ns, first, self._at_ns, _HTTP_STATUS))
            engine.note(self._status_words(status))
        if self._parser.should_keep_alive():
            engine.free(self, self._at_ns)
        else:
            self._transport.close()
            engine.forget(self)
            engine.freed(self._at_ns)

    def _status_words(self, status: int) -> str:
        """Return the status as the target worded it."""
        line = self._head.split(b"\r\n", 1)[0][:_MAX_WORDS].decode("latin-1")
        phrase = line.split(" ", 2)[2] if line.count(" ") >= 2 else ""
        return f"HTTP {status} {''.join(c if c.isprintable() else '?' for c in phrase)}".strip()


class HeadConnection(Connection):
    """Carry HEAD requests: a reply ends with its headers, whatever length they announce (RFC 9110, section 9.3.2)."""

    __slots__ = ()

    def on_headers_complete(self) -> None:
        """Take the headers for the whole reply; llhttp would wait for a body, so the parser is renewed."""
        is_final = self._parser.get_status_code() >= 200
        Connection.on_message_complete(self)
        if is_final:
            self._renew_parser()

    def on_message_complete(self) -> None:
        """Do nothing: the headers have ended the reply."""
