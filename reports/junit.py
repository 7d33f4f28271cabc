"""The run as JUnit XML, for a CI system's test view.

One test case per SLA, and one for the required rate where there is one. The suite is green exactly when the command's
exit code is 0, so that the test view never contradicts the job:

- `<failure>`: the SLA, or the required rate, was measured and missed.
- `<error>`: there is no answer (undecided, a lower bound only, target failed, interrupted). Not `<skipped>`, which CI
  systems show as harmless although the command has failed.
- `<skipped>`: beside a failure only: an SLA that was not judged because another one already ends the search.
"""

from typing import Literal
from xml.etree import ElementTree as ET

from analysis import SLA, Estimate, Run
from reports import text
from reports.headline import INTERRUPTED, Headline, headline, required_reached, required_rps

_Ending = Literal["passed", "failure", "error", "skipped"]
_ESTIMATES = ("rate_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps")


def junit(run: Run) -> str:
    """Return junit.xml of a finished run: well-formed XML 1.0 whatever the target said."""
    words = headline(run)
    cases = [(str(sla), *_sla_ending(run, sla, words)) for sla in run.slas]
    required = required_rps(run)
    if required is not None:
        cases.append((f"at least {text.rate(required)}", *_required_ending(run, words)))
    if run.exit_code != 0 and not any(ending in ("failure", "error") for _, ending, _ in cases):
        cases.append(("opfind run", "error", f"the run ended with exit code {run.exit_code}"))
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
            body = ET.SubElement(case, ending, message=text.clean(message), type=run.answer.verdict)
            body.text = text.clean("\n".join(filter(None, (words.title, words.limits, words.advice))))
    ET.SubElement(suite, "system-out").text = text.clean(f"{words.label}: {words.title}\n{words.limits}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _sla_ending(run: Run, sla: SLA, words: Headline) -> tuple[_Ending, str]:
    """Say how an SLA's test case ends: it passes where the answer is an operating point that holds it."""
    if run.exit_code in INTERRUPTED or run.answer.verdict in ("undecided", "client_limited", "target_failed"):
        return "error", words.title
    if run.answer.verdict == "found":
        return "passed", ""
    names = [str(each) for each in run.slas]
    if run.answer.limited_by in names and run.answer.limited_by != str(sla):
        return "skipped", f"not judged: {run.answer.limited_by} already fails at the lowest load"
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


def _add_properties(suite: ET.Element, run: Run) -> None:
    """Give the numbers of the answer as plain decimals, latencies in seconds; what is not known is left out."""
    answer = run.answer
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
        "steps": len(run.steps),
    }
    properties = ET.SubElement(suite, "properties")
    for name, value in numbers.items():
        if value is not None:
            shown = f"{value:.6g}" if isinstance(value, float) else text.clean(str(value))
            ET.SubElement(properties, "property", name=name, value=shown)
