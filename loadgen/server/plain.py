"""The plain protocol of `/predict`: a JSON object in, a JSON object out."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from loadgen.server.http import Request, Response
from loadgen.server.job import RefusedError, Reply
from loadgen.server.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Hold a request of the protocols that know no tensors.

    Attributes:
        tensors: What the device computes on.
        rows: How much of a batch it fills.
        priority: 0 for the default.
        timeout_ns: Longest wait in the queue, or None.
    """

    tensors: Any
    rows: int = 1
    priority: int = 0
    timeout_ns: int | None = None


def read(request: Request, model: Model) -> Asked:  # noqa: ARG001 (every protocol's signature)
    """Return the inputs that a request's body gives, None where it gives none.

    Raises:
        RefusedError: It is no JSON object.
    """
    body = request.body
    if not body:
        return Asked(tensors=None)
    try:
        message = _DECODE(body.decode())
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(message, dict):
        raise RefusedError(400, 'The body is not a JSON object such as {"inputs": [1, 2]}.')
    return Asked(tensors=message.get("inputs"))


def write(asked: Asked, reply: Reply, model: Model) -> Response:  # noqa: ARG001 (every protocol's signature)
    """Return the reply, with both of its times.

    Raises:
        RefusedError: Its inputs were nested so deep that they can be read and not written.
    """
    answer = {
        "outputs": reply.outputs,
        "batch_size": reply.batch_size,
        "queue_ms": reply.queue_ns / 1e6,
        "compute_ms": reply.compute_ns / 1e6,
    }
    try:
        return Response(_ENCODE(answer).encode())
    except RecursionError:
        raise RefusedError(400, "The body is not JSON that can be answered: it is nested too deep.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse_constant).decode  # NaN and Infinity are no JSON
_ENCODE = json.JSONEncoder(check_circular=False).encode
