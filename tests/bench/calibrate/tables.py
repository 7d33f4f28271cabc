"""The tables of `calibrate`, in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, nan

from tests.bench.calibrate.figures import Figures, figures
from tests.bench.calibrate.peers import RULES
from tests.bench.calibrate.replicate import MARKS_S
from tests.bench.calibrate.runs import Runs
from tests.bench.calibrate.servers import Case
from tests.bench.calibrate.truth import Truth

_ERROR_GOALS = {
    ("batch", "30"): 2.0, ("batch", "60"): 1.0, ("mgc", "30"): 5.0, ("mgc", "120"): 3.0, ("slow", "120"): 10.0,
}  # fmt: skip
_LEGEND = """Covered: the nominal 95 % interval holds lambda*. Unsafe: the safe rate is more than 1 % above lambda*.
abs95: 95th percentile of the error. In brackets Wilson's 95 % interval. Time is simulated test time. Counting: seconds
for 95 % of errors within 5 or 2 % when violations are counted at one rate and the slope is known; "for the same error":
within our own abs95 (time goes as one over the error's square). "refuse, 3 of 5":
without the servers that nobody can promise anything of: those that pause, or are slow, less often than ten times in the
test time, and those of so few requests that counting at lambda* takes over ten minutes to an error of 10 %."""
_EVENTS, _MINUTES_S = 10.0, 600.0


def _table(head: str, rows: Iterable[Sequence[object]]) -> str:
    columns = [column.strip() for column in head.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _answers(cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs, at: str) -> Figures:
    """Sum up what servers answered at a mark ("30") or where the search stopped ("stop")."""
    kind = "stop" if at == "stop" else "marks"
    return figures(
        [
            (run["answers"].get(at) if "answers" in run else None, truths[case.name].rate_rps)
            for case in cases
            for run in runs.get((case.name, kind), ())
        ]
    )


def _ratio(spent_s: float, bound_s: float) -> str:
    """Print a ratio; a bound of no time, at a cliff, and one that the runs could not show give none."""
    return f"{spent_s / bound_s:.2f}" if 0 < bound_s < inf else "-"


def servers_table(cases: Sequence[Case], truths: Mapping[str, Truth]) -> str:
    """Describe the servers, their truth, and the counting bound."""
    head = (
        "server | class | SLA | lambda* | s.e. % | of capacity | F | counting at lambda*, 5 % / 2 % s "
        "| at its best rate, 5 % / 2 % s | parameters"
    )
    rows = []
    for case in cases:
        truth = truths[case.name]
        point, best = (f"{at['0.05']:.0f} / {at['0.02']:.0f}" for at in (truth.point_s, truth.bound_s))
        rows.append(
            (case.name, case.group, case.sla, f"{truth.rate_rps:.1f}", f"{100 * truth.error:.2f}",
             f"{truth.rate_rps / case.server.capacity_rps:.3f}", f"{truth.inflation:.0f}", point, best, case.text)
        )  # fmt: skip
    return _table(head, rows)


def stop_table(cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs) -> str:
    """Show the search for 5 % where it stops by itself."""
    head = (
        "server | test s (max) | of counting at lambda* | for the same error | at its best | abs95 % | bias % "
        "| half-width % | covered % | unsafe % | none % | found % | twin % | CPU s"
    )
    rows = []
    for case in cases:
        got, truth = _answers([case], truths, runs, "stop"), truths[case.name]
        counting_s, best_s = truth.point_s["0.05"], truth.bound_s["0.05"]
        equal_s = counting_s * (5 / got.error95) ** 2 if got.error95 else nan
        rows.append(
            (case.name, f"{got.spent_s:.0f} ({got.most_s:.0f})", _ratio(got.spent_s, counting_s),
             _ratio(got.spent_s, equal_s), _ratio(got.spent_s, best_s), f"{got.error95:.1f}", f"{got.bias:+.1f}",
             f"{got.half_width:.1f}", got.covered, got.unsafe, f"{got.none.percent:.0f}", f"{got.found.percent:.0f}",
             f"{got.twin.percent:.0f}", f"{got.cpu_s:.2f}")
        )  # fmt: skip
    return _table(head, rows)


def marks_table(cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs, marks: Sequence[str]) -> str:
    """Show, at every mark of test time, error / half-width / covered / unsafe / none / twin."""
    cell = "abs95, half-width, covered, unsafe, none, twin %"
    head = "server | " + " | ".join(f"{mark} s: {cell if mark == marks[0] else '...'}" for mark in marks) + " | CPU s"
    rows = []
    for case in cases:
        found = [_answers([case], truths, runs, mark) for mark in marks]
        cells = [
            f"{got.error95:.1f}, {got.half_width:.1f}, {got.covered.percent:.0f}, {got.unsafe.percent:.0f}, "
            f"{got.none.percent:.0f}, {got.twin.percent:.0f}"
            for got in found
        ]
        rows.append((case.name, *cells, f"{found[-1].cpu_s:.2f}"))
    return _table(head, rows)


def classes_table(cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs, marks: Sequence[str]) -> str:
    """Pool servers by class and hold them against the goals: covered >= 93 %, unsafe <= 3 %, none <= 2 %, the error.

    Below a class, the servers of it that are in reach, where some are not.
    """
    head = (
        "class | at | test s | runs | abs95 % (goal) | half-width % | covered % (worst server) "
        "| unsafe % (worst server) | none % | twin % | goals"
    )
    rows = []
    for group in dict.fromkeys(case.group for case in cases):
        mine = [case for case in cases if case.group == group]
        rows += [_class_row(group, "", at, mine, truths=truths, runs=runs) for at in (*marks, "stop")]
        for at in (*marks, "stop"):
            time_s = _answers(mine, truths, runs, at).spent_s if at == "stop" else float(at)
            shown = [case for case in mine if _is_in_reach(case, truths[case.name], time_s)]
            if shown and len(shown) < len(mine):
                rows.append(_class_row(group, f", {len(shown)} of {len(mine)}", at, shown, truths=truths, runs=runs))
    return _table(head, rows)


def _is_in_reach(case: Case, truth: Truth, time_s: float) -> bool:
    """Say that no event of a server is too rare for a test time, and that counting finds its rate in minutes."""
    to_ten_percent_s = truth.point_s["0.05"] / 4
    return case.server.rarest_s <= time_s / _EVENTS and to_ten_percent_s <= _MINUTES_S


def _class_row(
    group: str, part: str, at: str, cases: Sequence[Case], *, truths: Mapping[str, Truth], runs: Runs
) -> tuple[object, ...]:
    got = _answers(cases, truths, runs, at)
    each = [_answers([case], truths, runs, at) for case in cases]
    covered, unsafe = (
        min((one.covered.percent for one in each if one.covered.n), default=nan),
        max(one.unsafe.percent for one in each),
    )
    goal = _ERROR_GOALS.get((group, at))
    missed = [
        name
        for name, bad in (
            ("covered", not (got.covered.percent >= 93 and covered >= 90)),
            ("unsafe", not (got.unsafe.percent <= 3 and unsafe <= 5)),
            ("none", not got.none.percent <= 2),
            ("error", goal is not None and not got.error95 <= goal),
        )
        if bad
    ]
    return (
        group + part, at if at == "stop" else f"{at} s", f"{got.spent_s:.0f}", got.none.n,
        f"{got.error95:.1f}" + (f" ({goal:g})" if goal else ""), f"{got.half_width:.1f}",
        f"{got.covered} ({covered:.0f})", f"{got.unsafe} ({unsafe:.0f})", got.none,
        f"{got.twin.percent:.0f}", "missed: " + ", ".join(missed) if missed else "met",
    )  # fmt: skip


def peers_table(cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs, marks: Sequence[str]) -> str:
    """Compare with the peers' rules: how soon our error is theirs, and who is unsafe after the same time."""
    head = (
        "server | rule | its test s | its abs95 % | its unsafe % | its none % "
        "| ours is as exact at s | its time over ours | ours unsafe % at its time"
    )
    rows = []
    for case in cases:
        ours = {float(mark): _answers([case], truths, runs, mark) for mark in marks}
        for rule in RULES:
            done = runs.get((case.name, rule), ())
            if not done:
                continue
            got = figures([(run.get("answers", {}).get("stop"), truths[case.name].rate_rps) for run in done])
            equal = next((our for our in ours.values() if our.error95 <= got.error95), None)
            before = [our for mark, our in ours.items() if mark <= got.spent_s] or [next(iter(ours.values()))]
            rows.append(
                (case.name, rule, f"{got.spent_s:.0f}", f"{got.error95:.1f}", got.unsafe, f"{got.none.percent:.0f}",
                 f"{equal.spent_s:.0f}" if equal else f"> {max(ours):g}",
                 f"{got.spent_s / equal.spent_s:.1f}" if equal else "-", before[-1].unsafe)
            )  # fmt: skip
    return _table(head, rows)


def page(title: str, cases: Sequence[Case], truths: Mapping[str, Truth], runs: Runs, budget_s: float) -> str:
    """Put all tables on one page, the pooled one first."""
    marks = [f"{mark:g}" for mark in MARKS_S if mark <= budget_s]
    broken = [
        f"{name}, {kind}: {run['error']}" for (name, kind), some in runs.items() for run in some if "error" in run
    ]
    parts = [
        f"# {title}",
        _LEGEND,
        "## By class",
        classes_table(cases, truths, runs, marks),
        "## Where a search for 5 % stops by itself",
        stop_table(cases, truths, runs),
        "## By test time",
        marks_table(cases, truths, runs, marks),
        "## Beside the rules of other tools",
        peers_table(cases, truths, runs, marks),
        "## The servers",
        servers_table(cases, truths),
    ]
    if broken:
        parts += ["## Runs that broke", "\n".join(f"- {line}" for line in dict.fromkeys(broken))]
    return "\n\n".join(parts) + "\n"
