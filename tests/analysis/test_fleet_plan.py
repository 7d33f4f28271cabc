"""Replicas for a rate: arithmetic that must not be off by one."""

import pytest

from analysis.fleet_plan import fleet_plan
from tests.factories import make_answer


@pytest.mark.parametrize(
    ("target", "safe", "needed"),
    [(5000.0, 546.7, 10), (5467.0, 546.7, 10), (5468.0, 546.7, 11), (0.3, 0.1, 3), (1.0, 546.7, 1), (546.7, 546.7, 1)],
)
def test_the_target_is_carried_at_the_safe_rate_with_one_to_spare(target: float, safe: float, needed: int) -> None:
    """The needed replicas stay at or below the safe rate with one down, and one fewer would not."""
    plan = fleet_plan(make_answer(safe_rps=safe), target)
    assert plan is not None
    assert (plan.needed, plan.replicas) == (needed, needed + 1)
    assert plan.one_down_rps <= safe * (1 + 1e-9)
    assert needed == 1 or target / (needed - 1) > safe
    assert plan.all_up_rps == pytest.approx(target / (needed + 1))


@pytest.mark.parametrize("change", [{"rate_rps": None, "safe_rps": None}, {"safe_rps": 0.0}, {"verdict": "unmet"}])
def test_without_a_safe_rate_there_is_no_plan(change: dict[str, object]) -> None:
    """Nothing is made up where no rate of one server is known to hold."""
    assert fleet_plan(make_answer(**change), 100.0) is None


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan")])
def test_a_target_is_above_zero(target: float) -> None:
    """No fleet carries nothing."""
    with pytest.raises(ValueError, match="target_rps"):
        fleet_plan(make_answer(), target)
