"""The generator's own part, step by step: how exactly it sent, whether its books close, what it used."""

from collections.abc import Mapping
from typing import Any

from analysis import Run, StepRecord
from reports import text

COLUMNS = (
    "lateness p50",
    "p99",
    "sent of due",
    "dispersion, sent / intended",
    "gap distance",
    "in flight, counted / rate x latency",
    "CPU per worker",
    "loop lag max",
    "waits for a connection",
)
_MOST_WORKERS = 8


def table(run: Run) -> tuple[list[str], list[tuple[int, bool, list[str]]]]:
    """Return the columns, and for each step that tells of its generator its number, whether it is sound, and its cells.

    A column in which no step says anything is left out: a closed loop has no schedule to deliver.
    """
    told = [record for record in run.steps if _tells(record.client)]
    cells = [_cells(record.client) for record in told]
    kept = [at for at in range(len(COLUMNS)) if any(row[at] != text.NONE for row in cells)]
    rows = [
        (record.index + 1, not record.reasons, [row[at] for at in kept])
        for record, row in zip(told, cells, strict=True)
    ]
    return [COLUMNS[at] for at in kept], rows


def verdict(run: Run) -> str | None:
    """Say in one sentence how exactly all steps were sent, or which were not; None where no step tells."""
    told = [record for record in run.steps if _tells(record.client)]
    if not told:
        return _of_locust(run)
    limited = [record for record in told if _has(record, "client")]
    limit = f"the limit itself{_where(limited, told)}" if limited else ""
    fair = [record for record in told if record not in limited]
    parts = (limit, _lateness(fair), _delivered(fair, told), _books(told))
    return text.sentence(", ".join(filter(None, parts)))


def _of_locust(run: Run) -> str | None:
    """Say how late Locust's event loop was, and how busy, where its users were the load; None elsewhere."""
    lags = [lag for record in run.steps if (lag := _number(record.client, "hub_lag_p99_s")) is not None]
    if not lags:
        return None
    used = max(_number(record.client, "cpu_share") or 0.0 for record in run.steps)
    late = text.latency(max(lags))
    return f"Locust's event loop was late by at most {late} (p99), and took up to {text.share(used)} of a core."


def _tells(client: Mapping[str, Any]) -> bool:
    """Say that a step has these numbers; files of older versions lack them."""
    return "sent_share" in client


def _has(record: StepRecord, kind: str) -> bool:
    return any(reason.kind == kind for reason in record.reasons)


def _number(client: Mapping[str, Any], key: str) -> float | None:
    value = client.get(key)
    return value if isinstance(value, int | float) else None


def _cells(client: Mapping[str, Any]) -> list[str]:
    sent_share, gap = _number(client, "sent_share"), _number(client, "gap_distance")
    used = client.get("worker_cpu_share")
    shares = [f"{100 * share:.0f} %" for share in used[:_MOST_WORKERS]] if isinstance(used, list) else []
    waits = _number(client, "connection_waits")
    return [
        text.latency(_number(client, "lateness_p50_s")),
        text.latency(_number(client, "lateness_p99_s")),
        text.NONE if sent_share is None else text.share(sent_share),
        " / ".join(_pair(client, "dispersion_sent", "dispersion_intended")) or text.NONE,
        text.NONE if gap is None else f"{gap:.3f}",
        " / ".join(_pair(client, "in_flight_counted", "in_flight_implied")) or text.NONE,
        ", ".join(shares) or text.NONE,
        text.latency(_number(client, "loop_lag_max_s")),
        text.NONE if waits is None else f"{waits:,.0f}",
    ]


def _pair(client: Mapping[str, Any], seen: str, wanted: str) -> tuple[str, ...]:
    """Return what was seen and what it should be, in digits that can be compared; nothing where one is not known."""
    both = _number(client, seen), _number(client, wanted)
    if both[0] is None or both[1] is None:
        return ()
    return tuple(text.number(value) if abs(value) >= 10 else f"{value:.2f}" for value in both if value is not None)


def _lateness(told: list[StepRecord]) -> str:
    worst_s = max((_number(record.client, "lateness_p99_s") or 0.0 for record in told), default=None)
    most = " at most" if len(told) > 1 else ""
    return "" if worst_s is None else f"lateness (p99){most} {text.latency(worst_s)}"


def _delivered(fair: list[StepRecord], told: list[StepRecord]) -> str:
    judged = [record for record in fair if record.client.get("delivery")]
    if not judged:
        return ""
    amiss = [record for record in judged if record.client["delivery"] != "as intended"]
    if amiss:
        first = amiss[0].client
        sent, intended = _pair(first, "dispersion_sent", "dispersion_intended")
        return f"schedule not delivered evenly{_where(amiss, told)} (dispersion {sent} where {intended} was intended)"
    if len(judged) < len(fair):
        return f"schedule delivered as intended in {_count(len(judged))} that can tell"
    return "schedule delivered as intended"


def _books(told: list[StepRecord]) -> str:
    judged = [record for record in told if _number(record.client, "in_flight_counted") is not None]
    amiss = [record for record in judged if _has(record, "books")]
    if amiss:
        counted, implied = _pair(amiss[0].client, "in_flight_counted", "in_flight_implied")
        return f"Little's law broken{_where(amiss, told)} ({counted} in flight counted, {implied} by rate x latency)"
    if not judged:
        return ""
    if len(told) == 1:
        where = ""
    elif len(told) == len(judged):
        where = f" in all {len(told)} steps"
    else:
        where = f" in {_count(len(judged))} that can tell"
    return f"every request accounted for, and Little's law holds{where}"


def _count(steps: int) -> str:
    return "the step" if steps == 1 else f"the {steps} steps"


def _where(records: list[StepRecord], told: list[StepRecord]) -> str:
    """Name up to five steps by their numbers; where there is only one, that says nothing."""
    if len(told) == 1:
        return ""
    numbers = [str(record.index + 1) for record in records]
    if len(numbers) == 1:
        return f" in step {numbers[0]}"
    shown = ", ".join(numbers[:5]) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
    return f" in steps {shown}"
