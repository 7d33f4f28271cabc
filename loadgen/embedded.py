"""The bundled reference server as a process of its own, on a free loopback port."""

import contextlib
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from typing import IO, Any

import msgspec

from loadgen import child
from loadgen.errors import OpfindError

_READY_S = 30.0
_STOP_S = 10.0
BODY = b'{"inputs": [0.1, 0.2, 0.3, 0.4]}'


@contextlib.contextmanager
def reference_server(settings: Mapping[str, Any]) -> Iterator[str]:
    """Start the reference server, yield the URL of its `/predict`, and stop it.

    It ends with this process, however that ends: it watches its standard input.

    Raises:
        OpfindError: It did not start.
    """
    config = msgspec.json.encode(dict(settings)).decode()
    listen = ("--host", "127.0.0.1", "--port", "0")
    with child.start("loadgen.server", *listen, "--config", config, "--watch-stdin") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"{_wait_until_ready(process.stdout)}/predict"
        finally:
            process.stdin.close()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_ready(stdout: IO[bytes]) -> str:
    """Read `listening on http://host:port`, a line that is written at once."""
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        line = stdout.readline().decode() if selector.select(_READY_S) else ""
    if not line.startswith("listening on "):
        raise OpfindError("the embedded reference server did not start")
    return line.removeprefix("listening on ").strip()
