"""opfind inside Locust: the shapes that search, and what ties a search to Locust's start, stop, statistics and exit.

Importing this module imports Locust, which changes sockets and threads of the whole process: only Locust's own process
does it. The load engine stays in processes of its own, see `loadgen.hosted`.

A search over several of Locust's workers is a `StepRunner` (see `loadgen.session`) that sends each step to them and
merges the histograms that come back; until there is one, master and workers are refused.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from argparse import Namespace
from copy import copy
from threading import Thread
from typing import Any, ClassVar

import gevent
import locust.stats
from locust import LoadTestShape, User, events, task
from locust.argument_parser import LocustArgumentParser, ui_extra_args_dict
from locust.env import Environment
from locust.runners import LocalRunner
from locust.stats import RequestStats, StatsEntry, StatsError
from locust.web import WebUI

import scenarios
from loadgen.board import Board
from loadgen.cli import scenario_of
from loadgen.errors import UsageError
from loadgen.failure import failure
from loadgen.hosted import HostedRun
from loadgen.locust_options import add_engine_flags, add_users_flags, engine_words, users_words
from loadgen.locust_page import add_page, with_banner
from loadgen.locust_run import UsersRun, host_of
from loadgen.stream import Line

_LOOPBACK = "127.0.0.1"
_LOCUSTS_FIELDS = {"user_count", "spawn_rate", "host", "run_time", "profile", "user_classes", "shape_class"}
_ENDING_S = 20.0  # a search that was stopped awaits replies, and writes its files
_log = logging.getLogger("opfind")
locust.stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
locust.stats.bucket_response_time = lambda ms: float(f"{ms:.3g}")  # Locust keeps two digits, too few for a p99


class SearchShape(LoadTestShape):
    """Let a search decide how many users there are; the test ends when the search does."""

    abstract: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.host: Host | None = None

    def reset_time(self) -> None:
        """Note that a test begins: Locust calls it then."""
        super().reset_time()
        if self.host:
            self.host.is_over = False

    def tick(self) -> tuple[int, float] | tuple[int, float, list[type[User]] | None] | None:
        """Return the users that the search wants, or None when it has ended."""
        if self.host is None or self.host.is_over:
            return None
        return self.host.users()


class EngineUser(User):
    """Stand for opfind's engine: Locust wants a user for a test to run, the engine makes the requests."""

    @task
    def stand(self) -> None:
        """Do nothing, and be stopped at any moment."""
        time.sleep(1)


class EngineSearch(SearchShape):
    """Search with opfind's own engine."""

    abstract: ClassVar[bool] = False


class OperatingPointShape(SearchShape):
    """Search over the number of this locustfile's users: a closed loop, judged on unrounded response times.

    Import it into a locustfile, or subclass it there; Locust finds it.
    """

    abstract: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Step aside for a subclass: Locust takes the first shape that it finds in a file, imported ones too."""
        super().__init_subclass__(**kwargs)
        OperatingPointShape.abstract = True


class Host:
    """Run one search after the other inside a Locust process."""

    def __init__(self, environment: Environment, shape: SearchShape) -> None:
        self.board = Board()
        self.is_over = True
        self._environment = environment
        self._shape = shape
        self._search: HostedRun | UsersRun | None = None
        self._count = 0
        self._is_interrupted = False
        self._wish = 0
        self._scenario: str | None = self._options.scenario
        self._names = ("", "")
        environment.events.test_start.add_listener(self._start)
        environment.events.test_stopping.add_listener(self._stop)
        environment.events.quitting.add_listener(self._quit)
        before = signal.getsignal(signal.SIGINT)

        def note(number: int, frame: Any) -> None:
            self._is_interrupted = True
            self._stop()  # whoever happens to run in this moment may swallow the exception that follows
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGINT, note)
        if self._options.headless:  # Locust itself listens to SIGTERM only when a headless test with a shape has ended
            gevent.signal_handler(signal.SIGTERM, self._terminate)

    def _terminate(self) -> None:
        """End the search; Locust ends at the shape's next tick, and takes over its exit code."""
        if self._search is None or not self.board.is_running:
            raise SystemExit(128 + signal.SIGTERM)
        self._search.stop(signal.SIGTERM)

    def users(self) -> tuple[int, float] | tuple[int, float, list[type[User]] | None]:
        """Return how many users there are to be now, and how fast they come."""
        if isinstance(self._search, UsersRun):
            return self._search.users, max(1.0, min(100.0, self._search.users))
        if isinstance(self._shape, EngineSearch):
            return 1, 1.0, [EngineUser]
        return 1, 1.0

    def objection(self, form: dict[str, str]) -> str | None:
        """Return why a search with these fields cannot start, or None; waits for one that is just ending."""
        runner = self._environment.runner
        deadline = time.monotonic() + _ENDING_S
        while self._is_ending(runner) and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.board.is_running or (runner and runner.shape_greenlet):
            return "a search is under way, and Start was ignored: press Stop first, or wait for its end"
        options = copy(self._options)
        shown = _LOCUSTS_FIELDS | ui_extra_args_dict().keys()
        hidden = sorted(name for name in form if hasattr(options, name) and name not in shown)
        if hidden:  # such as --body=@FILE: what the form does not show, no page in the browser may ask for
            return f"--{hidden[0].replace('_', '-')} is for the command line only"
        if form.get("scenario", self._scenario) not in (self._scenario, *scenarios.bundled()):
            return "a scenario file is named on the command line only, by --scenario"
        for name, value in form.items():
            if hasattr(options, name):
                setattr(options, name, value)
        return self._refusal(options, is_starting=True)

    def _is_ending(self, runner: Any) -> bool:
        """Say that a search was stopped and writes its files, or has ended and Locust has not noticed."""
        if self.board.is_running:
            return bool(self._wish or getattr(self._search, "has_answered", False))
        return self.is_over and bool(runner and runner.shape_greenlet)

    def refuse(self) -> None:
        """End the process where the command line asks for what cannot be, or the port is taken."""
        options = self._options
        why = self._refusal(options, is_starting=options.headless or options.autostart)
        if options.class_picker:
            why = "--class-picker would let the search be chosen away: drop it, and name your user classes as words"
        if not options.headless:
            why = why or _taken(options.web_host, options.web_port)
        if why:
            sys.stderr.write(f"opfind: error: {why}\n")
            raise SystemExit(UsageError.exit_code)

    @property
    def _options(self) -> Namespace:
        options: Namespace = self._environment.parsed_options
        return options

    def _refusal(self, options: Namespace, *, is_starting: bool) -> str | None:
        try:
            if isinstance(self._shape, EngineSearch):
                scenario_of(engine_words(options, number=self._count + 1))
            else:
                scenario_of(users_words(options, None))
                if is_starting:
                    host_of(self._environment, options.host)
        except UsageError as error:
            return str(error)
        return None

    def _start(self, **_: Any) -> None:
        self._wish = 0
        self.board.begin()
        Thread(target=self._begin, daemon=True).start()  # Locust kills the greenlet that we are in when Stop comes now

    def _begin(self) -> None:
        if self._search:
            self._search.wait()
        self._count += 1
        try:
            if isinstance(self._shape, EngineSearch):
                words = engine_words(self._options, number=self._count)
                self._search = HostedRun(words, self._take, self._done)
            else:
                self._search = UsersRun(self._environment, self._count, self.board.take, self._done)
        except Exception as error:  # noqa: BLE001 (a search that cannot begin has an end, too)
            sentence, code = failure(error, None)
            self.board.end(code, sentence)
            self.is_over = True
            return
        if self._wish:
            self._search.stop(self._wish)

    def _take(self, line: Line) -> None:
        self.board.take(line)
        if line.get("event") == "begin":
            self._names = (line["method"], line["path"])
        elif line.get("event") == "progress":
            ingest(self._environment.stats, self._names, line)
        elif self._options.answer_json:
            print(json.dumps(line), flush=True)  # noqa: T201 (what was asked for)

    def _done(self, search: HostedRun | UsersRun) -> None:
        """Note a search's end; Locust learns of it at the shape's next tick."""
        self.board.end(search.exit_code, search.error)
        _log.info("%s", self.board.words or "The search ended without a word.")
        self.is_over = True

    def _stop(self, **_: Any) -> None:
        if self.board.is_running:
            self._wish = signal.SIGINT
            if self._search:
                self._search.stop(signal.SIGINT)

    def _quit(self, environment: Environment, **_: Any) -> None:
        """End the search before the process ends, take over its exit code, and write the report with the verdict."""
        if self._search:
            if self.board.is_running:
                self._search.stop(signal.SIGINT if self._is_interrupted else signal.SIGTERM)
            self._search.wait()
            environment.process_exit_code = self.board.exit_code
        if self._options.html_file and environment.runner:
            from locust.html import get_html_report  # noqa: PLC0415 (only here)

            html = with_banner(get_html_report(environment, show_download_link=False), self.board)
            with open(self._options.html_file, "w", encoding="utf-8") as file:  # noqa: PTH123 (as Locust wrote it)
                file.write(html)
        if self._options.terminal:
            logging.getLogger("locust.stats_logger").disabled = True  # its tables; our answer has been printed


class LastError(logging.Handler):
    """Keep the last error that Locust's start complained of."""

    words = ""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        logging.getLogger("locust.main").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.words = record.getMessage()


_state = {"uses_engine": False, "has_begun": False}


def use_engine() -> None:
    """Give Locust the flags and the start form of a search with opfind's own engine: the packaged locustfile does."""
    _state["uses_engine"] = True


def has_begun() -> bool:
    """Say that Locust has come as far as to run searches."""
    return _state["has_begun"]


def ingest(stats: RequestStats, names: tuple[str, str], line: Line) -> None:
    """Add a line's requests to Locust's statistics in bulk: one event for each would cost Locust more than the engine.

    Args:
        stats: Of the environment.
        names: Method and path under which they are shown.
        line: A `progress` line; its times are not rounded as Locust rounds its own.
    """
    method, path = names
    traffic, now = line["traffic"], time.time()
    count = sum(traffic["count"])
    entry = StatsEntry(stats, path, method)
    entry.num_requests = count + traffic["failed"]
    entry.num_none_requests = entry.num_failures = traffic["failed"]
    entry.response_times = dict(zip(traffic["ms"], traffic["count"], strict=True))
    entry.total_response_time = sum(ms * n for ms, n in entry.response_times.items())
    entry.min_response_time = min(traffic["ms"], default=None)
    entry.max_response_time = max(traffic["ms"], default=0)
    entry.num_reqs_per_sec = {int(now): entry.num_requests}
    entry.num_fail_per_sec = {int(now): entry.num_failures} if entry.num_failures else {}
    entry.start_time, entry.last_request_timestamp = now - line["step_elapsed_s"], now
    if entry.num_requests:
        stats.get(path, method).extend(entry)
        stats.total.extend(entry)
    for words, times in (line["step"] or {"errors": {}})["errors"].items():
        key = StatsError.create_key(method, path, words)
        stats.errors.setdefault(key, StatsError(method, path, words)).occurrences += times


def _taken(host: str, port: int) -> str | None:
    """Return why nothing can listen there, or None."""
    try:
        name = None if host == "*" else host or None
        family, *_, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.create_server(address[:2], family=family):
            return None
    except OSError as error:
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        return f"--web-port {port} of {host or 'this machine'} cannot be used ({why}): name another one"


@events.init_command_line_parser.add_listener
def _add_flags(parser: LocustArgumentParser) -> None:
    (add_engine_flags if _state["uses_engine"] else add_users_flags)(parser)
    parser.set_defaults(web_host=_LOOPBACK)


@events.init.add_listener
def _init(environment: Environment, web_ui: WebUI | None = None, **_: Any) -> None:
    shape = environment.shape_class
    if not isinstance(shape, SearchShape):
        return
    if not isinstance(environment.runner, LocalRunner):
        sys.stderr.write("opfind: error: the search runs in one Locust process: drop --master, --worker, --processes\n")
        raise SystemExit(UsageError.exit_code)
    shape.host = Host(environment, shape)
    shape.host.refuse()
    _state["has_begun"] = True
    if web_ui:
        needs_host = not isinstance(shape, EngineSearch)
        add_page(web_ui, environment.parsed_options.web_base_path, shape.host, needs_host=needs_host)
