"""The command line: flags in, an answer and an exit code out. The only file that imports click.

Functions import what they need, so that `--help` and `--version` come without numpy, scipy and matplotlib (a second).
"""
# ruff: noqa: PLC0415

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from loadgen import flags, shadow
from loadgen.errors import OpfindError, UsageError

if TYPE_CHECKING:
    from analysis import Run
    from loadgen.session import Finished
    from scenarios import Scenario


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error ends as one sentence on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows `?`, and the run goes on
    words = tuple(sys.argv[1:] if arguments is None else arguments)
    if not words:
        shown = app.get_help(app.make_context("opfind", [], resilient_parsing=True))
        _write(sys.stderr, lambda: click.echo(shown, err=True))
        return UsageError.exit_code
    try:
        shadow.check()
        code = app.main(list(words), obj=words, prog_name="opfind", standalone_mode=False)
    except click.Abort:
        return _complain("interrupted", 130)
    except click.ClickException as error:
        context = error.ctx if isinstance(error, click.UsageError) else None
        where = f" (see '{context.command_path} --help')" if context else ""
        return _complain(f"{_masked(error.format_message()).rstrip('.')}{where}", UsageError.exit_code)
    except OpfindError as error:
        return _complain(str(error), error.exit_code)
    except Exception as error:  # noqa: BLE001 (the outermost border: whatever comes gets its sentence)
        return _complain(*_failure(error, None))
    return code if isinstance(code, int) else 0


def _read(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Return a callback that reads a flag's text, or each text of a repeatable flag."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(text) for text in value)
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return callback


def _flag(
    name: str, metavar: str, text: str, parse: Callable[[str], Any] | None = None, **settings: Any
) -> click.Option:
    """Return an option: its names, what it takes, its help, how it is read."""
    callback = _read(parse) if parse else None
    return click.Option(name.split(), metavar=metavar, help=text, callback=callback, **settings)


class _Command(click.Command):
    """A command whose help lists its options under headings."""

    def __init__(
        self, *, sections: dict[str, list[click.Option]], params: list[click.Parameter], **kwargs: Any
    ) -> None:
        options = [option for listed in sections.values() for option in listed]
        super().__init__(params=[*params, *options], **kwargs)
        self._sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        own_help = self.get_help_option(ctx)
        for title, listed in {**self._sections, "Help": [own_help] if own_help else []}.items():
            with formatter.section(title):
                formatter.write_dl([record for option in listed if (record := option.get_help_record(ctx))])


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from loadgen.version import version

        click.echo(f"opfind {version()}")
        ctx.exit()


_VERSION = click.Option(
    ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
_LOAD_MODES = click.Choice(["open", "closed"])
_RUN = {
    "SLA": [
        _flag("--sla-p99", "LATENCY", "99 % of requests must succeed within this, such as 200ms."),
        _flag("--sla slas", "'pQ<LATENCY'", "Any quantile, as in 'p95<80ms'; repeatable, all hold.", multiple=True),
        _flag("--error-budget", "SHARE", "Share of requests that may fail. [default: 0.1%]", flags.share),
        _flag("--require-rps", "RATE", "Exit 1 unless the safe rate reaches this.", flags.rate_rps),
    ],
    "Request": [
        _flag("--method", "METHOD", "[default: POST with a body, else GET]"),
        _flag("-H --header headers", "'NAME: VALUE'", "Repeatable; no secret is kept.", flags.header, multiple=True),
        _flag("--body", "TEXT|@FILE", "Sent with each request, as JSON unless -H says otherwise."),
        _flag("--timeout", "TIME", "Give up a request after this. [default: 10 x SLA, at least 2s]", flags.duration_s),
    ],
    "Load": [
        _flag("--mode", "open|closed", "Arrivals by a schedule, or users who wait. [default: open]", type=_LOAD_MODES),
        _flag("--arrivals", "KIND", "poisson, constant, gamma:CV or replay:FILE. [default: poisson]", flags.arrivals),
        _flag("--start-rps", "RATE", "Where the search begins. [default: 3]", flags.rate_rps),
        _flag("--max-rps", "RATE", "Never offer more than this.", flags.rate_rps),
        _flag("--max-users", "N", "Closed mode: never more users than this.", flags.count),
        _flag("--connections", "N", "Most open connections. [default: 4096]", flags.count),
        _flag("--workers", "N|auto", "Processes that send. [default: auto]", flags.workers),
    ],
    "Search": [
        _flag("--precision", "SHARE", "Half-width of the interval that is good enough. [default: 5%]", flags.precision),
        _flag("--budget", "TIME", "Most time under load. [default: 3m]", flags.duration_s),
        _flag("--seed", "N", "The same seed gives the same schedule. [default: 0]", flags.seed),
        _flag("--scenario", "NAME|FILE", "default, open, closed or a TOML file; flags win over it.", default="default"),
    ],
    "Output": [
        _flag("-o --output", "DIR", "For report and data. [default: a new one in opfind-runs/]", flags.folder),
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON object on stdout, words on stderr."),
    ],
}  # fmt: skip
_SERVE = {
    "Server": [
        _flag("--host", "ADDRESS", "Listen here. [default: 127.0.0.1]", default="127.0.0.1"),
        _flag("--port", "N", "0: any free one. [default: 8000]", flags.port, default="8000"),
        _flag("--device", "NAME|FILE", "Device profile. [default: simulated]", default="simulated"),
    ]
}
_RUN_HELP = """Find the operating point of the server at URL, or of the bundled reference server.

\b
opfind run --sla-p99 200ms
opfind run http://127.0.0.1:8000/predict --sla-p99 200ms --body @payload.json

\b
Exit codes: 0 found             3 undecided          70 internal error
            1 SLA not met       4 lower bound only   130, 143 interrupted
            2 usage             5 target failed
"""


@click.group(params=[_VERSION], context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def app() -> None:
    """Find the highest request rate that a server carries while its p99 latency stays within the SLA."""


@app.command(cls=_Command, sections=_RUN, help=_RUN_HELP, short_help="Find the operating point of a server.")
@click.argument("url", required=False)
def run(output: Path | None, as_json: bool, **given: Any) -> int:
    """Find the operating point; see `_RUN_HELP`."""
    folder: Path | None = None
    finished: Finished | None = None
    try:
        from loadgen import console, environment, session
        from loadgen.assemble import assemble
        from loadgen.files import prepare

        scenario, arguments = assemble(given), click.get_current_context().obj
        folder = prepare(output)
        with session.interrupts() as seen:  # from here on an impatient Ctrl-C does not lose what was measured
            with console.live(_title(scenario), sys.stderr) as show:
                finished = session.run(scenario, environment=environment.collect(arguments), show=show, interrupts=seen)
            _save(finished, folder)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (--json owes its object whatever happens)
        if folder and not output and not finished:
            with suppress(OSError):
                folder.rmdir()  # nothing was measured; kept when it holds a traceback
                folder = None
        sentence, code = _failure(error, folder)
        _tell(finished.run if finished else None, folder, code, sentence, as_json=as_json)
        return _complain(sentence, code)
    _tell(finished.run, folder, finished.run.exit_code, None, as_json=as_json)
    return finished.run.exit_code


@app.command(cls=_Command, sections=_SERVE, short_help="Serve the reference model server.")
def serve(host: str, port: int, device: str) -> int:
    """Serve the reference model server until interrupted: POST /predict, GET /healthz, GET /metrics."""
    import scenarios
    from loadgen.server.config import ServerConfig
    from loadgen.server.serve import serve as serve_forever

    try:
        config = ServerConfig.from_json(scenarios.device(device))
    except ValueError as error:
        raise UsageError(str(error)) from None
    shown = f"[{host}]" if ":" in host else host
    serve_forever(config, host=host, port=port, ready=lambda free: click.echo(f"listening on http://{shown}:{free}"))
    return 0


def _title(scenario: "Scenario") -> str:
    """Say in one line what runs."""
    from loadgen.mask import mask_url

    load = scenario.load
    how = f"{load.arrivals} arrivals" if load.mode == "open" else f"think time {load.think_s:g} s"
    where = mask_url(scenario.target.url) if scenario.target.url else "bundled reference server"
    return f"opfind: {' and '.join(map(str, scenario.slas))}, {load.mode} loop, {how}, {where}"


def _save(finished: "Finished", folder: Path) -> None:
    """Write the run's files, then let out the defect that ended it early, if one did."""
    from loadgen import files

    files.write(finished.run, finished.results, folder)
    if finished.crash:
        raise finished.crash


def _tell(run: "Run | None", folder: Path | None, code: int, error: str | None, *, as_json: bool) -> None:
    """Print the answer, if there is one: as words, or as JSON on standard output and as words on standard error."""
    if as_json and code != UsageError.exit_code:
        from loadgen.summary import summary
        from loadgen.version import version

        plain = summary(run, exit_code=code, error=error, folder=folder, version=version())
        _write(sys.stdout, lambda: click.echo(json.dumps(plain, allow_nan=False)))
    if run is not None and folder is not None:
        from loadgen import console

        answer, stream = run, sys.stderr if as_json else sys.stdout
        _write(stream, lambda: console.print_answer(answer, folder, stream))


def _complain(sentence: str, code: int) -> int:
    """Print a sentence, which may quote a target, as one line without control characters."""
    # Not by reports.text: this must also work where another distribution hides `reports`.
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in sentence)
    _write(sys.stderr, lambda: click.echo(f"opfind: error: {shown}", err=True))
    return code


def _write(stream: TextIO, write: Callable[[], None]) -> None:
    """Write; when the reader has gone, as after `| head`, keep quiet and keep the exit code."""
    try:
        write()
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python complains again as it ends


def _failure(error: BaseException, folder: Path | None) -> tuple[str, int]:
    from loadgen.failure import failure

    return failure(error, folder)


def _masked(text: str) -> str:
    from loadgen.mask import mask_text

    return mask_text(text)
