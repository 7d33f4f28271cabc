"""The bundled reference server as a process of its own, on a free loopback port."""

import contextlib
import selectors
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

import msgspec

from loadgen.clock import NS_PER_S, now_ns
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
    command = [sys.executable, "-m", "loadgen.server", "--host", "127.0.0.1", "--port", "0", "--config", config]
    with subprocess.Popen(
        [*command, "--watch-stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C is for the coordinator, which stops the server when it has its answer
    ) as process:  # fmt: skip
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


def _wait_until_ready(stdout: IO[str]) -> str:
    """Read `listening on http://host:port`."""
    deadline_ns = now_ns() + round(_READY_S * NS_PER_S)
    with selectors.DefaultSelector() as selector:
        selector.register(stdout, selectors.EVENT_READ)
        line = ""
        while now_ns() < deadline_ns and selector.select(1.0) is not None:
            if selector.select(0):
                line = stdout.readline()
                break
    if not line.startswith("listening on "):
        raise OpfindError("the embedded reference server did not start")
    return line.removeprefix("listening on ").strip()
