"""The HTTP face of the server: predict, health, metrics."""

import json
from asyncio import AbstractEventLoop, Future
from typing import Any, NoReturn

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from loadgen.server.config import ServerConfig
from loadgen.server.device import Device
from loadgen.server.instance_group import InstanceGroup
from loadgen.server.job import FinishedBatch, Reply
from loadgen.server.metrics import Metrics


class _BadRequestError(Exception):
    """The body is not what `/predict` takes; the message says why in one sentence."""


class _BatchFailedError(Exception):
    """The device raised on the batch of this request; the message says what in one sentence."""


class App:
    """Serve one model over HTTP.

    `POST /predict` takes `{"inputs": ...}` (or nothing, and then `GET` too) and answers
    `{"outputs": ..., "batch_size": b, "queue_ms": ..., "compute_ms": ...}`. Errors are `{"error": "one sentence"}`:
    400 for a body that is no such JSON, 413 for one that is too large, 503 with Retry-After for a full queue, 500 for a
    batch that failed.
    `GET /healthz` is 200 while every instance runs; `GET /metrics` is for Prometheus.
    """

    def __init__(self, config: ServerConfig, device: Device, loop: AbstractEventLoop) -> None:
        self.group = InstanceGroup(
            config.batcher(),
            device,
            instances=config.instances,
            deliver=lambda batch: loop.call_soon_threadsafe(self._reply, batch),  # one wake-up a batch
        )
        self._loop = loop
        self._max_body_bytes = config.max_body_bytes
        self._metrics = Metrics(max_batch_size=config.max_batch_size, queue_length=lambda: self.group.waiting)

    def web_app(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(client_max_size=self._max_body_bytes)
        app.router.add_post("/predict", self._predict)
        app.router.add_get("/predict", self._predict)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics_page)
        return app

    async def _predict(self, request: web.Request) -> web.Response:
        try:
            inputs = _inputs(await request.read()) if request.body_exists else None
        except _BadRequestError as error:
            self._metrics.invalid.inc()
            return _error(400, str(error))
        except web.HTTPRequestEntityTooLarge:
            self._metrics.invalid.inc()
            return _error(413, f"The body is larger than {self._max_body_bytes} bytes.")
        answered: Future[Reply] = self._loop.create_future()
        if not self.group.submit(inputs, answered):
            self._metrics.refused.inc()
            return _error(503, "The queue is full; try again later.", headers={"Retry-After": "1"})
        try:
            reply = await answered
        except _BatchFailedError as error:
            return _error(500, str(error))
        answer = {
            "outputs": reply.outputs,
            "batch_size": reply.batch_size,
            "queue_ms": reply.queue_ns / 1e6,
            "compute_ms": reply.compute_ns / 1e6,
        }
        return web.Response(body=_ENCODE(answer).encode(), content_type="application/json")

    async def _healthz(self, request: web.Request) -> web.Response:  # noqa: ARG002 (aiohttp's signature)
        ready = self.group.ready
        return web.json_response({"ready": ready}, status=200 if ready else 503)

    async def _metrics_page(self, request: web.Request) -> web.Response:  # noqa: ARG002 (aiohttp's signature)
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _reply(self, batch: FinishedBatch) -> None:
        """Hand a batch's outputs to the requests that wait for them."""
        self._metrics.finished(batch)
        rows, compute_ns = batch.rows, batch.end_ns - batch.start_ns
        for index, job in enumerate(batch.jobs):
            if job.reply is None or job.reply.done():  # done: the shutdown's bound has cancelled it
                continue
            if isinstance(batch.outputs, Exception):
                job.reply.set_exception(_BatchFailedError(f"The batch failed with {type(batch.outputs).__name__}."))
                continue
            job.reply.set_result(
                Reply(
                    outputs=batch.outputs[index],
                    batch_size=rows,
                    queue_ns=batch.start_ns - job.arrived_ns,
                    compute_ns=compute_ns,
                )
            )


def _inputs(body: bytes) -> Any:
    """Return the inputs that a request's body gives, None where it gives none."""
    if not body:
        return None
    try:
        message = _DECODE(body.decode())
        if isinstance(message, dict):
            return message.get("inputs")
    except (ValueError, RecursionError) as error:
        raise _BadRequestError("The body is not JSON.") from error
    raise _BadRequestError('The body is not a JSON object such as {"inputs": [1, 2]}.')


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse_constant).decode  # NaN and Infinity are no JSON
_ENCODE = json.JSONEncoder(check_circular=False).encode


def _error(status: int, sentence: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=headers)
