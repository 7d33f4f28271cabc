"""A server in a thread of this process, for tests that talk to it over loopback."""

import asyncio
import http.client
import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import uvloop

from loadgen.clock import now_ns
from loadgen.server.alarms import Alarms
from loadgen.server.app import App
from loadgen.server.config import Limits
from loadgen.server.device import Device
from loadgen.server.http import Connection
from loadgen.server.job import Job
from loadgen.server.model import Gpus, Model, devices_of
from loadgen.server.model_config import ModelConfig
from loadgen.server.profile import DeviceProfile

QUICK = DeviceProfile(t0_ms=0.1, t1_ms=0.0, jitter_sigma=0.0)
FAST = ModelConfig(name="fast", device=QUICK, max_queue_delay_us=1000)
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Reply:
    """Hold a reply."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Parse the body."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """Be a server that runs: its port, and its insides."""

    port: int
    app: App
    loop: asyncio.AbstractEventLoop

    def ask(self, path: str, body: bytes | str | None = None, method: str | None = None, **headers: str) -> Reply:
        """Send one request on a connection of its own; a header's name has `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, named)
            reply = connection.getresponse()
            return Reply(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection((HOST, self.port), timeout=20)

    def call(self, function: Any, *arguments: Any) -> Any:
        """Call a function in the server's thread, and return what it returns."""

        async def run() -> Any:
            return function(*arguments)

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(20)


@contextmanager
def serving(
    *configs: ModelConfig, limits: Limits | None = None, device: Device | None = None, instances: int = 1
) -> Iterator[Served]:
    """Serve models on a free loopback port, each instance on `device` or on the simulated one."""
    ready, found = Event(), []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        alarms, gpus, ended = Alarms(), Gpus(), asyncio.Event()
        models = [
            Model(config, devices_of(config, gpus) if device is None else [device] * instances, loop, alarms)
            for config in configs or (FAST,)
        ]
        app = App(models, limits or Limits(), gpus=gpus, version="0")
        server = await loop.create_server(lambda: Connection(app.connections), HOST, 0)
        alarms.start()
        for model in models:
            model.group.start()
        found.append((Served(server.sockets[0].getsockname()[1], app, loop), ended))
        ready.set()
        while not ended.is_set():
            app.connections.sweep()
            await asyncio.sleep(0.05)
        server.close()
        for connection in list(app.connections.open):
            connection.abort()
        for model in models:
            model.group.stop()
        alarms.stop()

    def thread() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    serves = Thread(target=thread)
    serves.start()
    assert ready.wait(20)
    served, ended = found[0]
    try:
        yield served
    finally:
        served.loop.call_soon_threadsafe(ended.set)
        serves.join(20)


class Gate:
    """A device that holds its batches until it is opened, and then fails those whose inputs are "crash"."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.entered, self.open = Event(), Event()
        self.batches: list[list[Any]] = []
        if is_open:
            self.open.set()

    def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
        """Hold a batch."""
        self.entered.set()
        self.open.wait(20)
        self.batches.append([job.inputs for job in jobs])
        if any(job.inputs == "crash" for job in jobs):
            raise StopIteration
        return [job.inputs for job in jobs], now_ns()


def until(condition: Any, timeout_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    end_ns = now_ns() + round(timeout_s * 1e9)
    while not condition():
        assert now_ns() < end_ns
        Event().wait(0.002)
