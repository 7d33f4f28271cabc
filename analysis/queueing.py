"""A FIFO queue before instances that serve batches, simulated in many independent lanes at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_RESTART = 0.02  # of a run of consecutive services, each time one is drawn


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
        delays_s: float (k,), how much later than the rule says the batch started.
    """

    batch_s: Floats
    ratios: Floats
    delays_s: Floats


def simulate(
    rule: Rule, laws: list[Law], arrivals_s: Floats, rng: np.random.Generator, *, restart: float = _RESTART
) -> Floats:
    """Return when each request's service ends, seconds, as `arrivals_s`.

    Services are drawn as runs of consecutive ones (stationary bootstrap: Politis and Romano 1994), so what follows one
    another on the server does so here. The same generator state gives the same services to the same lane.

    Args:
        rule: Of dispatch.
        laws: One or several; lane i draws from laws[i * len(laws) // lanes]. Each law's lanes get the same random
            numbers, so that laws are compared on the same chances.
        arrivals_s: float (lanes, requests), ascending in each lane; a shorter lane ends with infinities.
        rng: For the services.
        restart: Chance that a service does not follow the one before it; 1 draws each by itself.

    Raises:
        ValueError: The lanes cannot be shared out equally among the laws.
    """
    lanes = arrivals_s.shape[0]
    if lanes % len(laws):
        raise ValueError(f"simulate arrivals_s: {lanes} lanes cannot be shared out equally among {len(laws)} laws")
    serve = _batches if rule.max_batch > 1 else _singles
    return serve(rule, laws, arrivals_s, rng, restart)


def _batches(rule: Rule, laws: list[Law], arrivals_s: Floats, rng: np.random.Generator, restart: float) -> Floats:
    """Simulate batch by batch, in all lanes at once."""
    (lanes, size), batch = arrivals_s.shape, rule.max_batch
    group = np.arange(lanes) * len(laws) // lanes
    table = np.stack([law.batch_s for law in laws])
    starts = np.cumsum([0] + [law.ratios.size for law in laws])
    low, count = starts[group], np.diff(starts)[group]
    ratios, delays = (np.concatenate([getattr(law, name) for law in laws]) for name in ("ratios", "delays_s"))
    delayed = bool(delays.any())
    padded = np.concatenate([arrivals_s, np.full((lanes, batch), np.inf)], axis=1)
    width = size + batch
    flat = padded.reshape(-1)
    base = np.arange(lanes) * width
    # one ascending array for all lanes, so that one search finds how many have arrived in each
    horizon = float(np.max(arrivals_s[np.isfinite(arrivals_s)], initial=0.0))
    span = 4 * horizon + 1e3
    shift = np.arange(lanes) * span
    keys = np.minimum(padded, 0.5 * span) + shift[:, None]
    keys = keys.reshape(-1)
    free = np.full((lanes, rule.instances), -np.inf)
    rows = np.arange(lanes)
    at = base.copy()
    end = base + np.isfinite(arrivals_s).sum(axis=1)
    share = lanes // len(laws)
    pick = low + (np.tile(rng.random(share), len(laws)) * count).astype(np.int64)
    sizes: list[Ints] = []
    dones: list[Floats] = []
    while True:
        live = at < end
        if not live.any():
            break
        worker = free.argmin(axis=1) if rule.instances > 1 else np.zeros(lanes, dtype=np.int64)
        ready = free[rows, worker]
        start = np.maximum(ready, np.minimum(flat[at] + rule.wait_s, flat[at + batch - 1]))
        if delayed:
            start = start + delays[pick]
        taken = keys.searchsorted(np.minimum(start, 0.4 * span) + shift, side="right") - at
        taken = np.minimum(np.maximum(np.minimum(taken, batch), 1), np.maximum(end - at, 1))
        done = start + table[group, taken] * ratios[pick]
        free[rows, worker] = np.where(live, done, np.inf)
        taken = np.where(live, taken, 0)
        sizes.append(taken)
        dones.append(done)
        at = at + taken
        fresh = np.tile(rng.random(share), len(laws))
        pick = np.where(fresh < restart, low + (fresh / restart * count).astype(np.int64), pick + 1)
        pick = np.where(pick >= low + count, low, pick)
    out = np.full((lanes, size), np.inf)
    repeated = np.repeat(np.stack(dones, axis=1).reshape(-1), np.stack(sizes, axis=1).reshape(-1))
    out[np.isfinite(arrivals_s)] = repeated
    return out


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
