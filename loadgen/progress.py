from collections.abc import Callable
from dataclasses import dataclass

from analysis import SLA, Estimate, Judgement, Step, StepRecord, StepResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Show a search, or a load, as it runs: about one a second, and one when a step ends.

    Attributes:
        elapsed_s: Since the run's start, seconds.
        budget_s: Of the run, or of the load, seconds.
        index: Of the step, from 0.
        step: The load level that runs or has just ended.
        step_elapsed_s: Since the step's start, seconds.
        ended: The step is over; its record is the last of `records`.
        sla: The SLA that the view holds the latency against (the first one), or None.
        judgement: The step's verdict so far, or None before the first block and without an SLA.
        quantile: The SLA's quantile, or p99, of the step so far, seconds, with its interval.
        offered_rps: Requests due per second, so far in the step.
        achieved_rps: Successful replies per second, so far in the step.
        in_flight: Requests due and not ended.
        records: Steps that have ended.
        expected_s: Load that the asked precision will take in all, seconds; None: not known, or a load by hand.
        costs: (precision, load that it takes in all on this server, seconds), where that is known.
        interval: The operating rate so far; None: not known, or a load by hand.
        result: What came back so far: of a step under way its latest requests, of one that has ended all of them.
    """

    elapsed_s: float
    budget_s: float
    index: int
    step: Step
    step_elapsed_s: float
    ended: bool
    sla: SLA | None
    judgement: Judgement | None
    quantile: Estimate | None
    offered_rps: float
    achieved_rps: float
    in_flight: int
    records: tuple[StepRecord, ...]
    expected_s: float | None = None
    costs: tuple[tuple[float, float], ...] = ()
    interval: Estimate | None = None
    result: StepResult | None = None


Show = Callable[[Progress], None]
