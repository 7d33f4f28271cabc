import json
import math
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from analysis import SLA, Estimate, Reason, Run, Search, Step, StepRecord, StepResult
from analysis.run import FORMAT, VERSION
from tests.analysis.simulators import GPU, Simulator
from tests.factories import CLIFF, COUNTING, SEVERAL, TWIN, UNMET, make_answer

SLAS = (SLA.parse("p99<200ms"),)


@cache  # it is never changed
def _run() -> Run:
    simulator, search = Simulator(GPU), Search(SLAS, budget_s=20.0)
    records: list[StepRecord] = []
    while (step := search.next()) is not None:
        result = simulator.run_step(step, search.overloaded)
        search.add(result)
        records.append(StepRecord.of(result, SLAS, index=len(records), origin_ns=0, client={"cpu": 0.5}))
    return Run(
        scenario={"target": "simulated"},
        environment={"python": "3"},
        slas=SLAS,
        steps=tuple(records),
        answer=search.answer(),
        exit_code=3,
        started_at="2026-01-01T00:00:00Z",
        wall_s=21.0,
    )


def test_json_round_trips() -> None:
    """A run read back writes the same JSON again."""
    plain = json.loads(json.dumps(_run().as_json()))
    assert plain["format"] == FORMAT
    assert json.loads(json.dumps(Run.from_json(plain).as_json())) == plain


@pytest.mark.parametrize(
    ("change", "message"), [({"format": "other"}, "no opfind-run"), ({"version": VERSION + 1}, "this program reads")]
)
def test_strange_files_are_refused(change: dict[str, object], message: str) -> None:
    """A file of another kind, or from the future, is named as such."""
    with pytest.raises(ValueError, match=message):
        Run.from_json({"format": FORMAT, "version": VERSION, **change})


def test_a_load_without_answer_and_sla_round_trips() -> None:
    """What a load by hand does not have is null in its file, and comes back as None."""
    due = np.arange(30) * 1_000_000
    result = StepResult.from_arrays(Step(users=3, duration_s=1.0, purpose="load"), due, due + 5, [0] * 30)
    record = StepRecord.of(result, (), index=0, origin_ns=0)
    run = Run(
        scenario={}, environment={}, slas=(), steps=(record,), answer=None, exit_code=0,
        started_at="2026-01-01T00:00:00Z", wall_s=1.0,
    )  # fmt: skip
    plain = json.loads(json.dumps(run.as_json()))
    assert (plain["answer"], plain["slas"], plain["steps"][0]["judgement"]) == (None, [], None)
    again = Run.from_json(plain)
    assert (again.answer, again.steps[0].judgement) == (None, None)
    assert json.loads(json.dumps(again.as_json())) == plain


def test_an_older_file_is_read() -> None:
    """A file of version 1, which differs in nothing that a search writes, still opens."""
    plain = json.loads(json.dumps({**_run().as_json(), "version": 1, "history": ["1: first version"]}))
    assert Run.from_json(plain).answer == _run().answer


_ANSWER_OF_VERSION_2 = """{
    "verdict": "found", "limited_by": "p99<200ms", "stop_reason": "the interval is narrower than ±5 %",
    "sla": {"quantile": 0.99, "limit_ns": 200000000, "metric": "response", "error_budget": 0.001},
    "rate_rps": {"value": 553.4, "low": 545.2, "high": 561.0, "confidence": 0.95, "n": 24600}, "safe_rps": 546.7,
    "capacity_rps": {"value": 571.2, "low": 568.4, "high": 573.9, "confidence": 0.95, "n": 4600}, "knee_rps": null,
    "p50": {"value": 0.084, "low": 0.079, "high": 0.09, "confidence": 0.95, "n": 5540}, "p95": null, "p99": null,
    "users": null, "throughput_rps": null, "utilisation": 0.969, "method": "counting"
}"""


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_answer_is_read(version: int) -> None:
    """What versions 1 and 2 stored of an answer opens, and what they knew nothing of has its default."""
    old = {**_run().as_json(), "version": version, "answer": json.loads(_ANSWER_OF_VERSION_2)}
    answer = Run.from_json(old).answer
    assert answer is not None
    assert answer.rate_rps == Estimate(value=553.4, low=545.2, high=561.0, n=24_600)
    assert (answer.method, answer.method_reason, answer.confirmation) == ("counting", "", None)
    assert (answer.per_sla, answer.needed_s, answer.notes, answer.cliff) == ({}, (), (), False)
    assert Run.from_json(Run.from_json(old).as_json()).answer == answer


@pytest.mark.parametrize("fields", [TWIN, COUNTING, CLIFF, UNMET, SEVERAL])
def test_an_answer_comes_back_as_what_it_was(fields: dict[str, Any]) -> None:
    """Server, confirmation, closed loop, tuples and the mapping are what they were before they were written."""
    run = replace(_run(), answer=make_answer(**fields))
    assert Run.from_json(json.loads(json.dumps(run.as_json(), allow_nan=False))).answer == run.answer


def test_a_number_that_is_not_finite_is_written_as_null() -> None:
    """The file stays strict JSON; a row that would lose a number is left out when it is read."""
    server = replace(TWIN["server"], quantiles=((0.5, 0.065, 0.066), (0.99, math.inf, 0.12)))
    per_sla = MappingProxyType({"p99<200ms": Estimate(value=1.0, low=1.0, high=None)})
    fields = TWIN | {"server": server, "needed_s": ((0.05, 12.0), (0.01, math.inf)), "inflation": math.nan}
    run = replace(_run(), answer=make_answer(**fields, per_sla=per_sla))
    answer = Run.from_json(json.loads(json.dumps(run.as_json(), allow_nan=False))).answer
    assert answer is not None
    assert answer.server is not None
    assert (answer.server.quantiles, answer.needed_s) == (((0.5, 0.065, 0.066),), ((0.05, 12.0),))
    assert (answer.inflation, answer.per_sla) == (None, dict(per_sla))


def test_the_records_books_close() -> None:
    """Blocks, counts and completions of a record add up to what was offered."""
    for record in _run().steps:
        assert record.histogram.total == record.offered == sum(record.counts.values())
        assert sum(record.completions) == record.counts["ok"]


def test_a_record_of_nothing() -> None:
    """An empty, unsound step is kept with its reason."""
    empty = StepResult.from_arrays(
        Step(rate_rps=1.0, duration_s=1.0), [], [], [], reasons=(Reason("client", "no fd"),), start_ns=5, end_ns=10
    )
    record = StepRecord.of(empty, SLAS, index=0, origin_ns=5)
    assert record.p99 is None
    assert record.blocks == ()
    assert record.reasons[0].text == "no fd"


def test_failures_are_overflow_in_the_blocks() -> None:
    """A failed request is counted, and slower than every answer."""
    due = np.arange(3) * 10
    record = StepRecord.of(
        StepResult.from_arrays(Step(rate_rps=1.0, duration_s=1.0), due, due + 5, [0, 1, 0], sent_ns=due),
        SLAS,
        index=0,
        origin_ns=0,
    )
    assert record.histogram.overflow == 1
    assert record.service is not None
    assert record.service.overflow == 1
