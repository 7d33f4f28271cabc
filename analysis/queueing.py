"""A FIFO queue before instances that serve batches, simulated in many independent lanes at once."""

from collections.abc import Sequence
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

    Args:
        rule: Of dispatch.
        laws: As in `Lanes`.
        arrivals_s: float (lanes, requests), not negative, ascending in each lane; a shorter lane ends with infinities.
        rng: For the services.

    Raises:
        ValueError: The lanes cannot be shared out equally among the laws.
    """
    lanes = Lanes(rule, laws, arrivals_s.shape[0], rng)
    real = np.isfinite(arrivals_s)
    out = np.full(arrivals_s.shape, np.inf)
    out[real] = lanes.serve(arrivals_s, last=True).done_s
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """Hold requests that were served, lane by lane, each lane's in order of arrival.

    Attributes:
        arrival_s: float (n,), seconds.
        done_s: float (n,), the end of their service.
        counts: int (lanes,), of each lane's; they sum to n.
    """

    arrival_s: Floats
    done_s: Floats
    counts: Ints


class Lanes:
    """Copies of a server, each of which goes on from where it was as more requests arrive.

    Services are drawn as runs of consecutive ones (stationary bootstrap: Politis and Romano 1994), so what follows one
    another on the server does so here, as far as the law says.

    Args:
        rule: Of dispatch.
        laws: One or several; lane i draws from laws[i * len(laws) // lanes]. Each law's lanes get the same random
            numbers, so that laws are compared on the same chances, and the first one's `restart`.
        lanes: How many.
        rng: For the services.

    Raises:
        ValueError: The lanes cannot be shared out equally among the laws.
    """

    def __init__(self, rule: Rule, laws: Sequence[Law], lanes: int, rng: np.random.Generator) -> None:
        if lanes % len(laws):
            raise ValueError(f"Lanes: {lanes} lanes cannot be shared out equally among {len(laws)} laws")
        self._rule = rule
        self._services = _Services(laws, lanes, rng)
        self._law = np.arange(lanes) * len(laws) // lanes
        self._batch_s = np.stack([law.batch_s for law in laws])
        self._free = np.full((lanes, rule.instances), -np.inf)
        self._rest = np.empty((lanes, 0))  # arrived and not yet in a batch; in front of a lane's stands what is not
        self._left = np.zeros(lanes, dtype=np.int64)  # how many of it each lane has

    def serve(self, arrivals_s: Floats, *, last: bool = False) -> Served:
        """Serve what arrives; without `last`, until no lane's rest fills a batch, which more might join.

        Args:
            arrivals_s: float (lanes, requests), not negative, ascending, later than all before.
            last: No more will come: a rest leaves as the rule says, and a shorter lane may end with infinities.
        """
        return self._batches(arrivals_s, last) if self._rule.max_batch > 1 else self._singles(arrivals_s)

    def _batches(self, arrivals_s: Floats, last: bool) -> Served:
        """Serve batch by batch, in all lanes at once; a lane that is not ready takes batches of none."""
        batch, lanes = self._rule.max_batch, arrivals_s.shape[0]
        rows = np.concatenate([self._rest, arrivals_s, np.full((lanes, batch), np.inf)], axis=1)
        width, begin = rows.shape[1], self._rest.shape[1] - self._left
        end = begin + self._left + (np.isfinite(arrivals_s).sum(axis=1) if last else arrivals_s.shape[1])
        # All lanes one after the other, each later than the one before by more than any takes: one search finds all
        # places.
        span = 1.0 + float(np.max(rows[:, :-batch], where=np.isfinite(rows[:, :-batch]), initial=0.0))
        apart = span * np.arange(lanes)
        keys = (np.minimum(rows, span) + apart[:, None]).reshape(-1)
        flat, offset = rows.reshape(-1), width * np.arange(lanes)
        at, ends = offset + begin, offset + end
        table, row = self._batch_s.reshape(-1), self._law * (batch + 1)
        soonest, free = self._rule.instances * np.arange(lanes), self._free.reshape(-1)
        first_of = soonest.copy()
        sizes: list[Ints] = []
        dones: list[Floats] = []
        least = 1 if last else batch
        ready = at + least <= ends
        while ready.any():
            ahead = min(_AHEAD, -(-int((ends - at).max()) // batch))
            ratios, delays = self._services.draw(ahead)
            used = np.zeros(lanes, dtype=np.int64)
            for i in range(ahead):
                used += ready  # in each lane the first ones: one that is not ready any more stays so
                if self._rule.instances > 1:
                    soonest = first_of + self._free.argmin(axis=1)
                was = free[soonest]
                start = np.maximum(was, np.minimum(flat[at] + self._rule.wait_s, flat[at + (batch - 1)]))
                if delays is not None:
                    start += delays[i]
                taken = np.minimum(keys.searchsorted(start + apart, "right"), ends)
                taken -= at
                np.minimum(taken, batch, out=taken)
                taken *= ready
                done = np.where(ready, start + table[row + taken] * ratios[i], was)
                free[soonest] = done
                sizes.append(taken)
                dones.append(done)
                at = at + taken
                ready = at + least <= ends
            self._services.follow(used)
        stop = at - offset
        kept = int(stop.min())
        self._rest, self._left = rows[:, kept:-batch], end - stop
        column = np.arange(width)
        served = (column >= begin[:, None]) & (column < stop[:, None])
        if not sizes:
            return Served(np.empty(0), np.empty(0), stop - begin)
        done_s = np.repeat(np.stack(dones, axis=1).reshape(-1), np.stack(sizes, axis=1).reshape(-1))
        return Served(rows[served], done_s, stop - begin)

    def _singles(self, arrivals_s: Floats) -> Served:
        """Serve batches of one: Kiefer and Wolfowitz's recursion (1955), with one instance Lindley's in closed form."""
        real = np.isfinite(arrivals_s)
        lanes, size = arrivals_s.shape
        ratios, delays = self._services.draw(size)
        self._services.follow(np.full(lanes, size))
        service = ratios * self._batch_s[self._law, 1]
        if delays is not None:
            service += delays
        arrival = np.ascontiguousarray(np.where(real, arrivals_s, 1e300).T) + self._rule.wait_s
        if self._rule.instances == 1:
            arrival[:1] = np.maximum(arrival[:1], self._free.T)
            total = np.cumsum(service, axis=0)
            done = total + np.maximum.accumulate(arrival - total + service, axis=0)
            self._free = done[-1:].T.copy() if size else self._free
        else:
            done = np.empty_like(service)
            at, flat = np.arange(lanes) * self._rule.instances, self._free.reshape(-1)
            for i in range(size):
                soonest = at + self._free.argmin(axis=1)
                done[i] = np.maximum(arrival[i], flat[soonest]) + service[i]
                flat[soonest] = done[i]
        return Served(arrivals_s[real], done.T[real], real.sum(axis=1))


class _Services:
    """Draw runs of consecutive services for every lane."""

    def __init__(self, laws: Sequence[Law], lanes: int, rng: np.random.Generator) -> None:
        self._rng, self._restart, self._laws, self._share = rng, laws[0].restart, len(laws), lanes // len(laws)
        self._ratios = np.concatenate([law.ratios for law in laws])
        delays = np.concatenate([law.delays_s for law in laws])
        self._delays = delays if delays.any() else None
        counts = [law.ratios.size for law in laws]
        self._count = np.repeat(counts, self._share)
        self._low = np.repeat(np.cumsum([0, *counts[:-1]]), self._share)
        self._pick = self._anew(rng.random((1, self._share)))[0]
        self._drawn: Ints = np.empty((0, lanes), dtype=np.int64)

    def _anew(self, chances: Floats) -> Ints:
        """Return where runs begin, from chances of shape (m, share): the same ones for every law."""
        anew: Ints = (np.tile(chances, self._laws) * self._count).astype(np.int64)
        return anew

    def draw(self, many: int) -> tuple[Floats, Floats | None]:
        """Return the next services, float (many, lanes): their ratios and their delays, None without any."""
        chances = self._rng.random((many, self._share))
        pick = self._anew(chances) if self._restart >= 1 else self._in_runs(chances)
        self._drawn = pick
        pick = pick + self._low
        return self._ratios[pick], None if self._delays is None else self._delays[pick]

    def follow(self, used: Ints) -> None:
        """Go on behind the last service drawn that each lane used, int (lanes,) of them."""
        if self._restart < 1 and self._drawn.size:
            last = np.take_along_axis(self._drawn, np.maximum(used - 1, 0)[None], axis=0)[0]
            self._pick = np.where(used > 0, (last + 1) % self._count, self._pick)

    def _in_runs(self, chances: Floats) -> Ints:
        """Return services that follow one another until a run is broken off; the first ones go on from the last."""
        many = chances.shape[0]
        begins = np.tile(chances < self._restart, self._laws)
        begun = np.maximum.accumulate(np.where(begins, np.arange(many)[:, None], 0), axis=0)
        starts = np.where(begins, self._anew(np.minimum(chances / self._restart, 1 - 1e-12)), 0)
        starts[:1] = np.where(begins[:1], starts[:1], self._pick)
        pick: Ints = (np.take_along_axis(starts, begun, axis=0) + np.arange(many)[:, None] - begun) % self._count
        return pick


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
