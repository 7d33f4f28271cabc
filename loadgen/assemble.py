"""From the command line's values to the Scenario: what is given lies over the scenario file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import scenarios
from analysis import SLA
from loadgen.errors import UsageError
from scenarios import Scenario

_FIELDS = {
    "target": {"url": "url", "method": "method", "timeout": "timeout_s"},
    "load": {
        "mode": "mode",
        "start_rps": "start_rps",
        "max_rps": "max_rps",
        "max_users": "max_users",
        "connections": "connections",
    },
    "search": {"precision": "precision", "budget": "budget_s", "seed": "seed"},
}
_OPEN_ONLY = ("start_rps", "max_rps", "require_rps", "arrivals")
_CLOSED_ONLY = ("max_users",)


def assemble(given: Mapping[str, Any]) -> Scenario:
    """Read the scenario that the flags name, and lay the flags over it.

    Args:
        given: Values by flag, `-` as `_`; None, or an empty tuple of a repeatable flag, where it was not given.

    Raises:
        UsageError: A flag, or the file, breaks a rule; or nothing says which SLA must hold.
    """
    try:
        base = scenarios.load(given["scenario"])
        scenario = scenarios.load(given["scenario"], _changes(given, base))
    except scenarios.ScenarioError as error:
        raise UsageError(str(error)) from None
    of_other = _OPEN_ONLY if scenario.load.mode == "closed" else _CLOSED_ONLY
    for name in of_other:
        if given[name] is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} has no meaning in the {scenario.load.mode} load mode: drop it or change --mode")
    return scenario


def _changes(given: Mapping[str, Any], base: Scenario) -> dict[str, Any]:
    """Return what the flags change, as `scenarios.load` takes it."""
    changes: dict[str, Any] = {
        table: {field: given[flag] for flag, field in fields.items() if given[flag] is not None}
        for table, fields in _FIELDS.items()
    }
    if given["body"] is not None:
        changes["target"]["body"] = scenarios.read_body(given["body"], Path())
    if given["headers"]:
        changes["target"]["headers"] = _headers(base.target.headers, given["headers"])
    if given["workers"] is not None:
        changes["load"]["workers"] = None if given["workers"] == "auto" else given["workers"]
    if given["arrivals"] is not None:
        changes["load"] |= _arrivals(*given["arrivals"])
    if given["require_rps"] is not None:
        changes["require_rps"] = given["require_rps"]
    return {**changes, "slas": _slas(given, base.slas)}


def _arrivals(name: str, detail: str) -> dict[str, Any]:
    match name:
        case "gamma":
            return {"arrivals": name, "cv": float(detail)}
        case "replay":
            return {"arrivals": name, "replay": scenarios.read_due_times(Path(detail))}
        case _:
            return {"arrivals": name}


def _slas(given: Mapping[str, Any], in_file: tuple[SLA, ...]) -> tuple[SLA, ...]:
    """Return the flags' SLAs, which replace the scenario's; the error budget applies to either."""
    texts = [("--sla-p99", f"p99<{given['sla_p99']}")] if given["sla_p99"] is not None else []
    texts += [("--sla", text) for text in given["slas"]]
    slas = tuple(_parse_sla(flag, text) for flag, text in texts) or in_file
    if not slas:
        raise UsageError("there is no SLA: say what must hold, such as --sla-p99 200ms or --sla 'p95<80ms'")
    budget = given["error_budget"]
    return slas if budget is None else tuple(replace(sla, error_budget=budget) for sla in slas)


def _parse_sla(flag: str, text: str) -> SLA:
    try:
        return SLA.parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _headers(in_file: Mapping[str, str], given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Lay headers over the file's; names do not mind case."""
    names = {name.lower() for name, _ in given}
    return {name: value for name, value in in_file.items() if name.lower() not in names} | dict(given)
