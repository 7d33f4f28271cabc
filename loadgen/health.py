"""What the load generator says of itself after a step, and when that makes it the limit."""

import resource
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis import Histogram, Outcome, Reason
from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.rows import Table

_MOST_WAITING = 0.01  # share of requests that may find all connections busy
_MOST_CPU = 0.9  # of a core
_LEAST_REQUESTS = 1000  # below this a CPU share says nothing
_LEAST_SPAN_S = 0.1


def health(columns: Table, ended: list[dict[str, Any]], span_s: float) -> dict[str, Any]:
    """Return plain numbers by name, seconds unless the name says otherwise.

    Lateness is the engine's own: from the due time to when it turned to the request. Waiting for a connection to be
    set up, or to become free, comes on top in `send_wait_p99_s`; it is part of the response time.
    """
    lateness = Histogram()
    for message in ended:
        lateness += message["lateness"]
    due, sent = columns[0], columns[1]
    was_sent = sent > 0
    wait = float(np.quantile(sent[was_sent] - due[was_sent], 0.99)) if was_sent.any() else 0.0
    cpu_s = [message["cpu_ns"] / NS_PER_S for message in ended] or [0.0]
    p50, p99, top = (lateness.quantile_ns(q) if lateness.total else 0.0 for q in (0.5, 0.99, 1.0))
    return {
        "lateness_p50_s": p50 / NS_PER_S,
        "lateness_p99_s": p99 / NS_PER_S,
        "lateness_max_s": top / NS_PER_S,
        "send_wait_p99_s": wait / NS_PER_S,
        "loop_lag_max_s": max([message["lag_ns"] / NS_PER_S for message in ended], default=0.0),
        "cpu_share": max(cpu_s) / max(span_s, _LEAST_SPAN_S),
        "cpu_us_per_request": sum(cpu_s) * 1e6 / max(1, due.size),
        "connections": sum(message["connections"] for message in ended),
        "connections_opened": sum(message["opened"] for message in ended),
        "connection_waits": sum(message["connection_waits"] for message in ended),
        "workers": len(ended),
    }


def reasons(
    columns: Table, client: Mapping[str, Any], *, connections: int, lateness_limit_ns: int, dead: list[int]
) -> tuple[Reason, ...]:
    """Say what, on the client's side, held the load back.

    Args:
        columns: Of the step.
        client: What `health` gave.
        connections: The limit on open connections.
        lateness_limit_ns: Highest p99 of the lateness that cannot be seen in the answer.
        dead: Workers that died during the step.
    """
    n = columns.shape[1]
    found = []
    if dead:
        lost = int((columns[4] == Outcome.LOST).sum())
        found.append(f"engine process {', '.join(map(str, dead))} died: {lost} requests are counted as lost")
    if client["connection_waits"] > _MOST_WAITING * n:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        found.append(
            f"all {connections} connections were busy for {client['connection_waits']} requests: "
            f"raise --connections (at most {files} files may be open)"
        )
    if client["lateness_p99_s"] * NS_PER_S > lateness_limit_ns:
        found.append(
            f"requests left {client['lateness_p99_s'] * 1e3:.2g} ms late (p99) where "
            f"{lateness_limit_ns / NS_PER_MS:.2g} ms is allowed: free the CPU or raise --workers"
        )
    if client["cpu_share"] > _MOST_CPU and n > _LEAST_REQUESTS:
        found.append(f"an engine process used {client['cpu_share']:.0%} of its core: raise --workers")
    return tuple(Reason("client", text) for text in found)
