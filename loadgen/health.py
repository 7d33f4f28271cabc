"""What the load generator says of itself after a step, and when that makes it the limit."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import Histogram, Outcome, Reason, Step
from analysis.delivery import Delivery, delivery
from analysis.little import little
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.rows import Table

_MOST_WAITING = 0.01  # share of requests that may find all connections busy
_MOST_CPU = 0.9  # of a core
_IDLE_CPU = 0.5  # of a core: a process that uses less and is late did not get the CPU
_LEAST_REQUESTS = 1000  # below this a CPU share says nothing
_LEAST_SPAN_S = 0.1
SPARE_FILES = 32  # for everything but connections
_UNANSWERED = ("connecting took too long", os.strerror(errno.ETIMEDOUT))
_EXHAUSTED = {
    errno.EMFILE: "raise 'ulimit -n', or lower --connections",
    errno.ENFILE: "raise the system's limit on open files (fs.file-max), or lower --connections",
    errno.EADDRNOTAVAIL: "every local port is taken: let the target keep connections alive, widen "
    "net.ipv4.ip_local_port_range, or send from another machine",
    errno.ENOBUFS: "the system has no memory left for sockets: lower --connections",
    errno.ENOMEM: "the system has no memory left for sockets: lower --connections",
}


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def health(
    step: Step,
    columns: Table,
    ended: Sequence[Mapping[str, Any]],
    errors: Mapping[str, int],
    *,
    start_ns: int,
    end_ns: int,
    window_ns: int,
    cv: float,
) -> dict[str, Any]:
    """Return plain numbers by name; run.json keeps them as each step's `client`. None: cannot be said of this step.

    lateness_p50_s, lateness_p99_s, lateness_max_s: from the due time to when the engine turned to the request.
    send_wait_p99_s: from the due time to the send. A wait for a connection, which the target may be to blame for, is in
        it; it is part of the response time.
    sent_share: requests put on the wire, of those due.
    dispersion_intended, dispersion_sent: variance over mean of the counts in windows of `dispersion_window_s`, of the
        due and of the sent times; see `analysis.delivery`.
    delivery: what they say: "as intended", "uneven" (told, and no harm), "off".
    gap_distance: of the sent gaps from the intended distribution; 0 is the same.
    in_flight_counted, in_flight_implied, in_flight_tolerance: requests in flight on average, by the engine's counter
        and by rate times latency; see `analysis.little`.
    loop_lag_max_s: how late the event loop ran a timer, at worst.
    cpu_share: CPU time of the busiest worker, of the step's length; worker_cpu_share: of each worker.
    cpu_us_per_request: of all workers together.
    connections, connections_opened: open at most, and opened during the step.
    connection_waits: requests that found all connections busy and no room for one more.
    connect_errors: requests that failed because no connection could be made; connect_timeouts: those of them to whose
        connecting nobody answered.
    socket_errors: requests that failed because the connection was reset or closed.
    workers: engine processes.

    Args:
        step: What was asked for.
        columns: Of the step.
        ended: What each living worker said at the end.
        errors: Requests by what went wrong.
        start_ns: Start of the step.
        end_ns: End of its last request.
        window_ns: Width of the windows in which arrivals are counted.
        cv: Coefficient of variation of gamma arrivals.
    """
    due, sent, _, done, outcome, worker = columns
    lateness = Histogram()
    for message in ended:
        lateness += message["lateness"]
    if step.users is not None:  # a user without think time is due with the reply, and sends with it: never late
        lateness.record(np.zeros(max(0, due.size - lateness.total), dtype=np.int64))
    p50, p99, top = (lateness.quantile_ns(q) if lateness.total else 0.0 for q in (0.5, 0.99, 1.0))
    was_sent = sent > 0
    span_s = max((end_ns - start_ns) / NS_PER_S, _LEAST_SPAN_S)
    cpu_s = [message["cpu_ns"] / NS_PER_S for message in ended]
    proof = Delivery()
    if step.rate_rps is not None and due.size:
        proof = delivery(
            due, sent, start_ns=start_ns, span_ns=int(due[-1]) - start_ns, window_ns=window_ns, lateness_p99_ns=p99,
            arrivals=step.arrivals, rate_rps=step.rate_rps, cv=cv,
        )  # fmt: skip
    samples = {m["worker"]: np.frombuffer(m["in_flight"], dtype=np.int64).reshape(-1, 2) for m in ended}
    law = little(samples, sent, done, worker)
    return {
        "lateness_p50_s": p50 / NS_PER_S,
        "lateness_p99_s": p99 / NS_PER_S,
        "lateness_max_s": top / NS_PER_S,
        "send_wait_p99_s": float(np.quantile((sent - due)[was_sent], 0.99)) / NS_PER_S if was_sent.any() else 0.0,
        "sent_share": float(was_sent.mean()) if due.size else None,
        "dispersion_window_s": window_ns / NS_PER_S if proof.sent is not None else None,
        "dispersion_intended": proof.intended,
        "dispersion_sent": proof.sent,
        "delivery": proof.verdict,
        "gap_distance": proof.gap_distance,
        "in_flight_counted": law.counted if law else None,
        "in_flight_implied": law.implied if law else None,
        "in_flight_tolerance": law.tolerance if law else None,
        "loop_lag_max_s": max([message["lag_ns"] / NS_PER_S for message in ended], default=0.0),
        "cpu_share": max(cpu_s, default=0.0) / span_s,
        "worker_cpu_share": [used / span_s for used in cpu_s],
        "cpu_us_per_request": sum(cpu_s) * 1e6 / max(1, due.size),
        "connections": sum(message["connections"] for message in ended),
        "connections_opened": sum(message["opened"] for message in ended),
        "connection_waits": sum(message["connection_waits"] for message in ended),
        "connect_errors": int((outcome == Outcome.CONNECT_ERROR).sum()),
        "connect_timeouts": sum(count for words, count in errors.items() if words.endswith(_UNANSWERED)),
        "socket_errors": int((outcome == Outcome.RESET).sum()),
        "workers": len(ended),
    }


def reasons(
    columns: Table,
    client: Mapping[str, Any],
    errors: Mapping[str, int],
    *,
    connections: int,
    lateness_limit_ns: int,
    dead: Sequence[int],
    cores: int,
    files: int | None,
) -> tuple[Reason, ...]:
    """Say what, on the client's side, held the load back, and what would help.

    Args:
        columns: Of the step.
        client: What `health` gave.
        errors: Requests by what went wrong.
        connections: The limit on open connections.
        lateness_limit_ns: Highest p99 of the lateness that cannot be seen in the answer.
        dead: Workers that died during the step.
        cores: Those that this machine lets us use.
        files: Most files that may be open; None: no limit.
    """
    n = columns.shape[1]
    found = []
    if dead:
        lost = int((columns[4] == Outcome.LOST).sum())
        found.append(f"engine process {', '.join(map(str, dead))} died: {lost} requests are counted as lost")
    for number, remedy in _EXHAUSTED.items():
        words = os.strerror(number)
        if count := sum(count for told, count in errors.items() if told.endswith(f": {words}")):
            found.append(f"{count} requests got no connection ('{words}'): {remedy}")
    if client["connection_waits"] > _MOST_WAITING * n:
        found.append(
            f"all {connections} connections were busy for {client['connection_waits']} requests: "
            f"{_more_connections(connections, files)}"
        )
    cpu = _more_cpu(client, cores)
    if client["lateness_p99_s"] * NS_PER_S > lateness_limit_ns:
        found.append(
            f"requests left {client['lateness_p99_s'] * 1e3:.2g} ms late (p99) where "
            f"{lateness_limit_ns / NS_PER_MS:.2g} ms is allowed: {cpu}"
        )
    elif client["delivery"] == "off":
        found.append(
            f"requests did not leave as the schedule says: the dispersion of their counts in windows of "
            f"{client['dispersion_window_s'] * 1e3:.3g} ms was {client['dispersion_sent']:.2f} where "
            f"{client['dispersion_intended']:.2f} was intended: {cpu}"
        )
    if client["cpu_share"] > _MOST_CPU and n > _LEAST_REQUESTS:
        found.append(f"an engine process used {client['cpu_share']:.0%} of its core: {cpu}")
    return tuple(Reason("client", text) for text in found) + _open_books(client)


def _open_books(client: Mapping[str, Any]) -> tuple[Reason, ...]:
    """Say so where the requests' times and the engine's own count contradict each other."""
    counted, implied = client["in_flight_counted"], client["in_flight_implied"]
    if counted is None or abs(counted - implied) <= client["in_flight_tolerance"]:
        return ()
    text = (
        f"the engine counted {counted:.4g} requests in flight on average, where rate times latency gives {implied:.4g} "
        f"(Little's law, within {client['in_flight_tolerance']:.2g}): run it again, and report it with run.json if it "
        "comes back"
    )
    return (Reason("books", text),)


def _more_cpu(client: Mapping[str, Any], cores: int) -> str:
    """Say how the engine would get more CPU time."""
    workers, share = client["workers"], client["cpu_share"]
    if share < _IDLE_CPU:
        held = f"other programs held the CPU (the busiest worker used {share:.0%} of a core)"
        return f"{held}: stop them, or send from another machine"
    if workers < cores:
        return f"raise --workers (now {workers}, and there are {cores} cores)"
    return f"each of the {cores} cores has a worker already: stop other programs, or send from another machine"


def _more_connections(connections: int, files: int | None) -> str:
    """Say how there would be more connections."""
    if files is None or connections + SPARE_FILES < files:
        return "raise --connections" + (f" (up to {files - SPARE_FILES})" if files is not None else "")
    return f"raise 'ulimit -Hn' (now {files}) and --connections, or send from another machine"
