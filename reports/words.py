"""The two forms in which a report says how a run ended: a headline, and facts beside it."""

from dataclasses import dataclass
from typing import Literal

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
