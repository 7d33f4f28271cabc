"""The framing between coordinator and workers."""

from typing import Any

from loadgen.messages import Unpacker, pack


def test_messages_survive_any_cut() -> None:
    """Whatever pieces the pipe delivers, every message comes out once, whole and in order."""
    sent: list[dict[str, Any]] = [
        {"op": "block", "rows": bytes(range(256)) * 9},
        {"op": "stop"},
        {"n": [1, 2.5, None, "ä"]},
    ]
    stream = b"".join(map(pack, sent))
    for size in (1, 3, 7, 1000, len(stream)):
        unpacker = Unpacker()
        got = [m for at in range(0, len(stream), size) for m in unpacker.feed(stream[at : at + size])]
        assert got == sent
