"""Triton's model repository, read as it is: a folder with `config.pbtxt` in a folder for each model.

Source: "Model Repository" and "Model Configuration" of the Triton Inference Server user guide.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import UsageError
from loadgen.server import pbtxt
from loadgen.server.model_config import Instances, ModelConfig, TensorSpec, first_repeated
from loadgen.server.profile import DeviceProfile
from loadgen.server.waiting import QueuePolicy

_FILE = "config.pbtxt"
_T = TypeVar("_T")
# Where the file says what a rule of ours is about.
_PLACES = {
    "name": "name", "max_batch_size": "max_batch_size",
    "preferred_batch_sizes": "dynamic_batching.preferred_batch_size",
    "max_queue_delay_us": "dynamic_batching.max_queue_delay_microseconds",
    "priority_levels": "dynamic_batching.priority_levels",
    "default_priority_level": "dynamic_batching.priority_levels",
    "priority_queues": "dynamic_batching.priority_queue_policy",
    "T0_MS": "parameters", "T1_MS": "parameters", "t0_ms": "parameters", "t1_ms": "parameters",
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
    parsed = pbtxt.parse(text)
    message = parsed.message
    inputs, outputs = _tensors("input", message.input, parsed), _tensors("output", message.output, parsed)
    instances = _each("instance_group", message.instance_group, _instances, parsed)
    try:
        return _model(message, folder_name, inputs, outputs, instances), parsed.unknown
    except ValueError as error:
        line = parsed.at.get(_PLACES.get(str(error).split()[1], ""))
        raise ValueError(f"line {line}: {error}" if line else str(error)) from None


def _model(
    message: Any,
    folder_name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    instances: Sequence[Instances],
) -> ModelConfig:
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
        instances=tuple(instances) or (Instances(),),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        device=_device({key: value.string_value for key, value in message.parameters.items()}),
    )


def _each(field: str, messages: Sequence[Any], built: Callable[[Any], _T], parsed: pbtxt.Parsed) -> list[_T]:
    """Return what each message of a list becomes; an error names the line at which that message begins."""
    found = []
    for message, line in zip(messages, parsed.begins.get(field, ()), strict=True):
        try:
            found.append(built(message))
        except ValueError as error:
            raise ValueError(f"line {line}: {error}") from None
    return found


def _tensors(field: str, messages: Sequence[Any], parsed: pbtxt.Parsed) -> list[TensorSpec]:
    specs = _each(field, messages, _tensor, parsed)
    if (repeated := first_repeated(specs)) is not None:
        line, name = parsed.begins[field][repeated], specs[repeated].name
        raise ValueError(f"line {line}: {field} '{name}': is the name of another {field} too")
    return specs


def _policy(message: Any) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=message.max_queue_size,
        default_timeout_us=message.default_timeout_microseconds,
        timeout_action=pbtxt.ENUMS["TimeoutAction"][message.timeout_action],
        allow_timeout_override=message.allow_timeout_override,
    )


def _instances(message: Any) -> Instances:
    kind = pbtxt.ENUMS["Kind"][message.kind]
    return Instances(
        count=message.count or 1, kind="KIND_CPU" if kind == "KIND_CPU" else "KIND_GPU", gpus=tuple(message.gpus)
    )


def _tensor(message: Any) -> TensorSpec:
    name = pbtxt.TYPES[message.data_type]
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
