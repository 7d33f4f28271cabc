"""What the generator says of itself: numbers from rows and messages, and reasons with the flag that would help."""

import errno
import os
from typing import Any

import numpy as np
import pytest

from analysis import Histogram, Outcome, Step
from loadgen.health import health, reasons
from loadgen.rows import Table

MS = 1_000_000
START = 7_000_000_000
STEP = Step(rate_rps=200.0, duration_s=2.0)


def columns_of(*, workers: int = 1, late_ns: int = 50_000, outcome: Outcome = Outcome.OK, n: int = 400) -> Table:
    """Return the rows of a Poisson step at 200 requests a second, each answered after 20 ms, as columns."""
    due = START + np.cumsum(np.random.default_rng(3).exponential(5 * MS, n)).astype(np.int64)
    sent = due + late_ns
    worker = np.arange(n) % workers
    return np.stack([due, sent, sent + 19 * MS, sent + 20 * MS, np.full(n, int(outcome)), worker])


def ended_of(columns: Table, worker: int = 0, **changes: Any) -> dict[str, Any]:
    """Return what a worker says at the end of these rows, its count of requests in flight included."""
    own = columns[:, columns[5] == worker]
    at = START + np.arange(1, 200) * 10_300_000
    busy = [int(((own[1] <= time) & (own[3] > time)).sum()) for time in at]
    return {
        "worker": worker,
        "lateness": Histogram.of(own[1] - own[0]),
        "in_flight": np.column_stack([at, busy]).astype(np.int64).tobytes(),
        "cpu_ns": 400 * MS,
        "offering_cpu_ns": 300 * MS,
        "offering_ns": 2_000 * MS,
        "lag_ns": 2 * MS,
        "connections": 8,
        "opened": 8,
        "connection_waits": 0,
        **changes,
    }


def told(columns: Table, ended: list[dict[str, Any]], *, step: Step = STEP, **errors: int) -> dict[str, Any]:
    """Return the health of a step of two seconds."""
    words = {name.replace("_", " "): count for name, count in errors.items()}
    return health(step, columns, ended, words, start_ns=START, window_ns=10 * MS, cv=1.0)


def why(client: dict[str, Any], *, errors: dict[str, int] | None = None, **changes: Any) -> list[tuple[str, str]]:
    """Return the reasons as (kind, text)."""
    settings: dict[str, Any] = {
        "connections": 100, "lateness_limit_ns": 10 * MS, "dead": [], "cores": 4, "files": 1024,
    }  # fmt: skip
    found = reasons(changes.pop("columns", columns_of()), client, errors or {}, **(settings | changes))
    return [(reason.kind, reason.text) for reason in found]


def sound(**changes: Any) -> dict[str, Any]:
    """Return the health of a sound step of one worker, with numbers changed."""
    columns = columns_of()
    return told(columns, [ended_of(columns)]) | changes


def test_a_sound_step_has_all_its_numbers() -> None:
    """Lateness, delivery, Little's law and CPU are told, and nothing speaks against the step."""
    client = sound()
    assert client["lateness_p99_s"] == pytest.approx(50e-6, rel=0.01)
    assert client["sent_share"] == 1
    assert client["delivery"] == "as intended"
    assert client["dispersion_sent"] == pytest.approx(client["dispersion_intended"], rel=0.05)
    assert client["gap_distance"] < 0.1
    assert client["in_flight_counted"] == pytest.approx(client["in_flight_implied"], abs=1e-9)
    assert client["in_flight_implied"] == pytest.approx(200 * 0.020, rel=0.2)
    assert client["worker_cpu_share"] == [0.15]
    assert why(client) == []


def test_two_workers_are_told_apart_and_taken_together() -> None:
    """CPU is a list, connections a sum, and the schedule the union of what both sent."""
    columns = columns_of(workers=2)
    client = told(columns, [ended_of(columns, 0), ended_of(columns, 1, offering_cpu_ns=1_900 * MS)])
    assert client["worker_cpu_share"] == [0.15, 0.95]
    assert client["cpu_share"] == 0.95
    assert (client["connections"], client["workers"]) == (16, 2)
    assert client["delivery"] == "as intended"
    assert why(client) == []  # 400 requests are too few for the CPU share to count


@pytest.mark.parametrize(("stall_ns", "is_seen"), [(5 * MS, False), (90 * MS, True)])
def test_a_loop_that_slept_is_the_client_s_limit(stall_ns: int, is_seen: bool) -> None:
    """A generator that did not read replies in time is found out by its samples, though nobody had a schedule."""
    columns = columns_of()
    at = START + np.cumsum(np.full(100, 10 * MS) + np.where(np.arange(100) % 2, stall_ns, 0))
    samples = np.column_stack([at, np.zeros_like(at)]).astype(np.int64).tobytes()
    client = told(columns, [ended_of(columns, in_flight=samples)], step=Step(users=4, duration_s=2.0))
    assert client["loop_stall_p99_s"] == pytest.approx(stall_ns / 1e9, rel=0.1)
    words = [text for kind, text in why(client) if kind == "client"]
    assert any("slept through replies" in text for text in words) is is_seen


def test_the_drain_does_not_dilute_the_cpu_share() -> None:
    """One reply that never comes makes a step long; what the generator used while requests fell due is what counts."""
    columns = columns_of()
    client = told(columns, [ended_of(columns, offering_cpu_ns=1_980 * MS, offering_ns=2_000 * MS, cpu_ns=2_000 * MS)])
    assert client["cpu_share"] == pytest.approx(0.99)


def test_a_closed_loop_has_no_schedule_to_deliver() -> None:
    """Nothing is said of arrivals that were never planned; the books are checked all the same."""
    columns = columns_of()
    client = told(columns, [ended_of(columns)], step=Step(users=4, duration_s=2.0))
    assert (client["delivery"], client["dispersion_sent"], client["gap_distance"]) == (None, None, None)
    assert client["in_flight_counted"] is not None


def test_a_step_without_requests_or_workers_has_numbers_too() -> None:
    """All workers dead, or nothing due, is no error."""
    client = told(columns_of(n=0), [])
    assert client["sent_share"] is None
    assert client["in_flight_counted"] is None
    assert why(client, dead=[0], columns=columns_of(n=0))[0][1].startswith("worker 0 died")


def test_failures_to_connect_are_counted_by_kind() -> None:
    """Connections that were refused, that nobody answered, and that broke are three numbers."""
    columns = columns_of(outcome=Outcome.CONNECT_ERROR)
    columns[4, :100] = Outcome.RESET
    timed_out = f"cannot connect: {os.strerror(errno.ETIMEDOUT)}"
    client = health(
        STEP, columns, [ended_of(columns)], {"cannot connect: connecting took too long": 30, timed_out: 20, "x": 7},
        start_ns=START, window_ns=10 * MS, cv=1.0,
    )  # fmt: skip
    assert (client["connect_errors"], client["connect_timeouts"], client["socket_errors"]) == (300, 50, 100)
    assert why(client, columns=columns) == []  # all of that is the target's doing


def test_books_that_do_not_close_are_a_reason() -> None:
    """A counter that is one connection off contradicts the rows, and the step is not sound."""
    columns = columns_of()
    message = ended_of(columns)
    off = np.frombuffer(message["in_flight"], dtype=np.int64).reshape(-1, 2) + np.array([0, 1])
    [(kind, text)] = why(told(columns, [message | {"in_flight": off.tobytes()}]))
    assert kind == "books"
    assert "Little's law" in text


@pytest.mark.parametrize(
    ("changes", "machine", "words"),
    [
        ({"lateness_p99_s": 0.012, "cpu_share": 0.8}, {}, "12 ms late (p99) where 10 ms is allowed: raise --workers"),
        ({"lateness_p99_s": 0.012, "cpu_share": 0.8}, {"cores": 1}, "each of the 1 cores has a worker already"),
        ({"lateness_p99_s": 0.012, "cpu_share": 0.2}, {}, "other programs held the CPU (the busiest worker used 20 %"),
        ({"delivery": "off"}, {}, "did not leave as the schedule says: the dispersion"),
        ({"delivery": "uneven"}, {}, None),
        ({"cpu_share": 0.95}, {}, "used 95 % of its core: raise --workers (now 1, and there are 4 cores)"),
        (
            {"connection_waits": 90},
            {},
            "all 100 connections were busy for 90 requests: raise --connections (up to 992)",
        ),
        ({"connection_waits": 90}, {"files": None}, "raise --connections"),
        ({"connection_waits": 90}, {"connections": 992}, "raise 'ulimit -Hn' (now 1024) and --connections"),
        ({"connection_waits": 9}, {}, None),
        ({}, {"errors": {f"cannot connect: {os.strerror(errno.EMFILE)}": 3}}, "3 requests got no connection"),
        ({}, {"errors": {f"cannot connect: {os.strerror(errno.EADDRNOTAVAIL)}": 1}}, "ip_local_port_range"),
        ({}, {"errors": {f"cannot connect: {os.strerror(errno.ECONNREFUSED)}": 9}}, None),
    ],
)
def test_a_limit_is_named_with_what_would_help(changes: Any, machine: Any, words: str | None) -> None:
    """What ran out is named with the flag, the limit or the machine that would help; the target's faults are not."""
    found = why(sound(**changes), columns=columns_of(n=2000), **machine)
    assert [kind for kind, _ in found] == ([] if words is None else ["client"])
    assert words is None or words in found[0][1]


@pytest.mark.parametrize(
    ("late_ms", "words"),
    [
        ([], None),
        ([60, 15], None),  # one hiccup, in which two fell due
        ([60, 15, 12], "3 or more of 46 requests left 12.1 ms late where 10 ms is allowed: "),
        ([12] * 46, "3 or more of 46 requests left 12.1 ms late"),
        ([250], "a request left 250 ms late where 10 ms is allowed: "),  # the limit of the SLA is 200 ms
    ],
)
def test_one_hiccup_among_few_requests_is_no_limit(late_ms: list[int], words: str | None) -> None:
    """A p99 of 46 requests is the latest of them: two may be late, but neither many nor any by the SLA's limit."""
    columns = columns_of(n=46)
    columns[1, : len(late_ms)] += np.array(late_ms, dtype=np.int64) * MS
    lateness = Histogram.of(columns[1] - columns[0])
    client = told(columns, [ended_of(columns, lateness=lateness)]) | {"delivery": None, "in_flight_counted": None}
    found = [text for kind, text in why(client, columns=columns) if kind == "client"]
    assert bool(found) == (words is not None)
    assert words is None or found[0].startswith(words)
