"""The main program of an engine process: commands in on standard input, blocks of results out on standard output."""

import asyncio
import os
import signal
from dataclasses import replace
from itertools import repeat
from typing import Any

import numpy as np
import uvloop

from loadgen.arrivals import Arrivals, Constant, Gamma, Poisson, Replay, share
from loadgen.checked import connection
from loadgen.clock import NS_PER_S
from loadgen.engine import Engine, Load
from loadgen.messages import Unpacker, pack
from loadgen.target import Endpoint, open_connection
from loadgen.workload import Play, Workload

_COALESCE_FROM_RPS = 10_000.0  # below, each request gets a wake-up of its own, which costs more than the request


def arrivals_of(spec: dict[str, Any]) -> Arrivals:
    """Return the arrival process that a step names."""
    match spec["name"]:
        case "constant":
            return Constant()
        case "gamma":
            return Gamma(cv=spec["cv"])
        case "replay":
            return Replay(recorded_s=tuple(spec["replay"]))
        case _:
            return Poisson()


def load_of(command: dict[str, Any], setup: dict[str, Any], play: Play | None = None) -> Load:
    """Turn a step command into this worker's share of the load; without `play` every request is the same."""
    worker, workers = command["worker"], command["workers"]
    schedule, think, users = None, None, 0
    if command["rate_rps"] is not None:
        arrivals = arrivals_of(setup["arrivals"] | {"name": command["arrivals"]})
        schedule = share(arrivals.due_ns(command["rate_rps"], command["duration_s"], command["seed"]), worker, workers)
    else:
        users = len(range(worker, command["users"], workers))
        if setup["think_s"] > 0:  # exponential, so that users do not march in step
            rng = np.random.default_rng([command["seed"], 0x7417, worker])
            mean_ns = setup["think_s"] * NS_PER_S
            think = iter(lambda: round(rng.exponential(mean_ns)), None)
    return Load(
        start_ns=command["start_ns"],
        duration_s=command["duration_s"],
        schedule=schedule,
        users=users,
        think=think,
        requests=play(command["first"], worker, workers) if play else repeat(setup["request"]),
        timeout_ns=setup["timeout_ns"],
        connections=setup["connections"],
        coalesce_ns=setup["coalesce_ns"] if (command["rate_rps"] or 0) >= _COALESCE_FROM_RPS else 0,
    )


class Worker(asyncio.Protocol):
    """Obey the coordinator: "setup" once, then "step", "stop", "abandon" and "address"; end when its pipe closes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unpacker = Unpacker()
        self._out: Any = None

    async def start(self) -> None:
        """Attach to the pipes."""
        self._out, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(os.dup(1), "wb", 0))
        await self._loop.connect_read_pipe(lambda: self, os.fdopen(os.dup(0), "rb", 0))

    def emit(self, message: dict[str, Any]) -> None:
        """Send a message to the coordinator."""
        self._out.write(pack(message))

    def data_received(self, data: bytes) -> None:
        """Carry out commands."""
        for command in self._unpacker.feed(data):
            match command.pop("op"):
                case "setup":
                    self._set_up(command)
                case "step":
                    self._engine.start(load_of(command, self._setup, self._play))
                case "stop":
                    self._engine.stop()
                case "abandon":
                    self._engine.abandon()
                case "address":
                    self._move(command)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (the protocol's signature)
        """End with the coordinator, however it ended."""
        os._exit(0)

    def _set_up(self, setup: dict[str, Any]) -> None:
        self._setup = setup
        self._endpoint = Endpoint(**setup["endpoint"])
        context = self._endpoint.tls_context()
        protocol = connection(is_head=setup["request"].startswith(b"HEAD "), expect=setup["expect"])
        self._play = Workload(**setup["workload"]).open() if setup["workload"] else None

        async def connect(engine: Engine) -> None:
            endpoint = self._endpoint
            made = await open_connection(self._loop, endpoint, context, lambda: protocol(engine))
            if endpoint is not self._endpoint:  # it has moved meanwhile
                made.retire()

        self._engine = Engine(self._loop, connect, self.emit)
        self.emit({"op": "ready", "pacing": self._engine.pacing})

    def _move(self, place: dict[str, Any]) -> None:
        """Connect to another address from here on, and leave the old one as replies come."""
        self._endpoint = replace(self._endpoint, **place)
        self._engine.retire()


def main() -> None:
    """Run until the coordinator closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the coordinator decides
    loop = uvloop.new_event_loop()
    loop.run_until_complete(Worker(loop).start())
    loop.run_forever()


if __name__ == "__main__":
    main()
