"""What to run: scenario files, device profiles, and the loader that validates them."""

from scenarios.duration import parse_duration_s
from scenarios.loader import bundled, device, load, read_body, read_due_times, read_text
from scenarios.scenario import Load, Scenario, ScenarioError, SearchPlan, Target

__all__ = [
    "Load",
    "Scenario",
    "ScenarioError",
    "SearchPlan",
    "Target",
    "bundled",
    "device",
    "load",
    "parse_duration_s",
    "read_body",
    "read_due_times",
    "read_text",
]
