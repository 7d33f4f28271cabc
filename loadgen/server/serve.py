"""The life of the server's process: listen, serve, drain, end."""

import asyncio
import errno
import gc
import signal
import sys
from asyncio import Event
from collections.abc import Callable

import uvloop
from aiohttp import web

from loadgen.errors import UsageError
from loadgen.server.app import App
from loadgen.server.config import ServerConfig
from loadgen.server.device import SimulatedDevice

_BACKLOG = 4096  # connections that the kernel holds for us, so that a burst of new ones is not slowed by retried SYNs
_SWITCH_INTERVAL_S = 0.0002


def serve(config: ServerConfig, *, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted, for at most `config.drain_s`, and return.

    Call it from the main thread, which owns signals.

    Args:
        config: Of the server.
        host: Name or address to listen on.
        port: To listen on; 0 picks a free one.
        ready: Called once with the port that is listened on.

    Raises:
        UsageError: The address cannot be listened on.
    """
    # The instances' threads wait for the interpreter no longer than this when their batch ends while the event loop
    # works off a batch of replies; the default is 5 ms, which would show as latency of the device.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, host, port, ready))


async def _serve(config: ServerConfig, host: str, port: int, ready: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app = App(config, SimulatedDevice(config.gpu()), loop)
    runner = web.AppRunner(app.web_app(), access_log=None, shutdown_timeout=config.drain_s)
    await runner.setup()
    app.group.start()
    try:
        await _listen(runner, host, port)
        _calm_garbage_collector()
        ready(int(runner.addresses[0][1]))
        await stop.wait()
    finally:
        await runner.cleanup()  # stops listening, then waits for the requests in progress
        app.group.stop()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port, backlog=_BACKLOG).start()
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                problem = f"port {port} is already in use: choose another with --port, or --port 0 for any free one"
            case errno.EACCES:
                problem = f"port {port} needs privileges that this process lacks: choose one above 1023 with --port"
            case _:
                problem = f"cannot listen on {host}, port {port} ({error.strerror or error}): check --host"
        raise UsageError(problem) from error


def _calm_garbage_collector() -> None:
    """Keep collections from looking like a slow device.

    What is alive now stays alive, so it is never looked at again. A request leaves no cycles behind, so there is next
    to nothing to find: a young collection walks only what 2,000 allocations added (some 0.1 ms, and only while the
    queue grows), and one that walks every queued request comes once in millions.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 1_000, 1_000)
