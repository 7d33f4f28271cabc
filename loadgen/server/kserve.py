"""The KServe v2 inference protocol with Triton's extensions, as values: bytes in, tensors out, and back. Pure.

Sources: "Open Inference Protocol" (KServe, v2), and of Triton's documents on protocols the extensions binary tensor
data, and schedule policy (request parameters `priority` and `timeout`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

from loadgen.server import tensors
from loadgen.server.job import RefusedError
from loadgen.server.model_config import DATATYPES, ModelConfig, TensorSpec
from loadgen.server.tensors import Tensor, TensorError

VERSION = "1"
_MOST_ELEMENTS = 1 << 28
_MOST_TIMEOUT_US = 1 << 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Infer:
    """Hold an inference request.

    Attributes:
        id: That its sender gave it, or None.
        tensors: By name.
        rows: How much of a batch it fills.
        priority: 0 for the default.
        timeout_ns: Longest wait in the queue, or None.
        outputs: Names that are asked for, each with whether as binary data; None: all, `is_binary` of them.
        is_binary: Outputs that are not named are sent as binary data.
    """

    id: str | None
    tensors: Mapping[str, Tensor]
    rows: int
    priority: int
    timeout_ns: int | None
    outputs: Mapping[str, bool] | None
    is_binary: bool


def _bad(sentence: str) -> NoReturn:
    raise RefusedError(400, sentence)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODE = json.JSONDecoder(parse_constant=_refuse_constant).decode  # NaN and Infinity are no JSON
_ENCODE = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":")).encode


def parse_json(body: bytes | memoryview) -> Any:
    """Read JSON.

    Raises:
        RefusedError: It is none.
    """
    try:
        return _DECODE(str(body, "utf-8"))
    except (ValueError, RecursionError):
        return _bad("failed to parse the request JSON buffer: The body is not JSON.")


def dump_json(value: Any) -> bytes:
    """Return a value as JSON.

    Raises:
        RefusedError: It holds what JSON cannot.
    """
    try:
        return _ENCODE(value).encode()
    except ValueError:
        return _bad("an output has an element that is no number, which JSON cannot hold: ask for binary data")
    except RecursionError:
        return _bad("the body is nested too deep")


def parse_infer(body: bytes, header_length: bytes | None, config: ModelConfig) -> Infer:
    """Read the body of an inference request for a model.

    Args:
        body: JSON, and binary tensor data after it.
        header_length: Value of `Inference-Header-Content-Length`, the length of the JSON; None: all of it.
        config: Of the model.

    Raises:
        RefusedError: It is not what the model takes; 400, in one sentence.
    """
    view = memoryview(body)
    at = len(body)
    if header_length is not None:
        if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
            _bad("Inference-Header-Content-Length must be the length of the JSON, at most that of the body")
        at = int(header_length)
    message = parse_json(view[:at])
    if not isinstance(message, dict):
        _bad("the request must be a JSON object")
    given = message.get("inputs")
    if not isinstance(given, list):
        _bad("Unable to find 'inputs' in the request JSON, or it is no list")
    parameters = _parameters(message, "the request")
    found: dict[str, Tensor] = {}
    specs = {spec.name: spec for spec in config.inputs}
    for entry in given:
        tensor, at = _input(entry, view, at, config, specs)
        if tensor.name in found:
            _bad(f"input '{tensor.name}' already exists in request")
        found[tensor.name] = tensor
    if at != len(body):
        _bad(f"the request has {len(body) - at} bytes of binary data that belong to no input")
    rows = _rows(found, config)
    request_id = message.get("id")
    outputs, is_binary = _outputs(message, parameters, config)
    return Infer(
        id=None if request_id is None else str(request_id), tensors=found, rows=rows,
        priority=_whole(parameters, "priority", 1 << 32), outputs=outputs, is_binary=is_binary,
        timeout_ns=_whole(parameters, "timeout", _MOST_TIMEOUT_US) * 1000 or None,
    )  # fmt: skip


def _parameters(owner: Mapping[str, Any], whose: str) -> Mapping[str, Any]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        _bad(f"the parameters of {whose} must be a JSON object")
    return parameters


def _whole(parameters: Mapping[str, Any], name: str, most: int) -> int:
    value = parameters.get(name, 0)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # Triton takes either
        value = int(value)
    if type(value) is not int or not 0 <= value <= most:
        _bad(f"parameter '{name}' must be a whole number between 0 and {most}")
    return value


def _input(
    entry: Any, body: memoryview, at: int, config: ModelConfig, specs: Mapping[str, TensorSpec]
) -> tuple[Tensor, int]:
    """Read one input; return it, and where the binary data of the next one begins."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        _bad("each input must be a JSON object with a name")
    name = entry["name"]
    spec = specs.get(name)
    if spec is None:
        _bad(f"unexpected inference input '{name}' for model '{config.name}'")
    datatype = entry.get("datatype")
    if datatype != spec.datatype:
        if datatype not in DATATYPES:
            _bad(f"invalid datatype for input '{name}' of model '{config.name}'")
        _bad(f"inference input '{name}' data-type is '{datatype}', but model '{config.name}' expects '{spec.datatype}'")
    shape = _checked_shape(name, entry.get("shape"), spec, config)
    parameters = entry.get("parameters")
    size = _parameters(entry, f"input '{name}'").get("binary_data_size") if parameters else None
    try:
        if size is None:
            if "data" not in entry:
                _bad(f"input '{name}' has neither data nor binary data")
            return tensors.from_json(name, spec.datatype, shape, entry["data"]), at
        if type(size) is not int or not 0 <= size <= len(body) - at:
            _bad(f"binary_data_size of input '{name}' must lie between 0 and the {len(body) - at} bytes that follow")
        return tensors.from_bytes(name, spec.datatype, shape, body[at : at + size]), at + size
    except TensorError as error:
        _bad(str(error))


def _checked_shape(name: str, shape: Any, spec: TensorSpec, config: ModelConfig) -> tuple[int, ...]:
    if not isinstance(shape, list):
        _bad(f"the shape of input '{name}' must be a list of whole numbers")
    for dim in shape:
        if type(dim) is not int or dim < 0:
            _bad(f"the shape of input '{name}' must be a list of whole numbers")
    own = shape
    if config.max_batch_size:
        if not shape or shape[0] < 1:
            _bad(f"input '{name}' must have a batch of at least one row, its shape is {shape}")
        if shape[0] > config.max_batch_size:
            _bad(
                f"inference request batch-size must be <= {config.max_batch_size} for '{config.name}', and it is "
                f"{shape[0]}"
            )
        own = shape[1:]
    if not _fits(own, spec.dims):
        expected = [-1, *spec.dims] if config.max_batch_size else list(spec.dims)
        _bad(
            f"unexpected shape for input '{name}' for model '{config.name}'. Expected "
            f"[{','.join(map(str, expected))}], got [{','.join(map(str, shape))}]"
        )
    if prod(shape) > _MOST_ELEMENTS:  # no longer than the model's: of a long one this would take minutes
        _bad(f"the shape of input '{name}' has more than {_MOST_ELEMENTS} elements")
    return tuple(shape)


def _rows(found: Mapping[str, Tensor], config: ModelConfig) -> int:
    if len(found) != len(config.inputs):
        _bad(f"expected {len(config.inputs)} inputs but got {len(found)} inputs for model '{config.name}'")
    if not config.max_batch_size or not found:
        return 1
    sizes = {tensor.shape[0] for tensor in found.values()}
    if len(sizes) > 1:
        _bad(f"the inputs for model '{config.name}' have different batch sizes: {sorted(sizes)}")
    return sizes.pop()


def _outputs(
    message: Mapping[str, Any], parameters: Mapping[str, Any], config: ModelConfig
) -> tuple[Mapping[str, bool] | None, bool]:
    is_binary = parameters.get("binary_data_output", False)
    if not isinstance(is_binary, bool):
        _bad("parameter 'binary_data_output' must be true or false")
    asked = message.get("outputs")
    if not asked:
        return None, is_binary
    if not isinstance(asked, list):
        _bad("'outputs' must be a list")
    known = {spec.name for spec in config.outputs}
    chosen: dict[str, bool] = {}
    for entry in asked:
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            _bad("each output must be a JSON object with a name")
        if name not in known:
            _bad(f"unexpected inference output '{name}' for model '{config.name}'")
        own = _parameters(entry, f"output '{name}'")
        if own.get("classification"):
            _bad(f"output '{name}': the classification extension is not supported")
        wants = own.get("binary_data", is_binary)
        if not isinstance(wants, bool):
            _bad(f"parameter 'binary_data' of output '{name}' must be true or false")
        chosen[name] = wants
    return chosen, is_binary


def render_infer(request: Infer, outputs: Sequence[Tensor], config: ModelConfig) -> tuple[bytes, int | None]:
    """Return the body of a reply, and the length of its JSON where binary data follows it.

    Raises:
        RefusedError: JSON cannot hold an output that is asked for as JSON.
    """
    answer: dict[str, Any] = {} if request.id is None else {"id": request.id}
    answer["model_name"] = config.name
    answer["model_version"] = VERSION
    told: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor in outputs:
        wants_binary = request.is_binary
        if request.outputs is not None:
            if tensor.name not in request.outputs:
                continue
            wants_binary = request.outputs[tensor.name]
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if wants_binary:
            raw.append(tensors.to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            try:
                entry["data"] = tensors.to_list(tensor)
            except TensorError as error:
                _bad(str(error))
        told.append(entry)
    answer["outputs"] = told
    head = dump_json(answer)
    return (b"".join([head, *raw]), len(head)) if raw else (head, None)


def echo(inputs: Mapping[str, Tensor], rows: int, config: ModelConfig) -> list[Tensor]:
    """Return what the simulated model gives: as each output the input of its place if they agree, else zeros."""
    given = list(config.inputs)
    found = []
    for index, spec in enumerate(config.outputs):
        source = inputs.get(given[index].name) if index < len(given) else None
        if source is not None and source.datatype == spec.datatype and _agrees(source, spec, config):
            found.append(Tensor(spec.name, spec.datatype, source.shape, source.data))
        else:
            own = tuple(1 if dim < 0 else dim for dim in spec.dims)
            found.append(tensors.empty(spec.name, spec.datatype, (rows, *own) if config.max_batch_size else own))
    return found


def _agrees(source: Tensor, spec: TensorSpec, config: ModelConfig) -> bool:
    return _fits(source.shape[1:] if config.max_batch_size else source.shape, spec.dims)


def _fits(shape: Sequence[int], dims: Sequence[int]) -> bool:
    """Say that a shape is what a model takes, where -1 is any size."""
    if len(shape) != len(dims):
        return False
    for own, dim in zip(shape, dims, strict=True):  # noqa: SIM110 (runs twice a request; a generator costs as much as the rest)
        if dim not in (-1, own):
            return False
    return True
