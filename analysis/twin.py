"""The twin: a model of the server, fitted from arrivals and completions alone, that says when it must not be believed.

Legend: see `analysis.reconstruct`. What speaks against a fitted server is in `analysis.supposed`; how well the twin
replays what was seen is judged in `analysis.replay`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import hypot, sqrt

import numpy as np

from analysis.pace import SPELL_S, SPELLS, Seconds, spells, stationary, usual
from analysis.queueing import Floats, Ints, Law, Rule, capacity_rps, places_of
from analysis.reconstruct import Gap, Trace, batch_gaps, reconstruct
from analysis.supposed import Supposed, batch_times, is_near, refusal, suppose

_INSTANCES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24)
_ALL, _RARER = 6, 0.02  # up to which number all are tried; by so much those between must explain more
_LEAST = 60
_SCAN, _SELECT, _BEST = 4_000, 15_000, 3  # requests on which the numbers of instances are tried, and the best of them
_RUNS, _FEWEST_RUNS, _RELATED_Z = (2, 5, 25), 10, 3.0  # services; runs; of the variance of their means
_POOL = 50_000
_RUN = 25  # services that are resampled together, where none depend on one another for longer
IN_SPELLS = "the server is slower for whole stretches of time"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Twin:
    """Be the fitted server.

    Attributes:
        rule: When a batch starts and what it takes.
        law: Service times, in the order in which they were seen.
        base_s: Service time of a batch of b is base_s + per_item_s * b on average.
        per_item_s: See `base_s`.
        cv: Coefficient of variation of the ratios.
        gap: Between replies of one batch.
        delay_s: J.
        place_s: float (max_batch,), mean delay of a reply after the first of its batch, by its place in it.
        spread_s: float (m,), what that leaves of each reply's delay, a pool to draw from.
        sizes: int (k,), of the batches that the law rests on.
        service_s: float (k,), their service times.
        dates_s: float (k,), when each of the law's services began, on the run's clock.
        run: Services that may depend on one another.
        uneven: By how much seconds differ beyond chance, a standard deviation; 0 where chance may do it.
        drift: Relative size of a change that was found in the service times and cut off; 0 without.
        trend: Relative doubt that a change which cannot be cut off and slower stretches leave, a standard deviation.
        since_s: Services before this time, on the run's clock, were left out; None where nothing was.
    """

    rule: Rule
    law: Law
    base_s: float
    per_item_s: float
    cv: float
    gap: Gap
    delay_s: float
    place_s: Floats
    spread_s: Floats
    sizes: Ints
    service_s: Floats
    dates_s: Floats
    run: int
    uneven: float = 0.0
    drift: float = 0.0
    trend: float = 0.0
    since_s: float | None = None

    @property
    def capacity_rps(self) -> float:
        """Return the completions per second of a server that always has work."""
        return capacity_rps(self.rule, self.law)

    @property
    def services(self) -> int:
        """Return the number of batches that the law rests on."""
        return self.sizes.size

    @property
    def enough(self) -> bool:
        """Say that so many services were seen that their law is known, as well as resampling them tells."""
        return self.services >= 150 + 500 * min(self.cv, 1.0)

    @property
    def plenty(self) -> bool:
        """Say that what such a law cannot be will not change with more of them."""
        return self.services >= 150 + 1800 * min(self.cv, 1.0)


def fit(traces: Sequence[Trace], before: Twin | None = None) -> Twin | str:
    """Fit the server to traces in time order; return why it must not be believed instead, as half a sentence.

    Args:
        traces: Of steps all of whose requests succeeded.
        before: What was fitted to fewer traces: its number of instances is kept while none explains them better.
    """
    if sum(trace.arrival_s.size for trace in traces) < _LEAST:
        return "too few requests were seen yet"
    supposed = batch_gaps(traces)
    kept = _as_before(before, traces, supposed) if before is not None else None
    if kept is not None and not kept.doubted:
        return _law_over_time(kept, traces)
    best = _likeliest(traces, supposed)
    found = suppose(traces, best.rule, best.gap)
    if kept is not None and kept.score <= found.score:
        return _law_over_time(kept, traces)
    return refusal(found, traces) or _law_over_time(found, traces)


def _as_before(before: Twin, traces: Sequence[Trace], supposed: Sequence[tuple[int, list[Gap]]]) -> Supposed | None:
    """Return what the rule of the fit before makes of the traces; None where it is refused."""
    few = _beginnings(traces, _SELECT)
    likely = next((gaps for batch, gaps in supposed if batch == before.rule.max_batch), [])
    gap = min(likely, key=lambda gap: suppose(few, before.rule, gap).untidy, default=None)
    found = suppose(traces, before.rule, gap) if gap is not None else None
    return found if found is not None and refusal(found, traces) is None else None


def _likeliest(traces: Sequence[Trace], supposed: Sequence[tuple[int, list[Gap]]]) -> Supposed:
    """Return what explains the beginnings of the traces best, of all batches, gaps and numbers of instances."""
    few = _beginnings(traces, _SELECT)
    fewest = _beginnings(few, _SCAN)
    each = []
    for batch, gaps in supposed:
        rules = [Rule(instances=n, max_batch=batch) for n in _INSTANCES]
        scanned = sorted((suppose(fewest, rule, gap) for gap in gaps[::2][:2] for rule in rules), key=_score)
        tried = scanned[0]
        if fewest is not few:
            best_rules = ((replace(one.rule, wait_s=0.0), one.gap) for one in scanned[:_BEST])
            tried = min((suppose(few, rule, gap) for rule, gap in best_rules), key=_score)
        beside = {tried.rule.instances + more for more in (-2, -1, 1, 2) if tried.rule.instances >= _ALL}
        for rule in [Rule(instances=n, max_batch=batch) for n in beside - set(_INSTANCES)]:
            other = suppose(few, rule, tried.gap)
            tried = other if other.score < tried.score - _RARER else tried
        others = (suppose(few, replace(tried.rule, wait_s=0.0), gap) for gap in gaps if gap != tried.gap)
        each.append(min((tried, *others), key=lambda one: one.untidy))
    return min(each, key=_score)


def _score(found: Supposed) -> float:
    return found.score


def _beginnings(traces: Sequence[Trace], requests: int) -> Sequence[Trace]:
    """Return traces that hold about so many requests together, each cut to its beginning; the same ones if they do."""
    if sum(trace.arrival_s.size for trace in traces) <= requests:
        return traces
    share = max(requests // len(traces), 500)
    return [trace.head(share) for trace in traces]


def _law_over_time(found: Supposed, traces: Sequence[Trace]) -> Twin | str:
    """Take the law from the steps of a busy server, and of these from the time since which it did not change."""
    keep = is_near(traces)
    parts = [part for part, near in zip(found.parts, keep, strict=True) if near and part.size.size]
    dates = np.concatenate(
        [trace.start_s + part.start_s for part, trace, near in zip(found.parts, traces, keep, strict=True)
         if near and part.size.size]
    )  # fmt: skip
    batch = found.rule.max_batch
    sizes = np.concatenate([part.size for part in parts])
    service = np.concatenate([part.service_s for part in parts])
    delays = np.concatenate([part.delay_s for part in parts])
    mean, _, _ = batch_times(sizes, service, batch)
    ratios = service / mean[sizes]
    begin, change, trend = stationary(dates, np.clip(ratios, *usual(ratios)))
    sizes, service, delays, dates = sizes[begin:], service[begin:], delays[begin:], dates[begin:]
    seconds = Seconds.of(dates, np.clip(ratios[begin:], *usual(ratios[begin:])))
    uneven = spells([seconds])
    if uneven > SPELLS:
        return IN_SPELLS
    mean, base, per_item = batch_times(sizes, service, batch)
    ratios = np.maximum(service, 0.0) / mean[sizes]
    spread = np.concatenate([part.spread_s for part in parts])
    places = np.concatenate([places_of(np.repeat(part.first, part.size)) for part in parts])
    place = np.bincount(places, weights=spread, minlength=batch) / np.maximum(np.bincount(places, minlength=batch), 1)
    run = max(_RUN, int(SPELL_S * sizes.size / seconds.counts.size)) if uneven else _RUN
    restart = min(_restart(ratios), 1 / run) if uneven else _restart(ratios)
    return Twin(
        rule=found.rule, law=Law(batch_s=mean, ratios=ratios, delays_s=delays, restart=restart), run=run, uneven=uneven,
        base_s=base, per_item_s=per_item, cv=float(ratios.std()), gap=found.gap, delay_s=found.delay_s,
        sizes=sizes, service_s=service, dates_s=dates, place_s=place, spread_s=(spread - place[places])[-_POOL:],
        drift=change, trend=hypot(trend, uneven / seconds.counts.size**0.5),
        since_s=float(dates[0]) if begin else None,
    )  # fmt: skip


def pace(twin: Twin, trace: Trace) -> Seconds:
    """Return how long the services of a step of at least one request took, as the twin sees them."""
    part = reconstruct(trace, twin.rule, twin.gap, twin.delay_s)
    ratios = part.service_s / twin.law.batch_s[part.size]
    return Seconds.of(trace.start_s + part.start_s, np.clip(ratios, *usual(twin.law.ratios)))


def relaw(twin: Twin, index: Ints) -> Law:
    """Return the law that a selection of the services gives, t(b) fitted anew."""
    sizes, service = twin.sizes[index], twin.service_s[index]
    mean, _, _ = batch_times(sizes, service, twin.rule.max_batch)
    restart = twin.law.restart if twin.uneven else 1.0
    delays = twin.law.delays_s[index]
    return Law(batch_s=mean, ratios=np.maximum(service, 0.0) / mean[sizes], delays_s=delays, restart=restart)


def _restart(ratios: Floats) -> float:
    """Return the chance that a service drawn does not follow the one that was seen before it; see `Law`.

    1 where means over 2, 5 and 25 services scatter as chance makes them: runs of consecutive services, cut from a few
    hundred, scatter less than the server does, because they share the mean of those few. Else about k^(1/3) services
    follow one another, the order of length that is best for a variance (Kuensch 1989).
    """
    clipped = np.minimum(ratios, 3.0)
    variance = float(clipped.var())
    for length in _RUNS:
        count = clipped.size // length
        means = clipped[: count * length].reshape(count, length).mean(axis=1)
        beyond = length * float(means.var()) / max(variance, 1e-12) - 1
        if count >= _FEWEST_RUNS and abs(beyond) * sqrt(count / 2) > _RELATED_Z:
            return float(clipped.size ** (-1 / 3))
    return 1.0
