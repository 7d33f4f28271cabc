"""Bodies for models that speak KServe v2: made from what a model says of itself, or read from a file of inputs.

The file has the JSON form of perf_analyzer ("Input Data" in its documentation): `{"data": [{"INPUT0": [1, 2], "INPUT1":
{"content": [...], "shape": [2]}, "INPUT2": {"b64": "..."}}, ...]}`; lists of such lists are sequences, which are sent
one after the other here.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from loadgen.ask import Asked, get
from loadgen.errors import TargetError, UsageError
from loadgen.target import Endpoint
from scenarios.scenario import Target

_MADE = 64  # bodies that are made, enough that no cache holds one answer for all
_HTTP_OK = 200
_LONGEST = 200  # characters of a server's own sentence that are told
_DTYPES = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """Name an input of a model.

    Attributes:
        name: Of the tensor.
        datatype: KServe's name.
        dims: Shape without the batch; -1 for any.
        is_batched: A request's shape begins with its number of rows.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    is_batched: bool


def bodies_of(target: Target, endpoint: Endpoint, seed: int) -> Iterator[bytes] | None:
    """Return the bodies for a model that speaks KServe v2, where its user gave none; None for any other target.

    Raises:
        TargetError: The model does not say what its inputs are.
    """
    if target.protocol != "kserve" or target.body is not None:
        return None
    wanted = inputs_of(endpoint, target.headers)
    return made(wanted, seed) if target.input_data is None else from_file(Path(target.input_data), wanted)


def inputs_of(endpoint: Endpoint, headers: Mapping[str, str]) -> list[Input]:
    """Ask a model for its inputs.

    Args:
        endpoint: At which it infers.
        headers: To send along.

    Raises:
        TargetError: It does not say, or in a form that is not KServe's.
    """
    path = endpoint.path.partition("?")[0].removesuffix("/infer")
    told, why = _asked(endpoint, path, headers)
    if told is None:
        raise TargetError(f"the model at {path} does not tell of its inputs ({why}): give them with --body")
    # Whether a shape begins with the batch stands in the configuration, which only Triton's extension has.
    config, _ = _asked(endpoint, f"{path}/config", headers)
    try:
        most = None if config is None else int(config.get("max_batch_size", 0))
        return [
            Input(
                name=str(entry["name"]), datatype=str(entry["datatype"]), dims=tuple(map(int, entry["shape"]))[start:],
                is_batched=bool(start),
            )
            for entry in told["inputs"]
            for start in [int(entry["shape"][:1] == [-1] if most is None else most > 0)]
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TargetError(f"what the model at {path} says of its inputs is not KServe's form") from None


def _asked(endpoint: Endpoint, path: str, headers: Mapping[str, str]) -> tuple[Any, str]:
    """Return the JSON at a path, or None and why there is none."""
    try:
        status, body = get(endpoint, path, headers)
    except OSError as error:
        return None, f"cannot connect: {error.strerror or error}"
    except Asked as error:
        return None, f"no HTTP: {type(error).__name__}"
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None, f"{status}, and no JSON"
    if status == _HTTP_OK:
        return found, "null"
    sentence = found.get("error") if isinstance(found, dict) else None
    return None, f"{status}: {sentence[:_LONGEST]}" if isinstance(sentence, str) else str(status)


def made(inputs: Sequence[Input], seed: int) -> Iterator[bytes]:
    """Yield bodies of one row, with random numbers and words; a dimension that may be anything is 1.

    Raises:
        UsageError: There is no JSON for an input's type.
    """
    rng = np.random.default_rng([seed, 0xB0D7])  # the payload stream: never shared with arrivals
    for _ in range(_MADE):
        yield _body([_entry(each, _random(each, _dims(each), rng), _dims(each)) for each in inputs])


def _dims(each: Input) -> tuple[int, ...]:
    return tuple(1 if dim < 0 else dim for dim in each.dims)


def _random(each: Input, dims: tuple[int, ...], rng: np.random.Generator) -> list[Any]:
    count = prod(dims)
    match each.datatype:
        case "BYTES":
            return [f"{number:08x}" for number in rng.integers(0, 1 << 32, count).tolist()]
        case "BOOL":
            return list(map(bool, rng.integers(0, 2, count).tolist()))
        case "FP32" | "FP64":
            return list(map(float, rng.random(count, dtype=np.float32)))
        case datatype if datatype in _DTYPES:
            found: list[Any] = rng.integers(0, 100, count).tolist()
            return found
        case datatype:
            raise UsageError(f"input '{each.name}' is {datatype}, which has no JSON form: give requests with --body")


def from_file(path: Path, inputs: Sequence[Input]) -> Iterator[bytes]:
    """Yield the bodies of a file of inputs.

    Raises:
        UsageError: It cannot be read, is not in the form, or does not fit the model.
    """
    try:
        entries = _flat(msgspec.json.decode(path.read_bytes())["data"])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, KeyError, TypeError):
        raise UsageError(f'{path}: is not perf_analyzer\'s form, such as {{"data": [{{"INPUT0": [1, 2]}}]}}') from None
    if not entries:
        raise UsageError(f"{path}: holds no request")
    names = {each.name for each in inputs}
    for number, entry in enumerate(entries):
        where = f"{path}: data[{number}]"
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: must be an object of inputs by name")
        if wrong := sorted(names ^ entry.keys()):
            raise UsageError(f"{where}: the model's inputs are {', '.join(sorted(names))}, so see to {wrong[0]}")
        yield _body([_given(each, entry[each.name], where) for each in inputs])


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise TypeError
    return [one for entry in data for one in (entry if isinstance(entry, list) else [entry])]


def _given(each: Input, value: Any, where: str) -> dict[str, Any]:
    """Return an input as a file gives it: a value, a list, or an object of content and shape."""
    where = f"{where}: input '{each.name}'"
    shape = None
    if isinstance(value, dict):
        shape = value.get("shape")
        value = _decoded(each, value["b64"], where) if "b64" in value else value.get("content")
    values = value if isinstance(value, list) else [value]
    while values and all(isinstance(one, list) for one in values):
        values = [one for inner in values for one in inner]
    dims = _shape(each, shape, len(values), where)
    return _entry(each, values, dims)


def _shape(each: Input, given: Any, count: int, where: str) -> tuple[int, ...]:
    """Return the shape of so many values; one dimension that may be anything follows from their number."""
    if given is not None and not (isinstance(given, list) and all(type(dim) is int and dim >= 0 for dim in given)):
        raise UsageError(f"{where}: shape must be a list of whole numbers")
    dims = list(each.dims if given is None else given)
    if dims.count(-1) == 1:
        others = prod(dim for dim in dims if dim >= 0)
        dims[dims.index(-1)] = count // others if others else 0
    if -1 in dims:
        raise UsageError(f"{where}: the model leaves its shape open, {list(each.dims)}: give a shape")
    if prod(dims) != count:
        raise UsageError(f"{where}: {count} values do not make the shape {dims}")
    return tuple(dims)


def _decoded(each: Input, text: Any, where: str) -> list[Any]:
    """Return the values of raw bytes in base64."""
    if each.datatype not in _DTYPES:
        raise UsageError(f"{where}: b64 is for numbers, and it is {each.datatype}")
    try:
        raw = base64.b64decode(text, validate=True)
        values: list[Any] = np.frombuffer(raw, dtype=_DTYPES[each.datatype]).tolist()
    except (binascii.Error, ValueError, TypeError):
        raise UsageError(f"{where}: b64 does not hold whole values of {each.datatype}") from None
    return values


def _entry(each: Input, values: list[Any], dims: tuple[int, ...]) -> dict[str, Any]:
    shape = [1, *dims] if each.is_batched else list(dims)
    return {"name": each.name, "datatype": each.datatype, "shape": shape, "data": values}


def _body(entries: list[dict[str, Any]]) -> bytes:
    return json.dumps({"inputs": entries}, separators=(",", ":")).encode()
