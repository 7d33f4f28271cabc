"""The plain protocol of `/predict`: a JSON object in, a JSON object out."""

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from loadgen.server.job import RefusedError, Reply
from loadgen.server.messages import Request, Response
from loadgen.server.model import Model
from loadgen.server.model_config import ModelConfig
from loadgen.server.tensors import Tensor, TensorError, empty, from_json, to_list


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


def read(request: Request, model: Model) -> Asked:
    """Return the inputs that a request's body gives, None where it gives none.

    Raises:
        RefusedError: It is no JSON object, or not what the model computes on.
    """
    given = _inputs(request.body)
    return Asked(tensors=given if model.config.is_simulated else one_row(given, model.config))


def one_row(given: Any, config: ModelConfig) -> dict[str, Tensor]:
    """Return the tensors of one row: of a model's only input as a list, of several as lists by name; None: zeros.

    Raises:
        RefusedError: They are not what the model computes on.
    """
    if isinstance(given, list) and len(config.inputs) == 1:
        given = {config.inputs[0].name: given}
    if given is not None and (not isinstance(given, dict) or given.keys() != {spec.name for spec in config.inputs}):
        raise RefusedError(400, f"The inputs are not those of model '{config.name}'.")
    try:
        return {
            spec.name: empty(spec.name, spec.datatype, (1, *spec.dims))
            if given is None
            else from_json(spec.name, spec.datatype, (1, *spec.dims), given[spec.name])
            for spec in config.inputs
        }
    except TensorError as error:
        raise RefusedError(400, str(error)) from None


def by_name(outputs: list[Tensor]) -> dict[str, list[Any]]:
    """Return a model's outputs as lists by name."""
    return {tensor.name: to_list(tensor) for tensor in outputs}


def _inputs(body: bytes) -> Any:
    if not body:
        return None
    try:
        message = _DECODE(body.decode())
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(message, dict):
        raise RefusedError(400, 'The body is not a JSON object such as {"inputs": [1, 2]}.')
    return message.get("inputs")


def write(asked: Asked, reply: Reply, model: Model) -> Response:  # noqa: ARG001 (every protocol's signature)
    """Return the reply, with both of its times.

    Raises:
        RefusedError: JSON cannot hold its outputs, or they are nested so deep that they can be read and not written.
    """
    answer = {
        "outputs": reply.outputs if model.config.is_simulated else by_name(reply.outputs),
        "batch_size": reply.batch_size,
        "queue_ms": reply.queue_ns / 1e6,
        "compute_ms": reply.compute_ns / 1e6,
    }
    try:
        return Response(_ENCODE(answer).encode())
    except ValueError:
        raise RefusedError(400, "The outputs hold an element that is no number, which JSON cannot hold.") from None
    except RecursionError:
        raise RefusedError(400, "The body is not JSON that can be answered: it is nested too deep.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse_constant).decode  # NaN and Infinity are no JSON
_ENCODE = json.JSONEncoder(check_circular=False, allow_nan=False).encode
