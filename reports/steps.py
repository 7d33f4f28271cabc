"""What the reports pick from a run's steps: the two that matter, failures, the target's words, the client's health."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Any

from analysis import Outcome, Run, StepRecord, Verdict
from reports import text

_CLIENT_NAMES = {
    "lateness_p50_s": "send lateness p50",
    "lateness_p99_s": "send lateness p99",
    "lateness_third_s": "send lateness, third latest",
    "lateness_max_s": "send lateness max",
    "loop_lag_max_s": "loop lag max",
    "cpu_share": "CPU, busiest worker",
    "cpu_us_per_request": "CPU per request",
    "connections": "connections",
    "connections_opened": "connections opened",
    "connection_waits": "waits for a connection",
    "workers": "workers",
    "pacing": "pacing",
}
_OWN_ACCOUNT = {Outcome.OK: "ok", Outcome.TIMEOUT: "timeouts", Outcome.LOST: "lost", Outcome.UNSENT: "unsent"}
_REMEDIES = {
    "connect_error": "Check that the target is up and can be reached at this address.",
    "reset": "Check that the target is up, and its own log: it closed connections.",
    "protocol_error": "Check that the target speaks HTTP/1.1 at this address.",
    "timeout": "Lower the load, or allow requests more time with --timeout.",
    "wrong_reply": "Compare a reply with what --expect-json or --expect-body-regex asks for.",
}
_STATUS_REMEDIES = (  # the first that fits
    (r"HTTP [12]\d\d", "The target answered, with a status that was not asked for: check --expect-status."),
    (r"HTTP 3", "A redirect is not followed: give the URL to which it leads, or take it by --expect-status."),
    (r"HTTP 40[13]", "Check the credentials that --header sends."),
    (r"HTTP 40[45]", "Check the URL and --method."),
    (r"HTTP (429|503)", "The target refuses requests: lower the load, or raise its limit."),
    (r"HTTP 4", "Check --method, --header and the body."),
    (r"", "Look into the target's own log."),
)
_ACRONYMS = {"cpu": "CPU", "rss": "RSS", "fd": "fd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorText:
    """Hold one kind of failure in words, the target's or opfind's own.

    Attributes:
        words: Untrusted.
        count: Requests that failed so, over the run.
        steps: Numbers of the steps in which they did.
    """

    words: str
    count: int
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientHealth:
    """Lay out the generator's own numbers.

    Attributes:
        constant: (name, value) of what is the same in every step.
        columns: Names of what differs.
        rows: For each step that says something: its number and one text a column.
    """

    constant: tuple[tuple[str, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def at_point(run: Run) -> StepRecord | None:
    """Return the step nearest the operating point: sound ones first, then the longest.

    Without an operating point it is the highest passing step, or else the lowest one measured.
    """
    measured = [record for record in run.steps if record.offered and record.step.counts]
    point = (run.answer.rate_rps or run.answer.users) if run.answer else None
    if point is not None and point.value > 0:
        return min(
            measured,
            key=lambda r: (bool(r.reasons) or r.aborted, round(abs(log(r.step.level / point.value)), 3), -r.offered),
            default=None,
        )
    passed = [record for record in measured if has_verdict(record, Verdict.PASS) and not record.reasons]
    return max(passed, key=_level, default=None) or min(measured, key=_level, default=None)


def failing_above(run: Run) -> StepRecord | None:
    """Return the lowest failing step above the one at the point, or None."""
    base = at_point(run)
    failing = [
        record
        for record in run.steps
        if base
        and record.offered
        and record.step.counts
        and has_verdict(record, Verdict.FAIL)
        and _level(record) > _level(base)
    ]
    return min(failing, key=lambda r: (bool(r.reasons), _level(r)), default=None)


def has_verdict(record: StepRecord, verdict: Verdict) -> bool:
    """Say that a step was judged, and how."""
    return record.judgement is not None and record.judgement.verdict is verdict


def _level(record: StepRecord) -> float:
    return record.step.level


def target(run: Run) -> str:
    """Return where the requests went."""
    named = run.scenario.get("target")
    place = str((named.get("url") if isinstance(named, Mapping) else named) or "the embedded reference server")
    unix_socket = named.get("unix_socket") if isinstance(named, Mapping) else None
    return f"{place} over {unix_socket}" if unix_socket else place


def caution(run: Run) -> str | None:
    """Return what every reader must know of how the target was reached, or None."""
    named, told = run.scenario.get("target"), []
    if isinstance(named, Mapping) and named.get("insecure") is True:
        told.append("TLS certificates were NOT verified (--insecure): anyone on the way could have answered.")
    failures = sum(record.client.get("resolve_failures") or 0 for record in run.steps)
    if failures:
        words = next(record.client["resolve_error"] for record in run.steps if record.client.get("resolve_error"))
        told.append(
            f"The host name could not be looked up again {'once' if failures == 1 else f'{failures} times'} "
            f"({text.clean(str(words), 120)}); the load went on to the address known before."
        )
    return " ".join(told) or None


def machine(run: Run) -> str | None:
    """Return in one line what the generator measured of itself before the run; None where it did not."""
    own = run.environment.get("selfcheck")
    if not isinstance(own, Mapping):
        return None
    if "note" in own:
        return f"This machine was not measured: {text.clean(str(own['note']), 300)}."
    numbers = {key: value for key, value in own.items() if isinstance(value, int | float)}
    late, p50, p99 = (text.latency(numbers.get(f"{key}_s")) for key in ("lateness_p99", "added_p50", "added_p99"))
    return (
        f"This machine: generator ceiling at least {text.rate(numbers.get('ceiling_rps'))}; at "
        f"{text.rate(numbers.get('rate_rps'))} it adds {p50} (p99 {p99}) and sends late by {late} (p99)."
    )


def load(record: StepRecord) -> str:
    """Return the load that a step asked for, in the unit of the column's heading, or with users as its own."""
    users = f" user{'' if record.step.users == 1 else 's'}" if record.step.purpose == "bracket" else ""
    return f"{text.number(record.step.level)}{users}"


def books(record: StepRecord) -> dict[str, int]:
    """Return requests by how they ended: ok, errors, timeouts, lost, unsent; they sum to the offered ones."""
    told = {"ok": 0, "errors": 0, "timeouts": 0, "lost": 0, "unsent": 0}
    for kind in Outcome:
        told[_OWN_ACCOUNT.get(kind, "errors")] += record.counts.get(kind.name.lower(), 0)
    return told


def failures(record: StepRecord) -> str:
    """Return requests that did not succeed, by kind: `12 http status, 3 timeout`."""
    return ", ".join(
        f"{count:,} {kind.replace('_', ' ')}" for kind, count in record.counts.items() if kind != "ok" and count
    )


def error_texts(run: Run, limit: int = 20) -> tuple[list[ErrorText], int]:
    """Return the most frequent failures of the run in words, and how many further kinds there are."""
    found: dict[str, tuple[int, tuple[int, ...]]] = {}
    timed_out = _timed_out(run)
    for record in run.steps:
        for kind, count in record.errors.items():
            words = timed_out if kind == "timeout" else kind
            before, steps = found.get(words, (0, ()))
            found[words] = (before + count, (*steps, record.index + 1))
    ordered = sorted(found.items(), key=lambda item: -item[1][0])
    texts = [ErrorText(words=text.clean(words, 300), count=count, steps=steps) for words, (count, steps) in ordered]
    return texts[:limit], max(0, len(texts) - limit)


def _timed_out(run: Run) -> str:
    """Say after how long a request timed out, where the run file tells."""
    named = run.scenario.get("target")
    timeout_s = named.get("timeout_s") if isinstance(named, Mapping) else None
    return f"timeout after {text.duration(timeout_s)}" if isinstance(timeout_s, int | float) else "timeout"


def remedy(run: Run) -> str:
    """Say what to try against the most frequent kind of failure."""
    counts = {kind: sum(record.counts.get(kind, 0) for record in run.steps) for kind in ("http_status", *_REMEDIES)}
    kind = max(counts, key=lambda kind: counts[kind])
    if not counts[kind]:
        return "Check that the target is up and answers one request."
    if kind != "http_status":
        return _REMEDIES[kind]
    texts, _ = error_texts(run)
    status = next((error.words for error in texts if error.words.startswith("HTTP ")), "")
    return next(advice for pattern, advice in _STATUS_REMEDIES if re.match(pattern, status))


def reasons(record: StepRecord) -> str:
    """Return why a step is not sound, as sentences."""
    return " ".join(text.sentence(reason.text) for reason in record.reasons)


def client_health(run: Run) -> ClientHealth:
    """Lay out `StepRecord.client` of every step, whatever keys it has."""
    told = [record for record in run.steps if record.client]
    present = {str(key): None for record in told for key in record.client}
    keys = [key for key in _CLIENT_NAMES if key in present] + [key for key in present if key not in _CLIENT_NAMES]
    cells = {key: [_client_value(key, record.client.get(key)) for record in told] for key in keys}
    same = [key for key in keys if len(told) > 1 and len(set(cells[key])) == 1]
    varying = [key for key in keys if key not in same]
    rows = tuple((r.index + 1, tuple(cells[key][i] for key in varying)) for i, r in enumerate(told)) if varying else ()
    return ClientHealth(
        constant=tuple((_client_name(key), cells[key][0]) for key in same),
        columns=tuple(_client_name(key) for key in varying),
        rows=rows,
    )


def _client_name(key: str) -> str:
    stem = key
    for suffix in ("_us_per_request", "_s", "_ns", "_bytes"):
        stem = stem.removesuffix(suffix)
    return _CLIENT_NAMES.get(key) or " ".join(_ACRONYMS.get(word, word) for word in text.clean(stem, 60).split("_"))


def _client_value(key: str, value: Any) -> str:
    """Print a value by the unit in its name."""
    if value is None:
        return text.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_client_value(key, item) for item in value[:16])
    if not isinstance(value, int | float):
        return text.clean(str(value), 120)
    if key.endswith("_us_per_request"):
        return f"{text.number(value)} µs"
    if key.endswith("_ns"):
        return text.latency(value / 1e9)
    if key.endswith("_s"):
        return text.latency(float(value))
    return text.share(value) if key.endswith("_share") else text.number(value)


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return (name, value) of a nested mapping's leaves; empty values are left out.

    Names are joined by a space, but a package's name says enough without `packages` before it.
    """
    leaves: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            leaves += flat(value, "" if key == "packages" else f"{name} ")
        elif value not in (None, "", [], ()):
            shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            leaves.append((text.clean(name, 80), text.clean(shown, 500)))
    return leaves
