"""The terminal: a live view of a search or a load, and its answer. The only file that imports rich."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from analysis import Estimate, Run, Verdict
from analysis.judgement import ERROR_BUDGET
from loadgen.plot import Mark, plot
from loadgen.progress import Progress, Show
from loadgen.progress_words import bracket, costs, level, quantile_name, so_far, to_go, verdict_of
from loadgen.selfcheck import Selfcheck
from loadgen.trust import LEAST_ACHIEVED, MOST_CPU, SHARE, SLOWEST_S, Row
from reports import explain, generator, text
from reports.headline import facts, headline
from reports.load import Load, SpectrumRow, latency, percent, shares, shown, workers
from reports.steps import caution, error_texts
from reports.words import NOT_KNOWN

_BAR = 30
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
    told = ""
    for progress in updates:
        if progress.ended and progress.records and not _is_by_hand(progress):  # of a load, the answer says it all
            screen.print(step_line(progress), soft_wrap=True)
            if (plan := costs(progress)) not in ("", told):
                screen.print(f"on this server {plan}", soft_wrap=True)
                told = plan


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
    verdict = verdict_of(record)
    line = Text(f"step {record.index + 1:>3}  {record.step.purpose:<8}{level(record.step):>16}")
    line.append(f"  {quantile_name(progress)} {_latency(progress.quantile):<22}")
    line.append(f"{verdict.upper():<9}", style=_STYLES[verdict])
    line.append(f"  achieved {text.rate(record.achieved_rps)}, ok {record.counts['ok']:,} of {record.offered:,}")
    if record.aborted:
        line.append(", stopped early")
    if told := so_far(progress):
        line.append(f"; so far {told}{to_go(progress)}")
    for reason in record.reasons:
        line.append(f"\n          not sound: {_line(reason.text)}", style="yellow")
    return line


def view(progress: Progress, title: str, width: int, height: int) -> Group:
    """Return the live view of `width` columns and at most `height` rows."""
    sla = progress.sla
    rows = [
        _row(quantile_name(progress), _latency(progress.quantile), f"SLA {text.latency(sla.limit_s)}" if sla else ""),
        _row(
            "load",
            f"offered {text.rate(progress.offered_rps)}, achieved {text.rate(progress.achieved_rps)}",
            f"in flight {progress.in_flight:,}",
        ),
    ]
    if sla:
        rows.insert(0, _verdict_row(progress))
    if not _is_by_hand(progress):
        step = f"{progress.index + 1} {progress.step.purpose}, {level(progress.step)}"
        found = _row("so far", bracket(progress.records), so_far(progress))
        rows = [_row("step", step, _step_time(progress)), *rows, found]
        rows += [_row("plan", plan)] if (plan := costs(progress)) else []
    rows = [Text(_line(title), style="bold"), *rows, _time_row(progress, width)]
    plot_height = min(14, height - len(rows) - 3)
    if sla and not _is_by_hand(progress) and plot_height >= 6 and width >= 40:
        name = "users" if progress.step.users is not None and progress.step.counts else "req/s achieved"
        lines = plot(_marks(progress), sla.limit_s, min(width, 100), plot_height, name)
        rows += [Text(), *(Text.assemble(*line) for line in lines)]
        rows.append(Text(_legend(progress), style="dim"))
    for row in rows:
        row.no_wrap, row.overflow = True, "ellipsis"
    return Group(*rows[: max(1, height - 1)])


def _is_by_hand(progress: Progress) -> bool:
    """Say that this is a single load: there is no search to show."""
    return progress.step.purpose == "load"


def _row(name: str, value: str, note: str = "") -> Text:
    return Text.assemble((f"{name:<8}", "dim"), value, (f"   {note}" if note else "", "dim"))


def _verdict_row(progress: Progress) -> Text:
    judgement = progress.judgement
    if judgement is None:
        return _row("verdict", "none yet")
    row = Text.assemble(("verdict ", "dim"), (judgement.verdict.upper(), f"bold {_STYLES[judgement.verdict]}"))
    share, low, high, allowed = shares(judgement)
    violate = "fail" if judgement.binding == ERROR_BUDGET else f"violate {_line(judgement.binding)}"
    return row.append(f"   {share} [{low}, {high}] {violate}, {allowed} may", style="dim")


def _time_row(progress: Progress, width: int) -> Text:
    left = max(0.0, progress.budget_s - progress.elapsed_s)
    words = f" {text.duration(progress.elapsed_s)} used, {text.duration(left)} left{to_go(progress)}"
    cells = max(4, min(40, width - 8 - len(words)))
    filled = round(cells * min(1.0, progress.elapsed_s / progress.budget_s))
    return Text.assemble(("time    ", "dim"), ("━" * filled, "cyan"), ("─" * (cells - filled), "dim"), words)


def _step_time(progress: Progress) -> str:
    length = text.duration(progress.step.duration_s)
    over = progress.step_elapsed_s - progress.step.duration_s
    return f"draining after {length}" if over > 0 else f"{text.duration(progress.step_elapsed_s)} of {length}"


def _marks(progress: Progress) -> list[Mark]:
    marks = [
        Mark(
            x=record.step.place(record.achieved_rps),
            latency_s=past.value,
            sign="·" if record.reasons else _SIGNS[verdict_of(record)],
            style="dim" if record.reasons else _STYLES[verdict_of(record)],
        )
        for record in progress.records
        if (past := getattr(record, _past_quantile(progress))) and past.value > 0
    ]
    if not progress.ended and progress.quantile and progress.quantile.value > 0:
        at = progress.step.place(progress.achieved_rps)
        marks.append(Mark(x=at, latency_s=progress.quantile.value, sign="◆", style="bold cyan"))
    return marks


def _past_quantile(progress: Progress) -> str:
    """Name the quantile by which steps that have ended are drawn: the SLA's where records hold it."""
    name = quantile_name(progress)
    return name if name in ("p50", "p95", "p99") else "p99"


def _legend(progress: Progress) -> str:
    past, now = _past_quantile(progress), quantile_name(progress)
    return f"{past}:  ● pass  x fail  ○ undecided  · not sound  ◆ now" + (f" ({now})" if now != past else "")


def _latency(estimate: Estimate | None) -> str:
    return "not known" if estimate is None else f"{text.latency(estimate.value)} {text.latency_ends(estimate)}"


def _line(untrusted: str) -> str:
    """Return a text that may come from a target as one line without control characters."""
    return text.clean(" ".join(untrusted.split()))


def print_answer(run: Run, folder: Path, stream: TextIO) -> None:
    """Print a finished run's answer: verdict, numbers, why it stopped, what to do next, where the files are."""
    head = headline(run)
    opening = Text.assemble((head.label, f"bold {_TONES[head.tone]}"), f": {_line(head.title)}")
    load = shown(run)
    warned = [Text.assemble(("Note: ", "bold yellow"), _line(note)) for note in explain.notes(run)]
    parts: list[RenderableType] = [opening, *warned, *(_load_parts(load) if load else [_facts(run)])]
    if head.limits:
        parts.append(Text(_line(head.limits)))
    parts += [Text.assemble((f"{name}: ", "bold"), _line(words)) for name, words in explain.short_lines(run)]
    if warning := caution(run):
        parts.append(Text.assemble(("Caution: ", "bold red"), _line(warning)))
    errors, _ = error_texts(run, limit=2 if run.answer else 8)
    is_said = len(errors) == 1 and run.answer is None and errors[0].words[1:] in head.limits
    if errors and _is_about_errors(run) and not is_said:
        told = "; ".join(f"{error.count:,} x {_line(error.words)}" for error in errors)
        parts.append(Text.assemble(("Errors: ", "bold"), told))
    if proof := generator.verdict(run):
        parts.append(Text.assemble(("Generator: ", "bold"), proof))
    if head.advice:
        parts.append(Text.assemble(("Next: ", "bold"), _line(head.advice)))
    parts.append(Text.assemble(("Files: ", "bold"), _files(folder)))
    _print(parts, stream)


def _print(parts: list[RenderableType], stream: TextIO) -> None:
    screen = _console(stream)
    if screen.is_terminal:
        screen.print(Group(*parts))
        return
    with screen.capture() as captured:
        screen.print(Group(*parts))
    # rich fills lines up with spaces; in a file or a log they are noise.
    stream.write("\n".join(line.rstrip() for line in captured.get().split("\n")))


def _is_about_errors(run: Run) -> bool:
    answer = run.answer
    return answer is None or answer.verdict == "target_failed" or answer.limited_by == "error budget"


def _facts(run: Run) -> Padding:
    """Lay out the numbers of a search's answer; what is not known is left out where nothing was found."""
    table = _grid()
    for fact in facts(run):
        if run.answer is not None and run.answer.verdict != "found" and fact.value == NOT_KNOWN:
            continue
        table.add_row(Text(fact.name), Text(fact.value, style="bold"), Text(_line(fact.note)))
    return Padding(table, (1, 0) if table.row_count else 0)


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim")
    return table


def _load_parts(load: Load) -> list[RenderableType]:
    """Lay out a load: throughput and books, the latency spectrum from due and from sent, the client's own part."""
    record, client = load.record, load.record.client
    above = [("Throughput", text.rate(record.throughput_rps), load.offered), ("Requests", load.accounts, "")]
    late = ", ".join(f"{name} {text.latency(client.get(f'lateness_{name}_s'))}" for name in ("p50", "p99", "max"))
    below = [("Lateness", late, "the client's own, from due to send")]
    if (cpu := client.get("cpu_us_per_request")) is not None:
        below.append(("Client CPU", f"{text.number(cpu)} µs a request", workers(client)))
    if (opened := client.get("connections_opened")) is not None:
        below.append(("Connections", f"{client.get('connections', 0):,} at once", f"{opened:,} opened during the load"))
    note = Padding(Text(load.note, style="dim"), (1, 0))
    return [Padding(_named(above), (1, 0)), _spectrum(load.rows), note, _named(below), Text()]


def _named(rows: list[tuple[str, str, str]]) -> Table:
    """Lay out names, values and remarks."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value, note in rows:
        table.add_row(name, Text.assemble(value, (f"  {note}" if note else "", "dim")))
    return table


def _spectrum(rows: list[SpectrumRow]) -> Table:
    """Lay out the latency spectrum as HdrHistogram does, a bar beside each row; its dim end is time before the send."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("Latency", "from due", "from sent"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    longest = max((row.due_s for row in rows if isfinite(row.due_s)), default=1.0)
    for row in rows:
        due, sent = (round(_BAR * s / longest) if isfinite(s) else 0 for s in (row.due_s, row.sent_s))
        bar = Text.assemble(("━" * min(sent, due), "cyan"), ("╌" * (due - sent), "cyan dim"))
        table.add_row(percent(row.quantile), Text(latency(row.due_s), style="bold"), latency(row.sent_s), bar)
    return table


def _files(folder: Path) -> str:
    found = [name for name in _FILES if (folder / name).is_file()]
    return f"{folder}/ ({', '.join(found)})" if found else f"{folder}/"


@contextmanager
def status(title: str, stream: TextIO) -> Iterator[Callable[[str], None]]:
    """Show on a terminal what is being done, as long as it is; nothing elsewhere.

    Drawn when told, and never between: a spinner would take the CPU that is being measured.
    """
    screen = _console(stream)
    if not screen.is_terminal or screen.is_dumb_terminal:
        yield lambda _: None
        return
    with Live(
        Text(title), console=screen, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
    ) as on:
        yield lambda words: on.update(Text(_line(f"{title}: {words}")), refresh=True)


def print_selfcheck(checked: Selfcheck, stream: TextIO) -> None:
    """Print what a machine's numbers can be trusted for, and what was measured to know it."""
    parts: list[RenderableType] = [_bench_line(checked)]
    if checked.ceiling:
        at = checked.ceiling
        users = f"{checked.users:,} connection{'' if checked.users == 1 else 's'}"
        found = Text.assemble("at least ", (text.rate(at.rate_rps), "bold"), f", with {users} in a closed loop")
        used = f"{text.number(at.cpu_us_per_request)} µs CPU a request, {text.share(at.cpu_share)} of a core"
        rows = Table.grid(padding=(0, 2))
        rows.add_row(Text("Ceiling", "dim"), found)
        rows.add_row("", Text(f"{used}; null server {text.share(at.server_cpu_share)}", "dim"))
        parts.append(Padding(rows, (1, 0, 0, 0)))
    if checked.rows:
        rows_shown = _last_tries(checked.rows)
        note = _SELFCHECK_NOTE + (_FLAW_NOTE if any(row.flaw for row in rows_shown) else "")
        if len(rows_shown) < len(checked.rows):
            note += " A rate that failed is tried once more; the better try is shown."
        parts += [Padding(_selfcheck_rows(rows_shown), (1, 0)), Text(note, style="dim")]
    parts += [Text(), *_target_parts(checked), *_trust_parts(checked)]
    _print(parts, stream)


_SELFCHECK_NOTE = (
    "Poisson arrivals, times in ms. Added: from the due time to the reply of a server that does nothing; late: until "
    f"the send. SLA from: {1 / SHARE:.0f} times the added p99."
)


_FLAW_NOTE = (
    f" slow: the added p99 is above {text.latency(SLOWEST_S)}; behind: less than {text.share(LEAST_ACHIEVED)} was "
    f"answered in time; CPU: a worker used more than {text.share(MOST_CPU)} of its core."
)


def _last_tries(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """Return one row a rate, by rate: of two tries the one without a flaw, or else the last."""
    by_rate: dict[float, Row] = {}
    for row in rows:
        if row.rate_rps not in by_rate or by_rate[row.rate_rps].flaw:
            by_rate[row.rate_rps] = row
    return tuple(by_rate[rate] for rate in sorted(by_rate))


def _bench_line(checked: Selfcheck) -> Text:
    cores = f"{checked.cores} core{'' if checked.cores == 1 else 's'}"
    workers = f"{checked.workers} worker{'' if checked.workers == 1 else 's'}"
    core = checked.null_server_core
    shared = "on the same core: the truth is better" if checked.cores == 1 else "on any core"
    where = shared if core is None else f"on core {core}"
    paced = "" if checked.pacing == "timerfd" else f", paced by {checked.pacing}"
    return Text.assemble(("This machine: ", "bold"), f"{cores}, {workers}{paced}, null server {where}")


def _selfcheck_rows(rows: tuple[Row, ...]) -> Table:
    """Lay out the steps; all times in ms, so that a column can be compared."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    heads = (
        "offered\nreq/s", "done\n%", "added\np50", "\np99", "late\np50", "\np99", "\nmax", "CPU µs\n/req", "core\n%",
        "SLA\nfrom",
    )  # fmt: skip
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        times = (row.added_p50_s, row.added_p99_s, row.lateness_p50_s, row.lateness_p99_s, row.lateness_max_s)
        told = Text(f"no: {row.flaw}", "red") if row.flaw else Text(text.latency(row.limit_s), "green")
        table.add_row(
            f"{row.rate_rps:,.0f}", f"{100 * row.achieved_share:.1f}", *(_ms(seconds) for seconds in times),
            f"{row.cpu_us_per_request:.1f}", f"{100 * row.cpu_share:.0f}", told,
        )  # fmt: skip
    return table


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def _target_parts(checked: Selfcheck) -> list[RenderableType]:
    target = checked.target
    if target is None:
        return []
    tls = "" if target.tls_s is None else f", TLS {text.latency(target.tls_s)}"
    told = Text.assemble(
        ("Target: ", "bold"), f"{_line(target.url)}: connect {text.latency(target.connect_s)}{tls}, ",
        f"response p50 {text.latency(target.response_p50_s)} ({target.requests} requests at 20 req/s)",
    )  # fmt: skip
    if checked.own_share is not None:
        added = text.latency(checked.rows[0].added_p50_s)
        told.append(f"; of this the generator and this machine add {added} ({text.share(checked.own_share)})")
    for words, count in list(target.errors.items())[:2]:
        told.append(f"\n        {count} x {_line(words)}", style="yellow")
    return [told, Text()]


def _trust_parts(checked: Selfcheck) -> list[RenderableType]:
    """Say in one sentence what can be trusted, what ends it, and what to do."""
    trust = checked.trust
    if trust is None:
        return [Text("Interrupted: there is no conclusion.", style="bold yellow")]
    if trust.rate_rps is None or trust.limit_s is None:
        head = Text("Trust no latency measured from this machine as it is, at any rate.", style="bold red")
    else:
        best = f"Trust rates up to {text.rate(trust.rate_rps)} and SLA limits down to {text.latency(trust.limit_s)}"
        if trust.fine_rps is not None:
            best += f"; up to {text.rate(trust.fine_rps)}, limits down to {text.latency(trust.fine_limit_s)}"
        head = Text(f"{best}.", style="bold green")
    limit = Text.assemble(("Limited by: ", "bold"), f"{trust.limited_by}.")
    return [head, limit, Text.assemble(("Next: ", "bold"), trust.advice)]
