"""Length-prefixed messages between the coordinator and its engine processes: 4 bytes of length, then msgpack."""

from collections.abc import Iterator
from typing import Any

import msgspec

_PREFIX_BYTES = 4


def pack(message: dict[str, Any]) -> bytes:
    """Return one framed message."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(_PREFIX_BYTES, "little") + body


class Unpacker:
    """Cut a byte stream back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Add bytes, and yield every message that is complete."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= _PREFIX_BYTES:
            size = int.from_bytes(buffer[at : at + _PREFIX_BYTES], "little")
            end = at + _PREFIX_BYTES + size
            if len(buffer) < end:
                break
            yield msgspec.msgpack.decode(bytes(buffer[at + _PREFIX_BYTES : end]))
            at = end
        del buffer[:at]
