"""The run as JUnit XML, for a CI system's test view.

One test case per SLA, and one for the required rate where there is one; a load without an SLA is one test case. The
suite is green exactly when the command's exit code is 0, so that the test view never contradicts the job:

- `<failure>`: the SLA, or the required rate, was measured and missed.
- `<error>`: there is no answer (undecided, a lower bound only, target failed, interrupted). Not `<skipped>`, which CI
  systems show as harmless although the command has failed.
- `<skipped>`: beside a failure or an error only: an SLA that was not judged because another one already ends the
  search; or what a load was to show in which no request fell due.
"""

from typing import Literal
from xml.etree import ElementTree as ET

from analysis import SLA, Estimate, OperatingPoint, Run
from reports import explain, load, text
from reports.headline import headline, required_reached
from reports.steps import books
from reports.words import INTERRUPTED, Headline, required_rps

_Ending = Literal["passed", "failure", "error", "skipped"]
_ESTIMATES = ("rate_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps", "floor")


def junit(run: Run) -> str:
    """Return junit.xml of a finished run: well-formed XML 1.0 whatever the target said."""
    words = headline(run)
    cases = [(str(sla), *_sla_ending(run, sla, words)) for sla in run.slas]
    if run.answer is None and not run.slas:
        ending: _Ending = "passed" if run.exit_code == 0 else "skipped" if _is_empty(run) else "error"
        cases.append(("load", ending, words.title))
    required = required_rps(run)
    if required is not None and run.answer is not None:
        cases.append((f"at least {text.rate(required)}", *_required_ending(run, words)))
    if run.exit_code != 0 and not any(ending in ("failure", "error") for _, ending, _ in cases):
        command = "opfind run" if run.answer else "opfind load"
        cases.append((command, "error", f"the run ended with exit code {run.exit_code}"))
    counts = {plural: str(sum(ending == one for _, ending, _ in cases)) for plural, one in (
        ("failures", "failure"), ("errors", "error"), ("skipped", "skipped"),
    )}  # fmt: skip
    total = {"tests": str(len(cases)), **counts, "time": f"{run.wall_s:.3f}"}
    root = ET.Element("testsuites", {"name": "opfind"} | total)
    suite = ET.SubElement(root, "testsuite", {"name": "opfind", "timestamp": text.clean(run.started_at, 40)} | total)
    _add_properties(suite, run)
    for name, ending, message in cases:
        case = ET.SubElement(suite, "testcase", classname="opfind.sla", name=text.clean(name), time=total["time"])
        if ending == "skipped":
            ET.SubElement(case, "skipped", message=text.clean(message))
        elif ending != "passed":
            kind = run.answer.verdict if run.answer else words.label.lower()
            body = ET.SubElement(case, ending, message=text.clean(message), type=kind)
            body.text = text.clean("\n".join(filter(None, (words.title, words.limits, words.advice))))
    ET.SubElement(suite, "system-out").text = text.clean("\n".join(_told(run, words)))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _sla_ending(run: Run, sla: SLA, words: Headline) -> tuple[_Ending, str]:
    """Say how an SLA's test case ends: it passes where the answer is an operating point, or a load, that holds it."""
    answer = run.answer
    if answer is None:
        return _sla_ending_of_load(run, sla, words)
    if run.exit_code in INTERRUPTED or answer.verdict in ("undecided", "client_limited", "target_failed"):
        return "error", words.title
    if answer.verdict == "found":
        return "passed", ""
    names = [str(each) for each in run.slas]
    if answer.limited_by in names and answer.limited_by != str(sla):
        return "skipped", f"not judged: {answer.limited_by} already fails at the lowest load"
    return "failure", words.title


def _is_empty(run: Run) -> bool:
    """Say that a load ended as it should, but no request fell due."""
    record = load.step_of(run)
    return run.exit_code == 3 and record is not None and not record.offered


def _sla_ending_of_load(run: Run, sla: SLA, words: Headline) -> tuple[_Ending, str]:
    record = load.step_of(run)
    if run.exit_code == 0:
        return "passed", ""
    if _is_empty(run):
        return "skipped", words.title
    if run.exit_code != 1 or record is None or record.judgement is None:
        return "error", words.title
    binding = record.judgement.binding
    if binding in map(str, run.slas) and binding != str(sla):
        return "skipped", f"not judged: {binding} already fails"
    return "failure", words.title


def _required_ending(run: Run, words: Headline) -> tuple[_Ending, str]:
    """Say how the required rate's test case ends; a lower bound can reach it, an interrupted run cannot."""
    if run.exit_code in INTERRUPTED:
        return "error", words.title
    match required_reached(run):
        case True:
            return "passed", ""
        case False:
            return "failure", words.title
        case None:
            return "error", words.title


def _told(run: Run, words: Headline) -> list[str]:
    """Return the verdict and what explains it, line by line."""
    told = [f"{words.label}: {words.title}", words.limits, *(f"Note: {note}" for note in explain.notes(run))]
    return [*told, *(f"{name}: {said}" for name, said in explain.lines(run))]


def _add_properties(suite: ET.Element, run: Run) -> None:
    """Give the numbers of the answer as plain decimals, latencies in seconds; what is not known is left out."""
    numbers = _numbers_of_load(run) if run.answer is None else _numbers_of_answer(run, run.answer)
    properties = ET.SubElement(suite, "properties")
    for name, value in numbers.items():
        if value is not None:
            shown = f"{value:.6g}" if isinstance(value, float) else text.clean(str(value))
            ET.SubElement(properties, "property", name=name, value=shown)


def _numbers_of_load(run: Run) -> dict[str, object]:
    record = load.step_of(run)
    numbers: dict[str, object] = {"exit_code": run.exit_code}
    if record is None:
        return numbers
    numbers |= {"offered": record.offered, **books(record)}
    numbers |= {"offered_rps": record.offered_rps, "achieved_rps": record.achieved_rps}
    for name in ("p50", "p95", "p99"):
        estimate: Estimate | None = getattr(record, name)
        numbers[f"{name}.value"] = estimate and estimate.value
    return numbers


def _numbers_of_answer(run: Run, answer: OperatingPoint) -> dict[str, object]:
    numbers: dict[str, object] = {"verdict": answer.verdict, "exit_code": run.exit_code}
    for name in _ESTIMATES:
        estimate: Estimate | None = getattr(answer, name)
        if estimate is not None:
            numbers |= {f"{name}.{end}": getattr(estimate, end) for end in ("value", "low", "high")}
    numbers |= {
        "safe_rps": answer.safe_rps,
        "utilisation": answer.utilisation,
        "limited_by": answer.limited_by,
        "stop_reason": answer.stop_reason,
        "method": answer.method,
        "method_reason": answer.method_reason or None,
        "confirmed": answer.confirmation and str(answer.confirmation.passed).lower(),
        "confirmation_share": answer.confirmation and answer.confirmation.share,
        "inflation": answer.inflation,
        "notes": " ".join(explain.notes(run)) or None,
        "steps": len(run.steps),
    }
    return numbers
