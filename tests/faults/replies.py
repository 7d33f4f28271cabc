"""Reply streams made from plain bytes of entropy: valid ones with a known outcome, and what mutation makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from analysis import Outcome

T = TypeVar("T")
End = Literal["open", "eof", "reset"]

_STATUSES = (200, 200, 200, 201, 206, 204, 304, 301, 404, 429, 500, 503)
_NO_BODY = (204, 304)
_INTERIM = (b"", b"", b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 2)
_HEADERS = (
    b"",
    b"Server: x\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Type: text/html; charset=\xe9\r\n",
    b"X-Long: " + b"a" * 4000 + b"\r\n",
    b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n",
)
_BODIES = (
    b"",
    b"ok",
    b"HTTP/1.1 200 OK\r\n\r\n",
    bytes(range(256)),
    b"\r\n\r\n" * 5,
    b"0\r\n\r\n",
    b"a\r\nContent-Length: 9\r\n",
)
_TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\0",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1",
    b"HTTP/1.1 ",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/9.9 999 \x1b[31m\r\n\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b": \r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
)


class Entropy:
    """Turn bytes into choices. When they run out every choice is the first: fewer bytes mean a simpler reply."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, n: int) -> int:
        """Return a number in [0, n), n <= 65536; 0 when n is 0."""
        width = 1 if n <= 256 else 2
        taken = self._data[self._at : self._at + width]
        self._at += width
        return int.from_bytes(taken, "big") % max(1, n)

    def pick(self, options: Sequence[T]) -> T:
        """Return one of several."""
        return options[self.below(len(options))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Be everything that a connection receives in reply to one request.

    Attributes:
        pieces: What each read gives.
        end: Whether the stream stays open behind them, ends, or is reset.
        expected: How the request must be judged; None where nobody can say.
    """

    pieces: tuple[bytes, ...]
    end: End
    expected: Outcome | None


def stream(entropy: Entropy, *, is_head: bool) -> Stream:
    """Make one stream: a valid reply, one that is cut off, or one that is mutated."""
    reply, end, outcome, least = _valid(entropy, is_head=is_head)
    expected: Outcome | None = outcome
    match entropy.below(6):
        case 2:
            reply = reply[: entropy.below(least)]
            end = entropy.pick(("eof", "reset", "open"))
            expected = Outcome.TIMEOUT if end == "open" else Outcome.RESET
        case 3 | 4 | 5 as mutations:
            for _ in range(mutations - 2):
                reply = _mutated(entropy, reply)
            end, expected = entropy.pick(("open", "eof", "reset")), None
    return Stream(pieces=_split(entropy, reply), end=end, expected=expected)


def _valid(entropy: Entropy, *, is_head: bool) -> tuple[bytes, End, Outcome, int]:
    """Return a reply, how its stream ends, what it counts as, and from how many bytes on it may be complete."""
    status, body = entropy.pick(_STATUSES), entropy.pick(_BODIES)
    headers = entropy.pick(_HEADERS) + entropy.pick(_HEADERS)
    end: End = entropy.pick(("open", "open", "eof", "reset"))
    if status in _NO_BODY:
        frame, body = b"", b""
    else:
        match entropy.below(4):
            case 2:
                frame, body = b"Transfer-Encoding: chunked\r\n", _chunked(entropy, body)
            case 3:
                frame, end = b"", end if is_head else "eof"
            case _:
                frame = b"Content-Length: %d\r\n" % len(body)
    head = entropy.pick(_INTERIM) + b"HTTP/1.1 %d Some Words\r\n" % status + headers + frame + b"\r\n"
    reply = head if is_head else head + body
    outcome = Outcome.OK if 200 <= status < 300 else Outcome.HTTP_STATUS
    return reply, end, outcome, len(reply) if frame else len(head)


def _chunked(entropy: Entropy, body: bytes) -> bytes:
    at = entropy.below(len(body) + 1)
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part)
    return chunks + entropy.pick((b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n"))


def _mutated(entropy: Entropy, reply: bytes) -> bytes:
    at, size = entropy.below(min(len(reply) + 1, 65536)), entropy.pick((1, 2, 8, 64, 1024))
    before, cut, after = reply[:at], reply[at : at + size], reply[at + size :]
    match entropy.below(8):
        case 0:
            return before + entropy.pick(_TOKENS) + cut + after
        case 1:
            return before + after
        case 2:
            return before + cut + cut + after
        case 3:
            return before
        case 4:
            return before + bytes([entropy.below(256)]) + cut[1:] + after
        case 5:
            return reply + entropy.pick(_TOKENS)
        case 6:
            return entropy.pick(_TOKENS) + reply
        case _:  # rarely, for it is slow: more than any bound on headers
            return before + (b"x" * 70_000 if entropy.below(64) == 63 else entropy.pick(_TOKENS)) + after


def _split(entropy: Entropy, reply: bytes) -> tuple[bytes, ...]:
    match entropy.below(8):
        case 6 if len(reply) < 1000:
            return tuple(bytes([byte]) for byte in reply)
        case 7:
            cuts = sorted(entropy.below(min(len(reply) + 1, 65536)) for _ in range(3))
            edges = [0, *cuts, len(reply)]
            return tuple(reply[low:high] for low, high in pairwise(edges) if low < high)
        case 5:
            at = entropy.below(min(len(reply) + 1, 65536))
            return tuple(part for part in (reply[:at], reply[at:]) if part)
        case _:
            return (reply,) if reply else ()
