"""What a closed-loop test would have answered on the fitted server: users who wait for a reply, then ask again."""

from heapq import heapify, heappop, heappush, heapreplace

import numpy as np

from analysis.operating_point import ClosedAnswer
from analysis.queueing import Floats
from analysis.simulation import steady_responses
from analysis.sla import SLA
from analysis.twin import Twin

_MOST_USERS = 4096
_REQUESTS = 15_000
_PER_USER = 12
_SATURATED = 0.985  # of the capacity: from there on an open queue does not settle in any time


def closed_answer(twin: Twin, sla: SLA, seed: int) -> ClosedAnswer | None:
    """Find the highest number of users, without think time, at which the SLA holds; None where one user is too many."""

    def holds(users: int) -> tuple[bool, float]:
        response, rate = closed_loop(twin, users, np.random.default_rng([seed, users]))
        return float(np.quantile(response, sla.quantile)) <= sla.limit_s, rate

    low, high = 1, 2
    passes, rate = holds(low)
    if not passes:
        return None
    while high <= _MOST_USERS:
        passes, more = holds(high)
        if not passes:
            break
        low, high, rate = high, 2 * high, more
    while high - low > max(1, low // 50):
        middle = (low + high) // 2
        passes, more = holds(middle)
        if passes:
            low, rate = middle, more
        else:
            high = middle
    quantile = None
    if rate < _SATURATED * twin.capacity_rps:
        (responses,) = steady_responses(twin, [(twin.law, rate)], sla.limit_s, [seed])
        quantile = float(np.quantile(responses.seconds, sla.quantile))
    return ClosedAnswer(users=low, throughput_rps=rate, quantile_s=quantile)


def closed_loop(twin: Twin, users: int, rng: np.random.Generator) -> tuple[Floats, float]:
    """Simulate users who ask again at once; return response times, the first third cut, and completions per second."""
    rule, law = twin.rule, twin.law
    wanted = max(_REQUESTS, _PER_USER * users)
    asks = [0.0] * users  # when each user asks next
    heapify(asks)
    free = [0.0] * rule.instances
    ratios, delays, table = law.ratios.tolist(), law.delays_s.tolist(), law.batch_s.tolist()
    pick = int(rng.integers(len(ratios)))
    response: list[float] = []
    ends: list[float] = []
    while len(response) < wanted:
        batch = [heappop(asks)]
        while asks and len(batch) < rule.max_batch:
            batch.append(heappop(asks))
        full = batch[-1] if len(batch) == rule.max_batch else float("inf")
        start = max(free[0], min(batch[0] + rule.wait_s, full)) + delays[pick]
        while batch[-1] > start:
            heappush(asks, batch.pop())
        done = start + table[len(batch)] * ratios[pick]
        heapreplace(free, done)
        pick = int(rng.integers(len(ratios))) if rng.random() < 0.02 else (pick + 1) % len(ratios)
        for asked in batch:
            response.append(done + twin.delay_s - asked)
            ends.append(done)
            heappush(asks, done + twin.delay_s)
    cut = len(response) // 3
    return np.array(response[cut:]), (len(ends) - cut) / (max(ends) - ends[cut])
