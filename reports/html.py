"""The report as one page that loads nothing: verdict first, then the curve, the steps, and how to run it again."""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from analysis import Run
from reports import explain, generator, sizing, steps, text
from reports.headline import facts, headline
from reports.load import latency, percent, shown
from reports.words import NOT_KNOWN, is_closed, quantile_name

_MOST_SCENARIO = 20_000
_SIZING = ("Rule of thumb", "Closed loop", "Fleet")


def html(run: Run) -> str:
    """Return report.html of a finished run.

    Every text that came from a target or a user is escaped, and stripped of characters that no page may carry.
    """
    # Importing matplotlib takes a second, which only a page with figures is worth.
    from reports.curve import curve  # noqa: PLC0415
    from reports.spectrum import spectrum  # noqa: PLC0415
    from reports.throughput import throughput  # noqa: PLC0415

    errors, further_errors = steps.error_texts(run)
    environment = {key: value for key, value in run.environment.items() if key not in ("command", "selfcheck")}
    return _ENVIRONMENT.get_template("report.html.j2").render(
        run=run,
        headline=headline(run),
        facts=facts(run),
        not_known=NOT_KNOWN,
        closed=is_closed(run),
        target=steps.target(run),
        caution=steps.caution(run),
        notes=explain.notes(run),
        found=_found(run),
        sized=_sized(run),
        machine=steps.machine(run),
        by_hand=run.answer is None,
        load=shown(run),
        tags=_tags(run),
        curve=curve(run),
        spectrum=spectrum(run),
        throughput=throughput(run),
        client=steps.client_health(run),
        generator=_generator(run),
        errors=errors,
        further_errors=further_errors,
        command=run.environment.get("command"),
        environment=steps.flat(environment),
        scenario=_as_read(run.scenario),
    )


def _generator(run: Run) -> dict[str, Any] | None:
    """Return the generator's sentence and table, or None where no step tells of it."""
    columns, rows = generator.table(run)
    return {"verdict": generator.verdict(run), "columns": columns, "rows": rows} if rows else None


def _found(run: Run) -> dict[str, Any] | None:
    """Return how the answer was found: lines, the fitted server's table, the SLAs'; None without an answer."""
    lines = [(name, words) for name, words in explain.lines(run) if name not in _SIZING]
    if run.answer is None or not lines:
        return None
    model = run.answer.server
    return {
        "lines": [(name, words) for name, words in lines if name != "SLAs"],  # they have their table
        "server_at": text.rate(model.rate_rps) if model else "",
        "predictions": explain.predictions(model) if model else [],
        "slas": explain.sla_rows(run.answer),
    }


def _sized(run: Run) -> dict[str, Any] | None:
    """Return what the answer means for sizing: lines, the marks' table, the fleet's; None where nothing is known."""
    if run.answer is None:
        return None
    told = {
        "lines": [(name, words) for name, words in explain.lines(run) if name in _SIZING],
        "marks": sizing.mark_rows(run),
        "quantile": quantile_name(run.answer.sla.quantile),
        "fleet": sizing.fleet_rows(run),
        "caveat": sizing.caveat(run),
    }
    return told if told["lines"] or told["marks"] or told["fleet"] else None


def _tags(run: Run) -> dict[int, str]:
    """Name the rows that the latency spectrum shows."""
    if run.answer is None:
        return {}
    has_point = run.answer.rate_rps is not None or run.answer.users is not None
    named = (
        (steps.failing_above(run), "first failing above"),
        (steps.at_point(run), "at the point" if has_point else "in the spectrum"),
    )
    return {record.index: tag for record, tag in named if record is not None}


def _as_read(scenario: Mapping[str, Any]) -> str:
    """Print the scenario; lone surrogates stay escaped by JSON's own rule until `clean` sees them."""
    return text.clean(json.dumps(scenario, indent=2, ensure_ascii=False, default=str), _MOST_SCENARIO)


def _finalize(value: Any) -> Any:
    """Strip what autoescape lets through: control characters are legal to it, and break a page."""
    return text.clean(value, _MOST_SCENARIO) if type(value) is str else value  # trusted markup is a subclass


_ENVIRONMENT = Environment(
    loader=PackageLoader("reports"),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "number": text.number,
    "latency": text.latency,
    "share": text.share,
    "duration": text.duration,
    "failures": steps.failures,
    "sentence": text.sentence,
    "ends": text.latency_ends,
    "load": steps.load,
    "percent": percent,
    "outcome": latency,
}
