"""A FIFO queue before instances that serve batches, simulated in many independent lanes at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_AHEAD = 64  # services that are drawn together


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Say when a batch starts and what it takes.

    It goes to the first free instance once it is full or its oldest request has waited `wait_s`, and takes every
    request that has arrived by then (dynamic batching as in Triton). Batches of one without waiting make it G/G/c.

    Attributes:
        instances: Batches served at the same time.
        max_batch: Largest batch.
        wait_s: Longest wait of the oldest request for its batch to fill, seconds.
    """

    instances: int = 1
    max_batch: int = 1
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Law:
    """Be the service times: t(b) times a ratio, and before it a delay of the dispatch, drawn in pairs.

    Attributes:
        batch_s: float (max_batch + 1,), mean service time of a batch by its size; entry 0 is unused.
        ratios: float (k,), service time over its mean, in the order in which they were seen.
        delays_s: float (k,), how much later than the rule says the batch started; not negative.
        restart: Chance that a service does not follow the one that was seen before it; 1 draws each by itself.
    """

    batch_s: Floats
    ratios: Floats
    delays_s: Floats
    restart: float = 1.0


def capacity_rps(rule: Rule, law: Law) -> float:
    """Return the completions per second of a server that always has work."""
    mean_s = float(law.ratios.mean()) * float(law.batch_s[rule.max_batch]) + float(law.delays_s.mean())
    return rule.instances * rule.max_batch / mean_s


def simulate(rule: Rule, laws: list[Law], arrivals_s: Floats, rng: np.random.Generator) -> Floats:
    """Return when each request's service ends, seconds, as `arrivals_s`.

    Services are drawn as runs of consecutive ones (stationary bootstrap: Politis and Romano 1994), so what follows one
    another on the server does so here, as far as the law says. The same generator state gives the same services to the
    same lane.

    Args:
        rule: Of dispatch.
        laws: One or several; lane i draws from laws[i * len(laws) // lanes]. Each law's lanes get the same random
            numbers, so that laws are compared on the same chances, and the first one's `restart`.
        arrivals_s: float (lanes, requests), not negative, ascending in each lane; a shorter lane ends with infinities.
        rng: For the services.

    Raises:
        ValueError: The lanes cannot be shared out equally among the laws.
    """
    lanes = arrivals_s.shape[0]
    if lanes % len(laws):
        raise ValueError(f"simulate arrivals_s: {lanes} lanes cannot be shared out equally among {len(laws)} laws")
    serve = _batches if rule.max_batch > 1 else _singles
    return serve(rule, laws, arrivals_s, rng, laws[0].restart)


def _batches(rule: Rule, laws: list[Law], arrivals_s: Floats, rng: np.random.Generator, restart: float) -> Floats:
    """Simulate batch by batch, in all lanes at once; a lane that has ended takes batches of none."""
    (lanes, size), batch = arrivals_s.shape, rule.max_batch
    real = np.isfinite(arrivals_s)
    first = np.full((lanes, size + batch), np.inf)
    first[:, :size][real] = arrivals_s[real]
    # All lanes one after the other, each later than the one before by more than any takes: one search finds all places.
    apart = np.arange(lanes) * (1.0 + (float(arrivals_s[real].max()) if real.any() else 0.0))
    keys = np.where(np.isfinite(first), first, apart[1] if lanes > 1 else np.inf) + apart[:, None]
    first, keys = first.reshape(-1), keys.reshape(-1)
    full = np.append(first[batch - 1 :], np.full(batch - 1, np.inf))  # arrival of the last of a full batch
    group = np.arange(lanes) * len(laws) // lanes
    table, row = np.stack([law.batch_s for law in laws]).reshape(-1), group * (batch + 1)
    free = np.full((lanes, rule.instances), -np.inf)
    free_at, flat_free = np.arange(lanes) * rule.instances, free.reshape(-1)
    at = np.arange(lanes) * (size + batch)
    end = at + real.sum(axis=1)
    sizes: list[Ints] = []
    dones: list[Floats] = []
    services = _Services(laws, lanes, rng, restart)
    delayed = any(law.delays_s.any() for law in laws)
    while (at < end).any():
        ratios, delays = services.draw(_AHEAD)
        for ratio, delay in zip(ratios, delays, strict=True):
            soonest = free_at + free.argmin(axis=1) if rule.instances > 1 else free_at
            start = np.maximum(flat_free[soonest], np.minimum(first[at] + rule.wait_s, full[at]))
            if delayed:
                start += delay
            arrived = np.minimum(keys.searchsorted(start + apart, "right"), end)
            taken = np.minimum(arrived - at, batch)
            done = start + table[row + taken] * ratio
            flat_free[soonest] = done
            sizes.append(taken)
            dones.append(done)
            at = at + taken
    out = np.full((lanes, size), np.inf)
    out[real] = np.repeat(np.stack(dones, axis=1).reshape(-1), np.stack(sizes, axis=1).reshape(-1))
    return out


class _Services:
    """Draw runs of consecutive services for every lane."""

    def __init__(self, laws: list[Law], lanes: int, rng: np.random.Generator, restart: float) -> None:
        self.rng, self.restart, self.copies = rng, restart, len(laws)
        self.share = lanes // len(laws)
        self.ratios, self.delays = (np.concatenate([getattr(law, n) for law in laws]) for n in ("ratios", "delays_s"))
        counts = [law.ratios.size for law in laws]
        self.count = np.repeat(counts, self.share)
        self.low = np.repeat(np.cumsum([0, *counts[:-1]]), self.share)
        self.pick = self._anew(rng.random((1, self.share)))[0]

    def _anew(self, chances: Floats) -> Ints:
        """Return where runs begin, from chances of shape (m, share): the same ones for every law."""
        anew: Ints = (np.tile(chances, self.copies) * self.count).astype(np.int64)
        return anew

    def draw(self, many: int) -> tuple[Floats, Floats]:
        """Return the next services, float (many, lanes): their ratios and their delays."""
        chances = self.rng.random((many, self.share))
        chances[0] = 1.0  # the run goes on
        begins = np.tile(chances < self.restart, self.copies)
        begun = np.maximum.accumulate(np.where(begins, np.arange(many)[:, None], 0), axis=0)
        starts = np.where(begins, self._anew(np.minimum(chances / self.restart, 1 - 1e-12)), 0)
        starts[0] = self.pick
        pick = (np.take_along_axis(starts, begun, axis=0) + np.arange(many)[:, None] - begun) % self.count
        self.pick = (pick[-1] + 1) % self.count
        pick += self.low
        return self.ratios[pick], self.delays[pick]


def _singles(rule: Rule, laws: list[Law], arrivals_s: Floats, rng: np.random.Generator, restart: float) -> Floats:
    """Simulate batches of one: Kiefer and Wolfowitz's recursion (1955), with one instance Lindley's in closed form."""
    lanes, size = arrivals_s.shape
    share = lanes // len(laws)
    restarts = rng.random((size, share))
    anew = restarts < restart
    anew[0] = True
    since = np.maximum.accumulate(np.where(anew, np.arange(size)[:, None], 0), axis=0)
    run = np.arange(size)[:, None] - since  # services since the last restart
    chance = np.take_along_axis(restarts, since, axis=0)
    chance = np.where(since == 0, restarts[0], chance / restart)
    columns = []
    for law in laws:
        count = law.ratios.size
        pick = ((chance * count).astype(np.int64) + run) % count
        columns.append(law.ratios[pick] * law.batch_s[1] + law.delays_s[pick])
    service = np.concatenate(columns, axis=1)
    arrival = np.ascontiguousarray(np.where(np.isfinite(arrivals_s), arrivals_s, 1e300).T) + rule.wait_s
    if rule.instances == 1:
        total = np.cumsum(service, axis=0)
        done = total + np.maximum.accumulate(arrival - total + service, axis=0)
    else:
        done = np.empty_like(service)
        free = np.full((lanes, rule.instances), -np.inf)
        at = np.arange(lanes) * rule.instances
        flat = free.reshape(-1)
        for i in range(size):
            soonest = at + free.argmin(axis=1)
            done[i] = np.maximum(arrival[i], flat[soonest]) + service[i]
            flat[soonest] = done[i]
    return np.where(np.isfinite(arrivals_s), done.T, np.inf)


def places_of(batches: NDArray[Any]) -> Ints:
    """Return each request's place in its batch, from 0, as `batches`, where members of one are equal neighbours."""
    index = np.arange(batches.shape[-1])
    begins = np.ones(batches.shape, dtype=bool)
    begins[..., 1:] = batches[..., 1:] != batches[..., :-1]
    places: Ints = index - np.maximum.accumulate(np.where(begins, index, 0), axis=-1)
    return places


def poisson_lanes(lanes: int, size: int, rng: np.random.Generator) -> Floats:
    """Draw Poisson arrivals at rate 1, float (lanes, size); divide by a rate."""
    return np.cumsum(rng.exponential(size=(lanes, size)), axis=1)
