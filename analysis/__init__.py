"""Pure mathematics of the operating point: arrays in, frozen values out. No clock, file, socket or process."""

from analysis.curve import Curve
from analysis.estimate import Estimate
from analysis.histogram import Histogram
from analysis.judge import Judgement, Verdict, judge
from analysis.operating_point import OperatingPoint
from analysis.run import Run, StepRecord
from analysis.search import Search
from analysis.sla import SLA
from analysis.step import Outcome, Reason, Step, StepProgress, StepResult

__all__ = [
    "SLA",
    "Curve",
    "Estimate",
    "Histogram",
    "Judgement",
    "OperatingPoint",
    "Outcome",
    "Reason",
    "Run",
    "Search",
    "Step",
    "StepProgress",
    "StepRecord",
    "StepResult",
    "Verdict",
    "judge",
]
