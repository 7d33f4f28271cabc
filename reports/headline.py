"""The verdict in words: one headline, what limits the load, what to do next, and the numbers beside it."""

from analysis import Estimate, OperatingPoint, Run, StepRecord
from reports import load, steps, text
from reports.explain import precision
from reports.sizing import bracket
from reports.text import number, rate
from reports.words import INTERRUPTED, NOT_KNOWN, Fact, Headline, is_closed, quantile_name, required_rps


def required_reached(run: Run) -> bool | None:
    """Say whether the required rate is reached; None where the run cannot tell.

    A finished search's exit code has already decided it; otherwise the safe rate and the interval's upper end do.
    """
    answer, required = run.answer, required_rps(run)
    if answer is None:
        return None
    if answer.verdict == "found" and run.exit_code in (0, 1):
        return run.exit_code == 0
    if answer.verdict == "unmet":
        return False
    if required is not None and answer.safe_rps is not None and answer.safe_rps >= required:
        return True
    high = answer.rate_rps.high if answer.rate_rps else None
    return False if required is not None and high is not None and high < required else None


def headline(run: Run) -> Headline:
    """Return the run's verdict in words; an interruption and a missed requirement come before the answer's own."""
    answer = run.answer
    if answer is None:
        return load.headline(run)
    if run.exit_code in INTERRUPTED:
        return _interrupted(run, answer)
    match answer.verdict:
        case "found":
            return _found(run, answer)
        case "unmet":
            return _unmet(run, answer)
        case "undecided":
            return _undecided(run, answer)
        case "client_limited":
            return _client_limited(run, answer)
        case "target_failed":
            return _target_failed(run, answer)


def facts(run: Run) -> list[Fact]:
    """Return the numbers of the answer in the order in which they are read; a missing one is named as such."""
    answer = run.answer
    if answer is None:
        return load.facts(run)
    if is_closed(run):
        first = [
            _estimated("Users in flight", answer.users, ""),
            _estimated("Throughput there", answer.throughput_rps, " req/s"),
        ]
    else:
        safe = NOT_KNOWN if answer.safe_rps is None else f"{text.floor_number(answer.safe_rps)} req/s"
        note = "one-sided 95 % bound" if answer.safe_rps is not None else ""
        if answer.cliff and answer.rate_rps and answer.safe_rps == answer.rate_rps.low:
            note = "the highest that passed"
        first = [
            _cliff(answer) or _estimated("Operating point", answer.rate_rps, " req/s"),
            Fact(name="Safe rate to configure", value=safe, note=note),
        ]
    use = NOT_KNOWN if answer.utilisation is None else text.share(answer.utilisation)
    return [
        *first,
        *(
            _latency(name, estimate)
            for name, estimate in (("p50", answer.p50), ("p95", answer.p95), ("p99", answer.p99))
        ),
        _estimated("Capacity", answer.capacity_rps, " req/s"),
        _estimated("Knee", answer.knee_rps, " req/s"),
        Fact(name="Utilisation", value=use, note="" if answer.utilisation is None else "of capacity, at the point"),
    ]


def _cliff(answer: OperatingPoint) -> Fact | None:
    """Return a cliff as the bracket that it is; None where a crossing was fitted."""
    between = bracket(answer)
    return Fact(name="Operating point", value=between, note="a cliff: it jumps there") if between else None


def _estimated(name: str, estimate: Estimate | None, unit: str) -> Fact:
    if estimate is None:
        return Fact(name=name, value=NOT_KNOWN, note="")
    least = "" if estimate.high is not None else "≥ "
    return Fact(name=name, value=f"{least}{number(estimate.value)}{unit}", note=text.ends(estimate))


def _latency(name: str, estimate: Estimate | None) -> Fact:
    if estimate is None:
        return Fact(name=f"{name} there", value=NOT_KNOWN, note="")
    return Fact(name=f"{name} there", value=text.latency(estimate.value), note=text.latency_ends(estimate))


def _slas(run: Run, answer: OperatingPoint) -> str:
    *others, last = map(str, run.slas or (answer.sla,))
    return f"{', '.join(others)} and {last}" if others else last


def _slas_hold(run: Run, answer: OperatingPoint) -> str:
    return f"{_slas(run, answer)} {'hold' if len(run.slas) > 1 else 'holds'}"


def _point(answer: OperatingPoint) -> str | None:
    """Return the operating point with its interval, or None where there is none."""
    if answer.users is not None:
        users = f"{number(answer.users.value)} users in flight"
        flow = f" at {rate(answer.throughput_rps.value)}" if answer.throughput_rps else ""
        return f"{users}{flow} ({_interval(answer.users)})"
    if between := bracket(answer):
        return f"a cliff: the latency jumps between {between.replace(' to ', ' and ')}"
    return f"{rate(answer.rate_rps.value)} ({_interval(answer.rate_rps)})" if answer.rate_rps else None


def _lower_bound(answer: OperatingPoint) -> str:
    """Return the load that is known to hold, without an interval: the facts below the headline have it."""
    if answer.users is not None:
        return f"{number(answer.users.value)} users in flight"
    return rate(answer.rate_rps.value if answer.rate_rps else None)


def _interval(estimate: Estimate) -> str:
    if estimate.high is None:
        return f"at least {number(estimate.low)}; nothing measured bounds it from above"
    return f"{text.confidence(estimate)} {number(estimate.low)} to {number(estimate.high)}"


def _safe(answer: OperatingPoint) -> str:
    safe = answer.safe_rps
    return "" if safe is None else f"; configure at most {text.floor_number(safe)} req/s"


def _stopped(answer: OperatingPoint) -> str:
    limited = f"Limited by {answer.limited_by}. " if answer.limited_by else ""
    return f"{limited}Search stopped: {answer.stop_reason.rstrip('.')}."


def _found(run: Run, answer: OperatingPoint) -> Headline:
    required = required_rps(run)
    if required is not None and required_reached(run) is False:
        return Headline(
            tone="bad",
            label="Below the required rate",
            title=f"{rate(required)} required, but {_slas_hold(run, answer)} only up to {_point(answer)}"
            f"{_safe(answer)}.",
            limits=_stopped(answer),
            advice="Add capacity (replicas, larger batches, a faster model) or lower --require-rps; the per-step table "
            "shows how latency grows below the required rate.",
        )
    enough = "" if required is None else f" The required {rate(required)} are reached."
    loop = " A closed loop waits for its replies: this is no rate for independent arrivals." if is_closed(run) else ""
    return Headline(
        tone="good",
        label="Found",
        title=f"{_slas_hold(run, answer)} up to {_point(answer)}{_safe(answer)}.",
        limits=_stopped(answer) + enough + loop,
        advice=None,
    )


def _unmet(run: Run, answer: OperatingPoint) -> Headline:
    lowest = min((r for r in run.steps if r.offered and r.step.counts), key=lambda r: r.step.level, default=None)
    seen, even = "", ""
    if lowest and answer.floor and answer.limited_by != "error budget":
        floor = f"{text.latency(answer.floor.value)} {text.latency_ends(answer.floor)}"
        even = f": even at {_level(lowest)} the {quantile_name(answer.sla.quantile)} is {floor}"
    elif lowest:
        seen = f" The lowest load measured, {_level(lowest)}, gave {_quantiles(lowest)}."
    if answer.limited_by == "error budget":
        advice = "Find out why requests fail at low load: Errors says it in words."
    else:
        advice = "Shorten the latency at low load (batching delay, model time, network) or relax the SLA."
    return Headline(
        tone="bad",
        label="Unmet",
        title=f"No load tried meets {_slas(run, answer)}{even}.",
        limits=_stopped(answer) + seen,
        advice=advice,
    )


def _undecided(run: Run, answer: OperatingPoint) -> Headline:
    point = _point(answer)
    return Headline(
        tone="unsure",
        label="Undecided",
        title=f"The best estimate so far is {point}{_safe(answer)}."
        if point
        else f"Nothing shows yet at which load {_slas(run, answer)} ends.",
        limits=_stopped(answer),
        advice=f"Give the search more time with --budget{_needed(answer)}, or accept a wider interval with "
        "--precision.",
    )


def _needed(answer: OperatingPoint) -> str:
    return f" ({needs})" if (needs := precision(answer).rstrip(".")) else ""


def _client_limited(run: Run, answer: OperatingPoint) -> Headline:
    point, by_user = _point(answer), answer.limited_by.startswith("--")
    why = f"{answer.limited_by} ended the search" if by_user else "the client, not the target, was the limit"
    if by_user:
        advice = f"Raise {answer.limited_by} and run again to find where the SLA ends."
    elif run.environment.get("locustfile"):
        advice = "Make the locustfile's tasks cheaper, as with FastHttpUser, or measure with opfind's own engine."
    else:
        advice = (
            "Give the client more --workers or --connections, or its own machine; Client health shows what ran out."
        )
    return Headline(
        tone="unsure",
        label="Lower bound",
        title=f"{_slas_hold(run, answer)} at {_lower_bound(answer)} and perhaps beyond: {why}{_safe(answer)}."
        if point
        else f"No answer: {why}.",
        limits=_stopped(answer),
        advice=advice,
    )


def _target_failed(run: Run, answer: OperatingPoint) -> Headline:
    point = _point(answer)
    return Headline(
        tone="bad",
        label="Target failed",
        title="The target failed" + (f"; measured before that: {point}." if point else " before anything was measured."
                                     if not any(r.offered for r in run.steps) else " before an answer was found."),
        limits=f"Search stopped: {answer.stop_reason.rstrip('.')}.",
        advice=steps.remedy(run),
    )  # fmt: skip


def _interrupted(run: Run, answer: OperatingPoint) -> Headline:
    word, point = INTERRUPTED[run.exit_code], _point(answer)
    so_far = f"The best estimate so far is {point}{_safe(answer)}"
    best = so_far if point else "Nothing is known yet about the SLA's end"
    return Headline(
        tone="unsure",
        label="Internal error" if run.exit_code == 70 else word.capitalize(),
        title=f"{best}.",
        limits=_stopped(answer),
        advice="Do not gate on these numbers: run again and let the search end.",
    )


def _level(record: StepRecord) -> str:
    step = record.step
    return rate(step.rate_rps) if step.rate_rps is not None else f"{step.users} users in flight"


def _quantiles(record: StepRecord) -> str:
    if record.p50 is None or record.p99 is None:
        return f"{text.share(1 - record.counts.get('ok', 0) / record.offered)} failures"
    return f"p50 {text.latency(record.p50.value)} and p99 {text.latency(record.p99.value)}"
