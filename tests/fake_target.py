"""A small HTTP target for tests: each path answers, or misbehaves, in its own way, on loopback.

Runs in a thread, or as a process of its own (`python -m tests.fake_target PORT`) where it is to be killed.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_REPLIES = {
    "/ok": _OK,
    "/outputs": b'HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{"outputs": [4]}',
    "/missing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "/broken": b"HTTP/1.1 500 <b>Oh\x1b[31m no</b>\r\nContent-Length: 0\r\n\r\n",
    "/moved": b"HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n",
    "/empty": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/interim": b"HTTP/1.1 100 Continue\r\n\r\n" + _OK,
    "/chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    "/close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "/eof": b"HTTP/1.0 200 OK\r\n\r\nuntil the end of the stream",
    "/cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "/garbage": b"SSH-2.0-OpenSSH_9.2\r\n",
    "/twice": _OK + _OK,
    "/head": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "/fin": b"",
    "/malformed": b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    "/upgrade": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    "/huge-head": b"HTTP/1.1 200 OK\r\nX-Huge: " + b"x" * (1 << 20) + b"\r\nContent-Length: 0\r\n\r\n",
    "/too-long": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
    "/too-short": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok, and more",
    "/two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "/busy": b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
    "/limited": b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
}
_CLOSES = {"/close", "/eof", "/eof-split", "/cut", "/fin"}
_CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


class FakeTarget:
    """Count what was asked; `base` is the URL without a path."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.in_flight = self.peak_in_flight = 0
        self.dies_after = self.revives_after = 10**9  # requests; those in between are reset
        self.base = ""
        self._one = asyncio.Lock()

    async def serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
                if length:
                    await reader.readexactly(int(length[0].split(":")[1]))
                path = head.split(" ", 2)[1]
                self.requests[path] += 1
                self.in_flight += 1
                self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
                try:
                    is_open = await self._answer(path, writer)
                finally:
                    self.in_flight -= 1
                if not is_open:
                    return

    async def _answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        if self.dies_after < self.requests.total() <= self.revives_after or path == "/reset":
            self._reset(writer)
            return False
        match path.split("/")[1:]:
            case ["silent"]:
                await asyncio.sleep(30)
            case ["flaky"]:  # every tenth reply is an error
                writer.write(_REPLIES["/broken" if self.requests[path] % 10 == 0 else "/ok"])
            case ["eof-split"]:
                writer.write(b"HTTP/1.0 200 OK\r\nServer: ")
                await writer.drain()
                await asyncio.sleep(0.01)
                writer.write(b"x\r\n\r\nuntil the end")
            case ["fifo", ms]:  # one server, one queue
                async with self._one:
                    await asyncio.sleep(float(ms) / 1e3)
                writer.write(_OK)
            case ["slow", ms]:
                await asyncio.sleep(float(ms) / 1e3)
                writer.write(_OK)
            case ["drip"]:
                await self._drip(writer, _OK, pause_s=0.001)
            case ["byte-a-second"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 60\r\n\r\n")
                await self._drip(writer, b"x" * 60, pause_s=1.0)
            case ["endless"]:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                while True:
                    writer.write(_CHUNK)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            case ["half-closed"]:  # it says that nothing will come, and goes on listening
                writer.write_eof()
                await asyncio.sleep(30)
            case ["forgetful"]:  # 9 % of all replies never come
                if self.requests[path] * 9 % 100 < 9:
                    await asyncio.sleep(30)
                writer.write(_OK)
            case ["burst", kind]:  # of each 100 requests, 30 in a row are refused
                writer.write(_REPLIES[f"/{kind}" if self.requests[path] % 100 >= 70 else "/ok"])
            case _:
                writer.write(_REPLIES[path.split("?", maxsplit=1)[0]])
        await writer.drain()
        if path in _CLOSES:
            writer.close()
        return path not in _CLOSES

    @staticmethod
    async def _drip(writer: asyncio.StreamWriter, data: bytes, *, pause_s: float) -> None:
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(pause_s)

    @staticmethod
    def _reset(writer: asyncio.StreamWriter) -> None:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


@contextlib.contextmanager
def fake_target(
    handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    address: str = "127.0.0.1",
    port: int = 0,
) -> Iterator[FakeTarget]:
    """Serve a `FakeTarget` from a thread of its own: on a free loopback port, or where `address` is a path, there."""
    target = FakeTarget()
    loop = asyncio.new_event_loop()
    tasks: set[asyncio.Task[None]] = set()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await (handler or target.serve_connection)(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    async def open_port() -> asyncio.Server:
        if "/" in address:
            return await asyncio.start_unix_server(on_connection, address, ssl=tls)
        return await asyncio.start_server(on_connection, address, port, backlog=1024, ssl=tls)

    async def close_port(server: asyncio.Server) -> None:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    server = loop.run_until_complete(open_port())
    if "/" not in address:
        host = f"[{address}]" if ":" in address else address
        target.base = f"http{'s' if tls else ''}://{host}:{server.sockets[0].getsockname()[1]}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield target
    finally:
        asyncio.run_coroutine_threadsafe(close_port(server), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _serve_forever(port: int) -> None:
    target = FakeTarget()
    server = await asyncio.start_server(target.serve_connection, "127.0.0.1", port, backlog=1024)
    async with server:
        print("listening", flush=True)
        while target.requests.total() < 20:  # noqa: ASYNC110 (nothing else tells)
            await asyncio.sleep(0.02)
        print("under load", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve_forever(int(sys.argv[1])))
