"""The one flat object that `--json` prints, as far as the command line's own tests do not read it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import Reason, Run, Step
from loadgen.summary import load_summary, summary
from tests.factories import CLIFF, COUNTING, P99, SEVERAL, TWIN, UNMET, make_answer, make_load, make_run

BOOKS = ["ok", "offered", "errors", "timeouts", "lost", "unsent"]


def _summary(run: Run | None, **changes: Any) -> dict[str, Any]:
    exit_code = run.exit_code if run else 5
    fields: dict[str, Any] = {"exit_code": exit_code, "error": None, "folder": Path("x"), "version": "1"} | changes
    plain: dict[str, Any] = json.loads(json.dumps(load_summary(run, **fields), allow_nan=False))
    return plain


@pytest.mark.parametrize("failing_share", [0.0, 0.2, 1.0])
def test_a_loads_object_begins_with_its_books(failing_share: float) -> None:
    """The first six keys are whole numbers in a fixed order, and they close."""
    plain = _summary(make_load(failing_share=failing_share))
    ok, offered, *failed = (plain[name] for name in BOOKS)
    assert list(plain)[:6] == BOOKS
    assert offered == ok + sum(failed) > 1000
    assert (plain["errors"] == 0) is (failing_share == 0)
    assert plain["errors"] == plain["http_status"] + plain["reset"]


def test_quantiles_are_seconds_from_due_and_from_send() -> None:
    """They rise, and waiting before the send is only in the first kind."""
    plain = _summary(make_load())
    names = ["p50_s", "p75_s", "p90_s", "p95_s", "p99_s", "p99_9_s", "p99_99_s", "max_s"]
    values = [plain[name] for name in names]
    assert values == sorted(values)
    assert 0.008 < values[0] < 0.2
    assert plain["service_p50_s"] < plain["p50_s"]


def test_a_quantile_among_failures_is_null() -> None:
    """A failure is slower than every answer, so p99 has no number where 2 % fail."""
    plain = _summary(make_load(failing_share=0.05))
    assert (plain["p99_s"], plain["max_s"]) == (None, None)
    assert plain["p50_s"] > 0


def test_no_sla_no_verdict() -> None:
    """Without an SLA nothing is said about one; with one, its verdict is there."""
    assert (_summary(make_load())["sla"], _summary(make_load())["verdict"]) == (None, None)
    judged = _summary(make_load(slas=(P99,)))
    assert (judged["sla"], judged["verdict"]) == ("p99<200ms", "pass")


def test_every_key_is_there_whatever_happened() -> None:
    """A load that never began has the same keys, and its books are zeros."""
    keys = list(_summary(make_load()))
    nothing = _summary(None, error="nobody there")
    assert list(nothing) == keys
    assert [nothing[name] for name in BOOKS] == [0] * 6
    assert (nothing["error"], nothing["exit_code"], nothing["p50_s"]) == ("nobody there", 5, None)
    assert list(_summary(replace(make_load(exit_code=130), steps=()))) == keys


def test_reasons_against_the_numbers_are_given() -> None:
    """A program that reads the rates can see that the client was the limit."""
    limited = _summary(make_load(exit_code=4, reasons=(Reason("client", "raise --workers"),)))
    assert (limited["sound"], limited["reasons"]) == (False, "Raise --workers.")


def test_a_failed_target_is_told_in_a_sentence() -> None:
    """Exit code 5 comes with what failed, and in whose words."""
    step = Step(rate_rps=50.0, duration_s=1.0, seed=3, purpose="load")
    error = _summary(make_load(step=step, failing_share=1.0, exit_code=5))["error"]
    assert error.startswith("All ")
    assert "HTTP 503: queue is full" in error


def _searched(plan_rps: float | None = None, **fields: Any) -> dict[str, Any]:
    run = make_run(steps=(), answer=make_answer(**fields))
    run = replace(run, scenario={**run.scenario, "plan_rps": plan_rps})
    told = summary(run, exit_code=0, error=None, folder=None, version="1")
    plain: dict[str, Any] = json.loads(json.dumps(told, allow_nan=False))
    return plain


def test_a_search_s_object_says_how_sure_it_is() -> None:
    """Method, confirmation, needed time, closed loop and fitted server, under names with their units."""
    plain = _searched(**TWIN)
    assert (plain["method"], plain["confirmed"], plain["confirmation_share"]) == ("twin", True, 0.004)
    assert (plain["confirmation_rps"], plain["confirmation_s"], plain["inflation"]) == (546.7, 20.0, 29.3)
    assert plain["needed_s"] == [[0.05, 12.3], [0.02, 71.8], [0.01, 288.0]]
    assert (plain["closed_users"], plain["closed_rps"], plain["closed_quantile_s"]) == (64, 570.9, 1.93)
    assert (plain["server"]["max_batch"], plain["server"]["per_item_s"]) == (32, 0.0015)
    assert (plain["cliff"], plain["rule_of_thumb"], plain["plan_replicas"]) == (False, "wasteful", None)


def test_a_search_s_object_has_notes_slas_floor_and_cliff() -> None:
    """What a reader must know is there for a program as well."""
    assert len(_searched(**COUNTING)["notes"]) == 3
    assert _searched(**SEVERAL)["per_sla"]["error budget"] == {"value": 571.0, "low": 568.0, "high": None}
    assert _searched(**CLIFF)["cliff"] is True
    assert _searched(**UNMET)["floor"] == {"value": 0.24, "low": 0.231, "high": 0.256}


def test_a_planned_fleet_is_in_the_object() -> None:
    """Replicas and the load of each; nothing where there is no safe rate."""
    plain = _searched(5000.0)
    assert (plain["plan_rps"], plain["plan_replicas"], plain["plan_one_down_rps"]) == (5000, 11, 500)
    assert plain["plan_all_up_rps"] == pytest.approx(454.5, abs=0.1)
    unmet = _searched(5000.0, **UNMET)
    assert (unmet["plan_rps"], unmet["plan_replicas"], unmet["rule_of_thumb"]) == (5000, None, None)


def test_a_search_s_keys_are_the_same_whatever_happened() -> None:
    """Without a run, and without anything beyond the number, every key is there."""
    nothing = summary(None, exit_code=5, error="nobody there", folder=None, version="1")
    assert list(nothing) == list(_searched(**TWIN)) == list(_searched())
    assert {key for key, value in nothing.items() if value is not None} == {
        "verdict", "exit_code", "error", "steps", "version",
    }  # fmt: skip
