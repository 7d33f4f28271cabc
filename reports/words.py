"""The two forms in which a report says how a run ended, a headline and facts beside it; and what a run was about."""

from dataclasses import dataclass
from typing import Literal

from analysis import Run

INTERRUPTED = {130: "interrupted", 143: "terminated", 70: "broken off by an internal error"}
NOT_KNOWN = "not known"
Tone = Literal["good", "bad", "unsure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """Say how a run ended.

    Attributes:
        tone: Whether a reader may rely on the answer, must act, or knows too little.
        label: The verdict in one or two words.
        title: One sentence with the number.
        limits: What limits the load, and why it ended.
        advice: What to do next, or None when the answer stands.
    """

    tone: Tone
    label: str
    title: str
    limits: str
    advice: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Name one number of the answer, with its interval or a remark beside it."""

    name: str
    value: str
    note: str


def is_closed(run: Run) -> bool:
    """Say that the run drove users in flight, not an arrival rate."""
    has_users = run.answer is not None and run.answer.users is not None
    return has_users or any(record.step.users is not None and record.step.counts for record in run.steps)


def required_rps(run: Run) -> float | None:
    """Return the rate that the scenario requires, or None."""
    return _rate_of(run, "require_rps")


def planned_rps(run: Run) -> float | None:
    """Return the rate for which the scenario wants a number of replicas, or None."""
    return _rate_of(run, "plan_rps")


def _rate_of(run: Run, key: str) -> float | None:
    value = run.scenario.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None


def quantile_name(quantile: float) -> str:
    """Return a quantile as users write it: p99, p99.9."""
    return f"p{100 * quantile:.10g}"
