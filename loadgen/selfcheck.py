"""This machine's own ceiling and error, measured with the engine of a run against a server that does nothing."""

import contextlib
import math
import selectors
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from analysis import Outcome, Step, StepProgress, StepResult
from loadgen import child
from loadgen.clock import NS_PER_S, now_ns
from loadgen.errors import OpfindError, TargetError
from loadgen.fleet import Fleet, Setup, affordable_connections
from loadgen.mask import mask_url
from loadgen.target import Endpoint, failure_words, request_bytes
from loadgen.trust import Ceiling, Row, Trust, next_rate, trust
from scenarios.scenario import Target

USERS = 64  # as wrk is usually run
_BODY = b'{"inputs": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2]}'
_CONNECTIONS = 4096  # the default of `run`
_TIMEOUT_NS = 2 * NS_PER_S
_HOPELESS_S = 0.25  # a request that waits so long for a null server ends its step
_CLOSED_S, _OPEN_S = 2.0, 1.3
_BRIEF_CLOSED_S, _BRIEF_OPEN_S, _BRIEF_RPS = 0.2, 0.4, 1000.0
_TOUCH = Step(rate_rps=20.0, duration_s=1.0, arrivals="constant", purpose="selfcheck")
_TOUCH_TIMEOUT_NS = 5 * NS_PER_S
_PATIENCE_S = 5.0
_FROM_HEALTH = ("lateness_p50_s", "lateness_p99_s", "lateness_max_s", "cpu_us_per_request", "cpu_share")

IsOver = Callable[[], bool]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """Say how a target answered 20 requests.

    Attributes:
        url: Without query.
        connect_s: Median of three TCP connections.
        tls_s: Median of three handshakes on top; None without TLS.
        response_p50_s: From the due time to the end of the reply, whatever its status.
        requests: That fell due.
        errors: Requests that did not succeed, by the target's own words.
    """

    url: str
    connect_s: float
    tls_s: float | None
    response_p50_s: float
    requests: int
    errors: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selfcheck:
    """Hold what was measured; None and no rows where an interruption came first.

    Attributes:
        cores: That this process may use.
        null_server_core: To which the null server was confined; None: it shares its core with the engine.
        workers: Engine processes.
        users: Of the closed loop.
        pacing: How the engine waits for due times.
        wall_s: That all this took.
    """

    cores: int
    null_server_core: int | None
    workers: int
    users: int
    pacing: str
    ceiling: Ceiling | None
    rows: tuple[Row, ...]
    trust: Trust | None
    target: Touch | None
    wall_s: float

    @property
    def own_share(self) -> float | None:
        """Return how much of the target's median response the generator may have added, at its lowest rate."""
        if self.target is None or not self.rows:
            return None
        return min(1.0, self.rows[0].added_p50_s / self.target.response_p50_s)

    @property
    def exit_code(self) -> int:
        """Return 4 when no rate can be trusted, else 0."""
        return 4 if self.trust and self.trust.rate_rps is None else 0


def measure(target: Target | None, *, workers: int, users: int, cores: int, say: Say, is_over: IsOver) -> Selfcheck:
    """Measure this machine in less than 20 s, and a target by a light touch.

    Args:
        target: Gets four connections at once at most, and 20 requests in a second, no more; None: no target.
        workers: Engine processes.
        users: Of the closed loop.
        cores: That this process may use.
        say: Told what is being measured.
        is_over: Asked about every 100 ms; True ends it with what there is.

    Raises:
        UsageError: The target's URL or TLS files are wrong, or too few files may be open.
        TargetError: The target cannot be reached.
    """
    start_ns = now_ns()
    ceiling, rows, trusted = None, list[Row](), None
    touched = _touch(target, say, is_over) if target else None
    with _bench(workers, users, is_over) as bench:
        say(f"closed loop, {users:,} connections")
        found = bench.ceiling(users, _CLOSED_S)
        if not is_over():
            ceiling = found
            while (rate_rps := next_rate(rows, found.rate_rps)) is not None:
                say(f"open loop, {rate_rps:,.0f} req/s")
                row = bench.row(rate_rps, _OPEN_S)
                if is_over():
                    break
                rows.append(row)
            else:
                trusted = trust(found, rows, workers=workers, cores=cores)
    return Selfcheck(
        cores=cores, null_server_core=bench.server.core, workers=workers, users=users, pacing=bench.fleet.pacing,
        ceiling=ceiling, rows=tuple(rows), trust=trusted, target=touched, wall_s=(now_ns() - start_ns) / NS_PER_S,
    )  # fmt: skip


def brief(workers: int, is_over: IsOver) -> dict[str, Any]:
    """Return what a run notes of its machine: plain numbers by name, or a note that says why there are none.

    Within a second: a burst of a closed loop for the ceiling, then a step at 1,000 requests per second.
    """
    try:
        if not is_over():
            with _bench(workers, USERS, is_over) as bench:
                ceiling = bench.ceiling(USERS, _BRIEF_CLOSED_S)
                row = bench.row(_BRIEF_RPS, _BRIEF_OPEN_S)
    except Exception as error:  # noqa: BLE001 (whatever comes, it is no reason to end the run)
        return {"note": f"the selfcheck failed: {str(error) or type(error).__name__}"}
    if is_over():
        return {"note": "interrupted"}
    kept = {name: value for name, value in asdict(row).items() if name not in ("requests", "server_cpu_share")}
    return {"ceiling_rps": ceiling.rate_rps, **kept}


def as_json(checked: Selfcheck | None, *, exit_code: int, error: str | None, version: str) -> dict[str, Any]:
    """Return what `--json` prints: the same keys for every outcome, null where one is absent."""
    plain = asdict(checked) if checked else dict.fromkeys(field.name for field in fields(Selfcheck))
    rows = checked.rows if checked else ()
    return {
        **_named("trusted_", plain.pop("trust"), Trust),
        **_named("ceiling_", plain.pop("ceiling"), Ceiling),
        **_named("target_", plain.pop("target"), Touch),
        "target_own_share": checked.own_share if checked else None,
        **plain,
        "rows": [{**asdict(row), "limit_s": row.limit_s, "flaw": row.flaw or None} for row in rows],
        "exit_code": exit_code,
        "error": error,
        "version": version,
    }


def _named(prefix: str, values: dict[str, Any] | None, kind: type[Trust | Ceiling | Touch]) -> dict[str, Any]:
    return {prefix + field.name: (values or {}).get(field.name) for field in fields(kind)}


class NullServer:
    """Hold a null server: its endpoint, its core, and the CPU time that it has used."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout
        self.pid = process.pid
        listening = self._line()
        self.endpoint = Endpoint.of(f"{listening[0]}/predict")
        self.core = int(listening[1]) if len(listening) > 1 else None

    def cpu_ns(self) -> int:
        """Return the CPU time that it has used so far."""
        with contextlib.suppress(OSError):
            self._stdin.write(b"\n")
            self._stdin.flush()
        return int(self._line()[0])

    def _line(self) -> list[str]:
        """Read a line's words; it writes each at once."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            words = self._stdout.readline().decode().split() if selector.select(_PATIENCE_S) else []
        if not words:
            raise OpfindError("the null server does not answer")
        return words


@contextlib.contextmanager
def null_server() -> Iterator[NullServer]:
    """Start a null server; it ends with this process, however that ends.

    Raises:
        OpfindError: It did not start.
    """
    with child.start("loadgen.null_server") as process:
        assert process.stdin is not None
        try:
            yield NullServer(process)
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """Run steps of the engine against a null server."""

    server: NullServer
    fleet: Fleet
    is_over: IsOver

    def _run(self, step: Step) -> tuple[StepResult, dict[str, Any], float]:
        """Return the result, the client's health, and the null server's share of a core."""

        def is_hopeless(progress: StepProgress) -> bool:
            return progress.oldest_pending_s > _HOPELESS_S or self.is_over()

        before_ns = self.server.cpu_ns()
        result, client, _ = self.fleet.run_step(step, is_hopeless, is_abandoned=self.is_over)
        return result, client, (self.server.cpu_ns() - before_ns) / max(1, result.end_ns - result.start_ns)

    def ceiling(self, users: int, duration_s: float) -> Ceiling:
        """Measure the highest rate, after the first quarter, in which the users arrive."""
        result, client, server_share = self._run(Step(users=users, duration_s=duration_s, purpose="selfcheck"))
        done_s = (result.done_ns[result.outcome == Outcome.OK] - result.start_ns) / NS_PER_S
        return Ceiling(
            rate_rps=int(np.count_nonzero((done_s > duration_s / 4) & (done_s <= duration_s))) / (0.75 * duration_s),
            cpu_us_per_request=client["cpu_us_per_request"],
            cpu_share=client["cpu_share"],
            server_cpu_share=server_share,
        )

    def row(self, rate_rps: float, duration_s: float) -> Row:
        """Measure what is added at a rate."""
        result, client, server_share = self._run(Step(rate_rps=rate_rps, duration_s=duration_s, purpose="selfcheck"))
        added_s = result.response_ns / NS_PER_S
        p50, p99 = np.quantile(added_s, (0.5, 0.99), method="higher") if added_s.size else (math.inf, math.inf)
        until_last_s = (int(result.done_ns.max(initial=result.start_ns)) - result.start_ns) / NS_PER_S
        offered_s = result.offered_span_s
        return Row(
            rate_rps=rate_rps,
            requests=result.offered,
            achieved_share=result.counts["ok"] / max(1, result.offered) * offered_s / max(offered_s, until_last_s),
            added_p50_s=float(p50),
            added_p99_s=float(p99),
            server_cpu_share=server_share,
            **{name: client[name] for name in _FROM_HEALTH},
        )


@contextlib.contextmanager
def _bench(workers: int, users: int, is_over: IsOver) -> Iterator[_Bench]:
    connections = affordable_connections(max(_CONNECTIONS, users))  # first, because the null server inherits the limit
    with null_server() as server:
        request = request_bytes(server.endpoint, None, {}, _BODY)
        setup = Setup(
            endpoint=server.endpoint, request=request, timeout_ns=_TIMEOUT_NS, connections=connections,
            workers=min(workers, connections),
        )  # fmt: skip
        with Fleet(setup) as fleet:
            yield _Bench(server=server, fleet=fleet, is_over=is_over)


def _touch(target: Target, say: Say, is_over: IsOver) -> Touch | None:
    """Connect three times, then send 20 requests in a second; None when interrupted before a reply."""
    say("the target, 20 requests")
    url = target.url or ""
    endpoint = Endpoint.of(url, target)
    try:
        connects_s, handshakes_s = zip(*(_connect(endpoint) for _ in range(3)), strict=True)
    except OSError as error:
        slow = f"no answer within {_PATIENCE_S:g} s"
        words = slow if isinstance(error, TimeoutError) else failure_words(error)
        raise TargetError(f"cannot connect to {mask_url(url)}: {words}") from None
    request = request_bytes(endpoint, target.method, target.headers, target.body)
    setup = Setup(endpoint=endpoint, request=request, timeout_ns=_TOUCH_TIMEOUT_NS, connections=4, workers=1)
    with Fleet(setup) as fleet:
        result, _, errors = fleet.run_step(_TOUCH, lambda _: is_over(), is_abandoned=is_over)
    replied = np.isin(result.outcome, (Outcome.OK, Outcome.HTTP_STATUS))
    if not replied.any():
        if is_over():
            return None
        words = next(iter(errors), "silence")
        raise TargetError(f"{mask_url(url)} answered none of {result.offered} requests: {words}")
    return Touch(
        url=mask_url(url),
        connect_s=statistics.median(connects_s),
        tls_s=statistics.median(handshakes_s) if endpoint.is_tls else None,
        response_p50_s=float(np.median(result.response_ns[replied])) / NS_PER_S,
        requests=result.offered,
        errors=errors,
    )


def _connect(endpoint: Endpoint) -> tuple[float, float]:
    """Return how long connecting took, and how long the TLS handshake did, seconds; without TLS that is 0."""
    context = endpoint.tls_context()
    start_ns = now_ns()
    with _connected(endpoint) as plain:
        connected_ns = now_ns()
        connect_s = (connected_ns - start_ns) / NS_PER_S
        if context is None:
            return connect_s, 0.0
        with context.wrap_socket(plain, server_hostname=endpoint.host):
            return connect_s, (now_ns() - connected_ns) / NS_PER_S


def _connected(endpoint: Endpoint) -> socket.socket:
    if endpoint.family != socket.AF_UNIX:
        return socket.create_connection((endpoint.address, endpoint.port), timeout=_PATIENCE_S)
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(_PATIENCE_S)
    opened.connect(endpoint.address)
    return opened
