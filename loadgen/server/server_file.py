"""A server's own configuration, `server.toml`: models under `[[models]]`, bounds under `[limits]`."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import UsageError
from loadgen.server.checks import check_keys
from loadgen.server.config import Limits
from loadgen.server.model_config import Instances, ModelConfig, StageConfig, TensorSpec
from loadgen.server.profile import DeviceProfile
from loadgen.server.waiting import QueuePolicy

FindProfile = Callable[[str], Mapping[str, Any]]
_T = TypeVar("_T")
_TABLES: Mapping[str, type] = {"queue": QueuePolicy, "preprocess": StageConfig, "postprocess": StageConfig}
_LISTS: Mapping[str, type] = {"instances": Instances, "inputs": TensorSpec, "outputs": TensorSpec}


def read_server_file(path: Path, find_profile: FindProfile) -> tuple[list[ModelConfig], Limits]:
    """Read a `server.toml`.

    Args:
        path: Of the file.
        find_profile: Returns the parsed profile of a device that a model names.

    Returns:
        The models, and the bounds of the server.

    Raises:
        UsageError: It cannot be read, is no TOML, or a rule is broken; with file and reason.
    """
    try:
        data = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {error}") from None
    try:
        return _models(data, find_profile), _built(Limits, data.get("limits", {}))
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from None


def _models(data: Mapping[str, Any], find_profile: FindProfile) -> list[ModelConfig]:
    unknown = sorted(data.keys() - {"models", "limits"})
    if unknown:
        raise ValueError(f"{unknown[0]}: is no table; there are [[models]] and [limits]")
    given = data.get("models")
    if not isinstance(given, list) or not given:
        raise ValueError("there is no model: write one under [[models]]")
    models = [_model(table, find_profile) for table in given]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"ModelConfig name '{name}': is that of two models")
    return models


def _model(data: Any, find_profile: FindProfile) -> ModelConfig:
    table = dict(check_keys(data, ModelConfig, "table"))
    for key, kind in _TABLES.items():
        if key in table:
            table[key] = _built(kind, table[key])
    for key, kind in _LISTS.items():
        if key in table:
            if not isinstance(table[key], list):
                raise ValueError(f"{key}: must be a list of tables, as in [[models.{key}]]")
            table[key] = tuple(_built(kind, entry) for entry in table[key])
    if "device" in table:
        named = table["device"]
        table["device"] = DeviceProfile.from_table(find_profile(named) if isinstance(named, str) else named)
    if "priority_queues" in table:
        table["priority_queues"] = _by_level(table["priority_queues"])
    if table.get("compute", "simulated") != "simulated":
        table = {**_tensors_of(table["compute"]), **table}
    if isinstance(table.get("preferred_batch_sizes"), list):
        table["preferred_batch_sizes"] = tuple(table["preferred_batch_sizes"])
    return ModelConfig(**table)


def _tensors_of(compute: Any) -> dict[str, Any]:
    """Return the inputs and outputs of a network, so that nobody has to write them."""
    try:
        from loadgen.server.torch_models import NETWORKS  # noqa: PLC0415 (torch takes seconds to import)
    except ImportError:
        raise ValueError(f"compute '{compute}': needs torch: pip install 'opfind[gpu]'") from None
    if compute not in NETWORKS:
        raise ValueError(f"compute {compute!r}: must be simulated, {', '.join(NETWORKS)}")
    return {"inputs": NETWORKS[compute].inputs, "outputs": (NETWORKS[compute].output,), "platform": "pytorch"}


def _by_level(data: Any) -> dict[int, QueuePolicy]:
    if not isinstance(data, dict) or not all(str(level).isdecimal() for level in data):
        raise ValueError("priority_queues: must be tables by level, as in [models.priority_queues.1]")
    return {int(level): _built(QueuePolicy, policy) for level, policy in data.items()}


def _built(kind: type[_T], data: Any) -> _T:
    table = check_keys(data, kind, "table")
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in table.items()})
    except TypeError as error:  # a field without a default is missing
        raise ValueError(f"{kind.__name__}: {str(error).partition('() ')[2] or error}") from None
