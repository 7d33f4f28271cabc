"""The fitted server, run by numbers alone: response times at a rate, on Poisson arrivals that are never smoothed.

Fixed counts per second would remove the bursts that make the tail. Legend: p share of requests slower than the limit,
alpha the share allowed, M the twin's capacity, y = ln (rate / (M - rate)) the load, in which ln p is nearly straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from analysis.evidence import relaxation_s
from analysis.queueing import Floats, Ints, Lanes, Law, Served, capacity_rps, places_of, poisson_lanes
from analysis.twin import Twin

_COARSE = 80_000  # requests of a simulation that need not be exact, or more
_WARM, _WARM_SINGLE = 60_000, 12_500  # requests of a lane, at most, before it is taken for settled
_SETTLES, _SETTLES_SOON = 3.0, 1.5  # times the queue's memory; so near to the capacity that a wrong p matters little
_UNSETTLED = 0.0044  # slope of ln p in y, 4.4, times an error of 0.001 of ln rate
_LEAST_WARM = 300  # requests
_LEAST_BATCHES = 4  # of a lane in a round, as full ones
_FEWEST_LANES, _FEWEST = 64, 4  # of all cases together, and of each
_PIECE = 100_000  # requests that are simulated together, in all lanes, so that they stay in the cache


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """Hold response times of one case, and how many of each lane are slower than the limit.

    Attributes:
        seconds: float (n,).
        slow: int (lanes,).
        counts: int (lanes,), of each lane's requests; they sum to n.
    """

    seconds: Floats
    slow: Ints
    counts: Ints

    @property
    def share(self) -> float:
        """Return p."""
        return float(self.slow.sum() / self.counts.sum())


class Steady:
    """The settled server: laws at rates, beside each other and on the same chances, for as long as is asked.

    Args:
        twin: Gives the rule of dispatch and what time replies take beside their service.
        cases: A law and a rate each, of about one load.
        limit_s: Up to which waits are to be settled, and above which a response is slow; seconds.
        requests: That arrive in a round in each case, at least.
        seed: Of all chances.
    """

    def __init__(
        self, twin: Twin, cases: Sequence[tuple[Law, float]], limit_s: float, requests: int, seed: Sequence[int]
    ) -> None:
        batch = twin.rule.max_batch
        tops = [capacity_rps(twin.rule, law) for law, _ in cases]
        memory = max(rate * relaxation_s(rate, top, limit_s) for (_, rate), top in zip(cases, tops, strict=True))
        idle = max(1 - rate / top for (_, rate), top in zip(cases, tops, strict=True))
        settles = min(max(log(max(idle, _UNSETTLED) / _UNSETTLED), _SETTLES_SOON), _SETTLES)
        warm = int(min(max(settles * memory, _LEAST_WARM), _WARM if batch > 1 else _WARM_SINGLE))
        is_stepped = batch > 1 or twin.rule.instances > 1  # many short lanes cost less: the steps are one for them all
        self._each = max(warm // 2, _LEAST_WARM, _LEAST_BATCHES * batch) if is_stepped else min(3 * warm, _WARM_SINGLE)
        self._lanes = max(-(-requests // self._each), _FEWEST_LANES // len(cases), _FEWEST)
        self._each = max(min(self._each, -(-requests // self._lanes)), _LEAST_BATCHES * batch)
        self._twin, self._limit_s = twin, limit_s
        self._rates = np.repeat([rate for _, rate in cases], self._lanes)[:, None]
        arrivals, services, spreads = (np.random.default_rng([*seed, part]) for part in range(3))
        self._queue = Lanes(twin.rule, [law for law, _ in cases], self._rates.size, services)
        self._arrivals, self._clock = arrivals, np.zeros((self._lanes, 1))
        self._replies = np.tile(spreads.integers(twin.spread_s.size, size=self._lanes), len(cases))
        for piece in self._pieces(warm + batch):  # so many at most wait for their batch to fill
            self._serve(piece)

    def more(self) -> list[Responses]:
        """Go on for a round, in lanes that each go on from where they were; return what came of each case."""
        parts = [self._told(self._serve(piece)) for piece in self._pieces(self._each)]
        return [
            Responses(
                np.concatenate([part.seconds for part in its_parts]), sum(part.slow for part in its_parts),
                sum(part.counts for part in its_parts),
            ) for its_parts in zip(*parts, strict=True)
        ]  # fmt: skip

    def _pieces(self, each: int) -> list[int]:
        """Return how so many requests of a lane are divided."""
        most = max(_PIECE // self._rates.size, _LEAST_BATCHES * self._twin.rule.max_batch)
        parts = -(-each // most)
        return [each * (part + 1) // parts - each * part // parts for part in range(parts)]

    def _serve(self, each: int) -> Served:
        unit = self._clock + poisson_lanes(self._lanes, each, self._arrivals)
        self._clock = unit[:, -1:]
        return self._queue.serve(np.tile(unit, (self._rates.size // self._lanes, 1)) / self._rates)

    def _told(self, served: Served) -> list[Responses]:
        """Divide what was served by case; the n-th reply of a lane is held up alike in all of them."""
        cases, counts = self._rates.size // self._lanes, served.counts
        ends = np.cumsum(counts)
        number = np.arange(served.done_s.size) + np.repeat(self._replies - (ends - counts), counts)
        self._replies = self._replies + counts
        seconds = left_s(self._twin, served.done_s, number) - served.arrival_s
        before = np.append(0, np.cumsum(seconds > self._limit_s))
        slow = before[ends] - before[ends - counts]
        cuts = ends[self._lanes - 1 : -1 : self._lanes]
        each = zip(np.split(seconds, cuts), np.split(slow, cases), np.split(counts, cases), strict=True)
        return [Responses(*of_case) for of_case in each]


def left_s(twin: Twin, done_s: Floats, number: Ints) -> Floats:
    """Return when replies were received: after service, what takes time outside it, and their place in the batch.

    Args:
        twin: Says how much.
        done_s: End of service, seconds; neighbours that are equal are of one batch.
        number: As `done_s`, not negative: which of the delays seen each reply has; they come round again.
    """
    received: Floats = done_s + twin.delay_s
    if twin.rule.max_batch > 1:
        received += twin.place_s[np.minimum(places_of(done_s), twin.place_s.size - 1)]
        if twin.spread_s.any():
            received += twin.spread_s[number % twin.spread_s.size]
    return received


def steady_responses(
    twin: Twin, cases: Sequence[tuple[Law, float]], limit_s: float, seed: Sequence[int], requests: int = _COARSE
) -> list[Responses]:
    """Simulate the settled server once, not very exactly: laws at rates, on the same chances."""
    return Steady(twin, cases, limit_s, requests, seed).more()
