"""TorchServe's inference and management protocols, as far as a load needs them.

Source: "TorchServe REST API" (pytorch.org/serve): the inference API's `/ping` and `/predictions`, the management API's
`/models`; errors are objects of code, type and message. Unlike TorchServe, both are served at one port.
"""

from collections.abc import Sequence
from typing import Any

from loadgen.server import kserve, plain
from loadgen.server.job import RefusedError, Reply
from loadgen.server.messages import Request, Response
from loadgen.server.model import Model
from loadgen.server.model_config import ModelConfig
from loadgen.server.plain import Asked

_TYPES = {
    400: "BadRequestException",
    404: "ModelNotFoundException",
    413: "RequestEntityTooLargeException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
}


def read(request: Request, model: Model) -> Asked:
    """Return what the model gets: the body as it is, which the simulated model gives back, or its JSON as tensors.

    Raises:
        RefusedError: It is not what the model computes on.
    """
    if not model.config.is_simulated:
        return Asked(tensors=plain.one_row(kserve.parse_json(request.body) if request.body else None, model.config))
    return Asked(tensors=(request.body, request.headers.get(b"content-type", b"application/json")))


def write(asked: Asked, reply: Reply, model: Model) -> Response:  # noqa: ARG001 (every protocol's signature)
    """Return the model's output as it is."""
    if not model.config.is_simulated:
        return Response(kserve.dump_json(plain.by_name(reply.outputs)))
    body, content_type = reply.outputs
    return Response(body, 200, content_type)


def refused(why: RefusedError) -> Response:
    """Return the reply that says why there is none."""
    told = {"code": why.status, "type": _TYPES.get(why.status, "InvalidRequestException"), "message": str(why)}
    return Response(kserve.dump_json(told), why.status)


def not_found(name: str) -> Response:
    """Say that there is no such model."""
    return refused(RefusedError(404, f"Model not found: {name}"))


def health(*, is_healthy: bool) -> dict[str, str]:
    """Return what `/ping` says."""
    return {"status": "Healthy" if is_healthy else "Unhealthy"}


def models(configs: Sequence[ModelConfig]) -> dict[str, Any]:
    """Return what `/models` says."""
    return {"models": [{"modelName": config.name, "modelUrl": config.name} for config in configs]}


def model(config: ModelConfig, *, is_ready: bool) -> dict[str, Any]:
    """Return a model's entry in what `/models/M` says."""
    instances = sum(len(group.places()) for group in config.instances)
    return {
        "modelName": config.name,
        "modelVersion": "1.0",
        "batchSize": max(1, config.max_batch_size),
        "maxBatchDelay": config.max_queue_delay_us // 1000,
        "minWorkers": instances,
        "maxWorkers": instances,
        "workers": [{"id": str(number), "status": "READY" if is_ready else "UNLOADING"} for number in range(instances)],
    }
