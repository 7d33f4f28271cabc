"""The text format of Triton's `config.pbtxt`: what this server acts on is parsed, the rest is left out and named.

Source: model_config.proto of the Triton Inference Server. The messages are the part of it that this server acts on,
built here because protoc is no dependency.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor

_PACKAGE = "opfind"
_NO_VALUE, _QUOTES = frozenset("]}>,;:()"), frozenset("'\"")
TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "STRING", "BF16",
)  # fmt: skip
ENUMS = {
    "DataType": [f"TYPE_{name}" for name in TYPES],
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """Hold what a text says, and where.

    Attributes:
        message: A ModelConfig.
        unknown: Path of each field that was left out, once each.
        at: Line at which each other field stands first, from 1, by its path, such as "input.dims".
        begins: Lines at which the messages of each path begin, in their order.
    """

    message: Any
    unknown: list[str]
    at: dict[str, int]
    begins: dict[str, list[int]]


def parse(text: str) -> Parsed:
    """Read a text of a ModelConfig.

    Raises:
        ValueError: It is wrong; with line and reason.
    """
    message = message_factory.GetMessageClass(_descriptor("ModelConfig"))()
    sieve = _Sieve(text)
    try:
        sieve.whole(_descriptor("ModelConfig"))
        text_format.Parse("\n".join(map(" ".join, sieve.lines)), message)
    except text_format.ParseError as error:
        raise ValueError(_words(error)) from None
    except RecursionError:
        raise ValueError("is nested too deep") from None
    return Parsed(message=message, unknown=sorted(sieve.unknown), at=sieve.at, begins=sieve.begins)


class _Sieve:
    """Leave out of a text what the messages do not have, and keep every line's number.

    protobuf can skip unknown fields by itself, but says nothing of them, and stumbles over a list of messages that
    stands without a colon, which Triton's files often have.

    Attributes:
        unknown: Path of each field that was left out.
        at: See `Parsed`.
        begins: See `Parsed`.
        lines: Of the text that is left.
    """

    def __init__(self, text: str) -> None:
        self.unknown: set[str] = set()
        self.at: dict[str, int] = {}
        self.begins: dict[str, list[int]] = {}
        lines = text.split("\n")
        self.lines: list[list[str]] = [[] for _ in lines]
        self._tokenizer = text_format.Tokenizer(lines)

    def whole(self, within: Descriptor) -> None:
        """Go through the text, all of which is one message."""
        self.message(within)
        if not self._tokenizer.AtEnd():
            raise self._tokenizer.ParseError(f'Nothing is open that "{self._tokenizer.token}" could close.')

    def message(self, within: Descriptor | None, path: str = "") -> None:
        """Go through the fields of a message, up to its closing bracket or the end.

        Args:
            within: Its type; None: of an unknown one, so nothing of it is kept.
            path: To be written before the names of its fields.
        """
        tokens = self._tokenizer
        while not tokens.AtEnd() and tokens.token not in ("}", ">"):
            name = "[...]" if tokens.token == "[" else tokens.token  # noqa: S105 (a token of a text)
            if not tokens.token.isidentifier() and name != "[...]":
                raise tokens.ParseError(f'Expected the name of a field, not "{name}".')
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
            line = self._line()
            if self._step(keeps=keeps, only=opening):
                if keeps and inner is not None:
                    self.begins.setdefault(path.removesuffix("."), []).append(line)
                self.message(inner if keeps else None, path)
                if not self._step(keeps=keeps, only=closing):
                    raise self._tokenizer.ParseError(f'Expected "{closing}".')
                return
        self._step(keeps=keeps, only="-")
        token = self._tokenizer.token
        if token[:1] in _NO_VALUE or (token[:1] in _QUOTES and (len(token) < 2 or token[-1] != token[0])):
            raise self._tokenizer.ParseError(f"Expected a value, not {token!r}.")
        self._step(keeps=keeps)  # a scalar; strings that stand beside each other are one
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
    # proto2, unlike the original: its enums take no number that has no name.
    file = descriptor_pb2.FileDescriptorProto(name="opfind_model_config.proto", package=_PACKAGE, syntax="proto2")
    for name, values in ENUMS.items():
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
    elif kind in ENUMS:
        field.type, field.type_name = FieldDescriptor.TYPE_ENUM, f".{_PACKAGE}.{kind}Holder.{kind}"
    else:
        field.type = getattr(FieldDescriptor, f"TYPE_{kind.upper()}")
