"""Pure mathematics of the operating point: arrays in, frozen values out. No clock, file, socket or process.

Names are imported when first used: scipy takes half a second and 60 MB, and an engine process needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.curve import Curve
    from analysis.estimate import Estimate
    from analysis.histogram import Histogram
    from analysis.judgement import Judgement, Verdict, judge
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

_HOMES = {
    "judgement": ("Judgement", "Verdict", "judge"),
    "run": ("Run", "StepRecord"),
    "step": ("Outcome", "Reason", "Step", "StepProgress", "StepResult"),
    "operating_point": ("OperatingPoint",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute '{name}'")
    return getattr(import_module(f"analysis.{_HOME.get(name, name.lower())}"), name)
