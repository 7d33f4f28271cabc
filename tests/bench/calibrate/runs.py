"""Truths and replications in several processes, kept in files line by line so that a run goes on where it ended."""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from analysis import SLA
from tests.bench.calibrate.peers import RULES
from tests.bench.calibrate.replicate import Record, replicate
from tests.bench.calibrate.servers import Case
from tests.bench.calibrate.truth import Truth, solve


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Ask for one replication: a server and what runs on it."""

    case: Case
    kind: str
    seed: int
    budget_s: float

    @property
    def key(self) -> str:
        """Return what a line of the file is known by."""
        budget = f" {self.budget_s:g} s" if self.kind == "marks" else ""
        return f"{self.case.key} {self.kind}{budget} {self.seed}"


Runs = dict[tuple[str, str], list[Record]]  # by server and kind
Work = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]  # a map in any order, such as a pool's


def tasks(cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Task]:
    """Yield all replications, the first one of everything first."""
    firsts = {case.group: case for case in reversed(cases)}
    compared = [case for case in cases if case in firsts.values()][:4]
    for rep in range(options.reps):
        for case in cases:
            seed = (options.seed * 4096 + int(case.key[:3], 16)) * 1000 + rep
            kinds = ("marks", "stop", *RULES) if case in compared and not options.no_peers else ("marks", "stop")
            for kind in kinds:
                yield Task(case=case, kind=kind, seed=seed, budget_s=options.budget)


def run(task: Task) -> tuple[Task, Record]:
    """Run one replication."""
    return task, replicate(task.case, task.kind, task.seed, task.budget_s)


def _solve(case: Case) -> tuple[Case, Truth | str]:
    try:
        return case, solve(case.server, SLA.parse(case.sla))
    except ArithmeticError as error:
        return case, str(error)


def load(path: Path) -> dict[str, Record]:
    """Read the runs by key; half a last line, of a run that was cut off, is removed from the file."""
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    return {line["key"]: line for line in lines if "error" not in line}


def truths_of(cases: Sequence[Case], path: Path, work: Work) -> dict[str, Truth]:
    """Return the truth of every server by name, from the file where it is there; leave out what cannot be solved."""
    known: dict[str, Record] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for case, truth in work(_solve, [case for case in cases if case.key not in known]):
        if isinstance(truth, str):
            print(f"{case.name}: {truth}; left out", file=sys.stderr, flush=True)
            continue
        known[case.key] = asdict(truth)
        path.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return {case.name: Truth(**known[case.key]) for case in cases if case.key in known}


def run_all(todo: Sequence[Task], path: Path, work: Work) -> Runs:
    """Run what the file does not hold yet, append each as a line, and return all."""
    records = load(path)
    left = [task for task in todo if task.key not in records]
    began = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        for index, (task, record) in enumerate(work(run, left), 1):
            records[task.key] = record
            file.write(json.dumps({"key": task.key, "server": task.case.name, **record}) + "\n")
            file.flush()
            if index % 50 == 0 or index == len(left):
                print(f"{index} of {len(left)} runs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    found: Runs = defaultdict(list)
    for task in todo:
        found[task.case.name, task.kind].append(records[task.key])
    return found
