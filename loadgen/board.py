"""What the page shows: the search under way or the last one, and the ones before it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis import Run
from loadgen.stream import Line
from reports import generator
from reports.headline import facts, headline
from reports.live import Past, View, banner, fragment
from reports.words import Headline

_SHOWN_STEPS = 200


@dataclass(slots=True)
class Board:
    """Collect what a search tells; each `begin` puts the last search among the earlier ones.

    Attributes:
        is_running: A search is under way, or its files are being written.
        exit_code: Of the last search, or None.
        notice: Something to tell the user about what was just asked for.
        folders: Of searches that have ended, in order.
    """

    is_running: bool = False
    exit_code: int | None = None
    notice: str | None = None
    folders: list[Path] = field(default_factory=list)
    _first: Line = field(default_factory=dict)
    _live: Line | None = None
    _steps: list[Mapping[str, Any]] = field(default_factory=list)
    _head: Headline | None = None
    _run: Run | None = None
    _past: list[Past] = field(default_factory=list)
    _error: str | None = None
    _drawn: tuple[View, str] | None = None  # the page asks every second, from every browser

    def begin(self) -> None:
        """Clear the board for a search."""
        self.is_running, self.exit_code, self.notice = True, None, None
        self._first, self._live, self._head, self._run, self._error = {}, None, None, None, None
        self._steps = []

    def take(self, line: Line) -> None:
        """Take in a line of the search's stream."""
        match line.get("event"):
            case "begin":
                self._first = line
            case "progress":
                self._live = line
                if line["step"]:
                    self._steps = [*self._steps, line["step"]][-_SHOWN_STEPS:]
            case _:
                self._error = line["error"]
                if line["folder"] and (Path(line["folder"]) / "run.json").is_file():
                    self.show_answer(Path(line["folder"]))

    def show_answer(self, folder: Path) -> None:
        """Read the finished run from its folder."""
        self._run = Run.from_json(json.loads((folder / "run.json").read_text(encoding="utf-8")))
        self._head = headline(self._run)
        self.folders.append(folder.resolve())
        self._past.append(Past(number=len(self.folders), label=self._head.label, title=self._head.title))

    def end(self, exit_code: int | None, error: str | None) -> None:
        """Note how the search ended."""
        self.is_running, self.exit_code, self._live = False, exit_code, None
        self._error, self.notice = error or self._error, None
        if self._error:
            self._head = None  # what it says of a run that failed is not why

    @property
    def has_report(self) -> bool:
        """Say that the last search has written one."""
        return self._run is not None

    @property
    def words(self) -> str | None:
        """Return the verdict, or the error, as one sentence or two; None before there is either."""
        if self._head:
            return f"{self._head.label}: {self._head.title} {self._head.limits}"
        return self._error

    def fragment(self) -> str:
        """Return what the page shows now, as HTML."""
        proof = generator.verdict(self._run) if self._run else None
        view = View(
            first=self._first, live=self._live, steps=tuple(self._steps), interval=self._interval(),
            headline=self._head, facts=tuple(facts(self._run)) if self._run else (), proof=proof, error=self._error,
            notice=self.notice, is_running=self.is_running, report=len(self.folders) if self._run else None,
            past=tuple(self._past[:-1] if self._run else self._past),
        )  # fmt: skip
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = view, fragment(view)
        return self._drawn[1]

    def _interval(self) -> tuple[float | None, float | None]:
        """Return between which rates, or numbers of users, the operating point lies: the answer's, else so far."""
        answer = self._run.answer if self._run else None
        if answer is not None:
            point = answer.users or answer.rate_rps
            return (point.low, point.high) if point else (None, None)
        so_far = self._live["interval"] if self._live else None
        return (so_far["low"], so_far["high"]) if so_far else (None, None)

    def banner(self) -> str:
        """Return the verdict as a piece of HTML for somebody else's page; empty before there is one."""
        return banner(self._head, self._error)
