"""What one supposed number of instances makes of the traces: the services that it implies, and what speaks against it.

Legend: see `analysis.reconstruct`. In a first-come, first-served queue a service depends neither on whether its request
waited nor on the service before it, and cannot be negative; and the queue must have been seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.queueing import Floats, Ints, Rule
from analysis.reconstruct import CLOCK_S, Gap, Services, Trace, reconstruct, stab

NEAR = 0.4  # of the usual rate: from there on steps show the service law
_LONGEST_DELAY_S, _LONGEST_DELAY = 0.002, 0.4  # J with batches of one, absolute and of the mean service, J and all
_DELAY_ROUNDS = 3  # who waited depends on J
_HARDLY_ANY = 0.001
_LEVELS = np.array([0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5])  # quantiles that J is read off
_LEAST_ORDER = 5.0  # services between the quantiles that a density is measured with
_DEPENDS, _NEGATIVE, _ODD = 0.06, 0.004, 0.04
_OUTSIDE = 0.02  # of the services, on either side, that may be no services at all
_JITTERED_NEGATIVE = 0.02
_LEAST_WAITED = 0.3
_BATCH_OFF, _MISCOUNTED = 0.1, 3  # of the logarithm of the mean batch; batches, where few were seen
_CORRELATED = 0.15
_SIMILAR = 0.68  # times sqrt(1 / m + 1 / n): half as far apart as two samples of one law lie in 5 % (1.36)
_DOUBTED = 0.01  # of the mean service


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Supposed:
    """Hold what one supposed number of instances makes of the traces.

    Attributes:
        rule: Supposed, with the waiting limit that was found.
        gap: Supposed, between replies of one batch.
        delay_s: J.
        parts: The services, by trace.
        depends: By how much services that waited take longer or shorter on average, of the mean service.
        negative: Share of the services that would have ended before they began.
        odd: Share of the batches whose members are not those that the rule says.
        scatter: Standard deviation of the services, of the mean for their size.
        unlike: How far apart the distributions of services lie that waited and that did not, times the scatter; 0 with
            batches.
    """

    rule: Rule
    gap: Gap
    delay_s: float
    parts: list[Services]
    depends: float
    negative: float
    odd: float
    scatter: float
    unlike: float

    @property
    def score(self) -> float:
        """Say how ill it explains the traces.

        Random services scatter the less the more instances are supposed, which says nothing; what tells of a wrong
        number is that those that waited are unlike the others. Weights by trial on servers of 1 to 16 instances.
        """
        return self.depends + 4 * self.unlike + self.untidy

    @property
    def doubted(self) -> bool:
        """Say that the services may tell of another number of instances."""
        return self.unlike >= _DOUBTED

    @property
    def untidy(self) -> float:
        """Say how ill the batches are told apart: what a wrong gap shows by, which chance blurs less than `depends`."""
        return 3 * self.negative + self.odd + (0.3 if self.rule.max_batch > 1 else 0.1) * self.scatter


def suppose(traces: Sequence[Trace], rule: Rule, gap: Gap) -> Supposed:
    """Reconstruct the services as if this were the rule, but for its waiting limit, which is found."""
    batch, delay = rule.max_batch, 0.0
    if batch == 1:
        parts = [reconstruct(trace, rule, gap, delay) for trace in traces]
        mean = float(np.mean(np.concatenate([part.service_s for part in parts])))
        longest = min(_LONGEST_DELAY_S, _LONGEST_DELAY * max(mean, 0.0))
        for _ in range(_DELAY_ROUNDS):
            more = min(_delay_of_singles(parts), longest - delay)
            if not more:
                break
            delay += more
            parts = [reconstruct(trace, rule, gap, delay) for trace in traces]
    else:
        rule, delay, parts = _batches(traces, rule, gap)
    ratios, sizes, waited = ratios_of(parts, batch)
    service = np.concatenate([part.service_s for part in parts])
    least = 1e-9 if gap.exact else gap.most_s
    scatter = float(np.minimum(ratios, 4.0).std())
    return Supposed(
        rule=rule, gap=gap, delay_s=delay, parts=parts, depends=_dependence(ratios, sizes, waited),
        negative=float(np.mean(service < -least)), odd=sum(part.odd for part in parts) / max(1, sizes.size),
        scatter=scatter, unlike=scatter * _unlike(ratios, waited) if batch == 1 else 0.0,
    )  # fmt: skip


def _batches(traces: Sequence[Trace], rule: Rule, gap: Gap) -> tuple[Rule, float, list[Services]]:
    """Find the waiting limit and J from who made it into which batch, in two rounds: each needs the other."""
    batch, delay = rule.max_batch, 0.0
    parts = [reconstruct(trace, rule, gap, delay, by_rule=False) for trace in traces]
    for _ in range(2):
        low, high = _waiting_limit(traces, parts, batch)
        rule = replace(rule, wait_s=0.5 * (low + high))
        parts = [reconstruct(trace, rule, gap, delay) for trace in traces]
        delay = max(0.0, delay + _delay_of_batches(traces, parts, batch))
        parts = [reconstruct(trace, rule, gap, delay) for trace in traces]
    if high > low:  # within what membership allows, where services that waited and others of their size agree
        ratios, sizes, waited = ratios_of(parts, batch)
        longer, _ = _difference(ratios, sizes, waited)
        mean = float(np.mean(np.concatenate([part.service_s for part in parts])))
        rule = replace(rule, wait_s=min(max(rule.wait_s - longer * mean, low), high))
        parts = [reconstruct(trace, rule, gap, delay) for trace in traces]
    return rule, delay, parts


def _waiting_limit(traces: Sequence[Trace], parts: Sequence[Services], batch: int) -> tuple[float, float]:
    """Return W: an idle server's batch, if not full, holds what came within W of its first and nothing later."""
    lows, highs = [], []
    for trace, part in zip(traces, parts, strict=True):
        keep = part.idle
        first = trace.arrival_s[part.first]
        after = np.append(trace.arrival_s, np.inf)[part.first + part.size]
        lows.append((trace.arrival_s[part.first + part.size - 1] - first)[keep])
        highs.append(np.where(part.size < batch, after - first, np.inf)[keep])
    low, high, _ = stab(np.concatenate(lows), np.concatenate(highs))
    return (low, min(high, 2 * low) if np.isfinite(high) else low) if low else (0.0, 0.0)


def _delay_of_batches(traces: Sequence[Trace], parts: Sequence[Services], batch: int) -> float:
    """Return J: a batch that waited for an instance, if not full, holds what came until that was free, less J."""
    lows, highs = [], []
    for trace, part in zip(traces, parts, strict=True):
        after = np.append(trace.arrival_s, np.inf)[part.first + part.size]
        keep = part.waited & (part.size < batch) & np.isfinite(after) & np.isfinite(part.free_s)
        lows.append((part.free_s - after)[keep])
        highs.append((part.free_s - trace.arrival_s[part.first + part.size - 1])[keep])
    low, high, _ = stab(np.concatenate(lows), np.concatenate(highs))
    return 0.5 * (low + high)


def _delay_of_singles(parts: Sequence[Services]) -> float:
    """Return J: by so much the services of requests that found an idle instance seem longer than those that waited.

    Where services do not depend on it, it shifts every quantile alike, so it is read off the one that chance blurs
    least. Of random services that is a low one: the mean of 5,000 exponential ones of 10 ms is known to 0.14 ms, their
    2 % quantile to 0.02 ms. The other quantiles must tell of half as much at least.
    """
    service = np.concatenate([part.service_s for part in parts])
    waited = np.concatenate([part.waited for part in parts])
    idle, busy = service[~waited], service[waited]
    levels = _LEVELS[0.5 * _LEVELS * min(idle.size, busy.size) >= _LEAST_ORDER]
    if min(idle.size, busy.size) < 30 or not levels.size:
        return 0.0
    spans = 0.5 * levels  # over which the density of both together is measured
    density = 2 * spans / np.maximum(np.quantile(service, levels + spans) - np.quantile(service, levels - spans), 1e-12)
    doubts = np.sqrt(levels * (1 - levels) * (1 / idle.size + 1 / busy.size)) / density
    best = int(np.argmin(doubts))
    apart = np.quantile(idle, levels) - np.quantile(busy, levels)
    difference = float(apart[best])
    if difference <= 2.5 * doubts[best] + CLOCK_S or float(np.median(apart)) < 0.5 * difference:
        return 0.0
    ticks = np.diff(np.unique(np.round(service / CLOCK_S)))
    if ticks.size and difference < 1.5 * CLOCK_S * float(ticks.min()):  # a tick of a coarser clock: by chance
        return 0.0
    return min(difference, max(float(np.quantile(idle, _HARDLY_ANY)), 0.0))  # it is part of each of these


def _line(sizes: Floats, service_s: Floats) -> tuple[float, float]:
    """Fit base + per_item * b by least squares on relative errors."""
    if np.ptp(sizes) == 0:
        return float(service_s.mean()), 0.0
    weight = 1 / np.maximum(service_s, 1e-3 * float(service_s.max()) + 1e-12)
    base = per_item = 0.0
    for _ in range(3):
        design = np.stack([weight, weight * sizes], axis=1)
        (base, per_item), *_ = np.linalg.lstsq(design, weight * service_s, rcond=None)
        line = base + per_item * sizes
        weight = 1 / np.maximum(line, 0.05 * float(np.abs(line).max()) + 1e-12)
    return float(base), float(per_item)


def batch_times(sizes: Ints, service_s: Floats, batch: int) -> tuple[Floats, float, float]:
    """Return t(b) for b in 0 … batch: the mean of each size, drawn to the line over all of them; and that line.

    Drawn to it by as much as chance explains of how far the means lie off it (DerSimonian and Laird 1986): a mean for
    each size would follow the scatter of random services, and what is left of them would scatter too little.
    """
    base, per_item = _line(sizes.astype(np.float64), np.maximum(service_s, 0.0))
    every = np.arange(batch + 1)
    line = np.maximum(base + per_item * every, 1e-3 * max(float(service_s.mean()), 0.0) + 1e-9)
    relative = np.maximum(service_s, 0.0) / line[sizes]
    seen = np.bincount(sizes, minlength=batch + 1)
    off = np.bincount(sizes, weights=relative, minlength=batch + 1) / np.maximum(seen, 1) - 1
    groups = int(np.count_nonzero(seen))
    chance = float(((relative - 1 - off[sizes]) ** 2).sum()) / max(1, sizes.size - groups)
    beyond = float(seen @ off**2) - groups * chance
    if beyond <= 0:
        return line, base, per_item
    shape = beyond / (sizes.size - float(seen @ seen) / sizes.size) if groups > 1 else beyond / sizes.size
    return line * (1 + off * seen / np.maximum(seen + chance / shape, 1e-9)), base, per_item


def ratios_of(parts: Sequence[Services], batch: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """Return each service over the mean of its size, its size, and whether it waited."""
    sizes = np.concatenate([part.size for part in parts])
    service = np.concatenate([part.service_s for part in parts])
    mean, _, _ = batch_times(sizes, service, batch)
    return service / mean[sizes], sizes, np.concatenate([part.waited for part in parts])


def _dependence(ratios: Floats, sizes: Ints, waited: NDArray[np.bool_]) -> float:
    """Return by how much services that waited differ from those of the same size that did not, chance taken off."""
    difference, error = _difference(ratios, sizes, waited)
    return max(0.0, abs(difference) - 1.5 * error) if error else 0.0


def _difference(ratios: Floats, sizes: Ints, waited: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the mean of services that waited less that of others of their size, and its standard error; or zeros.

    Means of ratios drawn in to the 2 and 98 % quantiles of them all: the few batches that were told apart wrongly are
    so long or so short that they alone would make a difference, or hide one.
    """
    ratios = np.clip(ratios, *np.quantile(ratios, [_OUTSIDE, 1 - _OUTSIDE]))
    total = weight = 0.0
    for size in np.unique(sizes):
        late, soon = ratios[(sizes == size) & waited], ratios[(sizes == size) & ~waited]
        if min(late.size, soon.size) >= 5:
            variance = float(late.var() / late.size + soon.var() / soon.size) + 1e-8
            total += float(late.mean() - soon.mean()) / variance
            weight += 1 / variance
    return (total / weight, weight**-0.5) if weight else (0.0, 0.0)


def _unlike(ratios: Floats, waited: NDArray[np.bool_]) -> float:
    """Return Kolmogorov and Smirnov's distance of services that waited from the others, half of what chance makes off.

    Half, because a wrong number must show where few services were seen too; all of them are compared on the same ones.
    """
    late, soon = ratios[waited], ratios[~waited]
    if min(late.size, soon.size) < 30:
        return 0.0
    apart = float(stats.ks_2samp(late, soon, method="asymp").statistic)
    return max(apart - _SIMILAR * sqrt(1 / late.size + 1 / soon.size), 0.0)


def refusal(found: Supposed, traces: Sequence[Trace]) -> str | None:
    """Return why a first-come, first-served queue is no model of this server, or None."""
    exact = found.gap.exact
    if found.negative > (_NEGATIVE if exact and not found.delay_s else _JITTERED_NEGATIVE):
        return "replies come in an order that no first-come, first-served queue gives"
    if found.depends > _DEPENDS:
        return "the service time depends on whether a request had to wait"
    if found.odd > _ODD:
        return "batches cannot be told apart, or are not filled in order of arrival"
    for part, trace in zip(found.parts, traces, strict=True):
        if trace.mean_batch is None:
            continue
        seen, told = part.size.size, trace.arrival_s.size / trace.mean_batch
        if abs(log(seen / told)) > _BATCH_OFF and abs(seen - told) > _MISCOUNTED:
            return f"the server counted {trace.mean_batch:.3g} requests a batch, not {float(part.size.mean()):.3g}"
    waited = [
        float(part.waited.mean()) for part, trace in zip(found.parts, traces, strict=True) if part.size.size >= 20
    ]
    if max(waited, default=0.0) < _LEAST_WAITED:
        return "it was never seen to queue"
    near = _near(found, traces)
    ratios = np.concatenate([ratios_of([part], found.rule.max_batch)[0] for part in near]) if near else np.ones(1)
    clipped = np.minimum(ratios, 3.0)
    if clipped.size > 200 and clipped.std() > 0.1:
        centred = clipped - clipped.mean()
        correlation = float((centred[1:] * centred[:-1]).mean() / centred.var())
        if correlation > _CORRELATED + 4 / clipped.size**0.5:
            return "service times depend on the ones before them"
    return None


def _near(found: Supposed, traces: Sequence[Trace]) -> list[Services]:
    return [part for part, keep in zip(found.parts, is_near(traces), strict=True) if keep and part.size.size]


def is_near(traces: Sequence[Trace]) -> list[bool]:
    """Say of each trace that its load is such that its services are those of a busy server.

    Measured by the rate at which half of the requests came that did not overload it: not by the highest such rate,
    which may be a rung above the capacity that was too short to show it.
    """
    calm = [trace for trace in traces if not trace.overload]
    rates = np.repeat([trace.rate_rps for trace in calm], [trace.arrival_s.size for trace in calm])
    usual = float(np.median(rates)) if rates.size else 0.0
    return [trace.rate_rps >= NEAR * usual for trace in traces]
