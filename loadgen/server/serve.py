"""The life of the server's process: listen, serve, drain, end."""

import asyncio
import contextlib
import errno
import gc
import resource
import signal
import sys
from asyncio import AbstractEventLoop, Event, Server
from collections.abc import Callable, Sequence
from dataclasses import replace

import uvloop

from loadgen.clock import NS_PER_S, now_ns
from loadgen.errors import UsageError
from loadgen.server.alarms import Alarms
from loadgen.server.app import App
from loadgen.server.config import Limits
from loadgen.server.http import Connection
from loadgen.server.model import Gpus, Model, devices_of
from loadgen.server.model_config import ModelConfig

_BACKLOG = 4096  # connections that the kernel holds for us, so that a burst of new ones is not slowed by retried SYNs
_SWITCH_INTERVAL_S = 0.0002
_OWN_FILES = 32  # that are no connections: the interpreter's, the loop's, and some to spare
_SWEEP_S = 0.5
_DRAIN_POLL_S = 0.01
_LAST_BYTES_NS = NS_PER_S  # for what is written and not yet taken, once everything is answered


def serve(
    models: Sequence[ModelConfig],
    limits: Limits,
    *,
    host: str,
    port: int,
    ready: Callable[[int], None],
    version: str = "",
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted, for at most `limits.drain_s`, and return.

    Call it from the main thread, which owns signals.

    Args:
        models: To serve, at least one.
        limits: Of the server.
        host: Name or address to listen on.
        port: To listen on; 0 picks a free one.
        ready: Called once with the port that is listened on.
        version: Of opfind, for the server's metadata.

    Raises:
        UsageError: The address cannot be listened on, or a model cannot be made.
    """
    # The instances' threads wait for the interpreter no longer than this when their batch ends while the event loop
    # works off a batch of replies; the default is 5 ms, which would show as latency of the device.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(models, limits, (host, port), ready, version))


async def _serve(
    models: Sequence[ModelConfig], limits: Limits, where: tuple[str, int], ready: Callable[[int], None], version: str
) -> None:
    loop = asyncio.get_running_loop()
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    alarms, gpus = Alarms(), Gpus()
    running = [Model(config, devices_of(config, gpus), loop, alarms) for config in models]
    app = App(running, _within_open_files(limits), gpus=gpus, version=version)
    server = await _listen(loop, app, *where)
    alarms.start()
    for model in running:
        model.group.start()
    try:
        _calm_garbage_collector()
        ready(int(server.sockets[0].getsockname()[1]))
        while not await _is_set(stop, _SWEEP_S):
            app.connections.sweep()
        await _drain(server, app, limits.drain_s)
    finally:
        for connection in list(app.connections.open):
            connection.abort()
        server.close()
        for model in running:
            model.group.stop()
        alarms.stop()


def _within_open_files(limits: Limits) -> Limits:
    """Raise this process's limit on open files as far as it may, and promise no more connections than that.

    A connection beyond it could not even be refused: it would wait, unseen, in the kernel.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit than its hard one says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return limits
    return replace(limits, max_connections=max(1, min(limits.max_connections, soft - _OWN_FILES)))


async def _drain(server: Server, app: App, drain_s: float) -> None:
    """Stop listening, and wait until what was accepted is answered and taken, or the time is over."""
    server.close()
    app.drain()
    until_ns = now_ns() + round(drain_s * NS_PER_S)
    await _wait_while(lambda: app.connections.working > 0, until_ns)
    await _wait_while(lambda: bool(app.connections.open), min(until_ns, now_ns() + _LAST_BYTES_NS))


async def _wait_while(condition: Callable[[], bool], until_ns: int) -> None:
    for _ in iter(lambda: condition() and now_ns() < until_ns, False):
        await asyncio.sleep(_DRAIN_POLL_S)


async def _is_set(event: Event, within_s: float) -> bool:
    """Wait for an event, not for long; say whether it came."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _listen(loop: AbstractEventLoop, app: App, host: str, port: int) -> Server:
    try:
        return await loop.create_server(lambda: Connection(app.connections), host, port, backlog=_BACKLOG)
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
