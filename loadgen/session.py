"""The loop of a run: search, step, result, until there is an answer; and, on the same set-up, one step by hand."""

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import numpy as np

from analysis import (
    SLA,
    Estimate,
    OperatingPoint,
    Outcome,
    Reason,
    Run,
    Search,
    Step,
    StepProgress,
    StepRecord,
    StepResult,
    Verdict,
    judge,
)
from analysis.quantile import quantile_estimate
from loadgen import embedded, inputs, selfcheck
from loadgen.bodies import bodies_of
from loadgen.clock import NS_PER_MS, NS_PER_S, now_ns
from loadgen.errors import TargetError
from loadgen.fleet import ABANDONED, COALESCE_NS, Fleet, Setup, StepView, Watch, affordable_connections
from loadgen.health import usable_cores
from loadgen.mask import mask
from loadgen.progress import Progress, Show
from loadgen.scrape import Scrape, between, sampled
from loadgen.target import Endpoint, request_bytes, request_head
from loadgen.workload import Workload, rendered
from scenarios.expect import Expect
from scenarios.scenario import Scenario

_PRECISIONS = (0.05, 0.02, 0.01)  # whose cost is told
_PREFLIGHT = Step(rate_rps=50.0, duration_s=0.1, arrivals="constant", purpose="preflight")  # five requests
_MOST_AUTO_WORKERS = 4
_GRACE_NS = 2 * NS_PER_S  # after an interruption, replies are awaited this long
_LATENESS_SHARE = 0.05  # of the tightest limit: later sends than this would be seen in the answer
_COALESCE_SHARE = 0.01  # of it: requests that fall due so close together may leave together
_LATENESS_FLOOR_NS = 2 * NS_PER_MS
_VERDICT_CODES = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.UNDECIDED: 3}
_EXIT_CODES = {"found": 0, "unmet": 1, "undecided": 3, "client_limited": 4, "target_failed": 5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Hold a run, the per-request times of its steps, and the defect that ended it early, if one did."""

    run: Run
    results: tuple[StepResult, ...]
    crash: Exception | None = None


class StepRunner(Protocol):
    """Run one step after the other: our engines do (`Fleet`), and so do Locust's users.

    Whatever sends from other machines, told over Locust's own messages, is to be one more of these.
    """

    def run_step(
        self,
        step: Step,
        overloaded: Callable[[StepProgress], bool],
        *,
        watch: Watch | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> tuple[StepResult, dict[str, Any], dict[str, int]]:
        """Run one step; see `Fleet.run_step`."""


class Interrupts:
    """Remember SIGINT and SIGTERM, and when the first came; true once one has."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.first_ns = 0

    def __call__(self, number: int, _frame: object) -> None:
        """Be a signal handler."""
        self.first_ns = self.first_ns or now_ns()
        self.signals.append(number)

    def __bool__(self) -> bool:
        return bool(self.signals)

    def is_urgent(self) -> bool:
        """Say that the user asked twice, or that the replies have had their time."""
        return len(self.signals) > 1 or (bool(self.signals) and now_ns() - self.first_ns > _GRACE_NS)

    @property
    def exit_code(self) -> int | None:
        """Return 128 plus the first signal, or None."""
        return 128 + self.signals[0] if self.signals else None


@contextlib.contextmanager
def interrupts() -> Iterator[Interrupts]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    seen = Interrupts()
    before = {number: signal.signal(number, seen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(scenario: Scenario, *, environment: Mapping[str, Any], show: Show, interrupts: Interrupts) -> Finished:
    """Find the operating point of a scenario's target.

    Args:
        scenario: What to run; `scenario.slas` is not empty.
        environment: What to note of the machine; masked.
        show: Given a `Progress` about once a second and at the end of each step.
        interrupts: From `interrupts()`; the caller holds it until the files are written.

    Raises:
        UsageError: The URL, a header or a limit of this machine is wrong.
        TargetError: The target cannot be reached, or fails every preflight request.
    """
    with _target(scenario, interrupts) as (fleet, url, scrape):
        own = selfcheck.brief(workers_of(scenario.load.workers), lambda: bool(interrupts))  # while nothing else runs
        _preflight(fleet, url, interrupts)
        noted = {**environment, "pacing": fleet.pacing, "workload": fleet.workload, "selfcheck": own}
        return _Session(scenario, noted, fleet, interrupts, show, scrape=scrape).run()


def search_with(
    scenario: Scenario, runner: StepRunner, *, environment: Mapping[str, Any], show: Show, interrupts: Interrupts
) -> Finished:
    """Find the operating point with a runner of steps that the caller has set up; arguments as in `run`."""
    return _Session(scenario, environment, runner, interrupts, show, scrape=None).run()


def load(
    scenario: Scenario, step: Step, *, environment: Mapping[str, Any], show: Show, interrupts: Interrupts
) -> Finished:
    """Run one step by hand on a scenario's target: no search, no operating point.

    A target that answers, however badly, gets the whole step: what it answers is what was asked about.

    Args:
        scenario: Target and workers; its SLAs, if there are any, judge the step.
        step: The load.
        environment: As in `run`.
        show: As in `run`.
        interrupts: As in `run`.

    Raises:
        UsageError: The URL, a header or a limit of this machine is wrong.
        TargetError: The target cannot be reached.
    """
    with _target(scenario, interrupts) as (fleet, url, scrape):
        _preflight(fleet, url, interrupts, any_reply_will_do=True)
        noted = {**environment, "pacing": fleet.pacing, "workload": fleet.workload}
        return _Session(scenario, noted, fleet, interrupts, show, scrape=scrape).load(step)


@contextlib.contextmanager
def _target(scenario: Scenario, interrupts: Interrupts) -> Iterator[tuple[Fleet, str, Scrape | None]]:
    """Set up what sends and, where the scenario names no URL, what answers.

    Yields:
        The fleet, the target's URL, and where the target tells of itself.
    """
    with contextlib.ExitStack() as stack:
        # First, because the embedded server inherits the limit on open files.
        connections = affordable_connections(scenario.load.connections)
        target = scenario.target
        url = target.url or stack.enter_context(embedded.reference_server(scenario.server))
        endpoint = Endpoint.of(url, target)
        scrape = Scrape.of(endpoint, target)
        with _rendered(scenario, endpoint, interrupts) as (request, workload):
            fleet = stack.enter_context(Fleet(_setup(scenario, endpoint, request, workload, connections)))
        yield fleet, url, scrape


@contextlib.contextmanager
def _rendered(
    scenario: Scenario, endpoint: Endpoint, interrupts: Interrupts
) -> Iterator[tuple[bytes, Workload | None]]:
    """Yield the request, or how each begins and all of them, in a file that lasts until the workers have opened it."""
    target, seed = scenario.target, scenario.search.seed
    headers = target.headers
    if scenario.expect.reads_body and "accept-encoding" not in {name.lower() for name in headers}:
        headers = {**headers, "Accept-Encoding": "identity"}

    @lru_cache(maxsize=4096)
    def head(body_bytes: int) -> bytes:
        return request_head(endpoint, target.method, headers, body_bytes)

    def until_interrupted(bodies: Iterator[bytes]) -> Iterator[bytes]:
        for body in bodies:
            if interrupts:
                raise KeyboardInterrupt
            yield body

    bodies = bodies_of(target, seed) or inputs.bodies_of(target, endpoint, seed)
    if bodies is None:
        body = embedded.BODY if target.url is None and not target.body else target.body
        yield request_bytes(endpoint, target.method, headers, body), None
        return
    with rendered(until_interrupted(bodies), head, shuffle=seed if target.shuffle else None) as workload:
        yield head(0), workload


def _setup(
    scenario: Scenario, endpoint: Endpoint, request: bytes, workload: Workload | None, connections: int
) -> Setup:
    load, limits_ns = scenario.load, [sla.limit_ns for sla in scenario.slas]
    return Setup(
        endpoint=endpoint,
        request=request,
        timeout_ns=round(_timeout_s(scenario) * NS_PER_S),
        connections=connections,
        workers=min(workers_of(load.workers), connections),
        think_s=load.think_s,
        cv=load.cv,
        replay=load.replay,
        workload=workload,
        expect=None if scenario.expect == Expect() else msgspec.to_builtins(scenario.expect),
        re_resolve_s=scenario.target.re_resolve_s,
        lateness_limit_ns=max(_LATENESS_FLOOR_NS, round(_LATENESS_SHARE * min(limits_ns, default=0))),
        coalesce_ns=round(min(COALESCE_NS, _COALESCE_SHARE * min(limits_ns, default=NS_PER_S))),
        window_ns=max(NS_PER_MS, round(_LATENESS_SHARE * min(limits_ns, default=0))),
    )


def _timeout_s(scenario: Scenario) -> float:
    slowest_ns = max((sla.limit_ns for sla in scenario.slas), default=0)
    return scenario.target.timeout_s or max(10 * slowest_ns / NS_PER_S, 2.0)


def _preflight(fleet: Fleet, url: str, interrupts: Interrupts, *, any_reply_will_do: bool = False) -> None:
    """Send five requests; a target that answers none of them well, or cannot be reached at all, is not worth a load.

    Raises:
        TargetError: All five failed; where any reply will do, found nobody there.
    """
    result, _, errors = fleet.run_step(_PREFLIGHT, lambda _: bool(interrupts), is_abandoned=interrupts.is_urgent)
    unmet = result.counts["connect_error"] if any_reply_will_do else result.offered - result.counts["ok"]
    if result.offered and unmet == result.offered and not interrupts:
        place = url.split("?", 1)[0].rsplit("@", 1)[-1]
        remedy = "; start the server, or correct the URL" if result.counts["connect_error"] == result.offered else ""
        raise TargetError(
            f"all {result.offered} preflight requests to {place} failed: {next(iter(errors), 'no reply')}{remedy}"
        )


class _Session:
    """Run one search on a fleet."""

    def __init__(
        self,
        scenario: Scenario,
        environment: Mapping[str, Any],
        fleet: StepRunner,
        interrupts: Interrupts,
        show: Show,
        *,
        scrape: Scrape | None,
    ) -> None:
        self._scenario = scenario
        self._environment = environment
        self._fleet = fleet
        self._interrupts = interrupts
        self._show = show
        self._scrape = scrape
        self._budget_s = scenario.search.budget_s
        self._records: list[StepRecord] = []
        self._results: list[StepResult] = []
        self._started_at = datetime.now(UTC).isoformat(timespec="seconds")
        self._start_ns = now_ns()
        self._expected_s: float | None = None
        self._costs: tuple[tuple[float, float], ...] = ()
        self._interval: Estimate | None = None

    def run(self) -> Finished:
        """Search until there is an answer, the budget or the user ends it, or a defect of ours does."""
        load, plan = self._scenario.load, self._scenario.search
        search = Search(
            self._scenario.slas, mode=load.mode, precision=plan.precision, budget_s=plan.budget_s,
            start_rps=load.start_rps, max_rps=load.max_rps, max_users=load.max_users, arrivals=load.arrivals,
            seed=plan.seed, bracket=plan.bracket,
        )  # fmt: skip
        crash = None
        try:
            while not self._interrupts and (step := search.next()) is not None:
                result = self._run_step(step, search.overloaded)
                if ABANDONED not in result.reasons:  # what the user cut off says nothing of the target
                    search.add(result)
                self._expected_s, self._interval = search.expected_s(), search.interval
                asked = sorted({*_PRECISIONS, plan.precision}, reverse=True)
                known = ((precision, search.expected_s(precision)) for precision in asked)
                self._costs = tuple((precision, cost) for precision, cost in known if cost is not None)
                self._show_end(result)
            answer = search.answer()
        except Exception as defect:  # noqa: BLE001 (what was measured is kept; the command line tells of the defect)
            crash = defect
            answer = OperatingPoint(
                verdict="undecided", sla=self._scenario.slas[0], limited_by="", stop_reason="an internal error"
            )
        if self._interrupts:
            answer = replace(answer, stop_reason="interrupted by the user")
        return self._finished(answer, exit_code(answer, self._scenario.require_rps), crash)

    def load(self, step: Step) -> Finished:
        """Run one step, unless the user has ended the run before it."""
        crash, self._budget_s = None, step.duration_s
        try:
            if not self._interrupts:
                self._show_end(self._run_step(step, lambda _: False))
        except Exception as defect:  # noqa: BLE001 (as in `run`)
            crash = defect
        return self._finished(None, load_exit_code(self._records[-1]) if self._records else 0, crash)

    def _finished(self, answer: OperatingPoint | None, code: int, crash: Exception | None) -> Finished:
        """Put together what was measured; a defect of ours and the user's interruption come before the code."""
        # With the timeout that was in force, which the reports tell.
        target = msgspec.structs.replace(self._scenario.target, timeout_s=_timeout_s(self._scenario))
        run = Run(
            scenario=mask(msgspec.structs.replace(self._scenario, target=target)),
            environment=self._environment,
            slas=self._scenario.slas,
            steps=tuple(self._records),
            answer=answer,
            exit_code=getattr(crash, "exit_code", 70) if crash else self._interrupts.exit_code or code,
            started_at=self._started_at,
            wall_s=(now_ns() - self._start_ns) / NS_PER_S,
        )
        return Finished(run=run, results=tuple(self._results), crash=crash)

    def _run_step(self, step: Step, overloaded: Callable[[StepProgress], bool]) -> StepResult:
        def is_over(progress: StepProgress) -> bool:
            return overloaded(progress) or bool(self._interrupts)

        def watch(view: StepView) -> None:
            self._show(self._progress(step, view.result, view.progress))

        scrape = self._scrape
        before = scrape.read() if scrape else None
        with sampled(scrape, before) as samples:
            result, client, errors = self._fleet.run_step(
                step, is_over, watch=watch, is_abandoned=self._interrupts.is_urgent
            )
        if scrape:
            length_s = max(1, result.end_ns - result.start_ns) / NS_PER_S
            told = between(before, scrape.read(), result.counts["ok"], length_s=length_s, samples=samples)
            result = replace(result, server=told)
        if not self._interrupts and _looks_dead(result) and not self._answers():
            reason = Reason("target", "the target stopped answering: check whether it is still running")
            result = replace(result, reasons=(*result.reasons, reason))
        self._results.append(result)
        self._records.append(
            StepRecord.of(
                result,
                self._scenario.slas,
                index=len(self._records),
                origin_ns=self._start_ns,
                client=client,
                errors=errors,
            )
        )
        return result

    def _show_end(self, result: StepResult) -> None:
        """Show a step that has ended, with what the search makes of it."""
        elapsed_s = (result.end_ns - result.start_ns) / NS_PER_S
        over = StepProgress(elapsed_s, result.offered, result.offered, 0, 0.0)
        self._show(self._progress(result.step, result, over, ended=True))

    def _answers(self) -> bool:
        """Say whether the target still answers at all."""
        result, _, _ = self._fleet.run_step(_PREFLIGHT, lambda _: False, is_abandoned=self._interrupts.is_urgent)
        return result.counts["ok"] > 0

    def _progress(self, step: Step, result: StepResult, progress: StepProgress, *, ended: bool = False) -> Progress:
        """Show `result`, the part of the step that is judged, beside the `progress` of all of it."""
        slas = self._scenario.slas
        sla: SLA | None = slas[0] if slas else None
        span_s = max(progress.elapsed_s, 1e-9)
        ok_share = result.counts["ok"] / max(1, result.offered)
        return Progress(
            elapsed_s=(now_ns() - self._start_ns) / NS_PER_S,
            budget_s=self._budget_s,
            index=len(self._records) - ended,
            step=step,
            step_elapsed_s=progress.elapsed_s,
            ended=ended,
            sla=sla,
            judgement=judge(result, slas) if slas and result.offered else None,
            quantile=quantile_estimate(result.response_ns, result.outcome != Outcome.OK, sla.quantile if sla else 0.99),
            offered_rps=(progress.done + progress.in_flight) / min(span_s, step.duration_s),
            achieved_rps=progress.done * ok_share / span_s,
            in_flight=progress.in_flight,
            records=tuple(self._records),
            expected_s=self._expected_s,
            costs=self._costs,
            interval=self._interval,
            result=result,
        )


def _looks_dead(result: StepResult) -> bool:
    """Say that most requests, or the last ones, found nobody there; slowness is no death."""
    nobody = np.isin(result.outcome, (Outcome.CONNECT_ERROR, Outcome.RESET))
    return bool(nobody.sum() > 0.5 * result.offered or (nobody.any() and nobody[-20:].all()))


def workers_of(asked: int | None) -> int:
    """Return the number of engine processes: as asked, or half the cores."""
    return asked or max(1, min(_MOST_AUTO_WORKERS, usable_cores() // 2))


def exit_code(answer: OperatingPoint, require_rps: float | None) -> int:
    """Return the documented exit code of an answer; a rate counts as reached when the safe rate reaches it."""
    if answer.verdict == "found" and require_rps is not None and (answer.safe_rps or 0.0) < require_rps:
        return 1
    return _EXIT_CODES[answer.verdict]


def load_exit_code(record: StepRecord) -> int:
    """Return the documented exit code of a single step: what broke comes before what was measured."""
    kinds = {reason.kind for reason in record.reasons}
    counts = record.counts
    nothing_came_back = record.offered > 0 and not counts["ok"]
    # A client at its limit explains what was lost or never got as far as the target, but no wrong or missing reply.
    explained = counts["lost"] + counts["unsent"] + counts["connect_error"]
    if "target" in kinds or (nothing_came_back and not explained):
        return 5
    if kinds:  # the step is not sound, so its numbers decide nothing
        return 4
    if nothing_came_back:
        return 5
    if not record.offered:  # by chance, or interrupted before the first request: nothing was measured
        return _VERDICT_CODES[Verdict.UNDECIDED]
    return _VERDICT_CODES[record.judgement.verdict] if record.judgement else 0
