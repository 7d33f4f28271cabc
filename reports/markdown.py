"""The summary for a pull request: GitHub-flavoured Markdown in which no foreign text can become markup."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import Estimate, Run
from reports import explain, sizing, steps, text
from reports.headline import facts, headline
from reports.load import latency, percent, shown
from reports.words import is_closed, quantile_name

_MOST_STEPS = 60
_MOST_ERRORS = 10
_LONGEST = 300
_ICONS = {"good": "✅", "bad": "❌", "unsure": "⚠️"}
_STRUCTURE = re.compile(r"[\\`*_{}\[\]<>&|~#!@$]")
# GitHub looks for mentions, issues and addresses in finished text, where no escape is left to stop it.
_REFERENCE = re.compile(r"(?<=[@#$])(?=\w)|(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?<=\bGH-)(?=\d)", re.IGNORECASE)
_ZERO_WIDTH_SPACE = "\N{ZERO WIDTH SPACE}"


def markdown(run: Run) -> str:
    """Return summary.md of a finished run, below the 65,536 characters that a comment may have."""
    verdict = headline(run)
    errors, _ = steps.error_texts(run, limit=_MOST_ERRORS)
    return _ENVIRONMENT.get_template("summary.md.j2").render(
        run=run,
        headline=verdict,
        icon=_ICONS[verdict.tone],
        facts=facts(run),
        closed=is_closed(run),
        target=steps.target(run),
        caution=steps.caution(run),
        notes=explain.notes(run),
        lines=explain.lines(run),
        predictions=explain.predictions(run.answer.server) if run.answer and run.answer.server else [],
        marks=sizing.mark_rows(run),
        quantile_name=quantile_name(run.answer.sla.quantile) if run.answer else "",
        machine=steps.machine(run),
        load=shown(run),
        shown=run.steps[-_MOST_STEPS:],
        left_out=max(0, len(run.steps) - _MOST_STEPS),
        errors=errors,
    )


def _one_line(value: Any) -> str:
    return " ".join(text.clean(str(value), _LONGEST).split())


def _escape(value: Any) -> str:
    """Print any value so that Markdown takes it for words: one line, no markup, no link, no mention.

    Punctuation becomes character references, which never form structure (CommonMark 0.31, section 2.5). What may
    begin a line, such as a list's dash, is not among it: the template begins every line itself.
    """
    if hasattr(value, "__html__"):  # the template marked it as safe
        return str(value)
    words = _REFERENCE.sub(_ZERO_WIDTH_SPACE, _one_line(value))
    return _STRUCTURE.sub(lambda mark: f"&#{ord(mark[0])};", words)


def _code(value: str) -> str:
    """Print foreign words as a code span, in which nothing is markup. Not for a table: its bars split code as well."""
    words = _one_line(value) or "(no message)"
    fence = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    pad = " " if "`" in words else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def _quantile(estimate: Estimate | None) -> str:
    """Print a step's quantile with its interval; these are our own numbers, whose brackets form no link."""
    return f"{text.latency(estimate.value)} {text.latency_ends(estimate)}" if estimate else text.NONE


_ENVIRONMENT = Environment(
    loader=PackageLoader("reports"),
    autoescape=False,  # noqa: S701 (HTML's rules do not protect Markdown: `finalize` escapes every value)
    finalize=_escape,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "number": text.number,
    "share": text.share,
    "duration": text.duration,
    "load": steps.load,
    "code": _code,
    "quantile": _quantile,
    "percent": percent,
    "outcome": latency,
}
