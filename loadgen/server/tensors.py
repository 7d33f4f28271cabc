"""Tensors as KServe v2 sends them: JSON lists, or raw little-endian bytes. Pure."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_, "BF16": np.uint16,
}  # fmt: skip
_BINARY_ONLY = ("FP16", "BF16")  # there is no JSON form of them (KServe v2, "Tensor Data Types")
_LENGTH = struct.Struct("<I")


class TensorError(ValueError):
    """A tensor is not what it says it is; the message says why."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Hold one tensor.

    Attributes:
        name: Of the tensor.
        datatype: KServe's name.
        shape: With the batch.
        data: Flat, in row-major order; of BF16 the raw 16 bits, of BYTES objects of type bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: NDArray[Any]


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """Read a tensor's JSON form: its elements as a list, flat or nested.

    Raises:
        TensorError: It has another number of elements than its shape says, or one of another type.
    """
    if datatype in _BINARY_ONLY:
        raise TensorError(f"input '{name}': {datatype} has no JSON form, it must be sent as binary data")
    flat = data
    if isinstance(data, list) and data and isinstance(data[0], list):
        flat = _flattened(data)
    if not isinstance(flat, list):
        raise TensorError(f"input '{name}': data must be a list")
    if len(flat) != prod(shape):
        raise TensorError(
            f"input '{name}': unable to parse its data: its shape {list(shape)} has {prod(shape)} elements, not "
            f"{len(flat)}"
        )
    if datatype == "BYTES":
        if not all(isinstance(text, str) for text in flat):
            raise TensorError(f"input '{name}': each element of type BYTES must be a string")
        array = np.empty(len(flat), dtype=np.object_)
        array[:] = [text.encode(errors="surrogatepass") for text in flat]
        return Tensor(name, datatype, shape, array)
    return Tensor(name, datatype, shape, _numbers(name, datatype, flat))


def _numbers(name: str, datatype: str, flat: list[Any]) -> NDArray[Any]:
    kinds: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int, float) if datatype[0] == "F" else (int,)
    if not set(map(type, flat)) <= set(kinds):
        raise TensorError(f"input '{name}': an element is not of type {datatype}")
    try:
        with np.errstate(over="ignore"):  # what is too large for a float becomes infinite, as in JSON itself
            return np.array(flat, dtype=_DTYPES[datatype])
    except (OverflowError, ValueError):
        raise TensorError(f"input '{name}': an element lies outside the range of {datatype}") from None


def _flattened(data: list[Any]) -> list[Any]:
    """Flatten nested lists; whatever is deeper than the parser could read is not here."""
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if isinstance(item, list):
                stack.append(iter(item))
                break
            flat.append(item)
        else:
            stack.pop()
    return flat


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Tensor:
    """Read a tensor's binary form: little-endian numbers; of BYTES each element after its length, 4 bytes.

    Raises:
        TensorError: It has another size than its shape says.
    """
    elements = prod(shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _strings(name, elements, bytes(raw)))
    dtype = np.dtype(_DTYPES[datatype])
    if len(raw) != elements * dtype.itemsize:
        raise TensorError(
            f"input '{name}': its binary data has {len(raw)} bytes, and its shape {list(shape)} needs "
            f"{elements * dtype.itemsize}"
        )
    return Tensor(name, datatype, shape, np.frombuffer(raw, dtype=dtype))


def _strings(name: str, elements: int, raw: bytes) -> NDArray[Any]:
    texts: list[bytes] = []
    at = 0
    while at < len(raw):
        if len(raw) - at < _LENGTH.size:
            raise TensorError(f"input '{name}': its binary data ends within the length of an element")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if length > len(raw) - at:
            raise TensorError(f"input '{name}': its binary data ends within an element")
        texts.append(raw[at : at + length])
        at += length
    if len(texts) != elements:
        raise TensorError(f"input '{name}': its binary data has {len(texts)} elements, its shape {elements}")
    array = np.empty(elements, dtype=np.object_)
    array[:] = texts
    return array


def to_list(tensor: Tensor) -> list[Any]:
    """Return a tensor's elements as JSON has them, but for numbers that are none, which it cannot hold.

    Raises:
        TensorError: JSON has no form of its type, or a text is not UTF-8.
    """
    if tensor.datatype in _BINARY_ONLY:
        raise TensorError(f"output '{tensor.name}': {tensor.datatype} has no JSON form, ask for it as binary data")
    if tensor.datatype == "BYTES":
        try:
            return [text.decode() for text in tensor.data]
        except UnicodeDecodeError:
            raise TensorError(
                f"output '{tensor.name}': is not UTF-8, which JSON needs: ask for it as binary data"
            ) from None
    found: list[Any] = tensor.data.tolist()
    return found


def to_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's binary form."""
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(text)) + text for text in tensor.data)
    return tensor.data.tobytes()


def empty(name: str, datatype: str, shape: Sequence[int]) -> Tensor:
    """Return a tensor of zeros."""
    if datatype == "BYTES":
        array = np.empty(prod(shape), dtype=np.object_)
        array[:] = [b""] * prod(shape)
        return Tensor(name, datatype, tuple(shape), array)
    return Tensor(name, datatype, tuple(shape), np.zeros(prod(shape), dtype=_DTYPES[datatype]))
