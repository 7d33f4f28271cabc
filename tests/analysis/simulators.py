"""Discrete-event servers that run a Step as the real fleet does: 100 ms progress, stop when told, drain, one clock."""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heapreplace

import numpy as np
from numpy.typing import NDArray

from analysis import Outcome, Reason, Step, StepProgress, StepResult

TICK_S = 0.1
Floats = NDArray[np.float64]
Overloaded = Callable[[StepProgress], bool]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Describe a FIFO queue before instances that serve batches in (t0 + t1 b) times a mean-1 random factor.

    A batch goes to the first free instance when it is full or its oldest request has waited `delay_s`, and takes every
    request that has arrived by then. Batches of 1 without delay make it M/M/c, M/D/1 or M/G/c.

    Attributes:
        t0_s: Service time of an empty batch, seconds.
        t1_s: Added by each request, seconds.
        batch: Largest batch.
        delay_s: Longest wait of the oldest request for its batch to fill.
        instances: Servers beside each other.
        sigma: Shape of the lognormal factor; "exponential" draws an exponential one.
        stall_s: Length of the pauses in which nothing is dispatched.
        stall_every_s: Mean time between them (Poisson); infinite: none.
        cold_s: Up to this time since the start, service takes `cold_factor` as long.
        cold_factor: See `cold_s`.
        drift: Service time grows by this share for good, with time constant `drift_s`.
        drift_s: See `drift`.
        error_share: Share of requests that fail, as a function of the arrival rate.
        dead_above_rps: Above this rate the server dies for good; every connection is refused then.
        timeout_s: The client gives a request up after this time; the server still serves it.
        client_limit_rps: Above this rate the client is the limit.
        think_s: Mean exponential think time of closed-loop users.
    """

    t0_s: float
    t1_s: float = 0.0
    batch: int = 1
    delay_s: float = 0.0
    instances: int = 1
    sigma: float | str = 0.0
    stall_s: float = 0.0
    stall_every_s: float = float("inf")
    cold_s: float = 0.0
    cold_factor: float = 1.0
    drift: float = 0.0
    drift_s: float = 60.0
    error_share: Callable[[float], float] = field(default=lambda _rate: 0.0)
    dead_above_rps: float = float("inf")
    timeout_s: float = float("inf")
    client_limit_rps: float = float("inf")
    think_s: float = 0.0

    @property
    def capacity_rps(self) -> float:
        """Return the highest completion rate, requests per second, stalls left out."""
        return self.instances * self.batch / (self.t0_s + self.t1_s * self.batch)


GPU = Server(t0_s=0.008, t1_s=0.0015, batch=32, delay_s=0.010, sigma=0.03)


def due_times(step: Step, rng: np.random.Generator) -> Floats:
    """Draw due times in [0, duration), seconds."""
    assert step.rate_rps is not None
    expected = step.rate_rps * step.duration_s
    if step.arrivals == "constant":
        return np.asarray((np.arange(int(expected + 0.5)) + 0.5) / step.rate_rps, dtype=np.float64)
    size = int(expected + 8 * np.sqrt(expected) + 20)
    due = np.cumsum(rng.exponential(1 / step.rate_rps, size))
    return due[due < step.duration_s]


@dataclass
class Simulator:
    """Run steps against a Server on one clock. The same seeds give the same results."""

    server: Server
    seed: int = 0
    clock_s: float = 0.0
    gap_s: float = 0.002
    spent_s: float = 0.0
    steps: list[Step] = field(default_factory=list)
    _free: list[float] = field(default_factory=list)
    _dead: bool = False

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng([self.seed, 7])
        self._free = [0.0] * self.server.instances
        self._stalls: list[float] = []

    def run_step(self, step: Step, overloaded: Overloaded) -> StepResult:
        """Run one step, drain it, and move the clock to its end."""
        self.steps.append(step)
        start = self.clock_s + self.gap_s
        if step.users is not None:
            result = self._closed(step, start, overloaded)
        else:
            result = self._open(step, start, overloaded)
        self.clock_s = self.spent_s = result.end_ns / 1e9
        return result

    def _open(self, step: Step, start: float, overloaded: Overloaded) -> StepResult:
        rng = np.random.default_rng([self.seed, step.seed, 1])
        due = start + due_times(step, rng)
        rate = step.rate_rps or 0.0
        self._dead |= rate > self.server.dead_above_rps
        if self._dead:
            return self._refused(step, start, due)
        state, free = self._rng.bit_generator.state, list(self._free)
        done = self._serve(due)
        stop = _first_stop(step, start, due, done, overloaded)
        if stop is not None:  # what came after the stop was never sent: serve again with the same service times
            self._rng.bit_generator.state, self._free = state, free
            due = due[due <= stop]
            done = self._serve(due)
        failed = rng.random(due.size) < self.server.error_share(rate)
        late = done > due + self.server.timeout_s
        outcome = np.where(failed, Outcome.HTTP_STATUS, np.where(late, Outcome.TIMEOUT, Outcome.OK))
        done = np.minimum(done, due + self.server.timeout_s)
        reasons = (Reason("client", "the client's CPU is full"),) if rate > self.server.client_limit_rps else ()
        end = max(float(done.max(initial=start)), start + step.duration_s if stop is None else stop)
        return StepResult.from_arrays(
            step, _ns(due), np.maximum(_ns(done), _ns(due)), outcome, aborted=stop is not None,
            start_ns=int(start * 1e9), end_ns=int(end * 1e9) + 1, drained=not late.any(), reasons=reasons,
        )  # fmt: skip

    def _refused(self, step: Step, start: float, due: Floats) -> StepResult:
        outcome = np.full(due.size, Outcome.CONNECT_ERROR)
        end_ns = int((start + step.duration_s) * 1e9)
        return StepResult.from_arrays(
            step, _ns(due), _ns(due) + 100_000, outcome, start_ns=int(start * 1e9), end_ns=end_ns + 200_000
        )

    def _factors(self, count: int) -> list[float]:
        sigma = self.server.sigma
        if isinstance(sigma, str):
            return self._rng.exponential(1.0, count).tolist()  # type: ignore[no-any-return]
        return np.exp(sigma * self._rng.standard_normal(count) - sigma**2 / 2).tolist()  # type: ignore[no-any-return]

    def _start(self, start: float) -> float:
        """Move a dispatch out of a pause of the server."""
        every = self.server.stall_every_s
        if every == float("inf"):
            return start
        while not self._stalls or self._stalls[-1] < start:
            self._stalls.append((self._stalls[-1] if self._stalls else 0.0) + float(self._rng.exponential(every)))
        last = bisect_right(self._stalls, start) - 1
        return max(start, self._stalls[last] + self.server.stall_s) if last >= 0 else start

    def _slowness(self, at: float) -> float:
        server = self.server
        cold = server.cold_factor if at < server.cold_s else 1.0
        return cold * (1 + server.drift * (1 - float(np.exp(-at / server.drift_s)))) if server.drift else cold

    def _serve(self, due: Floats) -> Floats:
        """Return done times for arrivals in order; the instances keep their state."""
        server, arrivals, size = self.server, due.tolist(), due.size
        batch, delay, t0, t1 = server.batch, server.delay_s, server.t0_s, server.t1_s
        factors = self._factors(size)
        changing = server.cold_s > 0 or server.drift != 0 or server.stall_every_s < float("inf")
        free = self._free
        heapify(free)
        ends: list[int] = []
        times: list[float] = []
        i = 0
        while i < size:
            first = arrivals[i]
            start = first
            if batch > 1:
                start = first + delay
                if i + batch <= size:
                    start = min(start, arrivals[i + batch - 1])
            start = max(start, free[0])
            factor = factors[len(ends)]
            if changing:
                start = self._start(start)
                factor *= self._slowness(start)
            j = bisect_right(arrivals, start, i + 1, min(size, i + batch)) if batch > 1 else i + 1
            end = start + (t0 + t1 * (j - i)) * factor
            heapreplace(free, end)
            ends.append(j)
            times.append(end)
            i = j
        return np.repeat(np.asarray(times), np.diff(np.asarray([0, *ends])))

    def _closed(self, step: Step, start: float, overloaded: Overloaded) -> StepResult:
        """Serve `users` that send, wait, think and send again; a due time belongs to the step in which it falls."""
        server, users = self.server, step.users or 0
        end = start + step.duration_s
        think = iter(self._rng.exponential(server.think_s, 1_000_000)) if server.think_s else iter(lambda: 0.0, 1.0)
        ready = sorted(start + next(think) for _ in range(users))
        factors = iter(self._factors(2_000_000 if server.batch == 1 else 200_000))
        heapify(self._free)
        due: list[float] = []
        done: list[float] = []
        while ready and ready[0] < end:
            begin = ready[0]
            if server.batch > 1:
                begin = min(begin + server.delay_s, ready[server.batch - 1] if len(ready) >= server.batch else np.inf)
            begin = max(begin, self._free[0])
            taken = min(bisect_right(ready, begin), server.batch) or 1
            finish = begin + (server.t0_s + server.t1_s * taken) * next(factors)
            heapreplace(self._free, finish)
            due += ready[:taken]
            done += [finish] * taken
            back = [finish + next(think) for _ in range(taken)]
            ready = ready[taken:]
            for at in back:
                ready.insert(bisect_right(ready, at), at)
        due_s, done_s = np.asarray(due), np.asarray(done)
        order = np.argsort(due_s, kind="stable")
        due_s, done_s = due_s[order], done_s[order]
        stop = _first_stop(step, start, due_s, done_s, overloaded)
        keep = due_s < (end if stop is None else stop)
        due_s, done_s = due_s[keep], done_s[keep]
        last = max(float(done_s.max(initial=start)), stop or end)
        return StepResult.from_arrays(
            step, _ns(due_s), np.maximum(_ns(done_s), _ns(due_s)), np.zeros(due_s.size), aborted=stop is not None,
            start_ns=int(start * 1e9), end_ns=int(last * 1e9) + 1,
        )  # fmt: skip


def _ns(seconds: Floats) -> NDArray[np.int64]:
    return np.round(seconds * 1e9).astype(np.int64)


def _first_stop(step: Step, start: float, due: Floats, done: Floats, overloaded: Overloaded) -> float | None:
    """Ask `overloaded` every 100 ms of the step; return when it says stop, or None."""
    ordered, reached = np.sort(done), np.maximum.accumulate(done) if done.size else done
    ticks = start + TICK_S * np.arange(1, int(step.duration_s / TICK_S + 1e-9) + 1)
    sent, ended = np.searchsorted(due, ticks, "right"), np.searchsorted(ordered, ticks, "right")
    oldest = np.searchsorted(reached, ticks, "right")
    for at, n_sent, n_done, first in zip(ticks.tolist(), sent.tolist(), ended.tolist(), oldest.tolist(), strict=True):
        age = at - float(due[first]) if first < n_sent else 0.0
        if overloaded(StepProgress(at - start, n_sent, n_done, n_sent - n_done, max(0.0, age))):
            return float(at)
    return None


def violation_share(server: Server, rate_rps: float, limit_s: float, requests: int, *, seed: int = 0) -> float:
    """Return the steady-state share of slow requests from one long run, its first tenth cut."""
    sim = Simulator(server, seed=seed)
    step = Step(rate_rps=rate_rps, duration_s=requests / rate_rps)
    result = sim.run_step(step, lambda _progress: False)
    return float((result.response_ns[result.offered // 10 :] > limit_s * 1e9).mean())


def true_rate(server: Server, limit_s: float, *, share: float = 0.01, requests: int = 2_000_000) -> float:
    """Return lambda*: solve for the Poisson rate whose violation share is `share`, by bisection over long runs."""
    low, high = 0.3 * server.capacity_rps, 0.999 * server.capacity_rps
    while high / low > 1.0005:
        middle = float(np.sqrt(low * high))
        if violation_share(server, middle, limit_s, requests) > share:
            high = middle
        else:
            low = middle
    return float(np.sqrt(low * high))
