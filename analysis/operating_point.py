from dataclasses import dataclass
from typing import Literal

from analysis.estimate import Estimate
from analysis.sla import SLA

Verdict = Literal["found", "unmet", "undecided", "client_limited", "target_failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """Answer the question: the highest load at which every SLA holds, how sure that is, and what limits it.

    Attributes:
        verdict: "found"; "unmet": no rate meets the SLA; "undecided": the budget ended first; "client_limited": a
            lower bound, because the client or a bound of the user's ended the search; "target_failed".
        rate_rps: Highest arrival rate within every SLA, requests per second; None in a closed loop or unknown.
        safe_rps: One-sided 95 % lower bound of it: the rate to configure. Never None when `rate_rps` is set.
        capacity_rps: Highest rate of completions seen in overload, requests per second.
        knee_rps: Where the latency-throughput curve turns (see `analysis.curve`), which is not the SLA point.
        p50: Median response time at the point, seconds.
        p95: 95th percentile there, seconds.
        p99: 99th percentile there, seconds.
        users: Closed loop: highest number of users within every SLA.
        throughput_rps: Closed loop: completions per second at that number of users.
        utilisation: Rate over capacity at the point, in [0, 1], or None.
        sla: The SLA that binds (the first one, where none does).
        limited_by: What ends the load there: the SLA's text, "error budget", "--max-rps", or the client's limit.
        stop_reason: Why the search stopped, one sentence.
        method: The estimator that gave the answer.
    """

    verdict: Verdict
    sla: SLA
    limited_by: str
    stop_reason: str
    rate_rps: Estimate | None = None
    safe_rps: float | None = None
    capacity_rps: Estimate | None = None
    knee_rps: Estimate | None = None
    p50: Estimate | None = None
    p95: Estimate | None = None
    p99: Estimate | None = None
    users: Estimate | None = None
    throughput_rps: Estimate | None = None
    utilisation: float | None = None
    method: str = "counting"

    def __post_init__(self) -> None:
        if self.rate_rps is not None and self.safe_rps is None:
            raise ValueError("OperatingPoint safe_rps: must be set when rate_rps is")
