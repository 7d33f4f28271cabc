"""The fitted server, run by numbers alone: response times at a rate, on Poisson arrivals that are never smoothed.

Fixed counts per second would remove the bursts that make the tail. Legend: p share of requests slower than the limit,
alpha the share allowed, M the twin's capacity, y = ln (rate / (M - rate)) the load, in which ln p is nearly straight.
"""

from collections.abc import Sequence

import numpy as np

from analysis.evidence import relaxation_s
from analysis.queueing import Floats, Law, places_of, poisson_lanes, simulate
from analysis.twin import Twin

GROUPS = 16  # lanes are a multiple of it
COARSE = 80_000  # requests of a simulation that need not be exact, warm-up left out
_LONGEST_LANE = 120_000
_LONGEST_LANE_SINGLE = 25_000


def response_s(twin: Twin, law: Law, rate_rps: float, shape: tuple[int, int, int], seed: int) -> Floats:
    """Simulate response times at a rate: float (lanes, requests), `shape` being lanes, requests and warm-up."""
    return responses_s(twin, [(law, rate_rps)], shape, seed)[0]


def responses_s(twin: Twin, cases: Sequence[tuple[Law, float]], shape: tuple[int, int, int], seed: int) -> list[Floats]:
    """Simulate laws at rates on the same chances, beside each other: so many lanes take hardly more time than a few."""
    lanes, size, warm = shape
    unit = poisson_lanes(lanes, size + twin.rule.max_batch, np.random.default_rng([seed, 1]))
    arrivals = np.concatenate([unit / rate for _, rate in cases])
    done = simulate(twin.rule, [law for law, _ in cases], arrivals, np.random.default_rng([seed, 2]))
    parts = zip(np.split(done, len(cases)), np.split(arrivals, len(cases)), strict=True)
    return [_settled_s(twin, part, its_arrivals, warm, seed) for part, its_arrivals in parts]


def settled_s(twin: Twin, laws: list[Law], arrivals_s: Floats, warm: int, seed: int) -> Floats:
    """Return response times less those of the warm-up, and of the last batch of a lane, which waits in vain to fill."""
    done = simulate(twin.rule, laws, arrivals_s, np.random.default_rng([seed, 2]))
    return _settled_s(twin, done, arrivals_s, warm, seed)


def _settled_s(twin: Twin, done: Floats, arrivals_s: Floats, warm: int, seed: int) -> Floats:
    response: Floats = left_s(twin, done, np.random.default_rng([seed, 3])) - arrivals_s
    return response[:, warm : -twin.rule.max_batch]


def left_s(twin: Twin, done_s: Floats, rng: np.random.Generator) -> Floats:
    """Return when replies were received: after service, what takes time outside it, and their place in the batch."""
    received: Floats = done_s + twin.delay_s
    if twin.rule.max_batch > 1:
        received += twin.place_s[np.minimum(places_of(done_s), twin.place_s.size - 1)]
        received += np.resize(np.roll(twin.spread_s, rng.integers(twin.spread_s.size)), received.shape)
    return received


def shape_of(twin: Twin, rate_rps: float, limit_s: float, requests: int) -> tuple[int, int, int]:
    """Return lanes, requests of each and warm-up, such that a lane is long against the queue's memory."""
    memory = rate_rps * relaxation_s(rate_rps, twin.capacity_rps, limit_s)  # in requests
    longest = _LONGEST_LANE if twin.rule.max_batch > 1 else _LONGEST_LANE_SINGLE
    warm = int(min(max(3 * memory, 300), longest / 2))
    size = min((2 if twin.rule.max_batch > 1 else 4) * warm, longest)  # of batches many short lanes cost less
    lanes = max(GROUPS, -(-requests // (size - warm) // GROUPS) * GROUPS)
    return lanes, size, warm


def share_above(response: Floats, limit_s: float) -> tuple[float, float]:
    """Return the share of responses above a limit and its standard error, from the lanes' own shares."""
    shares = (response > limit_s).mean(axis=1)
    return float(shares.mean()), float(shares.std(ddof=1)) / shares.size**0.5


def steady_response_s(twin: Twin, rate_rps: float, limit_s: float, seed: int) -> Floats:
    """Simulate the settled server at a rate: response times in seconds, float (lanes, requests)."""
    return response_s(twin, twin.law, rate_rps, shape_of(twin, rate_rps, limit_s, COARSE), seed)
