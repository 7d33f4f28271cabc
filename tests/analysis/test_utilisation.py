"""Shares of the capacity, what the steps say of them, and the rule of 70 to 80 %."""

from typing import Any

import pytest

from analysis import Estimate, Reason, Step, StepRecord, StepResult
from analysis.utilisation import MARKS, marks, rule_of_thumb
from tests.factories import P99, make_answer

CAPACITY = Estimate(value=100.0, low=99.0, high=101.0)


def _answer(low: float, value: float, high: float | None, **more: Any) -> Any:
    return make_answer(rate_rps=Estimate(value=value, low=low, high=high), safe_rps=low, capacity_rps=CAPACITY, **more)


def _record(rate: float, latency_ms: float, *, n: int = 200, **more: Any) -> StepRecord:
    due = [round(i * 1e9 / rate) for i in range(n)]
    done = [at + round(latency_ms * 1e6) for at in due]
    step = Step(rate_rps=rate, duration_s=n / rate, purpose=more.pop("purpose", "measure"))
    result = StepResult.from_arrays(step, due, done, [0] * n, **more)
    return StepRecord.of(result, (P99,), index=0, origin_ns=0)


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((81, 90, 95), "wasteful"), ((81, 90, None), "wasteful"), ((79, 90, 95), "right"), ((72, 75, 78), "right"),
        ((50, 65, 69), "unsafe"), ((50, 65, 71), "right"), ((60, 75, None), None), ((69, 75, 81), None),
    ],
)  # fmt: skip
def test_the_rule_is_judged_by_the_whole_interval(
    interval: tuple[float, float, float | None], said: str | None
) -> None:
    """Wasteful and unsafe are said only where the interval is clear of 70 to 80 %; a lower bound can only waste."""
    assert rule_of_thumb(_answer(*interval)) == said


@pytest.mark.parametrize("change", [{"capacity_rps": None}, {"rate_rps": None}, {"verdict": "unmet"}])
def test_the_rule_is_not_judged_without_point_and_capacity(change: dict[str, Any]) -> None:
    """Where one of the two is not known, nothing is said."""
    assert rule_of_thumb(make_answer(**change)) is None


def test_a_mark_holds_below_the_interval_and_not_above_it() -> None:
    """Inside the interval nobody can say."""
    seen = marks(_answer(65.0, 75.0, 81.0), ())
    assert [mark.share for mark in seen] == list(MARKS)
    assert [mark.rate_rps for mark in seen] == pytest.approx([60, 70, 80, 85])
    assert [mark.holds for mark in seen] == [True, None, None, False]
    assert marks(make_answer(capacity_rps=None), ()) == ()


def test_latency_at_a_mark_lies_between_its_neighbours() -> None:
    """In the middle of 50 and 70 req/s, at 60, it is the geometric mean; beyond what was measured it is not known."""
    seen = marks(_answer(90.0, 95.0, 96.0), (_record(70, 40), _record(50, 10)))
    assert seen[0].quantile_s == pytest.approx(0.02, rel=0.01)
    assert seen[1].quantile_s == pytest.approx(0.04, rel=0.01)
    assert [mark.quantile_s for mark in seen[2:]] == [None, None]


@pytest.mark.parametrize(
    "amiss", [{"n": 50}, {"aborted": True}, {"reasons": (Reason("client", "late"),)}, {"purpose": "probe"}]
)
def test_steps_that_cannot_tell_are_passed_over(amiss: dict[str, Any]) -> None:
    """Too short for the quantile, aborted, unsound, or a probe: the neighbours on both sides decide."""
    records = (_record(50, 10), _record(60, 999, **amiss), _record(70, 40))
    assert marks(_answer(90.0, 95.0, 96.0), records)[0].quantile_s == pytest.approx(0.02, rel=0.01)


def test_a_neighbour_among_failures_gives_no_latency() -> None:
    """A quantile that falls among failures is no number to interpolate to."""
    result = StepResult.from_arrays(Step(rate_rps=70.0, duration_s=2.0), [0] * 200, [10**6] * 200, [1] * 200)
    failing = StepRecord.of(result, (P99,), index=1, origin_ns=0)
    assert marks(_answer(90.0, 95.0, 96.0), (_record(50, 10), failing))[0].quantile_s is None
