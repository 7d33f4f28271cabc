"""What a session concludes, without sockets."""

import numpy as np
import pytest

from analysis import SLA, Estimate, OperatingPoint, Outcome, Reason, Step, StepRecord, StepResult
from analysis.operating_point import Verdict
from loadgen.session import _looks_dead, exit_code, load_exit_code


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


CLIENT, TARGET, BOOKS = Reason("client", "busy"), Reason("target", "gone"), Reason("books", "open")


@pytest.mark.parametrize(
    ("outcomes", "reasons", "sla", "code"),
    [
        ([Outcome.OK] * 2000, (), None, 0),
        ([Outcome.OK] * 1000 + [Outcome.HTTP_STATUS] * 1000, (), None, 0),
        ([Outcome.HTTP_STATUS] * 2000, (), None, 5),
        ([Outcome.TIMEOUT] * 2000, (), "p99<1s", 5),
        ([], (), None, 3),
        ([], (), "p99<1s", 3),
        ([], (TARGET,), None, 5),
        ([Outcome.OK] * 2000, (CLIENT,), None, 4),
        ([Outcome.LOST] * 2000, (CLIENT,), None, 4),
        ([Outcome.CONNECT_ERROR] * 2000, (CLIENT,), None, 4),
        ([Outcome.HTTP_STATUS] * 2000, (CLIENT,), None, 5),
        ([Outcome.TIMEOUT] * 2000, (CLIENT,), None, 5),
        ([Outcome.TIMEOUT] * 1999 + [Outcome.UNSENT], (CLIENT,), None, 4),
        ([Outcome.OK] * 2000, (BOOKS,), "p99<1s", 4),
        ([Outcome.OK] * 2000, (CLIENT, TARGET), "p99<1s", 5),
        ([Outcome.OK] * 2000, (), "p99<1s", 0),
        ([Outcome.OK] * 2000, (), "p99<500us", 1),
        ([Outcome.OK] * 50, (), "p99<1s", 3),
    ],
)
def test_exit_codes_of_a_load(outcomes: list[Outcome], reasons: tuple[Reason, ...], sla: str | None, code: int) -> None:
    """What broke comes before what was measured; failures alone are a measurement, unless nothing else came back."""
    slas = (SLA.parse(sla),) if sla else ()
    due = np.arange(len(outcomes)) * 1_000_000
    result = StepResult.from_arrays(
        Step(rate_rps=1000, duration_s=2, purpose="load"), due, due + 1_000_000, [int(o) for o in outcomes],
        reasons=reasons,
    )  # fmt: skip
    assert load_exit_code(StepRecord.of(result, slas, index=0, origin_ns=0)) == code
