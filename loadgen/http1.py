"""One HTTP/1.1 connection of the load engine: prebuilt bytes out, llhttp in, no task and no future per request."""

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any, ClassVar

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from analysis import Outcome
from loadgen.clock import now_ns
from loadgen.rows import pack_row

if TYPE_CHECKING:
    from loadgen.engine import Engine

_OK = int(Outcome.OK)
_HAS_LENGTH = re.compile(rb"\r\n(?:content-length\s*:|transfer-encoding\s*:[^\r\n]*chunked\s*\r)", re.IGNORECASE)
_IS_LAST = re.compile(rb"\r\nconnection\s*:[^\r\n]*close", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_MAX_WORDS = 120
_MOST_HEAD_BYTES = 64 * 1024  # llhttp has no bound of its own
_NO_FD = -1


class Connection(asyncio.Protocol):
    """Carry one request at a time and write down when it was due, sent, first answered and done.

    Attributes:
        due_ns: When the request under way was due.
        sent_ns: When it was written.
        first_ns: When its reply began; 0 before that, and while idle.
        busy: A request is under way.
        is_last: No request follows the one under way.
    """

    __slots__ = (
        "_at_ns",
        "_engine",
        "_fd",
        "_feed",
        "_has_excess",
        "_head",
        "_keeps_alive",
        "_outcome",
        "_parser",
        "_transport",
        "busy",
        "due_ns",
        "first_ns",
        "is_last",
        "sent_ns",
    )
    _judges: ClassVar[bool] = False  # a reply of 2xx, too, is judged by `_judge`
    # A reply that is byte for byte one that was parsed from its begin to its end, and was good, is not parsed again.
    _may_skip: ClassVar[bool] = True

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._transport: Any = None
        self._fd = _NO_FD
        self._head = b""
        self._at_ns = 0
        self._outcome: int | None = None  # of a reply that has ended in what is being parsed
        self._has_excess = self._keeps_alive = False
        self.busy = self.is_last = False
        self.due_ns = self.sent_ns = self.first_ns = 0
        self._renew_parser()

    def _renew_parser(self) -> None:
        self._parser: Any = HttpResponseParser(self)
        self._feed: Any = self._parser.feed_data

    def send(self, due_ns: int, request: bytes) -> None:
        """Write a request now: at once, where the transport would only write at the end of the loop's round."""
        self.due_ns = due_ns
        self.busy = True
        self.sent_ns = now_ns()
        if self._fd == _NO_FD:
            self._transport.write(request)
            return
        try:
            written = os.write(self._fd, request)
        except OSError:  # no room, or broken: the transport tries again, or tells
            written = 0
        if written < len(request):
            self._fd = _NO_FD  # from here on the transport keeps what the system did not take, in order
            self._transport.write(request[written:])

    def give_up(self, outcome: Outcome, words: str = "") -> None:
        """End the request under way, if any, as a failure, and drop the connection."""
        self._transport.abort()
        self._engine.forget(self)
        if self.busy:
            self.busy = False
            self._engine.fail(self.due_ns, self.sent_ns, self.first_ns, outcome, words)

    def retire(self) -> None:
        """Close: now if idle, else when the reply under way is complete."""
        self.is_last = True
        if not self.busy:
            self._transport.close()
            self._engine.forget(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer this connection to the engine."""
        self._transport = transport
        if transport.get_extra_info("sslcontext") is None:
            self._fd = transport.get_extra_info("socket").fileno()
        self._engine.connected(self)

    def data_received(self, data: bytes) -> None:
        """Parse; a reply that is complete calls `on_message_complete` from inside."""
        self._at_ns = now = now_ns()
        engine = self._engine
        if data == engine.usual_reply and self.busy and not (self.first_ns or self.is_last):
            self.busy = False
            engine.record(pack_row(self.due_ns, self.sent_ns, now, now, _OK))
            engine.free(self, now)
            return
        if not self.first_ns:
            if not self.busy:
                self.give_up(Outcome.PROTOCOL_ERROR)
                return
            self.first_ns = now
            self._head = data[: _MOST_HEAD_BYTES + 1]  # of a reply of megabytes an idle connection keeps no more
        elif _HEAD_END not in self._head:
            self._head += data[: _MOST_HEAD_BYTES + 1]
        if len(self._head) > _MOST_HEAD_BYTES and self._head.find(_HEAD_END, 0, _MOST_HEAD_BYTES) < 0:
            self.give_up(Outcome.PROTOCOL_ERROR, f"headers longer than {_MOST_HEAD_BYTES // 1024} KiB")
            return
        try:
            self._feed(data)
        except HttpParserUpgrade:
            self.give_up(Outcome.PROTOCOL_ERROR, "the target switched to another protocol")
        except HttpParserError as error:
            self.give_up(Outcome.PROTOCOL_ERROR, f"not HTTP/1.1: {error}")
        else:
            if self._outcome is not None:
                self._end(self._outcome)

    def eof_received(self) -> None:
        """End a reply that has no length of its own: its end is the end of the stream (RFC 9112, section 6.3)."""
        if not self.busy:
            self._engine.forget(self)
            return
        head_bytes = self._head.find(_HEAD_END)
        if self.first_ns and head_bytes >= 0 and not _HAS_LENGTH.search(self._head, 0, head_bytes + 2):
            self._at_ns = now_ns()
            self.on_message_complete()
            if self._outcome is not None:
                self._end(self._outcome)

    def connection_lost(self, exc: Exception | None) -> None:
        """Learn that the target closed or reset the connection."""
        self._fd = _NO_FD  # the number may be given to another connection
        self._parser = self._feed = None  # it refers back to this connection, and the collector is off during a step
        self._engine.forget(self)
        if self.busy:
            self.busy = False
            words = "connection reset" if exc else "connection closed before the reply was complete"
            self._engine.fail(self.due_ns, self.sent_ns, self.first_ns, Outcome.RESET, words)

    # httptools

    def on_message_complete(self) -> None:
        """Judge the reply; an interim one is passed over."""
        status = self._parser.get_status_code()
        if status < 200:  # llhttp reports each interim reply as a message of its own
            self._head = self._head.partition(_HEAD_END)[2]
            self.first_ns = self._at_ns if self._head else 0  # the reply proper has begun, or not
            return
        self.first_ns = self.first_ns or self._at_ns
        if self._outcome is None:
            self._keeps_alive = self._parser.should_keep_alive()
            self._outcome = _OK if status < 300 and not self._judges else int(self._judge(status))

    def on_message_begin(self) -> None:
        """Notice that another reply begins behind the one that has ended."""
        self._has_excess = self._outcome is not None

    def _end(self, outcome: int) -> None:
        """Record the request once all that was read is parsed, and take the next one.

        Not before: what stands behind a reply must not be taken for the reply to a request that is sent meanwhile.
        """
        self._outcome = None
        if self._has_excess:
            self.give_up(Outcome.PROTOCOL_ERROR, "a second reply to one request")
            return
        engine, at = self._engine, self._at_ns
        self.busy = False
        engine.record(pack_row(self.due_ns, self.sent_ns, self.first_ns, at, outcome))
        is_whole = self.first_ns == at and len(self._head) <= _MOST_HEAD_BYTES
        self.first_ns = 0
        if self._keeps_alive and not self.is_last:
            if is_whole and outcome == _OK and self._may_skip:
                engine.usual_reply = self._head
            engine.free(self, at)
        else:
            self._transport.close()
            engine.forget(self)
            engine.freed(at)

    def _judge(self, status: int) -> Outcome:
        """Return what a complete reply counts as; what is wrong with it is noted in words."""
        if 200 <= status < 300:
            return Outcome.OK
        self._engine.note(self._status_words(status))
        return Outcome.HTTP_STATUS

    def _status_words(self, status: int) -> str:
        """Return the status as the target worded it."""
        line = self._head.split(b"\r\n", 1)[0][:_MAX_WORDS].decode("latin-1")
        phrase = line.split(" ", 2)[2] if line.count(" ") >= 2 else ""
        return f"HTTP {status} {''.join(c if c.isprintable() else '?' for c in phrase)}".strip()


class HeadConnection(Connection):
    """Carry HEAD requests: a reply ends with its headers, whatever length they announce (RFC 9110, section 9.3.2)."""

    __slots__ = ()
    _may_skip: ClassVar[bool] = False

    def on_headers_complete(self) -> None:
        """Take the headers for the whole reply; llhttp would wait for a body, so the parser is renewed."""
        Connection.on_message_complete(self)
        if self._parser.get_http_version() == "1.1":  # llhttp: without a length the stream would have to end
            self._keeps_alive = not _IS_LAST.search(self._head)

    def on_message_complete(self) -> None:
        """Do nothing: the headers have ended the reply."""

    def _end(self, outcome: int) -> None:
        """Renew the parser, for the old one waits for a body."""
        self._renew_parser()
        super()._end(outcome)
