from dataclasses import replace
from itertools import product
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from analysis import SLA, Step, StepRecord, StepResult
from reports import junit
from tests.factories import P99, make_answer, make_load, make_run

P95 = SLA.parse("p95<80ms")


def _suite(
    *, exit_code: int = 0, slas: tuple[SLA, ...] = (P99,), required: float | None = None, **answer: Any
) -> ET.Element:
    scenario = {"require_rps": required}
    run = make_run(steps=(), slas=slas, exit_code=exit_code, scenario=scenario, answer=make_answer(**answer))
    suite = ET.fromstring(junit(run)).find("testsuite")
    assert suite is not None
    return suite


def _endings(suite: ET.Element) -> dict[str, str]:
    """Return each test case's ending by name."""
    return {case.attrib["name"]: case[0].tag if len(case) else "passed" for case in suite.iter("testcase")}


def test_found_passes_every_sla() -> None:
    """At the operating point every SLA holds."""
    assert _endings(_suite(slas=(P99, P95))) == {"p99<200ms": "passed", "p95<80ms": "passed"}


@pytest.mark.parametrize("slas", [(), (P99, P95)])
def test_a_load_without_a_request_is_skipped(slas: tuple[SLA, ...]) -> None:
    """Nothing was tested, so its cases are skipped; the suite is not green, because the command's code is 3."""
    empty = StepResult.from_arrays(Step(rate_rps=1, duration_s=1, purpose="load"), np.array([]), np.array([]), [])
    record = StepRecord.of(empty, slas, index=0, origin_ns=0)
    suite = ET.fromstring(junit(replace(make_load(), steps=(record,), slas=slas, exit_code=3))).find("testsuite")
    assert suite is not None
    names = [str(sla) for sla in slas] or ["load"]
    assert _endings(suite) == {**dict.fromkeys(names, "skipped"), "opfind load": "error"}


def test_missed_requirement_fails_beside_sla_that_holds() -> None:
    """The required rate is a test case of its own."""
    suite = _suite(exit_code=1, required=600)
    assert _endings(suite) == {"p99<200ms": "passed", "at least 600 req/s": "failure"}
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["message"].startswith("600 req/s required, but p99<200ms holds only up to 553 req/s")
    assert "Search stopped" in (failure.text or "")


def test_unmet_fails_the_sla_that_binds() -> None:
    """An SLA that another one kept from being judged is skipped beside the failure."""
    suite = _suite(exit_code=1, slas=(P99, P95), verdict="unmet", limited_by="p95<80ms")
    assert _endings(suite) == {"p99<200ms": "skipped", "p95<80ms": "failure"}


def test_unmet_by_the_error_budget_fails_every_sla() -> None:
    """No SLA holds where too many requests fail."""
    suite = _suite(exit_code=1, slas=(P99, P95), verdict="unmet", limited_by="error budget")
    assert set(_endings(suite).values()) == {"failure"}


@pytest.mark.parametrize(
    ("exit_code", "verdict"),
    [(3, "undecided"), (4, "client_limited"), (5, "target_failed"), (130, "found"), (143, "undecided")],
)
def test_runs_without_an_answer_are_errors(exit_code: int, verdict: str) -> None:
    """No answer is neither a pass nor a failed measurement."""
    assert _endings(_suite(exit_code=exit_code, verdict=verdict)) == {"p99<200ms": "error"}


def test_lower_bound_can_reach_the_required_rate() -> None:
    """A client-limited run whose safe rate is above the required one has shown that much."""
    endings = _endings(_suite(exit_code=4, verdict="client_limited", required=500))
    assert endings == {"p99<200ms": "error", "at least 500 req/s": "passed"}


@pytest.mark.parametrize("required", [None, 500.0])
@pytest.mark.parametrize(
    ("exit_code", "verdict"),
    [(0, "found"), *product((1, 3, 4, 5, 70, 130), ("found", "unmet", "undecided", "client_limited", "target_failed"))],
)
def test_suite_is_green_exactly_when_the_command_succeeds(exit_code: int, verdict: str, required: float | None) -> None:
    """The test view never contradicts the job's exit status."""
    suite = _suite(exit_code=exit_code, verdict=verdict, required=required)
    bad = sum(ending in ("failure", "error") for ending in _endings(suite).values())
    assert (bad == 0) is (exit_code == 0)
    assert int(suite.attrib["failures"]) + int(suite.attrib["errors"]) == bad
    assert int(suite.attrib["tests"]) == len(_endings(suite))


def test_properties_hold_the_numbers() -> None:
    """A program finds the answer's numbers without reading sentences."""
    found = {p.attrib["name"]: p.attrib["value"] for p in _suite().iter("property")}
    assert found["rate_rps.value"] == "553.4"
    assert found["rate_rps.high"] == "561"
    assert found["p99.value"] == "0.198"
    assert found["verdict"] == "found"
    assert "users.value" not in found
