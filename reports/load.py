"""A single load in words: the headline of a run that searched nothing, its numbers, and its latency spectrum."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis import Judgement, Run, StepRecord, Verdict
from analysis.judgement import ERROR_BUDGET, none_of
from reports import text
from reports.steps import books, error_texts, failures, reasons, remedy
from reports.text import number
from reports.words import INTERRUPTED, NOT_KNOWN, Fact, Headline, Tone

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
_VERDICTS: Mapping[Verdict, tuple[Tone, str, str, str]] = {
    Verdict.PASS: ("good", "Pass", "holds", "hold"),
    Verdict.FAIL: ("bad", "Fail", "does not hold", "do not hold"),
    Verdict.UNDECIDED: ("unsure", "Undecided", "is undecided", "are undecided"),
}
_DUE_OPEN = (
    "From due: since the request was due by the schedule, which is what a user waits. From sent: since it was put on "
    "the wire, as wrk and ab time it. Where the two part, requests waited for the client or for a free connection."
)
_DUE_CLOSED = (
    "From due: since the user was free to ask. From sent: since the request was put on the wire, as wrk and ab time "
    "it. The two part where a connection had to be opened first, or none was free."
)
_FAILED = ' Where a row says "failed", more requests failed than its share leaves out.'
_TINY = 1e-12  # for a bound that a tail leaves so small that it is printed, and computed, as 0
_AT_RANDOM = ("poisson", "gamma")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrumRow:
    """Give one quantile of a load: NaN where nothing was measured, infinite where it falls among failures.

    Attributes:
        quantile: In (0, 1]; 1 is the slowest request.
        due_s: Latency from the due time, seconds.
        sent_s: Latency from the send, seconds.
    """

    quantile: float
    due_s: float
    sent_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Be what the terminal, the page and the summary show of a load.

    Attributes:
        record: The step.
        rows: Its latency spectrum.
        note: Why the two latencies of a row differ, and what "failed" means where it stands for one.
        books: Requests by how they ended.
        accounts: The same as one line.
        failures: Requests that failed, by kind; empty when none did.
        offered: How much was offered, beside what was asked for; empty in a closed loop, which offers what it carries.
    """

    record: StepRecord
    rows: list[SpectrumRow]
    note: str
    books: dict[str, int]
    accounts: str
    failures: str
    offered: str


def shown(run: Run) -> Load | None:
    """Return what to show of a load's step; None for a search, and where nothing was measured."""
    record = step_of(run) if run.answer is None else None
    if record is None or not record.offered:
        return None
    told, rows = books(record), spectrum_rows(record)
    note = _DUE_OPEN if record.step.users is None else _DUE_CLOSED
    return Load(
        record=record,
        rows=rows,
        note=note + (_FAILED if any(math.isinf(row.due_s) for row in rows) else ""),
        books=told,
        accounts=f"{record.offered:,} offered = " + " + ".join(f"{count:,} {name}" for name, count in told.items()),
        failures=failures(record),
        offered=_offered(record),
    )


def step_of(run: Run) -> StepRecord | None:
    """Return the one step of a load; None when it was interrupted before it began."""
    return run.steps[-1] if run.steps else None


def spectrum_rows(record: StepRecord) -> list[SpectrumRow]:
    """Return the quantiles that wrk2 prints; one that stands on less than one request is left out."""
    due, sent = record.histogram, record.service
    return [
        SpectrumRow(quantile=q, due_s=due.quantile_ns(q) / 1e9, sent_s=sent.quantile_ns(q) / 1e9 if sent else math.nan)
        for q in QUANTILES
        if q == 1 or record.offered * (1 - q) >= 0.999
    ]


def latency(seconds: float) -> str:
    """Print a quantile; one among failures has no latency."""
    return "failed" if math.isinf(seconds) else text.latency(seconds)


def percent(quantile: float) -> str:
    """Print a quantile as a percentage: 99.9 %."""
    return f"{100 * quantile:.6g} %"


def headline(run: Run) -> Headline:
    """Return how a load went; what broke comes before what was measured."""
    record = step_of(run)
    if record is None or not record.offered:
        return _nothing(run)
    why = reasons(record)
    measured = f"{_level(record)} for {_length(record)}: {_result(record)}"
    if run.exit_code in INTERRUPTED:
        return Headline(
            tone="unsure", label=_label(run), title=f"{measured}.",
            limits=" ".join(filter(None, (why, _until_then(run, record)))), advice=None,
        )  # fmt: skip
    if run.exit_code == 5:
        return _target_failed(run, record, measured)
    if record.reasons:
        is_client = any(reason.kind == "client" for reason in record.reasons)
        return Headline(
            tone="unsure", label="Client-limited" if is_client else "Not sound", title=f"{measured}.",
            limits=("The client, not the target, was the limit. " if is_client else "") + why,
            advice="The target may do better than these numbers: remove the client's limit and run the load again."
            if is_client else "Run the load again, and longer.",
        )  # fmt: skip
    if record.judgement is not None:
        return _judged(run, record.judgement, measured)
    is_clean = record.counts["ok"] == record.offered
    return Headline(
        tone="good" if is_clean else "unsure", label="Load", title=f"{measured}.", limits="",
        advice=None if is_clean else remedy(run),
    )  # fmt: skip


def facts(run: Run) -> list[Fact]:
    """Return the numbers of a load in the order in which they are read."""
    record = step_of(run)
    if record is None or not record.offered:
        return []
    slowest = spectrum_rows(record)[-1]
    late, cpu = record.client.get("lateness_p99_s"), record.client.get("cpu_us_per_request")
    failed = failures(record)
    return [
        Fact(
            name="Throughput",
            value=text.rate(record.throughput_rps),
            note=_offered(record),
        ),
        Fact(
            name="Requests",
            value=f"{record.offered:,}",
            note=f"{record.offered - record.counts['ok']:,} failed: {_kinds(record)}" if failed else "all answered",
        ),
        *(
            Fact(name=name, value=_latency_at(record, quantile), note=text.latency_ends(at) if at else "")
            for name, quantile, at in (("p50", 0.5, record.p50), ("p95", 0.95, record.p95), ("p99", 0.99, record.p99))
        ),
        Fact(
            name="Slowest",
            value=latency(slowest.due_s),
            note=f"{latency(slowest.sent_s)} from the send" if math.isfinite(slowest.sent_s) else "",
        ),
        Fact(
            name="Send lateness p99",
            value=NOT_KNOWN if late is None else text.latency(late),
            note="the client's own",
        ),
        Fact(
            name="Client CPU per request",
            value=NOT_KNOWN if cpu is None else f"{number(cpu)} µs",
            note=workers(record.client),
        ),
    ]  # fmt: skip


def _latency_at(record: StepRecord, quantile: float) -> str:
    return latency(record.histogram.quantile_ns(quantile) / 1e9)


def workers(client: Mapping[str, Any]) -> str:
    """Say how many workers there were, and how busy the busiest was."""
    count, share = client.get("workers"), client.get("cpu_share")
    if count is None or share is None:
        return ""
    return f"{count} worker{'' if count == 1 else 's'}, the busiest at {text.share(share)} of a core"


def _nothing(run: Run) -> Headline:
    """Say that no request fell due: the user stopped it before, or the rate is too low for so short a time."""
    if run.exit_code in INTERRUPTED:
        title, advice = "The load ended before the first request.", None
    else:
        title, advice = "No request fell due.", "Run longer with -d, or at a higher --rate."
    return Headline(tone="unsure", label=_label(run), title=title, limits="Nothing was measured.", advice=advice)


def _label(run: Run) -> str:
    if run.exit_code == 70:
        return "Internal error"
    return INTERRUPTED[run.exit_code].capitalize() if run.exit_code in INTERRUPTED else "Load"


def _target_failed(run: Run, record: StepRecord, measured: str) -> Headline:
    texts, _ = error_texts(run, limit=1)
    said = text.sentence(f"{texts[0].words} ({texts[0].count:,} times)") if texts else ""
    is_client = any(reason.kind == "client" for reason in record.reasons)
    return Headline(
        tone="bad", label="Target failed",
        title=f"The target failed under {measured}." if record.counts["ok"] else f"All {record.offered:,} requests "
        f"failed at {_level(record)}.",
        limits=" ".join(
            filter(None, (said, "The client was at its limit too." if is_client else "", reasons(record)))
        ),
        advice=remedy(run),
    )  # fmt: skip


def _until_then(run: Run, record: StepRecord) -> str:
    """Return the verdict on what an interruption left; empty without an SLA."""
    if record.judgement is None:
        return ""
    return f"Until then {_holds(run, record.judgement)}: {bound(record.judgement)}."


def _holds(run: Run, judgement: Judgement) -> str:
    _, _, holds, hold = _VERDICTS[judgement.verdict]
    return f"{' and '.join(map(str, run.slas))} {hold if len(run.slas) > 1 else holds}"


def bound(judgement: Judgement) -> str:
    """Say how many requests violate the bound that decided, with the interval, and how many may."""
    share, low, high, allowed = shares(judgement)
    who = f"{share} of requests" if judgement.share else f"no request of {judgement.n:,}"
    # A bound below what the count alone allows comes from `analysis.judgement._with_headroom`.
    is_of_tail = not judgement.share and judgement.high < none_of(max(1, judgement.n))
    interval = f"95 % interval {low} to {high}" + (", by how far below the limit the tail ends" if is_of_tail else "")
    if judgement.binding == ERROR_BUDGET:
        return f"{who} failed ({interval}), the error budget is {allowed}"
    return f"{judgement.binding}: {who} {'violate' if judgement.share else 'violates'} it ({interval}), {allowed} may"


def shares(judgement: Judgement) -> tuple[str, str, str, str]:
    """Print the share that violates the bound, the ends of its interval, and what is allowed."""
    told = (judgement.share, judgement.low, judgement.high or _TINY, judgement.allowed)
    share, low, high, allowed = map(text.small_share, told)
    return share, low, high, allowed


def _judged(run: Run, judgement: Judgement, measured: str) -> Headline:
    tone, label, _, _ = _VERDICTS[judgement.verdict]
    advice = {
        Verdict.PASS: None,
        Verdict.FAIL: remedy(run)
        if judgement.binding == ERROR_BUDGET
        else "Lower the load, or find the highest one that holds with opfind run.",
        Verdict.UNDECIDED: "Run longer with -d: the interval reaches across what is allowed.",
    }[judgement.verdict]
    return Headline(
        tone=tone,
        label=label,
        title=f"{_holds(run, judgement)} at {measured}.",
        limits=f"{bound(judgement)}.",
        advice=advice,
    )  # fmt: skip


def _level(record: StepRecord) -> str:
    step = record.step
    if step.rate_rps is not None:
        return f"{text.rate(step.rate_rps)} offered"
    return f"{step.users:,} user{'' if step.users == 1 else 's'}"


def _length(record: StepRecord) -> str:
    """Return how long requests fell due: what was asked for, or what an interruption left of it."""
    length = text.duration(round(record.span_s, 3))
    return f"{length} of {text.duration(record.step.duration_s)}" if record.aborted else length


def _result(record: StepRecord) -> str:
    """Return throughput where it is a result, median, p99 and failures, as words."""
    told = []
    if record.step.users is not None or record.throughput_rps < 0.95 * record.offered_rps:
        told.append(f"{text.rate(record.throughput_rps)} answered")
    told += [f"p50 {_latency_at(record, 0.5)}", f"p99 {_latency_at(record, 0.99)}"]
    failed = record.offered - record.counts["ok"]
    share = text.share(failed / record.offered)
    told.append(f"{failed:,} of {record.offered:,} failed ({share})" if failed else "every request answered")
    return ", ".join(told)


def _offered(record: StepRecord) -> str:
    """Say how much was offered, and why that is not what was asked for."""
    step, offered = record.step, text.rate(record.offered_rps)
    if step.rate_rps is None:
        return ""
    asked = text.number(step.rate_rps)
    if offered == text.rate(step.rate_rps):
        return f"of {offered} offered"
    why = f"; {step.arrivals.capitalize()} arrivals vary" if step.arrivals in _AT_RANDOM else ""
    return f"of {offered} offered ({asked} asked{why})"


def _kinds(record: StepRecord) -> str:
    """Return the kinds of failure; with their counts where there are several."""
    kinds = [(kind.replace("_", " "), count) for kind, count in record.counts.items() if kind != "ok" and count]
    return kinds[0][0] if len(kinds) == 1 else failures(record)
