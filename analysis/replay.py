"""Whether the twin explains what was seen: it is run on the very arrivals of the steps, and the tails are compared.

That takes the beginnings of a few steps. How many requests of all steps were slow is held against it as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Self

import numpy as np

from analysis.evidence import relaxation_s
from analysis.queueing import Floats, simulate
from analysis.reconstruct import Trace
from analysis.simulation import left_s, steady_responses
from analysis.sla import SLA
from analysis.step import StepResult
from analysis.twin import Twin

_REPLAYS = 12
_CHANCE = 4.0  # variances of chance below which a difference is none
_CHECKED = (10.0, 3.0, 1.0)  # times the allowed share: p90, p97 and p99 for p99
_LEAST_REPLAYED, _LONGEST_REPLAY = 100, 12_000  # requests of a step
_REPLAYED, _NEAR = 6, 0.16  # steps, of ln rate
_SETTLES = 0.995  # of the capacity
_ALIKE = 0.02  # of ln rate: such rates are simulated as one
_BELOW = 0.97  # of the twin's rate: nearer to it chance makes a step slow
_MATERIAL = 0.25  # of the allowed share: fewer slow requests do not move the answer
_SURELY, _CLUSTERS, _RAISED = 5.0, 3.0, 2.0  # standard deviations; clusters of slow requests; sd of the rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Count the slow requests of a step, all of them.

    Attributes:
        rate_rps: Asked arrival rate.
        start_s: Of the step, on the run's clock.
        requests: That fell due.
        slow: Of these, by the SLA's text, that violated it.
    """

    rate_rps: float
    start_s: float
    requests: int
    slow: dict[str, int]

    @classmethod
    def of(cls, result: StepResult, slas: Sequence[SLA]) -> Self:
        """Count a step's."""
        return cls(
            rate_rps=float(result.step.rate_rps or 0.0), start_s=result.start_ns / 1e9, requests=result.offered,
            slow={str(sla): int(result.violations(sla.limit_ns).sum()) for sla in slas},
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Compare the twin with what was seen, on the same arrivals.

    Attributes:
        misfit: Relative error of the rate that the difference of the tails amounts to, chance taken off.
        quantiles: (quantile, predicted, observed), seconds, over the steps that were replayed.
        rate_rps: Mean arrival rate of those steps.
        explained: Share of the variance of the logarithm of the observed quantiles that the prediction explains.
    """

    misfit: float
    quantiles: tuple[tuple[float, float, float], ...]
    rate_rps: float
    explained: float


def replay(twin: Twin, traces: Sequence[Trace], rate_rps: float, allowed: float, seed: int) -> Check | None:
    """Simulate the twin on the arrivals of steps near a rate and compare the tails.

    A quantile's difference counts by d ln quantile / d ln rate, from replays of the same arrivals a little faster.
    Differences are pooled over steps; what chance explains, from the scatter of the replays, is taken off.
    """
    most = _SETTLES * twin.capacity_rps  # above that a step shows nothing settled
    calm = [t for t in traces if not t.overload and t.arrival_s.size >= _LEAST_REPLAYED and t.rate_rps < most]
    calm = [t for t in calm if twin.since_s is None or t.start_s > twin.since_s] or calm[-1:]
    if not calm:
        return None
    calm.sort(key=lambda trace: abs(log(trace.rate_rps / rate_rps)))
    near = [trace for trace in calm if abs(log(trace.rate_rps / rate_rps)) < _NEAR] or calm[:1]
    near = [t.head(_LONGEST_REPLAY) for t in sorted(near, key=lambda t: min(t.arrival_s.size, _LONGEST_REPLAY))]
    near = near[-_REPLAYED:]
    top = max(trace.rate_rps for trace in near)
    checked = [1 - min(times * allowed, 0.5) for times in _CHECKED]
    faster = 0.015 if twin.capacity_rps > 1.05 * top else 0.004
    paces = (1.0, 1 + faster)
    modelled = _replayed(twin, near, paces, seed)
    rows = []
    for index, trace in enumerate(near):
        seen = trace.done_s - trace.arrival_s
        skip = min(int(0.05 * seen.size), 200)
        quantiles = np.log(np.quantile(modelled[:, index, :, skip : seen.size], checked, axis=2))
        rows.append((quantiles, np.log(np.quantile(seen[skip:], checked))))
    return _compare(near, rows, faster, checked)


def _replayed(twin: Twin, traces: Sequence[Trace], paces: Sequence[float], seed: int) -> Floats:
    """Return response times of the traces' arrivals at each pace, the services the same ones at all.

    Float (paces, traces, replays, requests); behind the requests of a shorter trace stands nan.
    """
    arrivals = np.full((len(traces), max(trace.arrival_s.size for trace in traces)), np.inf)
    for row, trace in zip(arrivals, traces, strict=True):
        row[: trace.arrival_s.size] = trace.arrival_s
    lanes = np.repeat(arrivals, _REPLAYS, axis=0)
    every = np.concatenate([lanes / pace for pace in paces])
    done = simulate(twin.rule, [twin.law] * len(paces), every, np.random.default_rng([seed, 8]))
    turn = int(np.random.default_rng([seed, 9]).integers(twin.spread_s.size))
    number = turn + np.arange(lanes.size).reshape(lanes.shape)
    with np.errstate(invalid="ignore"):  # behind the end of a trace nothing is left of nothing
        response = [
            left_s(twin, some, number) - lanes / pace
            for some, pace in zip(np.split(done, len(paces)), paces, strict=True)
        ]
    return np.stack(response).reshape(len(paces), len(traces), _REPLAYS, -1)


def _compare(
    near: Sequence[Trace], rows: Sequence[tuple[Floats, Floats]], faster: float, checked: Sequence[float]
) -> Check:
    """Pool the steps; `rows` holds of each the replays' quantiles (checked, 2, replays) and the seen ones."""
    simulated = np.array([modelled for modelled, _ in rows])  # (steps, quantiles, pace, replays)
    seen = np.array([real for _, real in rows])
    mean = simulated.mean(axis=3)
    slope = np.maximum((mean[:, :, 1] - mean[:, :, 0]) / log(1 + faster), 0.3)
    variance = simulated[:, :, 0].var(axis=2, ddof=1)
    requests = np.array([[trace.arrival_s.size] for trace in near])
    alike = (variance * requests).mean(axis=0) / requests  # as if a request told as much in every step
    variance = 0.5 * (variance + alike) * (1 + 1 / _REPLAYS) + 1e-6  # of few replays: drawn together
    apart = (seen - mean[:, :, 0]) / slope
    weight = slope**2 / variance
    pooled = (weight * apart).sum(axis=0) / weight.sum(axis=0)
    excess = np.maximum(0.0, pooled**2 - _CHANCE / weight.sum(axis=0))
    spread = float(((seen - seen.mean()) ** 2).sum())
    explained = 1 - float(((seen - mean[:, :, 0]) ** 2).sum()) / spread if spread > 0 else 0.0
    table = zip(checked, np.exp(mean[:, :, 0].mean(axis=0)).tolist(), np.exp(seen.mean(axis=0)).tolist(), strict=True)
    return Check(
        misfit=sqrt(float(excess.mean())), quantiles=tuple(table), explained=max(0.0, explained),
        rate_rps=float(np.mean([trace.rate_rps for trace in near])),
    )  # fmt: skip


def unexplained(twin: Twin, tallies: Sequence[Tally], sla: SLA, *, rate_rps: float, sd: float, seed: int) -> bool:
    """Say that surely more requests were slow in steps below the twin's rate than it says, and enough to matter.

    Steps of a server that is slow for whole stretches of time show it so, also where services were lost from memory.
    Slow requests come in clusters of a relaxation time, so that their number n has a variance of n clusters.

    Args:
        twin: The fitted server.
        tallies: Of the steps that did not overload.
        sla: Gives the limit and what is allowed.
        rate_rps: Where the twin puts the crossing.
        sd: Of its logarithm.
        seed: Of the simulations.
    """
    top, name = twin.capacity_rps, str(sla)
    told = [t for t in tallies if t.rate_rps < _BELOW * rate_rps and (twin.since_s is None or t.start_s > twin.since_s)]
    slow, requests = sum(t.slow[name] for t in told), sum(t.requests for t in told)
    if slow <= _MATERIAL * sla.violation_share * requests:
        return False
    expected = variance = cluster = 0.0
    groups: dict[int, list[Tally]] = {}
    for tally in told:  # rates hardly ever repeat
        groups.setdefault(round(log(tally.rate_rps) / _ALIKE), []).append(tally)
    for group in groups.values():
        rate = max(tally.rate_rps for tally in group)
        raised = min(rate * exp(_RAISED * sd), rate_rps)
        each = steady_responses(twin, [(twin.law, rate), (twin.law, raised)], sla.limit_s, [seed, 20])
        likely = sum(tally.requests for tally in group) * max(responses.share for responses in each)
        size = max(rate * relaxation_s(rate, top, sla.limit_s), 1.0)
        expected, variance, cluster = expected + likely, variance + likely * size, max(cluster, size)
    more = slow - expected - _SURELY * sqrt(variance) - _CLUSTERS * cluster
    return more > 0 and slow - expected > _MATERIAL * sla.violation_share * requests
