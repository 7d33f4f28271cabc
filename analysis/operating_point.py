from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from analysis.estimate import Estimate
from analysis.sla import SLA

Method = Literal["twin", "counting"]
Verdict = Literal["found", "unmet", "undecided", "client_limited", "target_failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerModel:
    """Describe the server that the twin fitted: a FIFO queue before instances that serve batches.

    Attributes:
        instances: Batches served at the same time.
        max_batch: Largest batch; 1 where requests are served one by one.
        wait_s: Longest that the oldest request waits for its batch to fill, seconds.
        base_s: Service time of a batch of b requests is base_s + per_item_s * b on average, seconds.
        per_item_s: See `base_s`.
        cv: Coefficient of variation of the service time around that line.
        delay_s: Time of every reply outside the queue and the service (network, pre- and post-processing), seconds.
        services: Batches that the fit rests on.
        rate_rps: Arrival rate of the steps against which it was checked.
        quantiles: (quantile, predicted, observed) response times at that rate, seconds.
        explained: Share of the variance of the logarithm of the observed quantiles that the prediction explains.
    """

    instances: int
    max_batch: int
    wait_s: float
    base_s: float
    per_item_s: float
    cv: float
    delay_s: float
    services: int
    rate_rps: float
    quantiles: tuple[tuple[float, float, float], ...]
    explained: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Hold what fresh arrivals at the safe rate showed.

    Attributes:
        rate_rps: Arrival rate.
        length_s: Time over which requests fell due, seconds.
        n: Requests judged.
        share: Share of them that violate the binding SLA.
        low: Lower end of the share's 95 % interval.
        high: Upper end.
        allowed: Share that the SLA allows.
        passed: The step did not fail.
        bound: Which bound that is, the one nearest to failing: an SLA's text, or "error budget".
    """

    rate_rps: float
    length_s: float
    n: int
    share: float
    low: float
    high: float
    allowed: float
    passed: bool
    bound: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedAnswer:
    """Say what a closed-loop test with the same SLA would have answered on this server.

    Attributes:
        users: Highest number of users without think time whose p99 (the SLA's quantile) is within the limit.
        throughput_rps: Completions per second there, which such a test reports as the server's rate.
        quantile_s: The SLA's quantile of the response time when requests arrive at that rate by themselves, seconds;
            None where it would grow without end, at or above the capacity.
    """

    users: int
    throughput_rps: float
    quantile_s: float | None


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
        method: The estimator that gave the answer: "twin", or "counting" of violations.
        method_reason: Why that one, one sentence.
        server: The fitted server; None where the twin refused.
        floor: With verdict "unmet": the SLA's quantile at the lowest rate that was measured, seconds.
        cliff: The latency jumps between `rate_rps.low` and `rate_rps.high`, which are the highest rate that passed and
            the lowest that failed; no crossing was fitted between them.
        per_sla: Highest rate within each bound, by its name (an SLA's text or "error budget").
        confirmation: What a step at the safe rate on fresh arrivals showed; None where there was none.
        inflation: Variance of the count of violations near the answer over the binomial one, >= 1, or None.
        needed_s: (relative half-width, seconds of load that it needs in all on a server like this one).
        closed: What a closed loop would have answered; None where unknown.
        notes: What a reader must know: drift, a cut warm-up, pauses too rare to be covered; one sentence each.
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
    method: Method = "counting"
    method_reason: str = ""
    server: ServerModel | None = None
    floor: Estimate | None = None
    cliff: bool = False
    per_sla: Mapping[str, Estimate] = field(default_factory=dict)
    confirmation: Confirmation | None = None
    inflation: float | None = None
    needed_s: tuple[tuple[float, float], ...] = ()
    closed: ClosedAnswer | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate_rps is not None and self.safe_rps is None:
            raise ValueError("OperatingPoint safe_rps: must be set when rate_rps is")
