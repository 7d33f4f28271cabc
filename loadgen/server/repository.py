"""Triton's model repository, read as it is: a folder with `config.pbtxt` in a folder for each model.

Source: "Model Repository" and "Model Configuration" of the Triton Inference Server user guide, and model_config.proto.
The messages below are the part of that file which this server acts on, built here because protoc is no dependency.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from loadgen.errors import UsageError
from loadgen.server.model_config import Instances, ModelConfig, TensorSpec
from loadgen.server.profile import DeviceProfile
from loadgen.server.waiting import QueuePolicy

_FILE, _PACKAGE = "config.pbtxt", "opfind"
_TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "STRING", "BF16",
)  # fmt: skip
_ENUMS = {
    "DataType": [f"TYPE_{name}" for name in _TYPES],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
    "TimeoutAction": ["REJECT", "DELAY"],
}
# Fields of each message: a scalar type, an enum, a message, a list of either, or (key, message) for a map.
_MESSAGES: dict[str, dict[str, Any]] = {
    "ModelConfig": {
        "name": "string", "platform": "string", "backend": "string", "max_batch_size": "int32", "input": ["Tensor"],
        "output": ["Tensor"], "instance_group": ["InstanceGroup"], "dynamic_batching": "DynamicBatching",
        "parameters": ("string", "Parameter"),
    },
    "Tensor": {"name": "string", "data_type": "DataType", "dims": ["int64"]},
    "InstanceGroup": {"name": "string", "kind": "Kind", "count": "int32", "gpus": ["int32"]},
    "DynamicBatching": {
        "preferred_batch_size": ["int32"], "max_queue_delay_microseconds": "uint64", "preserve_ordering": "bool",
        "priority_levels": "uint64", "default_priority_level": "uint64", "default_queue_policy": "QueuePolicy",
        "priority_queue_policy": ("uint64", "QueuePolicy"),
    },
    "QueuePolicy": {
        "timeout_action": "TimeoutAction", "default_timeout_microseconds": "uint64", "allow_timeout_override": "bool",
        "max_queue_size": "uint32",
    },
    "Parameter": {"string_value": "string"},
}  # fmt: skip
# Where the file says what a rule of ours is about.
_PLACES = {
    "name": "name", "max_batch_size": "max_batch_size", "count": "instance_group.count", "gpus": "instance_group.gpus",
    "preferred_batch_sizes": "dynamic_batching.preferred_batch_size",
    "max_queue_delay_us": "dynamic_batching.max_queue_delay_microseconds",
    "priority_levels": "dynamic_batching.priority_levels",
    "default_priority_level": "dynamic_batching.priority_levels",
    "priority_queues": "dynamic_batching.priority_queue_policy",
    "datatype": "input.name", "dims": "input.dims", "T0_MS": "parameters", "T1_MS": "parameters",
    "t0_ms": "parameters", "t1_ms": "parameters",
}  # fmt: skip
_MOST_BYTES = 1 << 20


def read_repository(folder: Path) -> tuple[list[ModelConfig], list[str]]:
    """Read every model of a repository.

    Args:
        folder: That holds a folder for each model.

    Returns:
        The models, in order of their folders' names, and a sentence for each thing that was ignored.

    Raises:
        UsageError: There is no model, or a file is wrong; with file, line and reason.
    """
    try:
        paths = sorted(path / _FILE for path in folder.iterdir() if (path / _FILE).is_file())
    except OSError as error:
        raise UsageError(f"the model repository {folder} cannot be read ({error.strerror})") from None
    if not paths:
        raise UsageError(
            f"the model repository {folder} holds no model: each needs a folder of its own with a {_FILE} in it"
        )
    models, remarks = [], []
    for path in paths:
        try:
            text = path.read_bytes()[: _MOST_BYTES + 1]
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror})") from None
        if len(text) > _MOST_BYTES:
            raise UsageError(f"{path} is larger than {_MOST_BYTES} bytes, so it is no model configuration")
        try:
            model, ignored = parse_model(text.decode("utf-8-sig"), path.parent.name)
        except UnicodeDecodeError:
            raise UsageError(f"{path} is not UTF-8") from None
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from None
        models.append(model)
        if ignored:
            remarks.append(f"{path}: ignored, because this server has no such thing: {', '.join(ignored)}")
    return models, remarks


def parse_model(text: str, folder_name: str) -> tuple[ModelConfig, list[str]]:
    """Read a `config.pbtxt`.

    Args:
        text: Of the file, in protobuf's text format.
        folder_name: Of the model's folder, its name where the file gives none.

    Returns:
        The model, and the fields that are ignored, each once.

    Raises:
        ValueError: It is wrong; with line and reason.
    """
    message = message_factory.GetMessageClass(_descriptor("ModelConfig"))()
    sieve = _Sieve(text)
    try:
        sieve.message(_descriptor("ModelConfig"))
        text_format.Parse("\n".join(map(" ".join, sieve.lines)), message)
    except text_format.ParseError as error:
        raise ValueError(_words(error)) from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    try:
        return _model(message, folder_name), sorted(sieve.unknown)
    except ValueError as error:
        place = _PLACES.get(str(error).split()[1], "")
        line = sieve.at.get(place)
        raise ValueError(f"line {line}: {error}" if line else str(error)) from None


def _model(message: Any, folder_name: str) -> ModelConfig:
    name = message.name or folder_name
    if name != folder_name:
        raise ValueError(f"ModelConfig name '{name}': must be that of the model's folder, '{folder_name}'")
    batching = message.dynamic_batching
    is_dynamic = message.HasField("dynamic_batching")
    policies = {int(level): _policy(policy) for level, policy in batching.priority_queue_policy.items()}
    return ModelConfig(
        name=name,
        platform=message.backend or message.platform or "simulated",
        max_batch_size=message.max_batch_size,
        batching="dynamic" if is_dynamic else "none",
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        max_queue_delay_us=batching.max_queue_delay_microseconds,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        queue=_policy(batching.default_queue_policy),
        priority_queues=policies,
        instances=tuple(map(_instances, message.instance_group)) or (Instances(),),
        inputs=tuple(map(_tensor, message.input)),
        outputs=tuple(map(_tensor, message.output)),
        device=_device({key: value.string_value for key, value in message.parameters.items()}),
    )


def _policy(message: Any) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=message.max_queue_size,
        default_timeout_us=message.default_timeout_microseconds,
        timeout_action="DELAY" if message.timeout_action else "REJECT",
        allow_timeout_override=message.allow_timeout_override,
    )


def _instances(message: Any) -> Instances:
    if not 0 <= message.kind < len(_ENUMS["Kind"]):
        raise ValueError(f"Instances kind {message.kind}: must be one of {', '.join(_ENUMS['Kind'])}")
    kind = _ENUMS["Kind"][message.kind]
    return Instances(
        count=message.count or 1, kind="KIND_CPU" if kind == "KIND_CPU" else "KIND_GPU", gpus=tuple(message.gpus)
    )


def _tensor(message: Any) -> TensorSpec:
    if not 0 <= message.data_type < len(_TYPES):
        raise ValueError(f"TensorSpec data_type {message.data_type}: must be the name of a type, such as TYPE_FP32")
    name = _TYPES[message.data_type]
    if name == "INVALID":
        raise ValueError(f"TensorSpec datatype of '{message.name}': is missing")
    return TensorSpec(
        name=message.name, datatype="BYTES" if name == "STRING" else name, dims=tuple(map(int, message.dims))
    )


def _device(parameters: Mapping[str, str]) -> DeviceProfile:
    """Return the simulated device, its affine time by the parameters T0_MS and T1_MS, milliseconds."""
    times: dict[str, Any] = {}
    for key, field in (("T0_MS", "t0_ms"), ("T1_MS", "t1_ms")):
        if key in parameters:
            try:
                times[field] = float(parameters[key])
            except ValueError:
                raise ValueError(f"parameter {key} '{parameters[key]}': must be a number of milliseconds") from None
    # Who sets a time means that time, as a model does that sleeps so long.
    return DeviceProfile(**times, jitter_sigma=0.0) if times else DeviceProfile()


class _Sieve:
    """Leave out of a text what the messages do not have, and keep every line's number.

    protobuf can skip unknown fields by itself, but says nothing of them, and stumbles over a list of messages that
    stands without a colon, which Triton's files often have.

    Attributes:
        unknown: Path of each field that was left out.
        at: Line at which each other field stands first, from 1, by its path.
        lines: Of the text that is left.
    """

    def __init__(self, text: str) -> None:
        self.unknown: set[str] = set()
        self.at: dict[str, int] = {}
        lines = text.split("\n")
        self.lines: list[list[str]] = [[] for _ in lines]
        self._tokenizer = text_format.Tokenizer(lines)

    def message(self, within: Descriptor | None, path: str = "") -> None:
        """Go through the fields of a message, up to its closing bracket or the end.

        Args:
            within: Its type; None: of an unknown one, so nothing of it is kept.
            path: To be written before the names of its fields.
        """
        tokens = self._tokenizer
        while not tokens.AtEnd() and tokens.token not in ("}", ">"):
            name = "[...]" if tokens.token == "[" else tokens.token  # noqa: S105 (a token of a text)
            field = within.fields_by_name.get(name) if within is not None else None
            if within is not None and field is None:
                self.unknown.add(f"{path}{name}")
            keeps = field is not None
            if keeps:
                self.at.setdefault(f"{path}{name}", self._line())
            if name == "[...]":  # an extension, or a message of any type: [package.name]
                while not self._step(keeps=False, only="]"):
                    self._step(keeps=False)
            else:
                self._step(keeps=keeps)
            inner = field.message_type if field is not None else None
            self._step(keeps=keeps, only=":")
            if self._step(keeps=keeps, only="["):
                while not self._step(keeps=keeps, only="]"):
                    self._value(inner, f"{path}{name}.", keeps=keeps)
                    self._step(keeps=keeps, only=",")
            else:
                self._value(inner, f"{path}{name}.", keeps=keeps)
            while self._step(keeps=False, only=",") or self._step(keeps=False, only=";"):
                pass

    def _value(self, inner: Descriptor | None, path: str, *, keeps: bool) -> None:
        for opening, closing in (("{", "}"), ("<", ">")):
            if self._step(keeps=keeps, only=opening):
                self.message(inner if keeps else None, path)
                if not self._step(keeps=keeps, only=closing):
                    raise self._tokenizer.ParseError(f'Expected "{closing}".')
                return
        self._step(keeps=keeps)  # a scalar: a sign, and strings that stand beside each other, belong to it
        while self._tokenizer.token[:1] in ("'", '"'):
            self._step(keeps=keeps)

    def _step(self, *, keeps: bool, only: str | None = None) -> bool:
        """Go to the next token, if this is the one that is asked for; say whether it was."""
        tokens = self._tokenizer
        if only is not None and tokens.token != only:
            return False
        if tokens.AtEnd():
            raise tokens.ParseError("Unexpected end of file.")
        if keeps:
            self.lines[self._line() - 1].append(tokens.token)
        tokens.NextToken()
        return True

    def _line(self) -> int:
        return self._tokenizer.ParseError("").GetLine() or 1  # the only public way to it


def _words(error: text_format.ParseError) -> str:
    """Return protobuf's reason, which begins with line and column."""
    line = error.GetLine()
    words = re.sub(rf"{_PACKAGE}\.|\w+Holder\.", "", str(error))
    reason = words.partition(" : ")[2].removeprefix("'': ") or words
    return reason if line is None else f"line {line}: {reason}"


@cache
def _descriptor(name: str) -> Descriptor:
    return _pool().FindMessageTypeByName(f"{_PACKAGE}.{name}")


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Build the messages in a pool of their own."""
    file = descriptor_pb2.FileDescriptorProto(name="opfind_model_config.proto", package=_PACKAGE, syntax="proto3")
    for name, values in _ENUMS.items():
        # Values live beside their enum, not in it, so each enum gets a message around it.
        holder = file.message_type.add(name=f"{name}Holder")
        enum = holder.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            _add_field(message, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: Any) -> None:
    field = message.field.add(name=name, number=number, label=FieldDescriptor.LABEL_OPTIONAL)
    if isinstance(kind, tuple):  # a map is a list of entries, as protoc writes it
        entry = message.nested_type.add(name=f"{''.join(part.title() for part in name.split('_'))}Entry")
        entry.options.map_entry = True
        for place, (part, part_kind) in enumerate(zip(("key", "value"), kind, strict=True), start=1):
            _set_type(entry.field.add(name=part, number=place, label=FieldDescriptor.LABEL_OPTIONAL), part_kind)
        field.label = FieldDescriptor.LABEL_REPEATED
        field.type, field.type_name = FieldDescriptor.TYPE_MESSAGE, f".{_PACKAGE}.{message.name}.{entry.name}"
        return
    if isinstance(kind, list):
        field.label = FieldDescriptor.LABEL_REPEATED
        kind = kind[0]
    _set_type(field, kind)


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _MESSAGES:
        field.type, field.type_name = FieldDescriptor.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    elif kind in _ENUMS:
        field.type, field.type_name = FieldDescriptor.TYPE_ENUM, f".{_PACKAGE}.{kind}Holder.{kind}"
    else:
        field.type = getattr(FieldDescriptor, f"TYPE_{kind.upper()}")
