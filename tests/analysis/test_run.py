import json

import numpy as np
import pytest

from analysis import SLA, Reason, Run, Search, Step, StepRecord, StepResult
from analysis.run import FORMAT, VERSION
from tests.analysis.simulators import GPU, Simulator

SLAS = (SLA.parse("p99<200ms"),)


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
