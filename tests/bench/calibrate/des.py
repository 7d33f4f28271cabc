"""Fast discrete-event servers that run a Step as the fleet does: 100 ms progress, stop when told, drain, one clock."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from analysis import Outcome, Step, StepProgress, StepResult
from tests.bench.calibrate import kernels
from tests.bench.calibrate.kernels import Floats

TICK_S = 0.1
SLOT_S = 0.05
GAP_S = 0.002
Overloaded = Callable[[StepProgress], bool]
_ORDERS = {"fifo": kernels.FIFO, "routed": kernels.FIFO, "lifo": kernels.LIFO, "priority": kernels.PRIORITY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Describe a server: a queue before instances that serve batches in (t0 + t1 b) times a random factor of mean 1.

    Attributes:
        t0_s: Service time of an empty batch, seconds.
        t1_s: Added by each request.
        batch: Largest batch; 1 makes it M/G/c.
        wait_s: Longest wait of the oldest request for its batch to fill.
        instances: Batches served at the same time.
        order: "fifo"; "lifo"; "priority": urgent requests first; "sharing": processor sharing; "routed": every request
            joins one of `instances` separate queues at random.
        sigma: Shape of the lognormal part of the factor.
        exponential: The factor has an exponential part.
        slow_share: Share of batches (of requests, where batch is 1) of a slow class.
        slow_factor: Mean service time of that class over the other's.
        rho: Autocorrelation of the logarithm of the lognormal part from one dispatch to the next.
        urgent_share: Share of urgent requests.
        network_s: Constant delay of every reply.
        jitter_s: Every reply is later by a random 0 to jitter_s.
        reply_s: Between two replies of one batch.
        stall_s: Length of pauses in which nothing is dispatched.
        stall_every_s: Mean time between them (Poisson).
        spell_share: Share of the clock's seconds in which service takes `spell_factor` as long.
        spell_factor: See `spell_share`.
        drift: Share of the capacity that is lost in the end.
        drift_s: Time constant of an exponential drift, or length of a linear one.
        linear: The drift is linear.
        cold_s: Up to then service takes `cold_factor` as long.
        cold_factor: See `cold_s`.
        late_instances: How many of the instances start only at `late_s`.
        late_s: See `late_instances`.
        queue_limit: Most requests that wait; one more gets HTTP 503 at once.
        cliff_rps: Above this arrival rate of a step service takes `cliff_factor` as long.
        cliff_factor: See `cliff_rps`.
    """

    t0_s: float
    t1_s: float = 0.0
    batch: int = 1
    wait_s: float = 0.0
    instances: int = 1
    order: Literal["fifo", "lifo", "priority", "sharing", "routed"] = "fifo"
    sigma: float = 0.0
    exponential: bool = False
    slow_share: float = 0.0
    slow_factor: float = 1.0
    rho: float = 0.0
    urgent_share: float = 0.0
    network_s: float = 0.0
    jitter_s: float = 0.0
    reply_s: float = 0.0
    stall_s: float = 0.0
    stall_every_s: float = inf
    spell_share: float = 0.0
    spell_factor: float = 1.0
    drift: float = 0.0
    drift_s: float = 60.0
    linear: bool = False
    cold_s: float = 0.0
    cold_factor: float = 1.0
    late_instances: int = 0
    late_s: float = 0.0
    queue_limit: int = 1 << 62
    cliff_rps: float = inf
    cliff_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.batch > 1 and self.order in ("lifo", "priority", "sharing"):
            raise ValueError(f"Server batch {self.batch}: must be 1 with order '{self.order}'")
        if not 0 <= self.late_instances < self.instances:
            raise ValueError(f"Server late_instances {self.late_instances}: must be below instances")

    @property
    def capacity_rps(self) -> float:
        """Return the highest rate of completions of the settled server, requests per second, below any cliff."""
        rate = self.instances * self.batch / (self.t0_s + self.t1_s * self.batch)
        rate *= (1 - self.drift) / (1 + self.spell_share * (self.spell_factor - 1))
        return rate * (1 - self.stall_s / self.stall_every_s)

    @property
    def rarest_s(self) -> float:
        """Return the mean time between the pauses, or the slow seconds, whichever are rarer; 0 without any."""
        pauses_s = self.stall_every_s if self.stall_s else 0.0
        return max(pauses_s, 1 / self.spell_share if self.spell_share else 0.0)


def due_times(step: Step, rng: np.random.Generator) -> Floats:
    """Draw due times in [0, duration), seconds. The same generator gives the same bursts at every rate."""
    if step.rate_rps is None:
        raise ValueError("due_times: a closed-loop step has no rate")
    expected = step.rate_rps * step.duration_s
    if step.arrivals == "constant":
        return np.asarray((np.arange(int(expected + 0.5)) + 0.5) / step.rate_rps, dtype=np.float64)
    gaps = rng.standard_exponential(int(expected + 8 * np.sqrt(expected) + 20))
    due = np.cumsum(gaps) / step.rate_rps
    return np.asarray(due[: np.searchsorted(due, step.duration_s)], dtype=np.float64)


class Simulator:
    """Run steps against a Server on one clock; what it remembers (drift, pauses, cold caches) lives on that clock.

    Args:
        server: What is simulated.
        seed: The same seed and steps give the same results.
        think_s: Mean exponential think time of closed-loop users.
        settled: Drift is over, caches are warm and late instances are there from the start.
    """

    def __init__(self, server: Server, seed: int = 0, *, think_s: float = 0.0, settled: bool = False) -> None:
        self.server, self.seed, self.think_s, self.settled = server, seed, think_s, settled
        self.clock_s = self.spent_s = 0.0
        self.count = 0
        self._free = np.zeros(server.instances)
        if server.late_instances and not settled:
            self._free[-server.late_instances :] = server.late_s
        self._policy = kernels.Policy(
            _ORDERS.get(server.order, kernels.FIFO), server.t0_s, server.t1_s, server.batch, server.wait_s,
            server.reply_s, server.queue_limit,
        )  # fmt: skip
        self._pauses_rng = np.random.default_rng([seed, 0])  # streams of their own: the same whatever the steps
        self._spells_rng = np.random.default_rng([seed, 1])
        self._pauses = np.empty(0)
        self._spells = np.empty(0)
        self._log = 0.0

    def run_step(self, step: Step, overloaded: Overloaded | None = None) -> StepResult:
        """Run one step, drain it, and move the clock to its end."""
        start = self.clock_s + GAP_S
        rng = np.random.default_rng([self.seed, 2, self.count, step.seed])
        self.count += 1
        serve = self._closed if step.users is not None else self._open
        result = serve(step, start, rng, overloaded)
        self.clock_s = self.spent_s = result.end_ns / 1e9
        return result

    def _open(self, step: Step, start: float, rng: np.random.Generator, overloaded: Overloaded | None) -> StepResult:
        due = start + due_times(step, rng)
        rate = step.rate_rps or 0.0
        factor = self._factors(rng, due.size) * (self.server.cliff_factor if rate > self.server.cliff_rps else 1.0)
        share = self.server.urgent_share
        urgent = (rng.random(due.size) < share).astype(np.uint8) if share else np.zeros(due.size, np.uint8)
        route = rng.integers(0, self.server.instances, due.size) if self.server.order == "routed" else None
        delay = self._delay(rng, due.size)
        free = self._free.copy()
        done, rejected = self._serve(due, factor, urgent, route, delay)
        stop = first_stop(step, start, due, done, overloaded)
        if stop is not None:  # what came after the stop was never sent: serve again with the same random numbers
            self._free = free
            n = int(np.searchsorted(due, stop, "right"))
            due, done, rejected = due[:n], *self._serve(due[:n], factor, urgent, route, delay)
        end = max(float(done.max(initial=start)), start + step.duration_s if stop is None else stop)
        return StepResult.from_arrays(
            step, _ns(due), np.maximum(_ns(done), _ns(due)), np.where(rejected, Outcome.HTTP_STATUS, Outcome.OK),
            aborted=stop is not None, start_ns=int(start * 1e9), end_ns=int(end * 1e9) + 1,
        )  # fmt: skip

    def _serve(
        self,
        due: Floats,
        factor: Floats,
        urgent: NDArray[np.uint8],
        route: NDArray[np.int64] | None,
        delay: Floats,
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """Return when each reply is there, and which were rejected; the instances keep their state."""
        server = self.server
        done = np.empty(due.size)
        if not due.size:
            return done, np.zeros(0, np.bool_)
        world = self._world(float(due[-1]) + 60 + 2 * due.size * (server.t0_s + server.t1_s) / server.instances)
        if server.order == "sharing":
            kernels.share(due, factor, server.t0_s + server.t1_s, server.instances, world, done)
        elif route is not None:
            for k in range(server.instances):
                mine = np.flatnonzero(route[: due.size] == k)
                part = np.empty(mine.size)
                kernels.queue(due[mine], urgent[mine], factor[mine], self._policy, world, self._free[k : k + 1], part)
                done[mine] = part
        else:
            used = kernels.queue(due, urgent, factor, self._policy, world, self._free, done)
            if server.rho:
                self._log = log(float(factor[used - 1]))
        rejected = done == kernels.REJECTED
        return np.where(rejected, due + server.network_s, done + delay[: due.size]), rejected

    def _closed(self, step: Step, start: float, rng: np.random.Generator, overloaded: Overloaded | None) -> StepResult:
        server, users = self.server, step.users or 0
        if server.order != "fifo":
            raise ValueError(f"Server order '{server.order}': closed-loop steps are simulated for 'fifo' only")
        n = int(1.2 * server.capacity_rps / (1 - server.drift) * step.duration_s) + 2 * users + 1000
        factor = self._factors(rng, n)
        think = rng.exponential(self.think_s, n) if self.think_s else np.zeros(n)
        extra = self._delay(rng, n)
        ready = start + (rng.exponential(self.think_s, users) if self.think_s else np.zeros(users))
        world = self._world(start + 4 * step.duration_s + 60)

        def serve(end: float, free: Floats) -> tuple[Floats, Floats]:
            due, done = np.empty(n), np.empty(n)
            sent = kernels.closed(ready, think, factor, extra, end, self._policy, world, free, due, done)
            return due[:sent], done[:sent]

        free = self._free.copy()
        end = start + step.duration_s
        due, done = serve(end, self._free)
        stop = first_stop(step, start, due, done, overloaded)
        if stop is not None:
            self._free = free
            due, done = serve(np.nextafter(stop, inf), self._free)
        last = max(float(done.max(initial=start)), end if stop is None else stop)
        return StepResult.from_arrays(
            step, _ns(due), np.maximum(_ns(done), _ns(due)), np.zeros(due.size), aborted=stop is not None,
            start_ns=int(start * 1e9), end_ns=int(last * 1e9) + 1,
        )  # fmt: skip

    def _factors(self, rng: np.random.Generator, n: int) -> Floats:
        """Draw mean-1 factors of n dispatches."""
        server = self.server
        factor = np.ones(n)
        if server.sigma:
            normal = rng.standard_normal(n)
            if server.rho:
                before = (self._log + server.sigma**2 / 2) / server.sigma
                weight = (1 - server.rho**2) ** 0.5
                normal, _ = lfilter([weight], [1.0, -server.rho], normal, zi=[server.rho * before])
            factor = np.exp(server.sigma * normal - server.sigma**2 / 2)
        if server.exponential:
            factor *= rng.standard_exponential(n)
        if server.slow_share:
            usual = 1 / (1 + server.slow_share * (server.slow_factor - 1))
            factor *= np.where(rng.random(n) < server.slow_share, usual * server.slow_factor, usual)
        return factor

    def _delay(self, rng: np.random.Generator, n: int) -> Floats:
        jitter = self.server.jitter_s * rng.random(n) if self.server.jitter_s else np.zeros(n)
        return self.server.network_s + jitter

    def _world(self, until: float) -> kernels.World:
        """Draw pauses and slow seconds up to then."""
        server = self.server
        while server.stall_s and (not self._pauses.size or self._pauses[-1] < until):
            last = float(self._pauses[-1]) if self._pauses.size else 0.0
            more = self._pauses_rng.exponential(server.stall_every_s, 100 + self._pauses.size)
            self._pauses = np.append(self._pauses, last + np.cumsum(more))
        return kernels.World(self._pauses, server.stall_s, self._slowness(until), SLOT_S)

    def _slowness(self, until: float) -> Floats:
        """Return the factor of the service time in every slot of the clock up to then."""
        server = self.server
        changing = (server.drift or server.cold_s) and not self.settled
        final = 1 / (1 - server.drift)
        if not changing and not server.spell_share:
            return np.array([final])
        at = SLOT_S * np.arange(ceil(until / SLOT_S))
        slow = np.full(at.size, final)
        if changing:
            gone = np.minimum(1, at / server.drift_s) if server.linear else 1 - np.exp(-at / server.drift_s)
            slow = np.where(at < server.cold_s, server.cold_factor, 1.0) / (1 - server.drift * gone)
        if server.spell_share:
            while self._spells.size <= until:
                drawn = self._spells_rng.random(1000 + self._spells.size) < server.spell_share
                self._spells = np.append(self._spells, np.where(drawn, server.spell_factor, 1.0))
            slow = slow * self._spells[at.astype(np.int64)]
        return slow


def _ns(seconds: Floats) -> NDArray[np.int64]:
    return np.rint(seconds * 1e9).astype(np.int64)


def first_stop(step: Step, start: float, due: Floats, done: Floats, overloaded: Overloaded | None) -> float | None:
    """Ask `overloaded` every 100 ms of the step; return when it says stop, or None."""
    if overloaded is None:
        return None
    ticks = int(step.duration_s / TICK_S + 1e-9)
    sent, ended, age = kernels.progress(due, done, start, TICK_S, ticks)
    for k, (n_sent, n_done, oldest) in enumerate(zip(sent.tolist(), ended.tolist(), age.tolist(), strict=True)):
        elapsed = TICK_S * (k + 1)
        if overloaded(StepProgress(elapsed, int(n_sent), int(n_done), int(n_sent - n_done), oldest)):
            return start + elapsed
    return None
