"""The command line: flags in, an answer and an exit code out. The only file that imports click.

Functions import what they need, so that `--help` and `--version` come without numpy, scipy and matplotlib (a second).
"""
# ruff: noqa: PLC0415

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from loadgen import flags, launch, shadow, streams
from loadgen.errors import OpfindError, UsageError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from analysis import Run, Step
    from loadgen.progress import Show
    from loadgen.server.config import Limits
    from loadgen.server.model_config import ModelConfig
    from loadgen.session import Finished
    from scenarios import Scenario, SearchPlan
    from scenarios.scenario import Target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; an error ends as one sentence on standard error.

    A standard stream that is closed is silent, and changes no exit code. When standard output cannot be written, as on
    a full disk, a sentence says so; a code above zero stands, and so does a 0 where the run's files are written. Where
    standard output was all that there would be, as of `selfcheck` and `--version`, a 0 becomes 2.
    """
    streams.replace_closed()
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
    except OSError as error:
        if _write(sys.stdout, click.echo):  # an empty line can be written, so it came from elsewhere
            return _complain(*_failure(error, None))
        return UsageError.exit_code
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
_PROTOCOLS = click.Choice(["kserve", "torchserve", "http"])
_RUN = {
    "SLA": [
        _flag("--sla-p99", "LATENCY", "99 % of requests must succeed within this, such as 200ms."),
        _flag("--sla slas", "'pQ<LATENCY'", "Any quantile, as in 'p95<80ms'; repeatable, all hold.", multiple=True),
        _flag("--error-budget", "SHARE", "Share of requests that may fail. [default: 0.1%]", flags.share),
        _flag("--require-rps", "RATE", "Exit 1 unless the safe rate reaches this.", flags.rate_rps),
        _flag("--plan-rps", "RATE", "Say how many replicas carry this rate, one to spare.", flags.rate_rps),
    ],
    "Request": [
        _flag("--protocol", "NAME", "kserve, torchserve or http. [default: by the URL]", type=_PROTOCOLS),
        _flag("--method", "METHOD", "[default: POST with a body, else GET]"),
        _flag("-H --header headers", "'NAME: VALUE'", "Repeatable; no secret is kept.", flags.header, multiple=True),
        _flag("--body", "TEXT|@FILE", "Sent with each request, as JSON unless -H says otherwise."),
        _flag("--body-lines", "FILE", "One JSON body a line, sent in turn, round and round."),
        _flag("--input-data", "FILE", "kserve: inputs in perf_analyzer's JSON. [default: made from the metadata]"),
        click.Option(["--shuffle"], is_flag=True, default=None, help="Send the lines in another order each round."),
        _flag("--body-template", "TEXT|@FILE", "Jinja with random fields: int(1, 9), float(0, 1), choice('a', 'b'), "
              "words(20), ints(8, 0, 255), floats(8, 0, 1), uuid(), seq. Up to 65536 bodies (64 MiB), then again."),
        _flag("--metrics-url", "URL", "Where the server tells of itself, for Prometheus. [default: by the protocol]"),
        _flag("--timeout", "TIME", "Give up a request after this. [default: 10 x SLA, at least 2s]", flags.duration_s),
    ],
    "Reply": [
        _flag("--expect-status", "LIST", "Success is one of these, such as 200,404. [default: 2xx]"),
        _flag("--expect-body-regex", "REGEX", "The body must contain a match (Python's re)."),
        _flag("--expect-json", "/POINTER=VALUE", "The JSON at this place must equal VALUE; repeatable.", multiple=True),
    ],
    "Connection": [
        _flag("--cacert", "FILE", "Trust the certificates of these authorities. [default: the system's]"),
        click.Option(["--insecure"], is_flag=True, default=None, help="Take any certificate; the report says so."),
        _flag("--cert", "FILE", "Certificate of the client, PEM."),
        _flag("--key", "FILE", "Its private key. [default: in --cert]"),
        _flag("--unix-socket", "PATH", "Connect here; Host and path are the URL's."),
        _flag("--re-resolve", "TIME", "Look the host up again so often. [default: only once]", flags.duration_s),
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
        _flag("--bracket", "open|closed", "Begin by raising the rate, or by doubling users. [default: open]",
              type=_LOAD_MODES),
        _flag("--seed", "N", "The same seed gives the same schedule. [default: 0]", flags.seed),
        _flag("--scenario", "NAME|FILE", "default, open, closed or a TOML file; flags win over it.", default="default"),
    ],
    "Output": [
        _flag("-o --output", "DIR", "For report and data. [default: a new one in opfind-runs/]", flags.folder),
        click.Option(["--json", "as_json"], is_flag=True, help="One JSON object on stdout, words on stderr."),
    ],
}  # fmt: skip
_USERS = [
    _flag("--locustfile", "FILE", "Locust's users are the load: the search raises their number.", flags.path),
]
_STREAM = click.Option(["--stream"], is_flag=True, help="--json, and before it lines of JSON while the search runs.")
_SHARED = {option.name: option for options in _RUN.values() for option in options}
_LOAD = {
    "Load": [
        _flag("--users", "N", "Closed loop: so many wait for their reply, then ask again.", flags.count),
        _flag("--rate", "RATE", "Open loop: so many a second fall due, answered or not.", flags.rate_rps),
        _flag("-d --duration", "TIME", "How long requests fall due. [default: 10s]", flags.duration_s, default="10s"),
        _flag("--think", "TIME", "With --users: mean pause before a user asks again. [default: 0s]", flags.duration_s),
        *(_SHARED[name] for name in ("arrivals", "connections", "workers", "seed", "scenario")),
    ],
    **{title: options for title, options in _RUN.items() if title not in ("SLA", "Load", "Search", "Output")},
    "SLA, if the load is to be judged": [_SHARED[name] for name in ("sla_p99", "slas", "error_budget")],
    "Output": _RUN["Output"],
}  # fmt: skip
_SELFCHECK = {
    "Load": [
        _SHARED["workers"],
        _flag("--connections", "N", "That the closed loop keeps busy. [default: 64]", flags.count),
    ],
    "Connection": [option for option in _RUN["Connection"] if option.name != "re_resolve"],
    "Output": [_SHARED["as_json"]],
}
_SERVE = {
    "Server": [
        _flag("--host", "ADDRESS", "Listen here. [default: 127.0.0.1]", default="127.0.0.1"),
        _flag("--port", "N", "0: any free one. [default: 8000]", flags.port, default="8000"),
    ],
    "What it serves, one of": [
        _flag("--device", "NAME|FILE", "One model on this device profile. [default: simulated]"),
        _flag("--model-repository", "DIR", "Triton's: a folder with config.pbtxt for each model.", flags.path),
        _flag("--config", "FILE", "A server.toml: models, levers, limits.", flags.path),
    ],
}
_PROFILE = {
    "What is measured": [
        _flag("--model", "NAME", "encoder, resnet, mlp, or encoder-tiny, resnet-tiny.", default="encoder"),
        _flag("--device", "cpu|N", "This processor, or a GPU by its number.", flags.place, default="cpu"),
        _flag("--sizes", "LIST", "Batch sizes.", flags.sizes, default="1,2,4,8,16,32"),
        _flag("--repeats", "N", "Batches of each size.", flags.count, default="20"),
    ],
    "Output": [_flag("-o --output", "FILE", "Write the profile here. [default: standard output]", flags.path)],
}
_OPEN_TO_ALL = "opfind: note: {host} is not this machine alone: whoever reaches it can use this server."
_NOT_VERIFIED = "TLS certificates were NOT verified (--insecure): anyone on the way could have answered."
_RUN_HELP = """Find the operating point of the server at URL, or of the bundled reference server.

\b
opfind run --sla-p99 200ms
opfind run http://127.0.0.1:8000/predict --sla-p99 200ms --body @payload.json

\b
Exit codes: 0 found             3 undecided          70 internal error
            1 SLA not met       4 lower bound only   130, 143 interrupted
            2 usage             5 target failed
"""
_LOAD_HELP = """Run one load by hand against the server at URL, or the bundled reference server: no search.

\b
opfind load http://127.0.0.1:8000/ --users 64 -d 60s
opfind load http://127.0.0.1:8000/ --rate 5000 -d 60s --arrivals constant

\b
Exit codes: 0 measured          3 undecided          70 internal error
            1 SLA not met       4 client-limited     130, 143 interrupted
            2 usage             5 target failed
"""
_SELFCHECK_HELP = """Measure this machine as a load generator: up to which rate, and for which SLA, is it to be trusted?

It takes less than 20 s, against a server that does nothing. A server at URL gets 20 requests in a second.

\b
Exit codes: 0 measured               4 no rate can be trusted   70 internal error
            2 usage                  5 URL unreachable          130, 143 interrupted
"""


@click.group(params=[_VERSION], context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def app() -> None:
    """Find the highest request rate that a server carries while its p99 latency stays within the SLA."""


_RUN_SECTIONS = {**_RUN, "Load": [*_RUN["Load"], *_USERS], "Output": [*_RUN["Output"], _STREAM]}


@app.command(cls=_Command, sections=_RUN_SECTIONS, help=_RUN_HELP, short_help="Find the operating point of a server.")
@click.argument("url", required=False)
@click.pass_context
def run(
    ctx: click.Context, /, output: Path | None, as_json: bool, stream: bool, locustfile: Path | None, **given: Any
) -> int:
    """Find the operating point; see `_RUN_HELP`."""
    if locustfile is not None:
        return _run_users(ctx, locustfile)
    return _measure(given, output, as_json=as_json or stream, by_hand=False, streamed=stream)


def scenario_of(words: Sequence[str]) -> "Scenario":
    """Read the words after `opfind run` as it would, without running anything.

    Raises:
        UsageError: It would refuse them.
    """
    from loadgen.assemble import assemble

    try:
        with run.make_context("opfind run", list(words)) as context:
            return assemble(context.params)
    except click.ClickException as error:
        raise UsageError(_masked(error.format_message()).rstrip(".")) from None


_OF_USERS = {
    "url", "sla_p99", "slas", "error_budget", "precision", "budget", "seed", "max_users", "scenario", "mode", "output",
    "as_json", "locustfile",
}  # fmt: skip


def _run_users(ctx: click.Context, locustfile: Path) -> int:
    """Become a headless Locust that searches over the users of `locustfile`; its flags are the words given here."""
    words, _, order = run.make_parser(ctx).parse_args(list(ctx.obj[1:]))
    for parameter in order:
        if parameter.name not in _OF_USERS:
            raise UsageError(f"{parameter.opts[0]} has no meaning with --locustfile: drop it, or drop --locustfile")
    if words.pop("mode", None) == "open":
        raise UsageError("--mode open has no meaning with --locustfile, whose users wait for replies: drop one of them")
    if not locustfile.is_file():
        raise UsageError(f"--locustfile: there is no file '{locustfile}'")
    if "," in str(locustfile):
        raise UsageError(f"--locustfile: '{locustfile}' has a comma, which Locust takes for two files: rename it")
    host, as_json = words.pop("url", None), words.pop("as_json", None)
    words.pop("locustfile")
    given = [f"--{'sla' if name == 'slas' else name.replace('_', '-')}={text}" for name, value in words.items()
             if value is not None for text in (value if isinstance(value, list) else [value])]  # fmt: skip
    given += [f"--host={host}"] if isinstance(host, str) else []  # else it is click's own mark of what is missing
    given += ["--answer-json"] if as_json else []
    quiet = ["--headless", "--only-summary", "--loglevel=CRITICAL", "--terminal"]
    launch.locust("opfind run", "users.py", [*quiet, *given, f"--locustfile={locustfile}"])


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    short_help="Locust's web UI, with the search in it.",
)
@click.argument("locust_flags", nargs=-1, type=click.UNPROCESSED)
def ui(locust_flags: tuple[str, ...]) -> int:
    """Run Locust with the search in its web UI; all of Locust's flags hold, and `--help` lists them with ours."""
    launch.locust("opfind ui", "operating_point.py", locust_flags)


@app.command(cls=_Command, sections=_LOAD, help=_LOAD_HELP, short_help="Run one load by hand, without a search.")
@click.argument("url", required=False)
def load(output: Path | None, as_json: bool, **given: Any) -> int:
    """Run one load by hand; see `_LOAD_HELP`."""
    return _measure(given, output, as_json=as_json, by_hand=True)


def _measure(
    given: dict[str, Any], output: Path | None, *, as_json: bool, by_hand: bool, streamed: bool = False
) -> int:
    """Search, or run one load by hand; write the files, print the answer, return the exit code."""
    folder: Path | None = None
    made: list[Path] = []
    finished: Finished | None = None
    try:
        from loadgen import environment, session
        from loadgen.assemble import assemble, assemble_load
        from loadgen.files import prepare

        scenario, step = assemble_load(given) if by_hand else (assemble(given), None)
        arguments = click.get_current_context().obj
        made = _missing(output)
        folder = prepare(output)
        made = [folder] if output is None else made
        if step is None:
            _write(sys.stderr, lambda: click.echo(_plan(scenario), err=True))
        with session.interrupts() as seen:  # from here on an impatient Ctrl-C does not lose what was measured
            with _view(scenario, step, streamed=streamed) as show:
                begin = partial(session.load, scenario, step) if step else partial(session.run, scenario)
                finished = begin(environment=environment.collect(arguments), show=show, interrupts=seen)
            _save(finished, folder)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (--json owes its object whatever happens)
        sentence, code = _failure(error, folder)
        if not finished:
            folder = _without_empty(folder, made)
        tell(finished.run if finished else None, folder, code, sentence, as_json=as_json, by_hand=by_hand)
        return _complain(sentence, code)
    tell(finished.run, folder, finished.run.exit_code, None, as_json=as_json, by_hand=by_hand)
    return finished.run.exit_code


def _view(scenario: "Scenario", step: "Step | None", *, streamed: bool) -> "AbstractContextManager[Show]":
    """Choose who watches: a person at the terminal, or a program that reads lines."""
    from loadgen import console, stream

    title = _title(scenario, step)
    if not streamed:
        return console.live(title, sys.stderr)
    return stream.lines(stream.begin(title, scenario), sys.stdout)


def _missing(output: Path | None) -> list[Path]:
    """Return the folders that would have to be made for `output`, the innermost first."""
    return [] if output is None else [place for place in (output, *output.parents) if not os.path.lexists(place)]


def _without_empty(folder: Path | None, made: list[Path]) -> Path | None:
    """Remove the folders that were made for nothing; return the run's own unless it is among them."""
    with suppress(OSError):  # one that holds a traceback stays
        for place in made:
            place.rmdir()
    return folder if folder and folder.is_dir() else None


@app.command(cls=_Command, sections=_SELFCHECK, help=_SELFCHECK_HELP, short_help="Measure this machine itself.")
@click.argument("url", required=False)
def selfcheck(workers: int | str | None, connections: int | None, as_json: bool, **target: Any) -> int:
    """Measure this machine; see `_SELFCHECK_HELP`."""
    checked, sentence, caution, is_told = None, None, None, True
    try:
        from loadgen import console, session
        from loadgen.health import usable_cores
        from loadgen.selfcheck import USERS, measure

        where = _target_of(target)
        caution = _NOT_VERIFIED if where and where.insecure else None
        with session.interrupts() as seen, console.status("opfind selfcheck", sys.stderr) as say:
            checked = measure(
                where, workers=session.workers_of(workers if isinstance(workers, int) else None),
                users=connections or USERS, cores=usable_cores(), say=say, is_over=lambda: bool(seen),
            )  # fmt: skip
        code = seen.exit_code or checked.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (--json owes its object whatever happens)
        sentence, code = _failure(error, None)
    if as_json and code != UsageError.exit_code:
        from loadgen.selfcheck import as_json as plain
        from loadgen.version import version

        shown = plain(checked, exit_code=code, error=sentence, version=version()) | {"caution": caution}
        is_told = _write(sys.stdout, lambda: click.echo(json.dumps(shown, allow_nan=False)))
    if checked is not None:
        stream, found = sys.stderr if as_json else sys.stdout, checked
        if caution:
            _write(stream, lambda: click.secho(caution, file=stream, fg="yellow", bold=True))
        is_told = _write(stream, lambda: console.print_selfcheck(found, stream)) and is_told
    code = code if is_told else code or UsageError.exit_code
    return _complain(sentence, code) if sentence else code


def _target_of(given: dict[str, Any]) -> "Target | None":
    """Read a URL and how to reach it as a scenario's target; None without a URL."""
    import scenarios
    from loadgen.assemble import FLAG_NAMES

    changes = {name: value for name, value in given.items() if value is not None}
    if changes and "url" not in changes:
        flag = next(iter(changes)).replace("_", "-")
        raise UsageError(f"--{flag} has no meaning without a URL: drop it or give one")
    try:
        return scenarios.load("default", {"target": changes}, FLAG_NAMES).target if changes else None
    except scenarios.ScenarioError as error:
        raise UsageError(str(error)) from None


@app.command(cls=_Command, sections=_SERVE, short_help="Serve the reference model server.")
def serve(host: str, port: int, device: str | None, model_repository: Path | None, config: Path | None) -> int:
    """Serve models until interrupted: KServe v2 (Triton), TorchServe, POST /predict; GET /metrics for Prometheus."""
    from loadgen.server.serve import serve as serve_forever
    from loadgen.version import version

    if sum(given is not None for given in (device, model_repository, config)) > 1:
        raise UsageError("give only one of --device, --model-repository and --config")
    models, limits = _served(device or "simulated", model_repository, config)
    shown = f"[{host}]" if ":" in host else host
    if not _is_loopback(host):
        _write(sys.stderr, lambda: click.echo(_OPEN_TO_ALL.format(host=shown), err=True))
    serve_forever(
        models, limits, host=host, port=port, version=version(),
        ready=lambda free: click.echo(f"listening on http://{shown}:{free}"),
    )  # fmt: skip
    return 0


@app.command("profile-device", cls=_Command, sections=_PROFILE, short_help="Measure a device, as a profile.")
def profile_device(model: str, device: int | None, sizes: tuple[int, ...], repeats: int, output: Path | None) -> int:
    """Measure how long a device takes for batches of each size; the simulated device loads the profile.

    A network with random weights runs on torch (pip install 'opfind[gpu]'); then `opfind serve --device FILE` behaves
    as the device did.
    """
    try:
        from loadgen.server.torch_profile import measure
    except ImportError:
        raise UsageError("profile-device needs torch: pip install 'opfind[gpu]'") from None

    def say(words: str) -> None:
        _write(sys.stderr, lambda: click.echo(f"opfind: {words}", err=True))

    measured = measure(model, device, rows=sizes, repeats=repeats, say=say)
    for rows, median_ms in zip(measured.rows, measured.median_ms, strict=True):
        say(f"{rows} rows: {median_ms:.3f} ms, {rows / median_ms * 1e3:,.0f} rows/s")
    if output is None:
        return 0 if _write(sys.stdout, lambda: click.echo(measured.toml(), nl=False)) else UsageError.exit_code
    try:
        output.write_text(measured.toml(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write '{output}': {error.strerror}; name another file with -o") from None
    return 0


def _served(device: str, repository: Path | None, config: Path | None) -> tuple[list["ModelConfig"], "Limits"]:
    """Read what to serve, and say what of it was ignored."""
    import scenarios
    from loadgen.server.config import Limits, ServerConfig

    if repository is not None:
        from loadgen.server.repository import read_repository

        models, remarks = read_repository(repository)
        for remark in remarks:
            _write(sys.stderr, partial(click.echo, remark, err=True))
        return models, Limits()
    try:
        if config is not None:
            from loadgen.server.server_file import read_server_file

            return read_server_file(config, scenarios.device)
        one = ServerConfig.from_json({"device": scenarios.device(device)})
    except ValueError as error:
        raise UsageError(str(error)) from None
    return [one.model()], one.limits()


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _title(scenario: "Scenario", step: "Step | None") -> str:
    """Say in one line what runs."""
    from loadgen.mask import mask_url
    from reports import text

    load = scenario.load
    burstiness = f", CV {load.cv:g}" if load.arrivals == "gamma" else ""
    how = f"{load.arrivals} arrivals{burstiness}" if load.mode == "open" else f"think time {_length(load.think_s)}"
    where = mask_url(scenario.target.url) if scenario.target.url else "bundled reference server"
    what = " and ".join(map(str, scenario.slas))
    if step is not None:
        level = text.rate(step.rate_rps) if step.users is None else f"{step.users:,} user{'s' * (step.users != 1)}"
        what = f"{level} for {_length(step.duration_s)}" + (f", {what}" if what else "")
    return f"opfind: {what}, {load.mode} loop, {how}, {where}"


# Seconds of load to 5 % on servers whose service times are equal, and on those whose vary: means over servers drawn at
# random (tests/bench/RESULTS.md). On the former, 2 % takes no longer.
_EQUAL_S, _VARYING_S = 36, 76


def _plan(scenario: "Scenario") -> str:
    """Say in one line what the search is after, what it may cost and usually costs, and how else it ends."""
    from reports import text

    plan, slas = scenario.search, scenario.slas
    level, usual = ("number of users", "") if scenario.load.mode == "closed" else ("rate", _usual(plan))
    usual = usual if plan.bracket == "open" else ""
    holds = f"{' and '.join(map(str, slas))} hold{'s' if len(slas) == 1 else ''}"
    asked = f"to ±{text.share(plan.precision)} with at most {_length(plan.budget_s)} of load"
    return (
        f"opfind: plan: find the highest {level} at which {holds}, {asked}{usual}; if the budget ends first, you get "
        "the best interval so far and exit code 3"
    )


def _usual(plan: "SearchPlan") -> str:
    """Say how much load the precision takes on two kinds of servers; nothing where it takes all on both."""
    if plan.precision < 0.02:
        return ""
    more = "" if plan.precision >= 0.05 else "more than "
    takes = "usually it takes" if plan.budget_s < _VARYING_S else "usually"
    return f" ({takes} {_EQUAL_S} s where service times are equal, {more}{_VARYING_S} s where they vary)"


def _length(seconds: float) -> str:
    from reports import text

    return text.latency(seconds) if 0 < seconds < 1 else text.duration(seconds)


def _save(finished: "Finished", folder: Path) -> None:
    """Write the run's files, then let out the defect that ended it early, if one did."""
    from loadgen import files

    files.write(finished.run, finished.results, folder)
    if finished.crash:
        raise finished.crash


def tell(run: "Run | None", folder: Path | None, code: int, error: str | None, *, as_json: bool, by_hand: bool) -> None:
    """Print the answer, if there is one: as words, or as JSON on standard output and as words on standard error."""
    if as_json and code != UsageError.exit_code:
        from loadgen.summary import load_summary, summary
        from loadgen.version import version

        tell = load_summary if by_hand else summary
        plain = tell(run, exit_code=code, error=error, folder=folder, version=version())
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


def _write(stream: TextIO, action: Callable[[], object]) -> bool:
    """Write, and say whether all went well; where standard output did not take it, standard error says so."""
    why = streams.write(stream, action)
    if why is None or stream is not sys.stdout:
        return True
    _complain(f"cannot write to standard output: {why}", UsageError.exit_code)
    return False


def _failure(error: BaseException, folder: Path | None) -> tuple[str, int]:
    from loadgen.failure import failure

    return failure(error, folder)


def _masked(text: str) -> str:
    from loadgen.mask import mask_text

    return mask_text(text)
