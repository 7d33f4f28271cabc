"""Make realistic values for tests: a finished run against a simulated batching server, without a clock or a socket."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis import SLA, Estimate, OperatingPoint, Outcome, Reason, Run, Step, StepRecord, StepResult
from analysis.operating_point import ClosedAnswer, Confirmation, ServerModel

P99 = SLA.parse("p99<200ms")
_MS = 1_000_000


def serve(due_ns: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return when the default reference server would answer: 8 ms + 1.5 ms a request, batches of 32, delay 10 ms.

    Rounded to two digits of latency, so that histograms stay short.
    """
    done = np.zeros_like(due_ns)
    free, first = 0, 0
    while first < due_ns.size:
        full = due_ns[first + 31] if first + 31 < due_ns.size else due_ns[first] + 10 * _MS
        start = max(free, int(due_ns[first]), min(int(full), int(due_ns[first]) + 10 * _MS))
        last = min(int(np.searchsorted(due_ns, start, side="right")), first + 32)
        free = start + round((8 + 1.5 * (last - first)) * _MS * rng.lognormal(0, 0.03))
        done[first:last] = free
        first = last
    latency = (done - due_ns).astype(np.float64)
    digit = 10 ** (np.floor(np.log10(latency)) - 1)
    rounded: NDArray[np.int64] = (np.round(latency / digit) * digit).astype(np.int64)
    return due_ns + rounded


def run_step(
    step: Step,
    *,
    start_ns: int = 0,
    failing_share: float = 0.0,
    abort_after_s: float | None = None,
    reasons: tuple[Reason, ...] = (),
) -> StepResult:
    """Run an open-loop step against the simulated server; the same step gives the same result."""
    rng = np.random.default_rng(step.seed)
    rate = step.rate_rps or 0.0
    gaps = rng.exponential(1e9 / rate, round(rate * step.duration_s * 1.5) + 20)
    due = np.cumsum(gaps).astype(np.int64) // 1000 * 1000
    due = due[due < (abort_after_s or step.duration_s) * 1e9]
    sent = due + rng.integers(20_000, 90_000, due.size) // 1000 * 1000
    sent += np.where(rng.random(due.size) < 0.02, 3 * _MS, 0)
    done = np.maximum(serve(due, rng), sent + 100_000)
    failed = rng.random(due.size) < failing_share
    outcome = np.where(failed, np.where(rng.random(due.size) < 0.8, Outcome.HTTP_STATUS, Outcome.RESET), Outcome.OK)
    return StepResult.from_arrays(
        step,
        due + start_ns,
        done + start_ns,
        outcome,
        aborted=abort_after_s is not None,
        sent_ns=sent + start_ns,
        start_ns=start_ns,
        reasons=reasons,
    )


_LATE = Reason(kind="client", text="The client was late: p99 of send lateness 41 ms; give it more --workers.")
_PLAN: tuple[tuple[str, float, float, dict[str, Any]], ...] = (
    ("ramp", 32.0, 1.0, {}),
    ("ramp", 128.0, 1.0, {}),
    ("ramp", 256.0, 1.0, {}),
    ("ramp", 512.0, 1.5, {}),
    ("ramp", 1024.0, 2.0, {"abort_after_s": 1.2}),
    ("measure", 400.0, 11.0, {}),
    ("measure", 500.0, 6.0, {"reasons": (_LATE,)}),
    ("measure", 500.0, 9.0, {}),
    ("measure", 535.0, 9.0, {}),
    ("measure", 565.0, 24.0, {}),
    ("measure", 554.0, 10.0, {}),
    ("measure", 590.0, 6.0, {"failing_share": 0.02}),
    ("confirm", 546.0, 9.0, {}),
)


def make_records(*, slas: tuple[SLA, ...] = (P99,)) -> tuple[StepRecord, ...]:
    """Return the steps of a search: a ramp, overload, steps around the SLA, an unsound one, one with errors."""
    records, at_ns = [], 5_000_000_000
    origin_ns = at_ns
    for index, (purpose, rate, length, extra) in enumerate(_PLAN):
        step = Step(rate_rps=rate, duration_s=length, seed=300 + index, purpose=purpose)
        result = run_step(step, start_ns=at_ns, **extra)
        errors = {}
        if extra.get("failing_share"):
            errors = {
                "HTTP 503: queue is full, retry after 1 s": result.counts["http_status"],
                "connection reset by peer": result.counts["reset"],
            }
        client = {
            "lateness_p50_s": 4e-5 + 1e-6 * index,
            "lateness_p99_s": 0.041 if extra.get("reasons") else 2e-4 + 1e-5 * index,
            "lateness_max_s": 0.0031,
            "send_wait_p99_s": 0.0031,
            "sent_share": 1.0,
            "dispersion_window_s": 0.01,
            "dispersion_intended": 1.02 if rate * length > 100 else None,
            "dispersion_sent": 1.03 if rate * length > 100 else None,
            "delivery": "as intended" if rate * length > 100 else None,
            "gap_distance": 0.031 if rate * length > 100 and rate < 500 else None,
            "in_flight_counted": rate * 0.084,
            "in_flight_implied": rate * 0.0841,
            "in_flight_tolerance": rate * 0.001,
            "loop_lag_max_s": 0.0012 + 1e-4 * index,
            "cpu_share": min(0.97, 0.02 + rate * 3e-4),
            "worker_cpu_share": [min(0.97, 0.02 + rate * 3e-4)],
            "cpu_us_per_request": 11.4,
            "connections": min(128, 4 + round(rate / 8)),
            "connections_opened": min(128, 4 + round(rate / 8)) if index < 5 else 0,
            "connection_waits": 0,
            "connect_errors": 0,
            "connect_timeouts": 0,
            "socket_errors": result.counts["reset"],
            "workers": 1,
        }
        records.append(StepRecord.of(result, slas, index=index, origin_ns=origin_ns, client=client, errors=errors))
        at_ns = result.end_ns + 50 * _MS
    return tuple(records)


def make_answer(**changes: Any) -> OperatingPoint:
    """Return the answer that belongs to `make_records`, with fields changed."""
    fields: dict[str, Any] = {
        "verdict": "found",
        "sla": P99,
        "limited_by": "p99<200ms",
        "stop_reason": "the interval is narrower than ±5 %",
        "rate_rps": Estimate(value=553.4, low=545.2, high=561.0, n=24_600),
        "safe_rps": 546.7,
        "capacity_rps": Estimate(value=571.2, low=568.4, high=573.9, n=4_600),
        "knee_rps": Estimate(value=517.0, low=504.0, high=529.0, n=24_600),
        "p50": Estimate(value=0.084, low=0.079, high=0.09, n=5_540),
        "p95": Estimate(value=0.152, low=0.141, high=0.167, n=5_540),
        "p99": Estimate(value=0.198, low=0.183, high=0.221, n=5_540),
        "utilisation": 0.969,
    }
    return OperatingPoint(**(fields | changes))


TWIN: dict[str, Any] = {
    "method": "twin",
    "method_reason": "Replayed with the same arrivals, it gives the latencies that were seen.",
    "server": ServerModel(
        instances=1, max_batch=32, wait_s=0.01, base_s=0.008, per_item_s=0.0015, cv=0.012, delay_s=2e-4, services=1_204,
        rate_rps=546.0, explained=0.994,
        quantiles=((0.5, 0.0651, 0.066), (0.9, 0.0962, 0.095), (0.95, 0.108, 0.11), (0.99, 0.131, 0.12)),
    ),
    "confirmation": Confirmation(
        rate_rps=546.7, length_s=20.0, n=10_934, share=0.004, low=0.001, high=0.0092, allowed=0.01, passed=True
    ),
    "inflation": 29.3,
    "needed_s": ((0.05, 12.3), (0.02, 71.8), (0.01, 288.0)),
    "closed": ClosedAnswer(users=64, throughput_rps=570.9, quantile_s=1.93),
}  # fmt: skip
COUNTING: dict[str, Any] = {
    "method_reason": "The twin was refused: service times depend on having waited.",
    "confirmation": Confirmation(
        rate_rps=546.7, length_s=20.0, n=10_934, share=0.004, low=0.001, high=0.012, allowed=0.01, passed=True
    ),
    "inflation": 310.0,
    "needed_s": ((0.05, 190.0), (0.02, 1_180.0)),
    "notes": (
        "the server became 6 % slower while it was measured; the estimate starts anew at step 9",
        "The first 1.5 s of step 1 were cut as warm-up: its latency fell from 40 ms to 19 ms.",
        "Pauses that come less often than once in 9 s are not covered.",
    ),
}
CLIFF: dict[str, Any] = {
    "rate_rps": Estimate(value=535.0, low=535.0, high=565.0, n=24_600),
    "safe_rps": 535.0,
    "cliff": True,
    "knee_rps": None,
    "method_reason": "The twin was refused: it predicts no jump.",
}
UNMET: dict[str, Any] = {
    "verdict": "unmet",
    "limited_by": "p99<200ms",
    "stop_reason": "At every rate tried, from 32 to 590 req/s, p99<200ms is violated.",
    "floor": Estimate(value=0.24, low=0.231, high=0.256, n=300),
    **dict.fromkeys(("rate_rps", "safe_rps", "knee_rps", "p50", "p95", "p99", "utilisation")),
}
SEVERAL: dict[str, Any] = TWIN | {
    "per_sla": {
        "p99<200ms": Estimate(value=553.4, low=545.2, high=561.0),
        "p95<150ms": Estimate(value=557.1, low=549.8, high=564.0),
        "p50<100ms": Estimate(value=563.0, low=560.0, high=None),
        "error budget": Estimate(value=571.0, low=568.0, high=None),
    }
}


def make_run(**changes: Any) -> Run:
    """Return a finished run, with fields changed."""
    fields: dict[str, Any] = {
        "scenario": {
            "target": {
                "url": "http://127.0.0.1:8000/predict",
                "method": "POST",
                "headers": {"authorization": "***"},
                "body": {"bytes": 11, "sha256": "0123456789abcdef"},
                "timeout_s": None,
            },
            "load": {"mode": "open", "arrivals": "poisson", "cv": 1.0, "workers": None},
            "sla": ["p99<200ms"],
            "search": {"precision": 0.05, "budget_s": 180.0},
            "require_rps": None,
            "seed": 1,
        },
        "environment": {
            "command": "opfind run --sla-p99 200ms --seed 1",
            "seed": 1,
            "opfind": "0.1.0",
            "pacing": "timerfd",
            "python": "3.12.3",
            "cpu": "AMD EPYC 7B13, 2 cores",
            "kernel": "Linux 6.8.0-45-generic",
            "git_commit": "7e5e2071c0ffee00000000000000000000000000",
            "packages": {"numpy": "2.4.6", "scipy": "1.17.1", "uvloop": "0.22.1"},
        },
        "slas": (P99,),
        "answer": make_answer(),
        "exit_code": 0,
        "started_at": "2026-11-23T13:45:22Z",
        "wall_s": 68.4,
    }
    if "steps" not in changes:
        fields["steps"] = make_records(slas=changes.get("slas", (P99,)))
    return Run(**(fields | changes))


def with_bracket(run: Run, users: tuple[int, ...] = (1, 2, 4)) -> Run:
    """Return a run that began with the users of a closed loop instead of its first rungs."""
    first = [
        replace(record, step=replace(record.step, rate_rps=None, users=many, purpose="bracket"))
        for many, record in zip(users, run.steps, strict=False)
    ]
    return replace(run, steps=(*first, *run.steps[len(first) :]))


def make_load(*, step: Step | None = None, slas: tuple[SLA, ...] = (), exit_code: int = 0, **extra: Any) -> Run:
    """Return a finished load by hand: one step, no answer; `extra` goes to `run_step`."""
    step = step or Step(rate_rps=400.0, duration_s=3.0, seed=17, purpose="load")
    client = {
        "lateness_p50_s": 4e-5, "lateness_p99_s": 9e-5, "lateness_max_s": 1.2e-3, "cpu_share": 0.23,
        "cpu_us_per_request": 12.3, "connections": 64, "connections_opened": 59, "connection_waits": 0, "workers": 1,
    }  # fmt: skip
    result = run_step(step, **extra)
    failed = result.offered - result.counts["ok"]
    errors = {"HTTP 503: queue is full": failed} if failed else {}
    record = StepRecord.of(result, slas, index=0, origin_ns=0, client=client, errors=errors)
    return make_run(
        steps=(record,), slas=slas, answer=None, exit_code=exit_code, wall_s=3.1,
        environment={"command": "opfind load http://127.0.0.1:8000/predict --rate 400 -d 3s"},
    )  # fmt: skip


def of_users(run: Run, users: int) -> Run:
    """Return a load as a closed loop would have run it."""
    (record,) = run.steps
    step = replace(record.step, rate_rps=None, users=users)
    return replace(run, steps=(replace(record, step=step),))
