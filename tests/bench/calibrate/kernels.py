"""The inner loops of the simulated servers, compiled: arrays in, arrays out. Times are float64 seconds on one clock."""

from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
FIFO, LIFO, PRIORITY = 0, 1, 2
REJECTED = -1.0


class Policy(NamedTuple):
    """Say how requests are queued and served.

    Attributes:
        order: FIFO, or LIFO or PRIORITY with a batch of 1.
        t0_s: Service time of an empty batch.
        t1_s: Added by each request.
        batch: Largest batch.
        wait_s: Longest wait of the oldest request for its batch to fill.
        reply_s: Between two replies of one batch.
        limit: Most requests that wait; one more is rejected.
    """

    order: int
    t0_s: float
    t1_s: float
    batch: int
    wait_s: float
    reply_s: float
    limit: int


class World(NamedTuple):
    """Hold what changes on the clock.

    Attributes:
        pauses: (m,) when nothing is dispatched for pause_s, increasing.
        pause_s: See `pauses`.
        slowness: (k,) factor of the service time in each slot of the clock; the last one holds ever after.
        slot_s: Length of a slot.
    """

    pauses: Floats
    pause_s: float
    slowness: Floats
    slot_s: float


@njit(cache=True)
def _begin(start: float, world: World, first: int) -> tuple[float, int]:
    """Move a dispatch out of the pauses; return it and the index of the first pause that may still matter."""
    k = first
    while k < world.pauses.size and world.pauses[k] <= start:
        start = max(start, world.pauses[k] + world.pause_s)
        k += 1
    return start, max(first, k - 1)


@njit(cache=True)
def _slowness(at: float, world: World) -> float:
    """Return the factor of the service time then."""
    return float(world.slowness[min(world.slowness.size - 1, int(at / world.slot_s))])


@njit(cache=True)
def queue(  # noqa: PLR0917 - compiled functions take positions
    due: Floats, urgent: Bytes, factor: Floats, policy: Policy, world: World, free: Floats, done: Floats
) -> int:
    """Serve arrivals by batches; write when each reply leaves, REJECTED where the queue was full.

    A batch is dispatched at max(an instance is free, min(the batch-th waiting request arrives, oldest + wait_s)), takes
    all that have arrived by then, at most `batch`, and lasts (t0_s + t1_s b) times a factor times the slowness then.

    Args:
        due: (n,) arrivals, not decreasing.
        urgent: (n,) 1 for requests served before the others; read in PRIORITY only.
        factor: (n,) random factor of the k-th dispatch.
        policy: How they are served.
        world: What else happens.
        free: (instances,) when each is free; changed in place.
        done: (n,) written.

    Returns:
        The number of dispatches.
    """
    n = due.size
    line = np.empty(n, np.int64)  # who waits: line[head:tail]
    fast = np.empty(n if policy.order == PRIORITY else 0, np.int64)
    head = tail = fast_head = fast_tail = 0
    i = dispatches = pause = 0
    which = int(np.argmin(free))
    now = 0.0
    while i < n or tail > head or fast_tail > fast_head:
        waiting = tail - head + fast_tail - fast_head
        start = np.inf
        ahead = pause
        if waiting:
            start = free[which]
            if policy.batch > 1:
                full = waiting >= policy.batch
                start = max(start, due[line[head + policy.batch - 1]] if full else due[line[head]] + policy.wait_s)
            start, ahead = _begin(max(now, start), world, pause)
        if i < n and due[i] <= start:
            if waiting >= policy.limit and start > due[i]:
                done[i] = REJECTED
            elif policy.order == PRIORITY and urgent[i]:
                fast[fast_tail] = i
                fast_tail += 1
            else:
                line[tail] = i
                tail += 1
            now = due[i]
            i += 1
            continue
        now, pause = start, ahead
        size = min(waiting, policy.batch)
        end = start + (policy.t0_s + policy.t1_s * size) * factor[dispatches] * _slowness(start, world)
        if policy.order == LIFO:
            tail -= 1
            done[line[tail]] = end
        elif fast_tail > fast_head:
            done[fast[fast_head]] = end
            fast_head += 1
        else:
            for k in range(size):
                done[line[head + k]] = end + policy.reply_s * k
            head += size
        free[which] = end
        which = int(np.argmin(free))
        dispatches += 1
    return dispatches


@njit(cache=True)
def share(  # noqa: PLR0917 - compiled functions take positions
    due: Floats, factor: Floats, service_s: float, instances: int, world: World, done: Floats
) -> None:
    """Share the instances equally among all present, at most one each; write when each reply leaves.

    Every request is served at the same speed min(1, instances / n), so the one whose arrival in virtual time plus its
    size is least leaves next.
    """
    n = due.size
    present = [(0.0, 0)]
    present.pop()
    virtual = now = 0.0
    i = 0
    while i < n or len(present) > 0:
        speed = min(1.0, instances / max(1, len(present)))
        next_end = now + (present[0][0] - virtual) / speed if len(present) > 0 else np.inf
        if i < n and due[i] <= next_end:
            virtual += (due[i] - now) * speed if len(present) > 0 else 0.0
            now = due[i]
            heappush(present, (virtual + service_s * factor[i] * _slowness(now, world), i))
            i += 1
        else:
            virtual, leaver = heappop(present)
            now = next_end
            done[leaver] = now


@njit(cache=True)
def closed(  # noqa: PLR0917 - compiled functions take positions
    ready: Floats, think: Floats, factor: Floats, extra: Floats, end_s: float, policy: Policy, world: World,
    free: Floats, due: Floats, done: Floats,
) -> int:  # fmt: skip
    """Serve users who send, wait for the reply, think and send again, until `end_s`; FIFO, dispatched as `queue` does.

    Args:
        ready: (users,) first arrivals.
        think: (n,) think time after the k-th reply.
        factor: (n,) random factor of the k-th dispatch.
        extra: (n,) delay of the k-th reply outside the server.
        end_s: Nothing is sent from then on.
        policy: How they are served; its order is FIFO and its limit is not read.
        world: What else happens.
        free: (instances,) when each is free; changed in place.
        due: (n,) written, arrivals.
        done: (n,) written, when the reply is there.

    Returns:
        The number of requests. Where n is too small the run ends early, with n.
    """
    coming = [float(at) for at in np.sort(ready)]
    head = tail = dispatches = pause = 0
    which = int(np.argmin(free))
    now = 0.0
    while True:
        waiting = tail - head
        start = np.inf
        ahead = pause
        if waiting:
            start = free[which]
            if policy.batch > 1:
                full = waiting >= policy.batch
                start = max(start, due[head + policy.batch - 1] if full else due[head] + policy.wait_s)
            start, ahead = _begin(max(now, start), world, pause)
        if len(coming) > 0 and coming[0] < end_s and coming[0] <= start and tail < due.size:
            now = heappop(coming)
            due[tail] = now
            tail += 1
            continue
        if not waiting:
            return tail
        now, pause = start, ahead
        size = min(waiting, policy.batch)
        end = start + (policy.t0_s + policy.t1_s * size) * factor[dispatches] * _slowness(start, world)
        for k in range(head, head + size):
            done[k] = end + policy.reply_s * (k - head) + extra[k]
            heappush(coming, done[k] + think[k])
        head += size
        free[which] = end
        which = int(np.argmin(free))
        dispatches += 1


@njit(cache=True)
def progress(due: Floats, done: Floats, start_s: float, tick_s: float, ticks: int) -> tuple[Floats, Floats, Floats]:
    """Return requests sent, requests done and the oldest pending one's age at each tick from start_s + tick_s on."""
    sent, ended, age = np.zeros(ticks), np.zeros(ticks), np.zeros(ticks)
    for at in done:
        k = int(np.ceil((at - start_s) / tick_s)) - 1
        if k < ticks:
            ended[max(0, k)] += 1
    ended = np.cumsum(ended)
    i = oldest = 0
    for k in range(ticks):
        now = start_s + tick_s * (k + 1)
        while i < due.size and due[i] <= now:
            i += 1
        while oldest < i and done[oldest] <= now:
            oldest += 1
        sent[k] = i
        age[k] = now - due[oldest] if oldest < i else 0.0
    return sent, ended, age
