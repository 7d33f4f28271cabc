import numpy as np
import pytest

from analysis.step import Outcome, Reason, Step, StepResult

STEP = Step(rate_rps=10.0, duration_s=2.0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"duration_s": 1.0}, "exactly one of rate_rps and users"),
        ({"rate_rps": 1.0, "users": 1, "duration_s": 1.0}, "exactly one"),
        ({"rate_rps": 0.0, "duration_s": 1.0}, "rate_rps"),
        ({"rate_rps": float("nan"), "duration_s": 1.0}, "rate_rps"),
        ({"users": 0, "duration_s": 1.0}, "users"),
        ({"users": 1, "duration_s": 0.0}, "duration_s"),
    ],
)
def test_a_step_is_validated(fields: dict[str, float], message: str) -> None:
    """A step asks for one load level of a positive length."""
    with pytest.raises(ValueError, match=message):
        Step(**fields)  # type: ignore[arg-type]


def test_level_is_rate_or_users() -> None:
    """The level is what the step asks for."""
    assert STEP.level == 10.0
    assert Step(users=3, duration_s=1.0).level == 3.0


def test_counts_sum_to_offered() -> None:
    """Every outcome is counted under its name."""
    result = StepResult.from_arrays(STEP, [0, 1, 2], [5, 6, 7], [Outcome.OK, Outcome.TIMEOUT, Outcome.OK])
    assert result.counts["ok"] == 2
    assert result.counts["timeout"] == 1
    assert sum(result.counts.values()) == result.offered == 3


def test_a_violation_is_slow_or_failed() -> None:
    """A fast failure violates; an answer at exactly the limit does not."""
    result = StepResult.from_arrays(STEP, [0, 0, 0], [10, 11, 1], [0, 0, Outcome.RESET])
    assert result.violations(10).tolist() == [False, True, True]


def test_an_empty_result_is_legal() -> None:
    """Nothing fell due: no requests, no failure."""
    result = StepResult.from_arrays(STEP, [], [], [])
    assert result.offered == 0
    assert result.sound
    assert result.violations(1).size == 0
    assert result.end_ns == result.start_ns


@pytest.mark.parametrize(
    ("due", "done", "outcome", "message"),
    [
        ([0, 1], [1], [0], "done_ns"),
        ([1, 0], [2, 2], [0, 0], "must not decrease"),
        ([5], [4], [0], "before it is due"),
        ([0], [1], [9], "unknown"),
    ],
)
def test_columns_are_checked(due: list[int], done: list[int], outcome: list[int], message: str) -> None:
    """Columns that contradict each other are refused."""
    with pytest.raises(ValueError, match=message):
        StepResult.from_arrays(STEP, due, done, outcome)


def test_the_span_of_an_aborted_step_ends_with_its_last_request() -> None:
    """Offered rates of an aborted step divide by the time that was used."""
    whole = StepResult.from_arrays(STEP, [0, 10**9], [1, 10**9 + 1], [0, 0], start_ns=0)
    aborted = StepResult.from_arrays(STEP, [0, 10**9], [1, 10**9 + 1], [0, 0], start_ns=0, aborted=True)
    assert whole.offered_span_s == 2.0
    assert aborted.offered_span_s == 1.0


def test_a_reason_makes_a_step_unsound() -> None:
    """Any reason speaks against the numbers."""
    result = StepResult.from_arrays(STEP, [0], [1], [0], reasons=(Reason("client", "CPU full"),))
    assert not result.sound


def test_times_keep_their_type() -> None:
    """Columns become int64 and uint8, whatever came in."""
    result = StepResult.from_arrays(STEP, np.array([0]), np.array([1]), [0], sent_ns=[0], first_byte_ns=[1])
    assert result.due_ns.dtype == np.int64
    assert result.outcome.dtype == np.uint8
    assert result.sent_ns is not None
    assert result.sent_ns.dtype == np.int64
