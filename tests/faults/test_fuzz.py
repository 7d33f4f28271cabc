"""The reply path under fuzz: whatever a target sends, each request ends once, is judged right, and leaves nothing."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis import Outcome
from tests.faults.fuzz import KINDS, MOST_BUFFERED_BYTES, Rig
from tests.faults.replies import Entropy, Stream, stream

# Derandomised: CI fails only where the code changed. New ground is for `nox -s fuzz`, with a seed of its own.
_QUIET = settings(
    max_examples=4_000, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
_STREAMS = st.lists(st.binary(max_size=48), min_size=1, max_size=4)  # to one step, on four connections at most


@pytest.fixture(scope="module", params=KINDS)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Make an engine whose connections are fed from memory."""
    rig = Rig(request.param)
    yield rig
    rig.close()


@_QUIET
@given(entropies=_STREAMS)
def test_any_stream_of_replies(rig: Rig, entropies: list[bytes]) -> None:
    """12,000 inputs at least: no exception, closed books, valid replies judged right, no connection leaked."""
    rig.check([stream(Entropy(entropy), is_head=rig.is_head) for entropy in entropies])


def test_endless_headers_end_at_the_bound(rig: Rig) -> None:
    """Headers without an end are given up at 64 KiB, however small the pieces."""
    pieces = (b"HTTP/1.1 200 OK\r\nX: ", *[b"x" * 1000] * (MOST_BUFFERED_BYTES // 1000 + 1), b"\r\n\r\n")
    rig.check([Stream(pieces=pieces, end="open", expected=Outcome.PROTOCOL_ERROR)])


def test_a_second_reply_is_never_the_next_request_s(rig: Rig) -> None:
    """Two replies in one read are an error of the request that was sent, and cost no other request anything."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    rig.outcomes.clear()
    rig.check([Stream(pieces=(reply + reply,), end="open", expected=None)] * 8)
    assert rig.outcomes == {"protocol_error": 8}


def test_the_head_of_a_second_reply_does_not_swallow_the_next_reply(rig: Rig) -> None:
    """A reply with the beginning of another behind it: what answers the next request is its own reply, or an error."""
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    refusal = b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\n\r\n"
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(refusal)
    first = Stream(pieces=(reply + poison,), end="open", expected=None)
    rig.outcomes.clear()
    rig.check([*[first] * 4, *[Stream(pieces=(refusal,), end="open", expected=None)] * 4])
    assert rig.outcomes["ok"] <= 4
