"""The server that does nothing answers every request, however its bytes come."""

import pytest

from loadgen.null_server import REPLY, NullProtocol, request_size

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"


class FakeTransport:
    """Keep what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written += data


def _answers(chunks: list[bytes]) -> list[int]:
    """Return how many requests are answered after each chunk."""
    protocol, transport = NullProtocol(), FakeTransport()
    protocol.connection_made(transport)
    counts = []
    for chunk in chunks:
        protocol.data_received(chunk)
        assert transport.written == REPLY * (len(transport.written) // len(REPLY))
        counts.append(len(transport.written) // len(REPLY))
    return counts


@pytest.mark.parametrize("request_", [GET, POST])
@pytest.mark.parametrize("width", [*range(1, 80), 1000])
def test_each_request_is_answered_once_it_is_complete(request_: bytes, width: int) -> None:
    """Three requests cut into chunks of any width: never an answer too early, never one too few."""
    stream = request_ * 3
    chunks = [stream[at : at + width] for at in range(0, len(stream), width)]
    assert _answers(chunks) == [min(at + width, len(stream)) // len(request_) for at in range(0, len(stream), width)]


def test_whole_requests_are_answered_one_by_one() -> None:
    """The usual case: a read is a request."""
    assert _answers([POST] * 4) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("received", "size"),
    [
        (GET, len(GET)),
        (GET[:-1], None),
        (b"", None),
        (POST, len(POST)),
        (POST[:-5], len(POST)),
        (POST + GET, len(POST)),
        (POST.replace(b"Content-Length: 5", b"content-length:5"), len(POST) - 1),
    ],
)
def test_the_first_request_tells_the_size_of_all(received: bytes, size: int | None) -> None:
    """Head and Content-Length, wherever its name is written small; not known before the head is there."""
    assert request_size(received) == size
