"""A server that does nothing: what a load generator measures against it, it measures of itself.

`python -m loadgen.null_server` listens on a free loopback port and prints `http://127.0.0.1:PORT CORE`, the core only
where it has one to itself.
Each line on standard input is answered with the CPU time used so far, ns; it ends when standard input does.
"""

import asyncio
import os
import re
import signal
import sys
from time import process_time_ns
from typing import Any

import uvloop

REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"
_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


def request_size(received: bytes) -> int | None:
    """Return the bytes of the request that `received` begins with, body included; None while its head is incomplete."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end)
    return end + len(_HEAD_END) + (int(length[1]) if length else 0)


class NullProtocol(asyncio.Protocol):
    """Answer each request of a connection with the same bytes.

    Only the first request is looked at: a load generator sends every connection requests of one size, so the others
    are counted by their bytes, which is the least that a server can do.
    """

    __slots__ = ("_first", "_left", "_size", "_write")

    def __init__(self) -> None:
        self._first = b""
        self._size = 0
        self._left = 0  # bytes of a request of which the rest is still to come

    def connection_made(self, transport: Any) -> None:
        """Keep the way back."""
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        """Answer what is complete."""
        if len(data) == self._size and not self._left:
            self._write(REPLY)
            return
        if not self._size:
            data = self._first = self._first + data
            self._size = request_size(data) or 0
            if not self._size:
                return
        complete, self._left = divmod(self._left + len(data), self._size)
        if complete:
            self._write(REPLY * complete)


class _Parent(asyncio.Protocol):
    """Answer each line with the CPU time, and end with the parent."""

    def data_received(self, data: bytes) -> None:
        for _ in range(data.count(b"\n")):
            _say(str(process_time_ns()))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's signature)
        os._exit(0)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def own_core() -> int | None:
    """Move this process to the last of its cores; return which, or None where there is one only or no telling."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, cores[-1:])
    return cores[-1]


async def _serve(loop: asyncio.AbstractEventLoop) -> None:
    server = await loop.create_server(NullProtocol, "127.0.0.1", 0, backlog=4096)
    await loop.connect_read_pipe(_Parent, os.fdopen(os.dup(0), "rb", 0))
    core = own_core()
    _say(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]} {'' if core is None else core}")


def main() -> None:
    """Serve until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    loop = uvloop.new_event_loop()
    loop.run_until_complete(_serve(loop))
    loop.run_forever()


if __name__ == "__main__":
    main()
