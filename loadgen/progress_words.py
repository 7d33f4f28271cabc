"""A search under way in words, for whoever shows it: the terminal, and the stream of lines that other programs read."""

from analysis import Step, StepRecord, Verdict
from loadgen.progress import Progress
from reports import text


def verdict_of(record: StepRecord) -> Verdict:
    """Return a step's verdict; undecided without an SLA."""
    return record.judgement.verdict if record.judgement else Verdict.UNDECIDED


def level(step: Step) -> str:
    """Return what a step asks for, with its unit."""
    return (
        text.rate(step.rate_rps)
        if step.rate_rps is not None
        else f"{step.users:,} user{'' if step.users == 1 else 's'}"
    )


def quantile_name(progress: Progress) -> str:
    """Name the quantile that the view holds against the SLA."""
    return str(progress.sla).partition("<")[0] if progress.sla else "p99"


def so_far(progress: Progress) -> str:
    """Give the operating rate so far with its interval."""
    rate = progress.interval
    if rate is None:
        return ""
    width = f", ±{text.share(text.rough(rate.relative_half_width))}" if rate.high is not None else ""
    return f"{text.rate(rate.value)} {text.ends(rate)}{width}"


def to_go(progress: Progress) -> str:
    """Say how long the search will still take, or that its budget may end it; nothing where that is not known."""
    if progress.expected_s is None:
        return ""
    if progress.expected_s > progress.budget_s:
        return ", the budget may end first"
    return f", about {text.duration(text.rough(max(0.0, progress.expected_s - progress.elapsed_s)))} to go"


def bracket(records: tuple[StepRecord, ...]) -> str:
    """Say between which loads the SLA ends, as the sound steps show it."""
    sound = [record for record in records if not record.reasons and record.step.counts]
    holds = max((r.step.level for r in sound if verdict_of(r) is Verdict.PASS), default=None)
    fails = min((r.step.level for r in sound if verdict_of(r) is Verdict.FAIL), default=None)
    unit = "users" if sound and sound[-1].step.users is not None else "req/s"
    told = [
        f"{word} at {text.number(at)} {unit}" for word, at in (("holds", holds), ("fails", fails)) if at is not None
    ]
    return ", ".join(told) or "no step has decided yet"


def costs(progress: Progress) -> str:
    """Say what precisions that are still to come cost on this server, in load from the first request on.

    Of those that cost the same, the narrowest is named.
    """
    dearer = {text.duration(text.rough(s)): precision for precision, s in progress.costs if s > progress.elapsed_s}
    told = [f"±{text.share(precision)} takes about {length}" for length, precision in dearer.items()]
    return f"{', '.join(told)} of load in all" if told else ""
