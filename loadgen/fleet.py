"""The engine processes, driven from the coordinator: a Step in, a StepResult out."""

import contextlib
import os
import resource
import selectors
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from analysis import Outcome, Reason, Step, StepProgress, StepResult
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.engine import COLUMNS
from loadgen.errors import OpfindError, UsageError
from loadgen.messages import Unpacker, pack
from loadgen.target import Endpoint
from loadgen.worker import load_of

_SPILL_BYTES = 64 * 1024 * 1024
_ROW_BYTES = 8 * (COLUMNS + 1)
_VIEW_ROWS = 100_000  # a live view judges at most so many, so that watching a long step stays cheap
_LEAD_NS = 20 * NS_PER_MS  # workers learn of a step this long before it starts
_SPARE_FDS = 64
_READY_S = 30.0
_SILENCE_S = 30.0  # a worker that is so long overdue hangs; it is ended, and its requests are lost

Rows = NDArray[np.int64]
Watch = Callable[["StepView"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """Tell the engines what stays the same over a run.

    Attributes:
        endpoint: The target.
        request: Bytes of the request.
        timeout_ns: A request is given up this long after its due time.
        connections: Most open connections, all workers together.
        workers: Engine processes.
        think_s: Mean think time of a closed-loop user, seconds.
        cv: Coefficient of variation of gamma arrivals.
        replay: Due times to replay, seconds.
        lateness_limit_ns: A step whose p99 send lateness is above this is limited by the client.
    """

    endpoint: Endpoint
    request: bytes
    timeout_ns: int
    connections: int
    workers: int
    think_s: float = 0.0
    cv: float = 1.0
    replay: tuple[float, ...] = ()
    lateness_limit_ns: int = 10 * NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepView:
    """Show a step under way, about once a second: its requests that have ended, at most the latest 100,000."""

    step: Step
    elapsed_s: float
    in_flight: int
    result: StepResult


class _Member:
    """One engine process and what it last said."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loadgen.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the coordinator, which lets the workers finish
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        self.unpacker = Unpacker()
        self.is_alive = True
        self.progress: dict[str, Any] = {}
        self.ended: dict[str, Any] | None = None
        self.rows = 0

    def tell(self, **message: Any) -> None:
        """Send a command; a dead worker is noticed when its pipe is read."""
        with contextlib.suppress(OSError):
            self.stdin.write(pack(message))
            self.stdin.flush()


class Fleet:
    """Start the engine processes, run steps on them, end them. Use as a context manager."""

    def __init__(self, setup: Setup) -> None:
        _raise_fd_limit(setup.connections // setup.workers + _SPARE_FDS)
        self._setup = setup
        self.pacing = ""
        self._selector = selectors.DefaultSelector()
        self._members = [_Member(index) for index in range(setup.workers)]
        for member in self._members:
            self._selector.register(member.stdout, selectors.EVENT_READ, member)
            member.tell(op="setup", **self._worker_setup(member.index))
        deadline_ns = now_ns() + round(_READY_S * NS_PER_S)
        while not all(member.progress for member in self._members):
            for member, message in self._receive(1.0):
                member.progress = message
                self.pacing = message.get("pacing", "")
            if now_ns() > deadline_ns or not all(member.is_alive for member in self._members):
                self.close()
                raise OpfindError("an engine process did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the engine processes: they end when their pipe closes."""
        for member in self._members:
            with contextlib.suppress(OSError):
                member.stdin.close()
        for member in self._members:
            try:
                member.process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                member.process.kill()
                member.process.wait()
            member.stdout.close()
        self._selector.close()

    def _worker_setup(self, index: int) -> dict[str, Any]:
        setup = self._setup
        return {
            "endpoint": asdict(setup.endpoint),
            "request": setup.request,
            "timeout_ns": setup.timeout_ns,
            "connections": max(1, len(range(index, setup.connections, setup.workers))),
            "worker": index,
            "workers": setup.workers,
            "think_s": setup.think_s,
            "arrivals": {"cv": setup.cv, "replay": list(setup.replay)},
        }

    def _receive(self, timeout_s: float) -> list[tuple[_Member, dict[str, Any]]]:
        """Read what workers have sent; an ended pipe marks its worker dead."""
        messages = []
        for key, _ in self._selector.select(timeout_s):
            member: _Member = key.data
            data = os.read(member.stdout.fileno(), 1 << 20)
            if not data:
                self._selector.unregister(member.stdout)
                member.is_alive = False
            messages += [(member, message) for message in member.unpacker.feed(data)]
        return messages

    def run_step(
        self,
        step: Step,
        overloaded: Callable[[StepProgress], bool],
        *,
        watch: Watch | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        """Run one step on every worker.

        Args:
            step: What to run.
            overloaded: Asked about every 100 ms; True stops sending.
            watch: Shown what has ended, about once a second.
            is_abandoned: Asked as often; True gives up what is in flight.

        Returns:
            The result, the client's own health by name, and errors by their words.
        """
        members = [member for member in self._members if member.is_alive]
        if not members:
            raise OpfindError("every engine process has died")
        start_ns = now_ns() + _LEAD_NS
        command = asdict(step) | {"start_ns": start_ns}
        for member in members:
            member.progress, member.ended, member.rows = {}, None, 0
            member.tell(op="step", **command)
        deadline_ns = start_ns + round((step.duration_s + _SILENCE_S) * NS_PER_S) + 2 * self._setup.timeout_ns
        stopped_ns: int | None = None
        was_abandoned = False
        asked_ns = shown_ns = start_ns
        with tempfile.SpooledTemporaryFile(_SPILL_BYTES) as spool:
            while any(member.is_alive and member.ended is None for member in members):
                for member, message in self._receive(0.1):
                    self._take(member, message, spool)
                now = now_ns()
                if now - asked_ns >= 100 * NS_PER_MS:
                    asked_ns = now
                    progress = _progress(members, now - start_ns)
                    if stopped_ns is None and overloaded(progress):
                        stopped_ns = now
                        self._tell_all(members, "stop")
                    if not was_abandoned and is_abandoned():
                        stopped_ns, was_abandoned = stopped_ns or now, True
                        self._tell_all(members, "abandon")
                    if now > deadline_ns:
                        _kill_silent(members)
                if watch and now - shown_ns >= NS_PER_S:
                    shown_ns = now
                    watch(_view(step, start_ns, now, members, _latest_rows(spool, _VIEW_ROWS)))
            # A stop that came after the last due time cut nothing off.
            is_aborted = stopped_ns is not None and stopped_ns < start_ns + round(step.duration_s * NS_PER_S)
            rows = _rows(spool)
            lost = self._lost_rows(command, members, stopped_ns, rows)
            return self._finish(step, start_ns, members, np.concatenate([rows, lost]), is_aborted=is_aborted)

    @staticmethod
    def _tell_all(members: list[_Member], op: str) -> None:
        for member in members:
            member.tell(op=op)

    @staticmethod
    def _take(member: _Member, message: dict[str, Any], spool: "tempfile.SpooledTemporaryFile[bytes]") -> None:
        match message["op"]:
            case "progress":
                member.progress = message
            case "block":
                rows = np.frombuffer(message["rows"], dtype=np.int64).reshape(-1, COLUMNS)
                member.rows += len(rows)
                tagged = np.column_stack([rows, np.full(len(rows), member.index)])
                spool.write(tagged.tobytes())
            case "ended":
                member.ended = message

    def _lost_rows(self, command: dict[str, Any], members: list[_Member], stopped_ns: int | None, rows: Rows) -> Rows:
        """Account for what dead workers were to send: everything that was due and did not come back is lost."""
        now = now_ns()
        is_over = not any(member.is_alive for member in members)  # else the others have run the step to its end
        until_ns = stopped_ns or (now if is_over else command["start_ns"] + round(command["duration_s"] * NS_PER_S))
        lost = [np.empty((0, COLUMNS + 1), dtype=np.int64)]
        for member in members:
            if member.is_alive:
                continue
            load = load_of(command, self._worker_setup(member.index))
            if load.schedule is None:
                due = np.full(load.users, command["start_ns"])
            else:
                due = np.concatenate([*load.schedule, np.empty(0, dtype=np.int64)]) + command["start_ns"]
                due = due[due < until_ns]
                due = np.setdiff1d(due, rows[rows[:, -1] == member.index, 0])
            zero = np.zeros_like(due)
            worker = np.full_like(due, member.index)
            columns = [due, zero, zero, np.maximum(due, now), np.full_like(due, Outcome.LOST), worker]
            lost.append(np.column_stack(columns))
        return np.concatenate(lost)

    def _finish(
        self, step: Step, start_ns: int, members: list[_Member], rows: Rows, *, is_aborted: bool
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        errors: Counter[str] = Counter()
        for member in members:
            errors.update((member.ended or {}).get("errors", {}))
        dead = [member.index for member in members if not member.is_alive]
        if dead:
            errors[f"engine process {', '.join(map(str, dead))} died"] = int((rows[:, 4] == Outcome.LOST).sum())
        ended = [member.ended for member in members if member.ended is not None]
        end_ns = max([message["at_ns"] for message in ended], default=now_ns())
        client = self._health(rows, ended, (end_ns - start_ns) / NS_PER_S)
        reasons = self._reasons(rows, client, dead)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        due, sent, first, done, outcome, _ = rows.T
        result = StepResult.from_arrays(
            step, due, done, outcome.astype(np.uint8), aborted=is_aborted, sent_ns=sent, first_byte_ns=first,
            start_ns=start_ns, end_ns=max(end_ns, int(done.max(initial=start_ns))),
            drained=not np.any((outcome == Outcome.TIMEOUT) | (outcome == Outcome.LOST)), reasons=reasons,
        )  # fmt: skip
        return result, client, dict(errors.most_common())

    def _health(self, rows: Rows, ended: list[dict[str, Any]], span_s: float) -> dict[str, Any]:
        """Return the client's own health: lateness of sends, loop lag, CPU, connections."""
        was_sent = rows[:, 1] > 0
        lateness = (rows[was_sent, 1] - rows[was_sent, 0]) / NS_PER_S
        p50, p99, top = np.quantile(lateness, [0.5, 0.99, 1.0]).tolist() if lateness.size else (0.0, 0.0, 0.0)
        cpu = [message["cpu_ns"] / NS_PER_S for message in ended] or [0.0]
        return {
            "lateness_p50_s": p50,
            "lateness_p99_s": p99,
            "lateness_max_s": top,
            "loop_lag_max_s": max([message["lag_ns"] / NS_PER_S for message in ended], default=0.0),
            "cpu_share": max(cpu) / max(span_s, 1e-9),
            "cpu_us_per_request": sum(cpu) * 1e6 / max(1, len(rows)),
            "connections": sum(message["connections"] for message in ended),
            "connections_opened": sum(message["opened"] for message in ended),
            "connection_waits": sum(message["connection_waits"] for message in ended),
            "workers": len(ended),
        }

    def _reasons(self, rows: Rows, client: Mapping[str, Any], dead: list[int]) -> tuple[Reason, ...]:
        """Say what, on the client's side, held the load back."""
        setup, reasons = self._setup, []
        if dead:
            reasons.append(Reason("client", f"engine process {dead[0]} died; its requests are counted as lost"))
        if client["connection_waits"] > 0.01 * len(rows):
            reasons.append(
                Reason(
                    "client",
                    f"all {setup.connections} connections were busy for {client['connection_waits']} requests: "
                    f"raise --connections (open files are limited to {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})",
                )
            )
        elif client["lateness_p99_s"] * NS_PER_S > setup.lateness_limit_ns:
            reasons.append(
                Reason(
                    "client",
                    f"requests left {client['lateness_p99_s'] * 1e3:.2g} ms late (p99) where "
                    f"{setup.lateness_limit_ns / NS_PER_MS:.2g} ms is allowed: free the CPU or raise --workers",
                )
            )
        if client["cpu_share"] > 0.9 and len(rows) > 1000:
            reasons.append(
                Reason("client", f"an engine process used {client['cpu_share']:.0%} of its core: raise --workers")
            )
        return tuple(reasons)


def _kill_silent(members: list[_Member]) -> None:
    """End the workers that should long have ended their step; the end of their pipe is noticed as any death is."""
    for member in members:
        if member.is_alive and member.ended is None:
            member.process.kill()


def _raise_fd_limit(needed: int) -> None:
    """Lift the soft limit on open files to what the connections need.

    Raises:
        UsageError: The hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(
            f"--connections needs {needed} open files in a process and the limit is {hard}: "
            f"lower --connections to {max(1, hard - _SPARE_FDS)} or raise 'ulimit -Hn'"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _rows(spool: "tempfile.SpooledTemporaryFile[bytes]") -> Rows:
    """Return the rows so far, int64 (n, 6): in memory while they are few, mapped from the file once they spilled."""
    spool.flush()
    shape = (spool.tell() // _ROW_BYTES, COLUMNS + 1)
    if shape[0] and getattr(spool, "_rolled", False):
        mapped = spool._file  # noqa: SLF001 (the only way to the file behind it)
        return np.memmap(mapped, dtype=np.int64, mode="r", shape=shape)
    return _latest_rows(spool, shape[0])


def _latest_rows(spool: "tempfile.SpooledTemporaryFile[bytes]", most: int) -> Rows:
    """Return at most the latest `most` rows, int64 (n, 6)."""
    size = spool.tell()
    spool.seek(max(0, size - most * _ROW_BYTES))
    rows = np.frombuffer(spool.read(), dtype=np.int64).reshape(-1, COLUMNS + 1)
    spool.seek(size)
    return rows


def _progress(members: list[_Member], elapsed_ns: int) -> StepProgress:
    """Add up what the workers last said."""
    said = [member.progress for member in members if member.progress]
    done, busy = sum(p["done"] for p in said), sum(p["busy"] for p in said)
    return StepProgress(
        elapsed_s=max(0, elapsed_ns) / NS_PER_S,
        sent=done + busy,
        done=done,
        in_flight=busy + sum(p["waiting"] for p in said),
        oldest_pending_s=max([p["oldest_ns"] for p in said], default=0) / NS_PER_S,
    )


def _view(step: Step, start_ns: int, now: int, members: list[_Member], rows: Rows) -> StepView:
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    result = StepResult.from_arrays(
        step, rows[:, 0], rows[:, 3], rows[:, 4].astype(np.uint8), start_ns=start_ns, end_ns=now, aborted=True
    )
    progress = _progress(members, now - start_ns)
    return StepView(step=step, elapsed_s=progress.elapsed_s, in_flight=progress.in_flight, result=result)
