"""The fitted server, run by numbers alone: response times at a rate, on Poisson arrivals that are never smoothed.

Fixed counts per second would remove the bursts that make the tail. Legend: p share of requests slower than the limit,
alpha the share allowed, M the twin's capacity, y = ln (rate / (M - rate)) the load, in which ln p is nearly straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import sqrt
from operator import add
from typing import Self

import numpy as np

from analysis.evidence import relaxation_s
from analysis.queueing import Floats, Lanes, Law, Served, capacity_rps, places_of, poisson_lanes
from analysis.twin import Twin

COARSE = 80_000  # requests of a simulation that need not be exact, or more
_WARM, _WARM_SINGLE = 60_000, 12_500  # requests of a lane, at most, before it is taken for settled
_SETTLES, _LEAST_WARM = 3.0, 300  # times the queue's memory; requests
_FEWEST_LANES, _FEWEST = 64, 4  # of all cases together, and of each
_PIECE = 100_000  # requests that are simulated together, in all lanes, so that they stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """Hold response times of one case, and how many of each lane are slower than the limit.

    Attributes:
        seconds: float (n,).
        slow: float (lanes,).
        counts: float (lanes,), of each lane's requests; they sum to n.
    """

    seconds: Floats
    slow: Floats
    counts: Floats

    @property
    def share(self) -> float:
        """Return p."""
        return float(self.slow.sum() / self.counts.sum())

    @property
    def error(self) -> float:
        """Return the standard error of p, from how lanes differ."""
        apart = self.slow - self.share * self.counts
        lanes = self.counts.size
        return sqrt(lanes / (lanes - 1) * float(apart @ apart)) / float(self.counts.sum())

    def __add__(self, more: Self) -> Self:
        """Return both together, of the same lanes."""
        seconds = np.concatenate([self.seconds, more.seconds])
        return type(self)(seconds, self.slow + more.slow, self.counts + more.counts)


class Steady:
    """The settled server: laws at rates, beside each other and on the same chances, for as long as is asked.

    Args:
        twin: Gives the rule of dispatch and what time replies take beside their service.
        cases: A law and a rate each, of about one load.
        limit_s: Up to which waits are to be settled, and above which a response is slow; seconds.
        requests: That arrive in a round in each case, at least.
        seed: Of all chances.

    Attributes:
        lanes: Of each case.
    """

    def __init__(
        self, twin: Twin, cases: Sequence[tuple[Law, float]], limit_s: float, requests: int, seed: int
    ) -> None:
        rate, batch = cases[0][1], twin.rule.max_batch
        memory = rate * relaxation_s(rate, capacity_rps(twin.rule, cases[0][0]), limit_s)  # in requests
        warm = int(min(max(_SETTLES * memory, _LEAST_WARM), _WARM if batch > 1 else _WARM_SINGLE))
        self._each = max(warm // 2, _LEAST_WARM) if batch > 1 else min(3 * warm, _WARM_SINGLE)
        self.lanes = max(-(-requests // self._each), _FEWEST_LANES // len(cases), _FEWEST)
        self._twin, self._limit_s = twin, limit_s
        self._rates = np.repeat([rate for _, rate in cases], self.lanes)[:, None]
        services, self._arrivals, self._outside = (np.random.default_rng([seed, part]) for part in (2, 1, 3))
        self._queue = Lanes(twin.rule, [law for law, _ in cases], self._rates.size, services)
        self._clock = np.zeros((self.lanes, 1))
        for requests_each in self._pieces(warm):
            self._serve(requests_each)

    def more(self) -> list[Responses]:
        """Go on for a round; return what came of each case."""
        parts = [self._told(self._serve(piece)) for piece in self._pieces(self._each)]
        return [reduce(add, its_parts) for its_parts in zip(*parts, strict=True)]

    def _pieces(self, each: int) -> list[int]:
        """Return how so many requests of a lane are divided."""
        piece = max(_PIECE // self._rates.size, 4 * self._twin.rule.max_batch)
        return [min(piece, each - begun) for begun in range(0, each, piece)]

    def _serve(self, each: int) -> Served:
        unit = self._clock + poisson_lanes(self.lanes, each, self._arrivals)
        self._clock = unit[:, -1:]
        return self._queue.serve(np.tile(unit, (self._rates.size // self.lanes, 1)) / self._rates)

    def _told(self, served: Served) -> list[Responses]:
        """Divide what was served by case; replies are held up alike in all of them."""
        cases = self._rates.size // self.lanes
        cuts = np.cumsum(served.counts.reshape(cases, -1).sum(axis=1))[:-1]
        turn = int(self._outside.integers(self._twin.spread_s.size))
        told = []
        for arrival, done, counts in zip(
            np.split(served.arrival_s, cuts), np.split(served.done_s, cuts), np.split(served.counts, cases), strict=True
        ):
            seconds = left_s(self._twin, done, turn) - arrival
            before = np.append(0, np.cumsum(seconds > self._limit_s))
            ends = np.cumsum(counts)
            slow = before[ends] - before[ends - counts]
            told.append(Responses(seconds, slow.astype(np.float64), counts.astype(np.float64)))
        return told


def left_s(twin: Twin, done_s: Floats, turn: int) -> Floats:
    """Return when replies were received: after service, what takes time outside it, and their place in the batch.

    Args:
        twin: Says how much.
        done_s: End of service, seconds; neighbours that are equal are of one batch.
        turn: Which of the spreads seen comes first.
    """
    received: Floats = done_s + twin.delay_s
    if twin.rule.max_batch > 1:
        received += twin.place_s[np.minimum(places_of(done_s), twin.place_s.size - 1)]
        if twin.spread_s.any():
            turns = np.arange(turn, turn + received.size) % twin.spread_s.size
            received += twin.spread_s[turns].reshape(received.shape)
    return received


def steady_responses(twin: Twin, cases: Sequence[tuple[Law, float]], limit_s: float, seed: int) -> list[Responses]:
    """Simulate the settled server once, not very exactly: laws at rates, on the same chances."""
    return Steady(twin, cases, limit_s, COARSE, seed).more()
