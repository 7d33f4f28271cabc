"""What a session concludes, without sockets."""

import numpy as np
import pytest

from analysis import SLA, Estimate, OperatingPoint, Outcome, Step, StepResult
from analysis.operating_point import Verdict
from loadgen.session import _looks_dead, exit_code


def ended(outcomes: list[Outcome]) -> StepResult:
    """Build a result with a request each millisecond."""
    due = np.arange(len(outcomes)) * 1_000_000
    return StepResult.from_arrays(Step(rate_rps=1000, duration_s=1), due, due + 1000, [int(o) for o in outcomes])


@pytest.mark.parametrize(
    ("outcomes", "is_dead"),
    [
        ([Outcome.OK] * 100, False),
        ([Outcome.OK] * 70 + [Outcome.RESET] * 30, True),
        ([Outcome.CONNECT_ERROR] * 60 + [Outcome.OK] * 40, True),
        ([Outcome.RESET] * 5 + [Outcome.OK] * 95, False),
        ([Outcome.TIMEOUT] * 100, False),
        ([Outcome.HTTP_STATUS] * 100, False),
        ([], False),
    ],
)
def test_a_dead_target_refuses_or_resets(outcomes: list[Outcome], is_dead: bool) -> None:
    """Nobody there is what death looks like; slowness and errors are not."""
    assert _looks_dead(ended(outcomes)) is is_dead


@pytest.mark.parametrize(
    ("verdict", "required", "code"),
    [
        ("found", None, 0),
        ("found", 90.0, 0),
        ("found", 96.0, 1),
        ("unmet", None, 1),
        ("undecided", 50.0, 3),
        ("client_limited", 50.0, 4),
        ("target_failed", None, 5),
    ],
)
def test_exit_codes(verdict: Verdict, required: float | None, code: int) -> None:
    """The documented code of each verdict; a required rate is reached when the safe rate reaches it."""
    rate = Estimate(value=100.0, low=95.0, high=105.0) if verdict == "found" else None
    answer = OperatingPoint(
        verdict=verdict, sla=SLA.parse("p99<1s"), limited_by="", stop_reason="", rate_rps=rate,
        safe_rps=95.5 if rate else None,
    )  # fmt: skip
    assert exit_code(answer, required) == code
