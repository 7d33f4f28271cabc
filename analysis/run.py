"""The finished run and its versioned JSON form. Reading and writing the file is the caller's."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np

from analysis.estimate import Estimate
from analysis.histogram import Histogram
from analysis.judgement import Judgement, Verdict, judge
from analysis.operating_point import ClosedAnswer, Confirmation, OperatingPoint, ServerModel
from analysis.quantile import quantile_estimate
from analysis.sla import SLA
from analysis.step import Outcome, Reason, Step, StepResult

FORMAT = "opfind-run"
VERSION = 3
HISTORY = (
    "1: first version",
    "2: a load without a search: answer is null; without an SLA too: slas is empty, judgement is null; wrong replies",
    "3: an answer tells method_reason, server, floor, cliff, per_sla, confirmation, inflation, needed_s, closed, notes",
)
BLOCK_NS = 1_000_000_000
BIN_NS = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRecord:
    """Keep of a step what the run file holds: counts, quantiles, histograms, the client's health.

    Attributes:
        index: 0, 1, … in the order in which steps ran.
        step: What was asked for.
        start_s: Since the run's start, seconds.
        end_s: End of the last request, since the run's start, seconds.
        aborted: Stopped early, by overload or by the user.
        drained: Nothing timed out.
        reasons: Why the step is not sound; shown, not fitted.
        counts: Requests by outcome name; they sum to the offered ones. An older file may lack a name: none were so.
        offered_rps: Requests due per second of the time over which they fell due.
        achieved_rps: Successful replies per second, from the step's start to its last request's end, or to the step's
            nominal end if that is later.
        judgement: The verdict and the bound that decided it; None without an SLA.
        p50: Median response time from the due time, seconds; None where it falls among failures.
        p95: 95th percentile.
        p99: 99th percentile.
        blocks: Response time from the due time, one histogram per second of due time; failures are overflow.
        service: Latency from the actual send, whole step; failures are overflow. None: not recorded.
        completions: Replies completed per 100 ms bin since the step's start.
        client: The generator's own health, plain numbers by name (see `loadgen.health.health`).
        errors: Requests by what went wrong, in words, the most frequent first.
        server: What the server said of itself, or None.
    """

    index: int
    step: Step
    start_s: float
    end_s: float
    aborted: bool
    drained: bool
    reasons: tuple[Reason, ...]
    counts: Mapping[str, int]
    offered_rps: float
    achieved_rps: float
    judgement: Judgement | None
    p50: Estimate | None
    p95: Estimate | None
    p99: Estimate | None
    blocks: tuple[Histogram, ...]
    service: Histogram | None
    completions: tuple[int, ...]
    client: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    server: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        result: StepResult,
        slas: Sequence[SLA],
        *,
        index: int,
        origin_ns: int,
        client: Mapping[str, Any] | None = None,
        errors: Mapping[str, int] | None = None,
    ) -> "StepRecord":
        """Summarise a result; `origin_ns` is the run's start on the result's clock."""
        failed = result.outcome != Outcome.OK
        response = result.response_ns
        p50, p95, p99 = (quantile_estimate(response, failed, q) for q in (0.5, 0.95, 0.99))
        span_ns = max(result.end_ns - result.start_ns, round(result.offered_span_s * 1e9))
        done = (result.done_ns[~failed] - result.start_ns) // BIN_NS
        service = None
        if result.sent_ns is not None:
            service = Histogram.of((result.done_ns - result.sent_ns)[~failed], overflow=int(failed.sum()))
        return cls(
            index=index,
            step=result.step,
            start_s=(result.start_ns - origin_ns) / 1e9,
            end_s=(result.end_ns - origin_ns) / 1e9,
            aborted=result.aborted,
            drained=result.drained,
            reasons=result.reasons,
            counts=result.counts,
            offered_rps=result.offered / result.offered_span_s,
            achieved_rps=result.counts["ok"] / (span_ns / 1e9),
            judgement=judge(result, slas) if slas else None,
            p50=p50,
            p95=p95,
            p99=p99,
            blocks=tuple(_blocks(result)),
            service=service,
            completions=tuple(np.bincount(np.maximum(done, 0)).tolist()),
            client=dict(client or {}),
            errors=dict(errors or {}),
            server=result.server,
        )

    @property
    def histogram(self) -> Histogram:
        """Return the response times of the whole step."""
        whole = Histogram()
        for block in self.blocks:
            whole += block
        return whole

    @property
    def offered(self) -> int:
        """Return the number of requests whose due time came."""
        return sum(self.counts.values())

    @property
    def span_s(self) -> float:
        """Return the time over which requests fell due, seconds; what an interruption left of it."""
        return self.offered / self.offered_rps if self.offered_rps else self.step.duration_s

    @property
    def throughput_rps(self) -> float:
        """Return successful replies per second while requests fell due, as wrk counts: what the drain brought is not.

        Over whole bins of `completions`; where there is not even one, `achieved_rps`.
        """
        bins = int(self.span_s * 1e9 / BIN_NS + 1e-6)
        return sum(self.completions[:bins]) / (bins * BIN_NS / 1e9) if bins else self.achieved_rps


def _blocks(result: StepResult) -> list[Histogram]:
    """Cut response times into one histogram per second of due time."""
    if not result.offered:
        return []
    failed = result.outcome != Outcome.OK
    block = (result.due_ns - result.start_ns) // BLOCK_NS
    edges = np.searchsorted(block, np.arange(int(block[-1]) + 2))
    response = result.response_ns
    return [
        Histogram.of(response[low:high][~failed[low:high]], overflow=int(failed[low:high].sum()))
        for low, high in pairwise(edges)
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """Be everything that a finished run is.

    Attributes:
        scenario: What was to be run, as plain values, secrets masked.
        environment: Machine, kernel, Python, package versions, git commit, seed, command line.
        slas: Every SLA that was to hold; a load by hand may have none.
        steps: In the order in which they ran.
        answer: The operating point; None where nothing was searched: a single load, run by hand.
        exit_code: What the command ended with.
        started_at: UTC, ISO 8601.
        wall_s: From start to answer, seconds.
    """

    scenario: Mapping[str, Any]
    environment: Mapping[str, Any]
    slas: tuple[SLA, ...]
    steps: tuple[StepRecord, ...]
    answer: OperatingPoint | None
    exit_code: int
    started_at: str
    wall_s: float

    def as_json(self) -> dict[str, Any]:
        """Return the versioned form as plain values."""
        steps = []
        for record in self.steps:
            plain = {f.name: getattr(record, f.name) for f in fields(record)}
            plain["step"] = asdict(record.step)
            plain["judgement"] = asdict(record.judgement) if record.judgement else None
            plain["reasons"] = [asdict(reason) for reason in record.reasons]
            plain["blocks"] = [block.as_json() for block in record.blocks]
            plain["service"] = record.service.as_json() if record.service else None
            for name in ("p50", "p95", "p99"):
                plain[name] = asdict(plain[name]) if plain[name] else None
            plain["completions"] = list(record.completions)
            plain["counts"], plain["client"], plain["errors"] = (
                dict(record.counts), dict(record.client), dict(record.errors),
            )  # fmt: skip
            steps.append(plain)
        return {
            "format": FORMAT,
            "version": VERSION,
            "history": list(HISTORY),
            "started_at": self.started_at,
            "wall_s": self.wall_s,
            "exit_code": self.exit_code,
            "answer": _answer_as_json(self.answer) if self.answer else None,
            "slas": [asdict(sla) for sla in self.slas],
            "scenario": dict(self.scenario),
            "environment": dict(self.environment),
            "steps": steps,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Run":
        """Read what `as_json` gave, of this version or an older one.

        Raises:
            ValueError: It is no run file, or of a version that this program does not know.
        """
        if data.get("format") != FORMAT:
            raise ValueError(f"this is no {FORMAT} file: its format is {data.get('format')!r}")
        if data.get("version") not in range(1, VERSION + 1):
            raise ValueError(f"run file version {data.get('version')!r}: this program reads 1 to {VERSION}")
        return cls(
            scenario=data["scenario"],
            environment=data["environment"],
            slas=tuple(SLA(**sla) for sla in data["slas"]),
            steps=tuple(_record_from_json(step) for step in data["steps"]),
            answer=_answer_from_json(data["answer"]) if data["answer"] else None,
            exit_code=data["exit_code"],
            started_at=data["started_at"],
            wall_s=data["wall_s"],
        )


_ESTIMATES = ("rate_rps", "capacity_rps", "knee_rps", "p50", "p95", "p99", "users", "throughput_rps", "floor")


def _estimate(data: Mapping[str, Any] | None) -> Estimate | None:
    return Estimate(**data) if data else None


def _answer_as_json(answer: OperatingPoint) -> dict[str, Any]:
    plain = asdict(replace(answer, per_sla=dict(answer.per_sla)))
    return {name: _strict(value) for name, value in plain.items()}


def _strict(value: Any) -> Any:
    """Return a plain value without the numbers that JSON cannot write; a tuple is a list, as it will be read."""
    if isinstance(value, dict):
        return {key: _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _answer_from_json(data: Mapping[str, Any]) -> OperatingPoint:
    """Read an answer of any version: what an older one lacks has its default."""
    plain = dict(data)
    for name in _ESTIMATES:
        plain[name] = _estimate(plain.get(name))
    plain["sla"] = SLA(**plain["sla"])
    if server := plain.get("server"):
        plain["server"] = ServerModel(**{**server, "quantiles": _rows(server["quantiles"])})
    if confirmation := plain.get("confirmation"):
        plain["confirmation"] = Confirmation(**confirmation)
    if closed := plain.get("closed"):
        plain["closed"] = ClosedAnswer(**closed)
    plain["per_sla"] = {name: Estimate(**each) for name, each in plain.get("per_sla", {}).items()}
    plain["needed_s"] = _rows(plain.get("needed_s", ()))
    plain["notes"] = tuple(plain.get("notes", ()))
    return OperatingPoint(**plain)


def _rows(data: Sequence[Sequence[float | None]]) -> tuple[Any, ...]:
    """Read rows of numbers; one that holds what JSON could not write is left out."""
    return tuple(tuple(row) for row in data if None not in row)


def _record_from_json(data: Mapping[str, Any]) -> StepRecord:
    plain = dict(data)
    plain["step"] = Step(**plain["step"])
    if judged := plain["judgement"]:
        plain["judgement"] = Judgement(**{**judged, "verdict": Verdict(judged["verdict"])})
    plain["reasons"] = tuple(Reason(**reason) for reason in plain["reasons"])
    plain["blocks"] = tuple(Histogram.from_json(block) for block in plain["blocks"])
    plain["service"] = Histogram.from_json(plain["service"]) if plain["service"] else None
    plain["completions"] = tuple(plain["completions"])
    for name in ("p50", "p95", "p99"):
        plain[name] = _estimate(plain[name])
    return StepRecord(**plain)
