"""From the command line's values to the Scenario: what is given lies over the scenario file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import scenarios
from analysis import SLA, Step
from loadgen.errors import UsageError
from scenarios import Scenario
from scenarios.legal import check_headers
from scenarios.scenario import BODY_KEYS

_FIELDS = {
    "target": {
        "url": "url",
        "protocol": "protocol",
        "metrics_url": "metrics_url",
        "method": "method",
        "timeout": "timeout_s",
        "cacert": "cacert",
        "insecure": "insecure",
        "cert": "cert",
        "key": "key",
        "unix_socket": "unix_socket",
        "re_resolve": "re_resolve_s",
        "shuffle": "shuffle",
    },
    "expect": {"expect_status": "status", "expect_body_regex": "body_regex"},
    "load": {
        "mode": "mode",
        "start_rps": "start_rps",
        "max_rps": "max_rps",
        "max_users": "max_users",
        "connections": "connections",
        "think": "think_s",
    },
    "search": {"precision": "precision", "budget": "budget_s", "seed": "seed", "bracket": "bracket"},
}
# What the command line calls a field, by its path in the scenario.
FLAG_NAMES = {
    f"{table}.{field}": f"--{flag.replace('_', '-')}"
    for table, fields in _FIELDS.items() for flag, field in fields.items()
} | {
    "target.url": "URL",
    "target.headers": "--header",
    **{f"target.{name}": f"--{name.replace('_', '-')}" for name in BODY_KEYS},
    "expect.json": "--expect-json",
    "load.arrivals": "--arrivals",
    "load.workers": "--workers",
    "require_rps": "--require-rps",
    "plan_rps": "--plan-rps",
}  # fmt: skip
_OPEN_ONLY = ("bracket", "start_rps", "max_rps", "require_rps", "plan_rps", "arrivals")
_OF_A_URL = ("protocol", "metrics_url", "cacert", "insecure", "cert", "unix_socket", "re_resolve_s")
_CLOSED_ONLY = ("max_users", "think")


def assemble(given: Mapping[str, Any]) -> Scenario:
    """Read the scenario that the flags name, and lay the flags over it.

    Args:
        given: Values by flag, `-` as `_`; None, or an empty tuple of a repeatable flag, where it was not given.

    Raises:
        UsageError: A flag, or the file, breaks a rule; or nothing says which SLA must hold.
    """
    scenario = _scenario(given, remedy="change --mode")
    if not scenario.slas:
        raise UsageError("there is no SLA: say what must hold, such as --sla-p99 200ms or --sla 'p95<80ms'")
    return scenario


def assemble_load(given: Mapping[str, Any]) -> tuple[Scenario, Step]:
    """Read the flags of a single load: the scenario as `assemble` does, its SLAs optional, and the step to run.

    Raises:
        UsageError: As in `assemble`; or not exactly one of `--users` and `--rate` says how much load; or it is none.
    """
    users, rate_rps = given["users"], given["rate"]
    if users is not None and rate_rps is not None:
        raise UsageError("give only one of --users, a closed loop, and --rate, an open one")
    if users is None and rate_rps is None:
        raise UsageError("say how much load: either --users 64, a closed loop, or --rate 5000, an open one")
    mode, other = ("open", "use --users") if users is None else ("closed", "use --rate")
    scenario = _scenario({**given, "mode": mode}, remedy=other)
    if given["error_budget"] is not None and not scenario.slas:
        raise UsageError("--error-budget has no meaning without an SLA: drop it or give one, such as --sla-p99 200ms")
    if rate_rps is not None:
        _check_length(rate_rps, given["duration"])
    step = Step(
        rate_rps=rate_rps, users=users, duration_s=given["duration"], arrivals=scenario.load.arrivals,
        seed=scenario.search.seed, purpose="load",
    )  # fmt: skip
    return scenario, step


def _check_length(rate_rps: float, duration_s: float) -> None:
    """Refuse a load in which less than one request is expected: there would be nothing to measure."""
    if rate_rps * duration_s < 1 - 1e-9:
        least_s = math.ceil(1000 / rate_rps) / 1000
        raise UsageError(
            f"--rate {rate_rps:g} is less than one request in {duration_s:.10g} s: at least {least_s:.10g} s are "
            "needed, as in -d"
        )


def _scenario(given: Mapping[str, Any], *, remedy: str) -> Scenario:
    """Read the scenario; `remedy` says how to get the load mode in which a flag has a meaning."""
    try:
        base = scenarios.load(given["scenario"])
        scenario = scenarios.load(given["scenario"], _changes(given, base), FLAG_NAMES)
    except scenarios.ScenarioError as error:
        raise UsageError(str(error)) from None
    if scenario.target.url is None:
        for name in _OF_A_URL:
            if getattr(scenario.target, name) not in (None, False):
                flag = f"--{name.removesuffix('_s').replace('_', '-')}"
                raise UsageError(f"{flag} has no meaning for the bundled reference server: drop it or give a URL")
    of_other = _OPEN_ONLY if scenario.load.mode == "closed" else _CLOSED_ONLY
    for name in of_other:
        if given.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} has no meaning in the {scenario.load.mode} load mode: drop it or {remedy}")
    return scenario


def _changes(given: Mapping[str, Any], base: Scenario) -> dict[str, Any]:
    """Return what the flags change, as `scenarios.load` takes it."""
    changes: dict[str, Any] = {
        table: {field: given[flag] for flag, field in fields.items() if given.get(flag) is not None}
        for table, fields in _FIELDS.items()
    }
    changes["target"] = _bodies(given) | changes["target"]
    if given.get("expect_json"):
        changes["expect"]["json"] = given["expect_json"]
    if given["headers"]:
        changes["target"]["headers"] = _headers(base.target.headers, given["headers"])
    if given["workers"] is not None:
        changes["load"]["workers"] = None if given["workers"] == "auto" else given["workers"]
    if given["arrivals"] is not None:
        changes["load"] |= _arrivals(*given["arrivals"])
    for name in ("require_rps", "plan_rps"):
        if given.get(name) is not None:
            changes[name] = given[name]
    return {**changes, "slas": _slas(given, base.slas)}


def _bodies(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the flags say of bodies, which replaces all that the file says of them."""
    found: dict[str, Any] = {name: given[name] for name in BODY_KEYS if given.get(name) is not None}
    for name, read in (("body", scenarios.read_body), ("body_template", scenarios.read_text)):
        if name in found:
            found[name] = read(found[name], Path())
    return {**dict.fromkeys(BODY_KEYS), "shuffle": False, **found} if found else {}


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
    budget = given["error_budget"]
    return slas if budget is None else tuple(replace(sla, error_budget=budget) for sla in slas)


def _parse_sla(flag: str, text: str) -> SLA:
    try:
        return SLA.parse(text)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def _headers(in_file: Mapping[str, str], given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Lay headers over the file's; names do not mind case.

    Raises:
        UsageError: One cannot be sent, or is given twice.
    """
    try:
        check_headers(given)
    except ValueError as error:
        raise UsageError(str(error).replace("headers: ", "--header: ", 1)) from None
    names = {name.lower() for name, _ in given}
    return {name: value for name, value in in_file.items() if name.lower() not in names} | dict(given)
