"""What the server did, read off arrivals and completions: its batches, instances, waiting limit and service times.

Requests are taken in the order in which they arrived; requests of one batch complete together. Legend: a arrival,
d completion, W the longest wait for a batch to fill, B the largest batch, c instances, t(b) the service time of a batch
of b, J the part of every latency that is neither queue nor service (network, pre- and post-processing).
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappushpop
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from analysis.queueing import Floats, Ints, Rule
from analysis.step import Outcome, StepResult

CLOCK_S = 2e-6  # nothing is measured more exactly
_EXACT_S = 1e-7  # clocks that are simulated: what completes together does so exactly
_LEAST_RUNS, _MANY_RUNS = 6, 20
_AS_MANY = 0.95
_LEAST_FULL, _OVERTAKING, _SPARE = 20, 0.01, 0.2  # full batches; share of them below the least gap; of its spread
_LOOP_S = 2e-5  # so near a client sees replies that came at the same time, which it takes one by one: 3 to 8 us here
_SUPPOSITIONS, _LARGER = 2, (1.0, 1.6, 2.5, 4.0, 6.5)
_REGULAR = 0.4  # share of the requests of a deep backlog that lie in batches of the one size
_TOGETHER, _ALONE = 0.8, 0.1  # that lie in one or several at once, which of any lengths half may; of them in one


class Gap(NamedTuple):
    """Say how far apart, in order of arrival, neighbouring replies of one batch are, seconds.

    Attributes:
        most_s: At most; 0 with batches of one.
        least_s: At least; negative where replies may overtake one another. Replies that leave one by one are as far
            apart as that takes, and two batches that end at once are not.
    """

    most_s: float
    least_s: float

    @property
    def exact(self) -> bool:
        """Say that replies of one batch come at the very same time, as by a simulated clock."""
        return self.most_s < 1e-6


NO_GAP = Gap(0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Hold when the requests of one step arrived at and left the server, in order of arrival, from empty to empty.

    Attributes:
        arrival_s: float (n,), ascending, seconds.
        done_s: float (n,).
        rate_rps: Asked arrival rate.
        overload: The step overloaded the server.
        start_s: Of the step, on the run's clock.
        mean_batch: Requests over batches, as the server itself counted them during the step (`server` of a StepResult:
            "requests" and "batches"); None where it did not.
    """

    arrival_s: Floats
    done_s: Floats
    rate_rps: float
    overload: bool
    start_s: float = 0.0
    mean_batch: float | None = None

    @classmethod
    def of(cls, result: StepResult, *, overload: bool) -> Self:
        """Take the times of a step's requests that succeeded; from the actual send, where it was recorded."""
        sent = result.due_ns if result.sent_ns is None else np.maximum(result.sent_ns, result.due_ns)
        order = np.argsort(sent, kind="stable")
        order = order[result.outcome[order] == Outcome.OK]
        told = result.server or {}
        return cls(
            arrival_s=(sent[order] - result.start_ns) / 1e9, done_s=(result.done_ns[order] - result.start_ns) / 1e9,
            rate_rps=float(result.step.rate_rps or 0.0), overload=overload, start_s=result.start_ns / 1e9,
            mean_batch=told["requests"] / told["batches"] if told.get("requests") and told.get("batches") else None,
        )  # fmt: skip

    def head(self, requests: int) -> Self:
        """Return the trace of its first requests."""
        if requests >= self.arrival_s.size:
            return self
        return replace(self, arrival_s=self.arrival_s[:requests], done_s=self.done_s[:requests], mean_batch=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Services:
    """Hold the batches of a trace, one entry each, in the order in which they began.

    Attributes:
        first: int (k,), index of its first request.
        size: int (k,), its requests.
        start_s: When its service began: when the rule says, or later by `delay_s`; seconds.
        delay_s: How much later than the rule says it began, seen by what arrived after and still went with it.
        service_s: Completion of its first reply less the start.
        free_s: When the instance that took it became free; -inf at the start.
        idle: bool (k,), an instance was free before its first request arrived.
        waited: bool (k,), it began when an instance became free.
        spread_s: float (requests,), each reply's delay after the first of its batch.
        odd: Batches whose members are not those that the rule says.
    """

    first: Ints
    size: Ints
    start_s: Floats
    delay_s: Floats
    service_s: Floats
    free_s: Floats
    idle: NDArray[np.bool_]
    waited: NDArray[np.bool_]
    spread_s: Floats
    odd: int


class _Found(NamedTuple):
    """Say what a gap makes of the completions: which share of the requests, and how many, lie in full batches."""

    share: float
    requests: float
    gap: float


def batch_gaps(traces: Sequence[Trace]) -> list[tuple[int, list[Gap]]]:
    """Return suppositions, likeliest first: the largest batch, and how far apart completions may be to belong together.

    In a deep backlog every batch is full, so a right gap cuts the completions into runs of one length, or of a few of
    them where several instances reply at once. For each length the smallest gap comes first that leaves nearly as many
    requests in runs of it as any, and then larger ones: smaller gaps tear a batch apart whose replies were held up,
    larger ones join batches, which at lower load follow one another faster. Batches of one, with a gap of 0, come last.
    """
    found: dict[int, list[_Found]] = {}
    candidates = _gap_candidates(traces)
    # At lower load small batches leave before a queue that is long only beside them: they count where overload was too
    # short to tell.
    told = _sizes([trace for trace in traces if trace.overload], candidates)
    if max((sizes.size for sizes in told), default=0) < _MANY_RUNS:
        told = _sizes(traces, candidates)
    for gap, sizes in zip(candidates, told, strict=True):
        if sizes.size < _LEAST_RUNS:
            continue
        length, count = np.unique(sizes, return_counts=True)
        whole = (length > 1) & (count >= _LEAST_RUNS)
        if not whole.any():
            continue
        held = length * count / sizes.sum()
        together = np.array([held[length % one == 0].sum() for one in length])  # by several instances at once
        shares = np.where((together > _TOGETHER) & (held > _ALONE), together, held) * whole
        share = float(shares.max())
        if share > _REGULAR:
            one = _Found(share=share, requests=share * float(sizes.sum()), gap=gap)
            found.setdefault(int(length[shares.argmax()]), []).append(one)
    likely = sorted(sorted(found), key=lambda batch: -round(max(one.share for one in found[batch]), 1))[:_SUPPOSITIONS]
    supposed = [(batch, [_gap(traces, most_s, batch) for most_s in _good(found[batch])]) for batch in likely]
    return [*supposed, (1, [NO_GAP])]


def _sizes(traces: Sequence[Trace], gaps: Sequence[float]) -> list[Ints]:
    """Return the lengths of the runs of all traces, for each gap."""
    return [np.concatenate([np.zeros(0, np.int64), *(_runs(trace, gap)[1] for trace in traces)]) for gap in gaps]


def _good(found: Sequence[_Found]) -> list[float]:
    """Return gaps from the smallest on with which nearly as many requests as with any lie in runs of the length.

    So many of them, not such a share: where nearly all batches are joined, the few that are left may all be full.
    """
    enough = _AS_MANY * max(one.requests for one in found)
    good = [one.gap for one in found if one.requests >= enough]
    return [good[0] * times for times in _LARGER if times == 1 or good[0] * times <= good[-1]]


def _gap(traces: Sequence[Trace], most_s: float, batch: int) -> Gap:
    """Return the gap; with a lower end, that of full batches in a deep backlog, where replies leave one by one."""
    apart = [np.zeros((0, batch - 1))]  # a row for each full batch
    for trace in traces if most_s > _EXACT_S else ():
        firsts, sizes = _runs(trace, most_s)
        full = firsts[sizes == batch]
        apart.append(np.diff(trace.done_s[full[:, None] + np.arange(batch)], axis=1))
    seen = np.concatenate(apart)
    if seen.shape[0] < _LEAST_FULL:
        return Gap(most_s, -most_s)
    low, middle = float(np.quantile(seen.min(axis=1), _OVERTAKING)), float(np.median(seen))
    least_s = low - _SPARE * (middle - low) - CLOCK_S
    return Gap(most_s, least_s if least_s > _LOOP_S else -most_s)  # where they overtake one another, by how much varies


def _gap_candidates(traces: Sequence[Trace]) -> list[float]:
    """Return gaps to try, up to those between batches at the highest load."""
    busiest = max(traces, key=lambda trace: trace.rate_rps)
    gaps = np.abs(np.diff(busiest.done_s))
    if not gaps.size:
        return []
    if np.mean(gaps < _EXACT_S) > 0.2:
        return [_EXACT_S]
    return [float(g) for g in np.geomspace(2e-5, max(2 * float(np.quantile(gaps, 0.98)), 4e-5), 40)]


def _runs(trace: Trace, gap_s: float) -> tuple[Ints, Ints]:
    """Return where runs of completions closer than a gap begin, and their lengths, while more waited than one holds."""
    cuts = np.flatnonzero(np.abs(np.diff(trace.done_s)) > gap_s) + 1
    if cuts.size < 3:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    firsts, lasts = cuts[:-1], cuts[1:]
    sizes = lasts - firsts
    arrived = np.searchsorted(trace.arrival_s, trace.done_s[firsts - 1], side="right")
    deep = arrived - lasts > 2 * sizes
    return firsts[deep], sizes[deep]


def reconstruct(trace: Trace, rule: Rule, gap: Gap, delay_s: float, *, by_rule: bool = True) -> Services:
    """Follow the rule through a trace, each instance becoming free when its last batch was seen to complete.

    Args:
        trace: Of one step.
        rule: Supposed rule of dispatch.
        gap: Completions further apart, or not so far, are of different batches.
        delay_s: J, seconds.
        by_rule: Where two batches may seem one (several instances, replies that spread), what arrived after a batch
            began is of the next one; needs the right `wait_s`.
    """
    if rule.max_batch == 1:
        return _single(trace, rule, delay_s)
    arrival, done = trace.arrival_s, trace.done_s - delay_s
    apart = np.diff(trace.done_s)
    cuts = np.append(np.flatnonzero((apart > gap.most_s) | (apart < gap.least_s)) + 1, arrival.size)
    tolerance = 1e-9 if gap.exact else 0.5 * gap.most_s
    if by_rule and rule.instances > 1 and not gap.exact:
        first, ready, close, finish = _told_apart(arrival, done, cuts, rule, tolerance)
    else:
        first = _full_from(np.append(0, cuts[:-1]), np.diff(cuts, prepend=0), rule.max_batch)
        finish = np.minimum.reduceat(done, first)
        ready = _ready(finish, rule.instances)
        close = np.maximum(ready, _latest(arrival, rule)[first])
    size = np.diff(first, append=arrival.size)
    late = arrival[first + size - 1] - close
    after = np.append(arrival, np.inf)[first + size]
    odd = int(((late > tolerance) | ((size < rule.max_batch) & (after < close - tolerance))).sum())
    late = np.where(late > tolerance, late, 0.0)
    start = close + late
    return Services(
        first=first, size=size, start_s=start, delay_s=late, service_s=finish - start, free_s=ready,
        spread_s=done - np.repeat(finish, size), odd=odd, idle=ready <= arrival[first], waited=ready >= start,
    )  # fmt: skip


def _latest(arrival_s: Floats, rule: Rule) -> Floats:
    """Return when a batch that begins with each request starts where an instance is free: full, or tired of waiting."""
    full = np.full(arrival_s.size, np.inf)
    full[: max(0, arrival_s.size - rule.max_batch + 1)] = arrival_s[rule.max_batch - 1 :]
    latest: Floats = np.minimum(arrival_s + rule.wait_s, full)
    return latest


def _full_from(firsts: Ints, sizes: Ints, batch: int) -> Ints:
    """Return where batches begin when runs of requests are cut into full ones and a rest."""
    pieces = -(-sizes // batch)
    begun = np.repeat(np.cumsum(pieces) - pieces, pieces)
    cut: Ints = np.repeat(firsts, pieces) + (np.arange(begun.size) - begun) * batch
    return cut


def _ready(finish_s: Floats, instances: int) -> Floats:
    """Return when the instance that takes each batch became free: at the c-th largest completion before it."""
    if instances == 1:
        return np.append(-np.inf, np.maximum.accumulate(finish_s)[:-1])
    free = [-np.inf] * instances
    return np.array([(free[0], heappushpop(free, finish))[0] for finish in finish_s.tolist()], dtype=np.float64)


def _told_apart(
    arrival_s: Floats, done_s: Floats, cuts: Ints, rule: Rule, tolerance: float
) -> tuple[Ints, Floats, Floats, Floats]:
    """Return first, ready, close and finish of batches where what arrived after one closed is of the next one."""
    a, d, n, batch = arrival_s.tolist(), done_s.tolist(), arrival_s.size, rule.max_batch
    latest, ends = _latest(arrival_s, rule).tolist(), cuts.tolist()
    least = np.repeat(np.minimum.reduceat(done_s, np.append(0, cuts[:-1])), np.diff(cuts, prepend=0)).tolist()
    free = [-np.inf] * rule.instances
    firsts, readies, closes, finishes = [], [], [], []
    i = k = 0
    while i < n:
        while ends[k] <= i:
            k += 1
        ready, close, end = free[0], latest[i], ends[k]
        close = max(ready, close)
        whole = end - i <= batch and (i == 0 or i == ends[k - 1])
        if not whole:
            end = min(end, i + batch)
        if a[end - 1] > close + tolerance:
            end, whole = max(i + 1, bisect_right(a, close, i, end)), False
        finish = least[i] if whole else min(d[i:end])
        firsts.append(i)
        readies.append(ready)
        closes.append(close)
        finishes.append(finish)
        heappushpop(free, finish)
        i = end
    return np.array(firsts), np.array(readies), np.array(closes), np.array(finishes)


def _single(trace: Trace, rule: Rule, delay_s: float) -> Services:
    """Reconstruct batches of one: request i begins when the c-th largest completion before it has passed."""
    done = trace.done_s - delay_s
    n, ready = done.size, _ready(done, rule.instances)
    begin = np.maximum(ready, trace.arrival_s + rule.wait_s)
    return Services(
        first=np.arange(n), size=np.ones(n, dtype=np.int64), start_s=begin, delay_s=np.zeros(n),
        service_s=done - begin, free_s=ready, spread_s=np.zeros(n), odd=0,
        idle=ready <= trace.arrival_s, waited=ready > trace.arrival_s + rule.wait_s,
    )  # fmt: skip


def stab(lows: Floats, highs: Floats) -> tuple[float, float, float]:
    """Return the stretch that lies in most of the intervals [low, high), and the share of them that it lies in."""
    good = highs > lows
    lows, highs = lows[good], highs[good]
    if not lows.size:
        return 0.0, 0.0, 0.0
    edges = np.concatenate([lows, highs])
    steps = np.concatenate([np.ones(lows.size), -np.ones(highs.size)])
    order = np.lexsort((steps, edges))
    depth = np.cumsum(steps[order])
    best = int(depth.argmax())
    edges = edges[order]
    return float(edges[best]), float(edges[min(best + 1, edges.size - 1)]), float(depth[best] / lows.size)
