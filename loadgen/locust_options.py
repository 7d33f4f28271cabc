"""The flags that we add to Locust's, those of the start form among them, and how they become words of `opfind run`."""

import argparse
from pathlib import Path
from typing import Any

from locust.argument_parser import LocustArgumentParser

import scenarios

BY_SCENARIO = "as the scenario says"
_USUAL_SLA = "200ms"
_SLA_HELP = "p99 within this, or p95<80ms; empty: the scenario's"


def add_engine_flags(parser: LocustArgumentParser) -> None:
    """Add the flags of a search that drives opfind's own engine; what is added to no group stands in the start form."""
    given, _ = _first_look().parse_known_args()
    names = [*scenarios.bundled(), *([given.scenario] if given.scenario else [])]
    sla = "" if given.scenario or given.sla else _USUAL_SLA
    parser.add_argument("--target", default="", help="URL of the server; empty: Host, or else the bundled one")
    parser.add_argument("--sla-p99", dest="sla", default=sla, help=_SLA_HELP)
    parser.add_argument("--mode", choices=(BY_SCENARIO, "open", "closed"), default=BY_SCENARIO,
                       help="arrivals by a schedule (open), or users who wait (closed)")  # fmt: skip
    parser.add_argument(
        "--precision", default="", help="half-width of the interval, such as 0.05; empty: the scenario's"
    )
    parser.add_argument("--budget", default="", help="most time under load, such as 3m; empty: the scenario's")
    named = {"choices": list(dict.fromkeys(names)), "default": given.scenario or "default"}
    parser.add_argument("--scenario", help="what else is to be known", **named)
    hidden = parser.add_argument_group("opfind: more of the search, on the command line only")
    for name, text in (
        ("--body", "TEXT or @FILE that is sent with each request"), ("--start-rps", "Where the search begins"),
        ("--require-rps", "Exit 1 unless the safe rate reaches it"), ("--max-rps", "Never offer more"),
        ("--workers", "Processes that send"),
    ):  # fmt: skip
        hidden.add_argument(name, help=text)
    hidden.add_argument("--header", action="append", help="'NAME: VALUE'; repeatable")
    _add_shared(hidden)


def add_users_flags(parser: LocustArgumentParser) -> None:
    """Add the flags of a search over Locust's own users; what is added to no group stands in the start form."""
    given, _ = _first_look().parse_known_args()
    sla = "" if given.scenario or given.sla else _USUAL_SLA
    parser.add_argument("--sla-p99", dest="sla", default=sla, help=_SLA_HELP)
    parser.add_argument("--precision", default="", help="of the number of users, such as 0.05; empty: the scenario's")
    parser.add_argument("--budget", default="", help="most time under load, such as 3m; empty: the scenario's")
    parser.add_argument("--max-users", default="", help="never more than this; empty: no bound")
    hidden = parser.add_argument_group("opfind: more of the search, on the command line only")
    hidden.add_argument("--scenario", help="NAME or FILE, for its SLAs and its budget")
    _add_shared(hidden, has_max_users=True)


def _add_shared(group: Any, *, has_max_users: bool = False) -> None:
    for name, text in (
        ("--error-budget", "Share of requests that may fail"), ("--seed", "The same seed gives the same schedule"),
        *(() if has_max_users else (("--max-users", "Closed mode: never more users"),)),
        ("--output", "DIR for report and data; default: a new one in opfind-runs/"),
    ):  # fmt: skip
        group.add_argument(name, help=text)
    group.add_argument("--sla", dest="slas", action="append", help="'p95<80ms'; repeatable")
    for name, text in (("--answer-json", "One JSON object on standard output at the end"),
                       ("--terminal", "Our live view and answer on the terminal")):  # fmt: skip
        group.add_argument(name, action="store_true", help=text)


def _first_look() -> argparse.ArgumentParser:
    """Return a parser of what the defaults of others depend on."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--scenario")
    parser.add_argument("--sla", action="append")
    return parser


def engine_words(options: argparse.Namespace, *, number: int) -> list[str]:
    """Return the words after `opfind run` that the options ask for.

    A value never becomes a flag, whatever a form's field says.

    Args:
        options: As Locust holds them, after the start form.
        number: Of the search since the start, from 1: each has a folder of its own.
    """
    target = options.target or options.host or ""
    mode = "" if options.mode == BY_SCENARIO else options.mode
    words = _words(options, (
        "precision", "budget", "scenario", "error_budget", "body", "require_rps", "start_rps", "max_rps",
        "max_users", "workers", "seed",
    ))  # fmt: skip
    words += [f"--mode={mode}"] if mode else []
    words += [f"--header={text}" for text in options.header or ()]
    folder = folder_of(options, number)
    return [*words, *([f"--output={folder}"] if folder else []), *(["--", target] if target else [])]


def users_words(options: argparse.Namespace, host: str | None) -> list[str]:
    """Return the words after `opfind run` that describe a search over Locust's users of `host`."""
    words = _words(options, ("precision", "budget", "scenario", "error_budget", "max_users", "seed"))
    return [*words, "--mode=closed", *(["--", host] if host else [])]


def folder_of(options: argparse.Namespace, number: int) -> Path | None:
    """Return the folder of the n-th search, or None for a new one of its own."""
    if not options.output:
        return None
    return Path(options.output if number == 1 else f"{options.output}-{number}")


def _words(options: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    given = {name: str(getattr(options, name, None) or "").strip() for name in names}
    words = [f"--{name.replace('_', '-')}={text}" for name, text in given.items() if text]
    sla = options.sla.strip()
    words += [f"--sla={sla}" if "<" in sla else f"--sla-p99={sla}"] if sla else []
    return [*words, *(f"--sla={text}" for text in options.slas or ())]
