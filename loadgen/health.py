"""What the load generator says of itself after a step, and when that makes it the limit."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from analysis import Histogram, Outcome, Reason, Step
from analysis.delivery import Delivery, delivery
from analysis.little import Times, little
from loadgen.clock import NS_PER_S
from loadgen.engine import SAMPLE_NS
from loadgen.rows import Table
from reports import text

_MOST_WAITING = 0.01  # share of requests that may find all connections busy
_MOST_CPU = 0.9  # of a core
_IDLE_CPU = 0.5  # of a core: a process that uses less and is late did not get the CPU
_LEAST_REQUESTS = 1000  # below this a CPU share says nothing
_LEAST_SPAN_S = 0.1
_FEW = 200  # requests: a p99 of fewer stands on one or two of them, and one hiccup of the system delays as many
_GROSS = 20  # times the lateness that is allowed: the SLA's limit itself
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
    window_ns: int,
    cv: float,
) -> dict[str, Any]:
    """Return plain numbers by name; run.json keeps them as each step's `client`. None: cannot be said of this step.

    lateness_p50_s, lateness_p99_s, lateness_max_s: from the due time to when the engine turned to the request.
    lateness_third_s: of the third latest request; judged instead of the p99 where there are few requests.
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
    loop_stall_p99_s: a reply that comes at a random moment waits longer than this for the loop with a chance of 1 %;
        in a closed loop, where nobody is late by a schedule.
    cpu_share: CPU time of the busiest worker while requests fell due, of that time; worker_cpu_share: of each worker.
    cpu_us_per_request: of all workers together.
    connections, connections_opened: open at most, and opened during the step.
    connection_waits: requests that found all connections busy and no room for one more.
    connect_errors: requests that failed because no connection could be made; connect_timeouts: those of them to whose
        connecting nobody answered.
    socket_errors: requests that failed because the connection was reset or closed.
    workers: processes that sent.

    Args:
        step: What was asked for.
        columns: Of the step.
        ended: What each living worker said at the end.
        errors: Requests by what went wrong.
        start_ns: Start of the step.
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
    third = lateness.quantile_ns(1 - 2 / lateness.total) if lateness.total > 2 else 0.0
    was_sent = sent > 0
    cpu_s = [message["cpu_ns"] / NS_PER_S for message in ended]
    shares = [m["offering_cpu_ns"] / max(m["offering_ns"], _LEAST_SPAN_S * NS_PER_S) for m in ended]
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
        "lateness_third_s": third / NS_PER_S,
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
        "loop_stall_p99_s": max(map(_stall_p99_s, samples.values()), default=0.0) if step.users is not None else None,
        "cpu_share": max(shares, default=0.0),
        "worker_cpu_share": shares,
        "cpu_us_per_request": sum(cpu_s) * 1e6 / max(1, due.size),
        "connections": sum(message["connections"] for message in ended),
        "connections_opened": sum(message["opened"] for message in ended),
        "connection_waits": sum(message["connection_waits"] for message in ended),
        "connect_errors": int((outcome == Outcome.CONNECT_ERROR).sum()),
        "connect_timeouts": sum(count for words, count in errors.items() if words.endswith(_UNANSWERED)),
        "socket_errors": int((outcome == Outcome.RESET).sum()),
        "workers": len(ended),
    }


def _stall_p99_s(samples: Times) -> float:
    """Return how long the loop keeps a random moment waiting, p99, from the gaps between its samples.

    A stall of length L keeps the moments in it waiting for up to L, evenly. So the share that waits longer than x is
    the sum of max(0, L - x) over the time; where that is 1 %, x is the largest of (sum of the k longest stalls - 1 % of
    the time) / k.
    """
    if len(samples) < 2:
        return 0.0
    stalls = np.sort(np.maximum(np.diff(samples[:, 0]) - SAMPLE_NS, 0))[::-1]
    spent = np.cumsum(stalls) - 0.01 * (samples[-1, 0] - samples[0, 0])
    return max(0.0, float(np.max(spent / np.arange(1, stalls.size + 1)))) / NS_PER_S


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
        lateness_limit_ns: Highest p99 of the lateness that cannot be seen in the answer. Of fewer than 200 requests
            two may be later, but none by the SLA's limit itself, 20 times as much: a delayed process makes many late,
            and the p99 of so few would be a single hiccup.
        dead: Workers that died during the step.
        cores: Those that this machine lets us use.
        files: Most files that may be open; None: no limit.
    """
    n = columns.shape[1]
    found = []
    if dead:
        lost = int((columns[4] == Outcome.LOST).sum())
        who = f"worker{'' if len(dead) == 1 else 's'} {', '.join(map(str, dead))}"
        found.append(f"{who} died: {lost:,} requests are counted as lost")
    for number, remedy in _EXHAUSTED.items():
        words = os.strerror(number)
        if count := sum(count for told, count in errors.items() if told.endswith(f": {words}")):
            found.append(f"{count:,} requests got no connection ('{words}'): {remedy}")
    if client["connection_waits"] > _MOST_WAITING * n:
        found.append(
            f"all {connections:,} connections were busy for {client['connection_waits']:,} requests: "
            f"{_more_connections(connections, files)}"
        )
    cpu = _more_cpu(client, cores)
    if late := _too_late(client, n, lateness_limit_ns / NS_PER_S):
        found.append(f"{late}: {cpu}")
    elif (client["loop_stall_p99_s"] or 0.0) * NS_PER_S > lateness_limit_ns:
        found.append(
            f"the generator's loop slept through replies, {text.latency(client['loop_stall_p99_s'])} (p99) where "
            f"{text.latency(lateness_limit_ns / NS_PER_S)} is allowed: {cpu}"
        )
    elif client["delivery"] == "off":
        found.append(
            f"requests did not leave as the schedule says: the dispersion of their counts in windows of "
            f"{text.latency(client['dispersion_window_s'])} was {client['dispersion_sent']:.2f} where "
            f"{client['dispersion_intended']:.2f} was intended: {cpu}"
        )
    if client["cpu_share"] > _MOST_CPU and n > _LEAST_REQUESTS:
        found.append(f"a worker used {text.share(client['cpu_share'])} of its core: {cpu}")
    return tuple(Reason("client", words) for words in found) + _open_books(client)


def _too_late(client: Mapping[str, Any], n: int, allowed_s: float) -> str:
    """Say how late requests left, where that is too late; the rule is in `reasons`."""
    p99_s, third_s, top_s = (client[f"lateness_{name}_s"] for name in ("p99", "third", "max"))
    allowed = f"where {text.latency(allowed_s)} is allowed"
    if n >= _FEW:
        return f"requests left {text.latency(p99_s)} late (p99) {allowed}" if p99_s > allowed_s else ""
    if third_s > allowed_s:
        return f"3 or more of {n:,} requests left {text.latency(third_s)} late {allowed}"
    return f"a request left {text.latency(top_s)} late {allowed}" if top_s > _GROSS * allowed_s else ""


def _open_books(client: Mapping[str, Any]) -> tuple[Reason, ...]:
    """Say so where the requests' times and the engine's own count contradict each other."""
    counted, implied = client["in_flight_counted"], client["in_flight_implied"]
    if counted is None or abs(counted - implied) <= client["in_flight_tolerance"]:
        return ()
    within = text.number(client["in_flight_tolerance"])
    words = (
        f"the generator counted {_four(counted)} requests in flight on average, where rate times latency gives "
        f"{_four(implied)} (Little's law, within {within}): run it again, and report it with run.json if it comes back"
    )
    return (Reason("books", words),)


def _four(value: float) -> str:
    """Return four digits, in which a small difference shows."""
    return f"{value:.4g}" if value < 1000 else text.number(value)


def _more_cpu(client: Mapping[str, Any], cores: int) -> str:
    """Say how the workers would get more CPU time."""
    workers, share = client["workers"], client["cpu_share"]
    if share < _IDLE_CPU:
        held = f"other programs held the CPU (the busiest worker used {text.share(share)} of a core)"
        return f"{held}: stop them, or send from another machine"
    if workers < cores:
        return f"raise --workers (now {workers}, and there are {cores} cores)"
    return f"each of the {cores} cores has a worker already: stop other programs, or send from another machine"


def _more_connections(connections: int, files: int | None) -> str:
    """Say how there would be more connections."""
    if files is None or connections + SPARE_FILES < files:
        return "raise --connections" + (f" (up to {files - SPARE_FILES})" if files is not None else "")
    return f"raise 'ulimit -Hn' (now {files}) and --connections, or send from another machine"
