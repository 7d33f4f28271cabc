"""Read scenario files, device profiles and replay files."""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from analysis import SLA
from scenarios.duration import parse_duration_s
from scenarios.scenario import Scenario, ScenarioError, build, check_device, unknown_key
from scenarios.share import parse_share

_FOLDER = Path(__file__).parent
_AFFINE_KEYS = ("t0_ms", "t1_ms", "jitter_sigma")
_DURATIONS = {
    "target.timeout": "timeout_s",
    "target.re_resolve": "re_resolve_s",
    "load.think": "think_s",
    "search.budget": "budget_s",
}
_TARGET_FILES = ("cacert", "cert", "key", "unix_socket", "body_lines", "input_data")
_RENAMED = {f"{key.partition('.')[0]}.{field}": key for key, field in _DURATIONS.items()}
_FILE_KEYS = {**_RENAMED, "slas": "sla"}
_TABLES = ("target", "expect", "server", "load", "sla", "search")


class _Objectives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    objectives: tuple[str, ...]
    error_budget: float = 0.001


def bundled() -> list[str]:
    """Return the names of the scenarios that come with the program."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(
    name_or_path: str, flags: Mapping[str, Any] | None = None, flag_names: Mapping[str, str] | None = None
) -> Scenario:
    """Read a bundled scenario by its name, or a scenario file; lay the command line's values over it.

    Args:
        name_or_path: Such as `default` or `checkout.toml`.
        flags: Tables and values under the names of `Scenario`'s fields, in their units; they win.
        flag_names: What the command line calls a field, by its path such as `target.url`: errors name it, unless its
            value is the file's.

    Raises:
        ScenarioError: There is no such file, it is no TOML, or a rule is broken.
    """
    path = _find(name_or_path, _FOLDER, "scenario")
    plain = _plain(_read_toml(path), path)
    scenario = build(plain, path.name, _FILE_KEYS)
    if not flags:
        return scenario
    of_file = _paths(plain) - _paths(flags)
    names = {path: name for path, name in (flag_names or {}).items() if path not in of_file}
    return build(_laid_over(plain, flags), "command line", _FILE_KEYS | names)


def device(name_or_path: str) -> dict[str, Any]:
    """Read a device profile: a bundled one by its name, or a file.

    Returns:
        What the file says, validated, under the names of `Device`'s fields.

    Raises:
        ScenarioError: There is no such file, it is no TOML, or a rule is broken.
    """
    path = _find(name_or_path, _FOLDER / "devices", "device")
    profile = _read_toml(path)
    check_device(profile, path.name)
    return profile


def read_due_times(path: Path) -> tuple[float, ...]:
    """Read a replay file: one due time in seconds a line; empty lines and those after `#` are skipped.

    Raises:
        ScenarioError: A line is no number, or the file cannot be read.
    """
    times = []
    for number, line in enumerate(_read_bytes(path).decode(errors="replace").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        try:
            value = float(text or "0")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ScenarioError(f"{path.name}: line {number}: '{text}' is not a due time in seconds")
        if text:
            times.append(value)
    return tuple(times)


def read_body(text: str, folder: Path) -> bytes:
    """Return a body given as text, or as `@file` relative to `folder`.

    Raises:
        ScenarioError: The file cannot be read.
    """
    return _read_bytes(folder / text[1:]) if text.startswith("@") else text.encode()


def read_text(text: str, folder: Path) -> str:
    """Return text given as such, or as `@file` relative to `folder`.

    Raises:
        ScenarioError: The file cannot be read, or is no UTF-8.
    """
    try:
        return read_body(text, folder).decode()
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{text[1:]}: is not UTF-8 text (byte {error.start})") from None


def _find(name_or_path: str, folder: Path, what: str) -> Path:
    bundled_one = folder / f"{name_or_path}.toml"
    if "/" not in name_or_path and bundled_one.is_file():
        return bundled_one
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in folder.glob("*.toml")))
        raise ScenarioError(f"{what} '{name_or_path}': there is no such file, and the bundled ones are {names}")
    return path


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read ({error.strerror})") from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(_read_bytes(path).decode())
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path.name}: is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path.name}: is not valid TOML: {error}") from None


def _plain(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Turn a file's form into the fields' form: durations to seconds, files read, SLAs parsed."""
    plain = {"name": path.stem, **raw}
    for table in _TABLES:
        if not isinstance(plain.get(table, {}), dict):
            raise ScenarioError(f"{path.name}: {table}: must be a table, [{table}]")
        if table in plain:
            plain[table] = dict(plain[table])
    if "slas" in raw:
        raise ScenarioError(f"{path.name}: {unknown_key('slas', list(_TABLES))}")
    for field, key in _RENAMED.items():
        _read_duration(plain, field, key, path.name)
    _read_precision(plain.get("search", {}), path.name)
    target, load_table, server = plain.get("target", {}), plain.get("load", {}), plain.get("server", {})
    if "body" in target:
        target["body"] = read_body(_text(target["body"], f"{path.name}: target.body"), path.parent)
    if "body_template" in target:
        where = f"{path.name}: target.body_template"
        target["body_template"] = read_text(_text(target["body_template"], where), path.parent)
    for key in _TARGET_FILES:
        if key in target:
            target[key] = str(path.parent / _text(target[key], f"{path.name}: target.{key}"))
    expect = plain.get("expect", {})
    if isinstance(status := expect.get("status"), int):
        expect["status"] = str(status)
    if "replay" in load_table:
        name = _text(load_table["replay"], f"{path.name}: load.replay").removeprefix("@")
        load_table["replay"] = read_due_times(path.parent / name)
    if load_table.get("workers") == "auto":
        del load_table["workers"]
    if isinstance(server.get("device"), str):
        plain["server"] = _with_device(server, device(server["device"]))
    if "sla" in plain:
        plain["slas"] = _slas(plain.pop("sla"), path.name)
    return plain


def _with_device(server: Mapping[str, Any], profile: Mapping[str, Any]) -> dict[str, Any]:
    """Put a profile into the server's settings, which win; one of three numbers needs no table of its own."""
    others = {key: value for key, value in server.items() if key != "device"}
    if profile.keys() <= {*_AFFINE_KEYS, "source"}:
        return {**{key: value for key, value in profile.items() if key != "source"}, **others}
    own = {key: others.pop(key) for key in _AFFINE_KEYS if key in others}
    return {**others, "device": {**profile, **own}}


def _read_duration(plain: dict[str, Any], field: str, key: str, source: str) -> None:
    table_name, _, file_key = key.partition(".")
    table, field_name = plain.get(table_name, {}), field.partition(".")[2]
    if field_name in table:
        raise ScenarioError(f"{source}: {unknown_key(field, [file_key])}")
    if file_key in table:
        text = table.pop(file_key)
        try:
            table[field_name] = parse_duration_s(text if isinstance(text, str) else repr(text))
        except ValueError as error:
            raise ScenarioError(f"{source}: {key}: {error}") from None


def _read_precision(search: dict[str, Any], source: str) -> None:
    """Read `2%`, as the command line does; a number stays as it is."""
    if isinstance(text := search.get("precision"), str):
        try:
            search["precision"] = parse_share(text)
        except ValueError as error:
            raise ScenarioError(f"{source}: search.precision: {error}") from None


def _slas(table: dict[str, Any], source: str) -> tuple[SLA, ...]:
    names = _Objectives.__struct_fields__
    for key in table:
        if key not in names:
            raise ScenarioError(f"{source}: {unknown_key(f'sla.{key}', list(names))}")
    try:
        spec = msgspec.convert(table, _Objectives)
    except msgspec.ValidationError:
        raise ScenarioError(
            f'{source}: sla: write objectives = ["p99<200ms"] and, if wanted, error_budget = 0.001'
        ) from None
    try:
        return tuple(SLA.parse(text, error_budget=spec.error_budget) for text in spec.objectives)
    except ValueError as error:
        key = "error_budget" if "error_budget" in str(error) else "objectives"
        raise ScenarioError(f"{source}: sla.{key}: {error}") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ScenarioError(f"{where}: {value!r} must be text")
    return value


def _paths(plain: Mapping[str, Any]) -> set[str]:
    """Return the paths of all values, such as `target.url`."""
    paths = set(plain)
    for table, values in plain.items():
        if isinstance(values, Mapping):
            paths |= {f"{table}.{key}" for key in values}
    return paths


def _laid_over(plain: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Merge table by table; a flag's value wins."""
    merged = dict(plain)
    for key, value in flags.items():
        under = merged.get(key)
        merged[key] = {**under, **value} if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
