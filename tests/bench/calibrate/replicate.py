"""One replication: a search or a peer's rule on a simulated server, as a plain record for a line of JSON."""

import time
from typing import Any

from analysis import SLA, Search
from tests.bench.calibrate.des import Simulator
from tests.bench.calibrate.peers import RULES
from tests.bench.calibrate.servers import Case

MARKS_S = (15.0, 20.0, 30.0, 60.0, 120.0)
STOP_PRECISION, STOP_BUDGET_S = 0.05, 180.0
Record = dict[str, Any]


def replicate(case: Case, kind: str, seed: int, budget_s: float) -> Record:
    """Run one replication; a search that raises gives a record with `error`.

    Args:
        case: The server.
        kind: "marks": answers after 15, 20, 30, 60 and 120 s of test time; "stop": where a search for 5 % stops by
            itself; or a peer's rule.
        seed: Of the search and of the server.
        budget_s: Of the runs for the marks.
    """
    began = time.process_time()
    try:
        if kind == "marks":
            marks = [mark for mark in MARKS_S if mark <= budget_s]
            answers = drive(case, seed, budget_s=budget_s, precision=0.01, marks=marks)
        elif kind == "stop":
            answers = drive(case, seed, budget_s=STOP_BUDGET_S, precision=STOP_PRECISION, marks=[])
        else:
            rate, spent_s = RULES[kind](case.server, SLA.parse(case.sla), seed)
            answers = {"stop": {"rate": rate, "spent_s": spent_s}}
    except Exception as error:  # noqa: BLE001 - what breaks on one server must not end the table
        return {"error": f"{type(error).__name__}: {error}"}
    return {"answers": answers, "cpu_s": round(time.process_time() - began, 3)}


def drive(case: Case, seed: int, *, budget_s: float, precision: float, marks: list[float]) -> Record:
    """Return the answers just after the first step that reaches each mark, and at the end ("stop")."""
    simulator = Simulator(case.server, seed)
    search = Search(SLA.parse(case.sla), seed=seed, budget_s=budget_s, precision=precision)
    answers: Record = {}
    left, cpu_s = list(marks), 0.0
    while True:
        began = time.process_time()
        step = search.next()
        cpu_s += time.process_time() - began
        if step is None:
            break
        result = simulator.run_step(step, search.overloaded)
        began = time.process_time()
        search.add(result)
        cpu_s += time.process_time() - began
        while left and simulator.spent_s >= left[0]:
            answers[f"{left.pop(0):g}"] = _answer(search, simulator.spent_s, cpu_s)
    last = _answer(search, simulator.spent_s, cpu_s)
    return answers | {f"{mark:g}": last for mark in left} | {"stop": last}


def _answer(search: Search, spent_s: float, cpu_s: float) -> Record:
    began = time.process_time()
    point = search.answer()
    rate = point.rate_rps
    return {
        "verdict": point.verdict,
        "method": point.method,
        "rate": rate and rate.value,
        "low": rate and rate.low,
        "high": rate and rate.high,
        "safe": point.safe_rps,
        "spent_s": round(spent_s, 3),
        "cpu_s": round(cpu_s + time.process_time() - began, 4),
    }
