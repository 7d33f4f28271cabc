"""What an HTTP server and what it serves exchange: a request, the reply to it, and how one comes to the other."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

JSON = b"application/json"
_ENCODE = json.JSONEncoder().encode


@dataclass(slots=True)
class Request:
    """Hold one request.

    Attributes:
        method: In capitals.
        path: Without the query, as sent.
        query: After the question mark.
        headers: Values by name in small letters; of a name that comes twice, the last.
        body: All of it.
        began_ns: When all of it had come.
    """

    method: bytes = b""
    path: bytes = b""
    query: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    began_ns: int = 0


@dataclass(slots=True)
class Response:
    """Answer one request.

    Attributes:
        body: All of it.
        status: HTTP's.
        content_type: Of the body.
        extra: More header lines, each with its end.
    """

    body: bytes = b""
    status: int = 200
    content_type: bytes = JSON
    extra: bytes = b""


Send = Callable[[Response], None]
Cancel = Callable[[], object]
Handle = Callable[[Request, Send], Cancel | None]  # answers now or later, once; what it returns forgets the request


def error(status: int, sentence: str, extra: bytes = b"") -> Response:
    """Return the reply that says in one sentence what is wrong."""
    quoted = json_text(sentence)
    return Response(b'{"error":%s}' % quoted, status, JSON, extra)


def json_text(text: str) -> bytes:
    """Return a text as JSON."""
    return _ENCODE(text).encode()
