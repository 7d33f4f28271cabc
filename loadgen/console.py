"""The terminal: a live view of a running search, and its answer. The only file that imports rich."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from analysis import Estimate, Run, Step, StepRecord, Verdict
from loadgen.plot import Mark, plot
from loadgen.progress import Progress, Show
from reports import text
from reports.headline import NOT_KNOWN, facts, headline
from reports.steps import error_texts

_QUEUED = 64
_PATIENCE_S = 2.0
_STYLES = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.UNDECIDED: "yellow"}
_SIGNS = {Verdict.PASS: "●", Verdict.FAIL: "x", Verdict.UNDECIDED: "○"}
_TONES = {"good": "green", "bad": "red", "unsure": "yellow"}
_FILES = ("report.html", "summary.md", "run.json", "steps.npz", "junit.xml", "steps.hlog")


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the caller know; rich would end the program with exit code 1."""
        raise  # noqa: PLE0704 (rich calls this while it handles the BrokenPipeError)


def _console(stream: TextIO) -> Console:
    """Return a console on a stream; nothing in a text is read as markup, link or emoji."""
    return _Console(file=stream, markup=False, highlight=False, emoji=False)


@contextmanager
def live(title: str, stream: TextIO) -> Iterator[Show]:
    """Show a search while it runs: a view that renews itself on a terminal, one line a step elsewhere.

    A thread draws; what it is given waits in a bounded queue. When that is full an update is dropped and counted, so
    showing never holds up the search.

    Args:
        title: What runs, one line.
        stream: Usually standard error.
    """
    screen = _console(stream)
    queue: Queue[Progress | None] = Queue(_QUEUED)
    dropped = 0

    def show(progress: Progress) -> None:
        nonlocal dropped
        try:
            queue.put_nowait(progress)
        except Full:
            dropped += 1

    draw = _draw_live if screen.is_terminal and not screen.is_dumb_terminal else _draw_lines
    thread = Thread(target=_drain, args=(draw, screen, title, queue), name="opfind-view", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        with suppress(Full):  # a terminal that is stopped, as by Ctrl-S, must not keep the files from being written
            queue.put(None, timeout=_PATIENCE_S)
        thread.join(_PATIENCE_S)
        if dropped and not thread.is_alive():
            with suppress(OSError, ValueError):
                screen.print(f"{dropped} updates of the view were dropped", style="dim")


def _drain(
    draw: Callable[[Console, str, Iterator[Progress]], None], screen: Console, title: str, queue: Queue[Progress | None]
) -> None:
    """Draw until the queue ends. A closed terminal ends the view, never the run: what still comes is read and left."""
    updates = iter(queue.get, None)
    try:
        draw(screen, title, (update for update in updates if update is not None))
    except (OSError, ValueError):
        for _ in updates:
            pass


def _draw_lines(screen: Console, title: str, updates: Iterator[Progress]) -> None:
    screen.print(Text(_line(title)), soft_wrap=True)
    for progress in updates:
        if progress.ended and progress.records:
            screen.print(step_line(progress), soft_wrap=True)


def _draw_live(screen: Console, title: str, updates: Iterator[Progress]) -> None:
    first = Text(f"{_line(title)}\nstarting …", no_wrap=True, overflow="ellipsis")
    with Live(
        first, console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as on:
        for progress in updates:
            on.update(view(progress, title, screen.width, screen.height), refresh=True)


def step_line(progress: Progress) -> Text:
    """Return a finished step as one line, and a second one for each reason why it is not sound."""
    record = progress.records[-1]
    verdict = record.judgement.verdict
    line = Text(f"step {record.index + 1:>3}  {record.step.purpose:<8}{_level(record.step):>16}")
    line.append(f"  {_sla_quantile(progress)} {_latency(progress.quantile):<22}")
    line.append(f"{verdict.upper():<9}", style=_STYLES[verdict])
    line.append(f"  achieved {text.rate(record.achieved_rps)}, ok {record.counts['ok']:,} of {record.offered:,}")
    if record.aborted:
        line.append(", stopped early")
    for reason in record.reasons:
        line.append(f"\n          not sound: {_line(reason.text)}", style="yellow")
    return line


def view(progress: Progress, title: str, width: int, height: int) -> Group:
    """Return the live view of `width` columns and at most `height` rows."""
    rows = [
        Text(_line(title), style="bold"),
        _row("step", f"{progress.index + 1} {progress.step.purpose}, {_level(progress.step)}", _step_time(progress)),
        _verdict_row(progress),
        _row(_sla_quantile(progress), _latency(progress.quantile), f"SLA {text.latency(progress.sla.limit_s)}"),
        _row(
            "load",
            f"offered {text.rate(progress.offered_rps)}, achieved {text.rate(progress.achieved_rps)}",
            f"in flight {progress.in_flight:,}",
        ),
        _row("so far", _bracket(progress.records)),
        _time_row(progress, width),
    ]
    plot_height = min(14, height - len(rows) - 3)
    if plot_height >= 6 and width >= 40:
        name = "users" if progress.step.users is not None else "req/s achieved"
        lines = plot(_marks(progress), progress.sla.limit_s, min(width, 100), plot_height, name)
        rows += [Text(), *(Text.assemble(*line) for line in lines)]
        rows.append(Text(_legend(progress), style="dim"))
    for row in rows:
        row.no_wrap, row.overflow = True, "ellipsis"
    return Group(*rows[: max(1, height - 1)])


def _row(name: str, value: str, note: str = "") -> Text:
    return Text.assemble((f"{name:<8}", "dim"), value, (f"   {note}" if note else "", "dim"))


def _verdict_row(progress: Progress) -> Text:
    judgement = progress.judgement
    if judgement is None:
        return _row("verdict", "none yet")
    row = Text.assemble(("verdict ", "dim"), (judgement.verdict.upper(), f"bold {_STYLES[judgement.verdict]}"))
    share, low, high, allowed = (
        f"{round(100 * value, 3):.3g}" for value in (judgement.share, judgement.low, judgement.high, judgement.allowed)
    )
    return row.append(f"   {share} % [{low}, {high}] violate {_line(judgement.binding)}, {allowed} % may", style="dim")


def _time_row(progress: Progress, width: int) -> Text:
    left = max(0.0, progress.budget_s - progress.elapsed_s)
    words = f" {text.duration(progress.elapsed_s)} used, {text.duration(left)} left"
    cells = max(4, min(40, width - 8 - len(words)))
    filled = round(cells * min(1.0, progress.elapsed_s / progress.budget_s))
    return Text.assemble(("time    ", "dim"), ("━" * filled, "cyan"), ("─" * (cells - filled), "dim"), words)


def _step_time(progress: Progress) -> str:
    length = text.duration(progress.step.duration_s)
    over = progress.step_elapsed_s - progress.step.duration_s
    return f"draining after {length}" if over > 0 else f"{text.duration(progress.step_elapsed_s)} of {length}"


def _bracket(records: tuple[StepRecord, ...]) -> str:
    """Say between which loads the SLA ends, as the sound steps show it."""
    sound = [record for record in records if not record.reasons and record.step.purpose != "probe"]
    holds = max((r.step.level for r in sound if r.judgement.verdict is Verdict.PASS), default=None)
    fails = min((r.step.level for r in sound if r.judgement.verdict is Verdict.FAIL), default=None)
    unit = "users" if records and records[-1].step.users is not None else "req/s"
    told = [
        f"{word} at {text.number(at)} {unit}" for word, at in (("holds", holds), ("fails", fails)) if at is not None
    ]
    return ", ".join(told) or "no step has decided yet"


def _marks(progress: Progress) -> list[Mark]:
    def x(step: Step, achieved_rps: float) -> float:
        return float(step.users) if step.users is not None else achieved_rps

    marks = [
        Mark(
            x=x(record.step, record.achieved_rps),
            latency_s=past.value,
            sign="·" if record.reasons else _SIGNS[record.judgement.verdict],
            style="dim" if record.reasons else _STYLES[record.judgement.verdict],
        )
        for record in progress.records
        if (past := getattr(record, _past_quantile(progress))) and past.value > 0
    ]
    if not progress.ended and progress.quantile and progress.quantile.value > 0:
        at = x(progress.step, progress.achieved_rps)
        marks.append(Mark(x=at, latency_s=progress.quantile.value, sign="◆", style="bold cyan"))
    return marks


def _past_quantile(progress: Progress) -> str:
    """Name the quantile by which steps that have ended are drawn: the SLA's where records hold it."""
    name = _sla_quantile(progress)
    return name if name in ("p50", "p95", "p99") else "p99"


def _legend(progress: Progress) -> str:
    past, now = _past_quantile(progress), _sla_quantile(progress)
    return f"{past}:  ● pass  x fail  ○ undecided  · not sound  ◆ now" + (f" ({now})" if now != past else "")


def _sla_quantile(progress: Progress) -> str:
    return str(progress.sla).partition("<")[0]


def _level(step: Step) -> str:
    return (
        text.rate(step.rate_rps)
        if step.rate_rps is not None
        else f"{step.users:,} user{'' if step.users == 1 else 's'}"
    )


def _latency(estimate: Estimate | None) -> str:
    return "not known" if estimate is None else f"{text.latency(estimate.value)} {text.latency_ends(estimate)}"


def _line(untrusted: str) -> str:
    """Return a text that may come from a target as one line without control characters."""
    return text.clean(" ".join(untrusted.split()))


def print_answer(run: Run, folder: Path, stream: TextIO) -> None:
    """Print a finished run's answer: verdict, numbers, why it stopped, what to do next, where the files are."""
    head = headline(run)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    for fact in facts(run):
        if run.answer.verdict != "found" and fact.value == NOT_KNOWN:
            continue
        table.add_row(Text(fact.name), Text(fact.value, style="bold"), Text(_line(fact.note)))
    label, title = (head.label, f"bold {_TONES[head.tone]}"), _line(head.title)
    opening = Text.assemble(label, title.removeprefix(head.label) if title.startswith(head.label) else f": {title}")
    parts: list[Text | Padding] = [opening, Padding(table, (1, 0) if table.row_count else 0), Text(_line(head.limits))]
    errors, _ = error_texts(run, limit=2)
    if errors and (run.answer.verdict == "target_failed" or run.answer.limited_by == "error budget"):
        told = "; ".join(f"{error.count:,} x {_line(error.words)}" for error in errors)
        parts.append(Text.assemble(("Errors: ", "bold"), told))
    if head.advice:
        parts.append(Text.assemble(("Next: ", "bold"), _line(head.advice)))
    parts.append(Text.assemble(("Files: ", "bold"), _files(folder)))
    screen = _console(stream)
    if screen.is_terminal:
        screen.print(Group(*parts))
        return
    with screen.capture() as captured:
        screen.print(Group(*parts))
    # rich fills lines up with spaces; in a file or a log they are noise.
    stream.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def _files(folder: Path) -> str:
    found = [name for name in _FILES if (folder / name).is_file()]
    return f"{folder}/ ({', '.join(found)})" if found else f"{folder}/"
