"""A search over Locust's users, run beside them in Locust's process."""

import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import locust
from locust import FastHttpUser, HttpUser
from locust.env import Environment

import scenarios
from loadgen import console, files, session, stream
from loadgen import environment as machine
from loadgen.cli import scenario_of, tell
from loadgen.errors import UsageError
from loadgen.failure import failure
from loadgen.locust_options import folder_of, users_words
from loadgen.locust_users import UsersFleet


def host_of(environment: Environment, given: str | None) -> str | None:
    """Return where the users' requests go: as given, or as a user class says.

    Raises:
        UsageError: They are HTTP users, and nothing says where.
    """
    host: str | None = given or next((user.host for user in environment.user_classes if user.host), None)
    if host is None and any(issubclass(user, HttpUser | FastHttpUser) for user in environment.user_classes):
        raise UsageError(
            "nothing says where the requests go: give the URL, fill in Host, or set `host` in the user class"
        )
    return host


def _locustfile(environment: Environment) -> str:
    """Return the name of the user's locustfile, beside which one of ours may have been given."""
    paths = [Path(path) for path in environment.parsed_locustfiles or ()]
    own = [path.name for path in paths if path.parent != Path(scenarios.__file__).parent / "locustfiles"]
    return own[0] if own else str(environment.locustfile)


class UsersRun:
    """Run one search over Locust's users, beside them in the same process; it has the form of a `HostedRun`.

    Attributes:
        error: The sentence with which it failed, or None.
        exit_code: How it ended, or None while it runs.
    """

    def __init__(
        self,
        environment: Environment,
        number: int,
        take: Callable[[stream.Line], None],
        done: Callable[["UsersRun"], None],
    ) -> None:
        """Start it; arguments as of `HostedRun`, `number` counts the searches of this process."""
        self.error: str | None = None
        self.exit_code: int | None = None
        self._environment, self._number, self._take = environment, number, take
        self._interrupts = session.Interrupts()
        self._fleet: UsersFleet | None = None
        self._thread = threading.Thread(target=self._run, args=(done,), name="opfind-users", daemon=True)
        self._thread.start()

    @property
    def users(self) -> int:
        """Return how many users there are to be."""
        return self._fleet.users if self._fleet else 1

    def stop(self, number: int) -> None:
        """Ask it to end, as a signal does."""
        self._interrupts(number, None)

    def wait(self, seconds: float = 30.0) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    def _run(self, done: Callable[["UsersRun"], None]) -> None:
        try:
            self._search()
        except Exception as error:  # noqa: BLE001 (whatever comes is told on the page and on the terminal)
            self.error, self.exit_code = failure(error, None)
            if self._environment.parsed_options.answer_json:
                tell(None, None, self.exit_code, self.error, as_json=True, by_hand=False)
            sys.stderr.write(f"opfind: error: {self.error}\n")
        done(self)

    def _search(self) -> None:
        environment, options = self._environment, self._environment.parsed_options
        host = host_of(environment, environment.host)
        is_web = host is not None and host.startswith(("http://", "https://"))
        scenario = scenario_of(users_words(options, host if is_web else None))
        folder = files.prepare(folder_of(options, self._number))
        name = _locustfile(environment)
        title = f"opfind: {' and '.join(map(str, scenario.slas))}, closed loop, users of {name}"
        first = {**stream.begin(title, scenario), "path": ""}
        self._take(first)
        teller = stream.Teller()
        noted = machine.collect(sys.argv) | {
            "locust": locust.__version__, "locustfile": name, "pacing": "Locust's users",
        }  # fmt: skip
        fleet = self._fleet = UsersFleet(environment, min(sla.limit_ns for sla in scenario.slas))
        try:
            with console.live(title, sys.stderr) if options.terminal else nullcontext() as show:

                def both(progress: Any) -> None:
                    self._take(teller(progress))
                    if show:
                        show(progress)

                finished = session.search_with(
                    scenario, fleet, environment=noted, show=both, interrupts=self._interrupts
                )
        finally:
            fleet.close()
        if not is_web:
            target = {"target": {"url": f"the users of {name}"}}
            finished = replace(finished, run=replace(finished.run, scenario={**finished.run.scenario, **target}))
        self.exit_code = finished.run.exit_code
        files.write(finished.run, finished.results, folder)
        self._take({"event": "answer", "folder": str(folder), "error": None})
        if finished.crash:
            raise finished.crash
        if options.terminal or options.answer_json:
            tell(finished.run, folder, self.exit_code, None, as_json=options.answer_json, by_hand=False)
