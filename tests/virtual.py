"""The server's own policies under virtual time: a `run_step` for `analysis.Search`, without clock and socket."""

from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain, islice, repeat

import numpy as np

from analysis import Outcome, Step, StepProgress, StepResult
from loadgen.arrivals import Arrivals, Constant, Gamma, Poisson
from loadgen.server.config import ServerConfig
from loadgen.server.job import Job
from loadgen.server.sharing import RunningBatch

Overloaded = Callable[[StepProgress], bool]
_Running = tuple[RunningBatch, list[Job]]
ASK_EVERY_NS = 100_000_000
_REFUSAL_NS = 200_000  # a 503's way there and back; keeps refused users of a closed loop from spinning in no time
_NEVER = 1 << 62


def deterministic() -> Iterator[float]:
    """Yield the noise of a service time that is constant."""
    return repeat(1.0)


def exponential(seed: int) -> Iterator[float]:
    """Yield the noise of an exponential service time."""
    rng = np.random.default_rng([seed, 0xE4])
    while True:
        yield from rng.exponential(1.0, 4096).tolist()


def queue_config(mean_service_ms: float, *, servers: int = 1) -> ServerConfig:
    """Configure a plain queue of independent servers: no batching, no delay, nothing shared."""
    return ServerConfig(
        t0_ms=mean_service_ms,
        t1_ms=0.0,
        max_batch_size=1,
        max_queue_delay_us=0,
        instances=servers,
        max_queue_size=1 << 20,
    )


class VirtualServer:
    """Run steps against the server's batcher and device model; its clock goes on from step to step.

    Each step ends with the server empty. A request that meets a full queue is an HTTP_STATUS failure.

    Args:
        config: Of the server.
        noise: Factor on each batch's time; by default the config's seeded lognormal jitter.
        arrivals: The open loop's arrival process; by default the one that the step names.
        think_s: Closed loop: from a reply to the same user's next request, seconds.
    """

    def __init__(
        self,
        config: ServerConfig | None = None,
        *,
        noise: Iterator[float] | None = None,
        arrivals: Arrivals | None = None,
        think_s: float = 0.0,
    ) -> None:
        config = config or ServerConfig()
        self._batcher = config.batcher()
        self._gpu = config.gpu(noise)
        self._free = config.instances
        self._running: list[_Running] = []
        self._arrivals = arrivals
        self._think_ns = round(think_s * 1e9)
        self.now_ns = 0

    def run_step(self, step: Step, overloaded: Overloaded = lambda _: False) -> StepResult:
        """Send a step's load, ask `overloaded` each 100 ms, and return when every request sent has ended."""
        self._begin(step)
        start_ns, ask_ns = self.now_ns, self.now_ns + ASK_EVERY_NS
        leave_ns = end_ns = _NEVER
        while True:
            arrive_ns = self._upcoming[0] if self._upcoming else _NEVER
            self.now_ns = min(arrive_ns, end_ns, leave_ns, ask_ns)
            # Of events at one time arrivals come first: a batch takes every request that has arrived by then.
            if self.now_ns == _NEVER:
                break
            if self.now_ns == arrive_ns:
                self._arrive()
            elif self.now_ns == end_ns:
                self._finish()
                end_ns = self._gpu.next_end_ns() or _NEVER
            elif self.now_ns == leave_ns:
                self._leave()
                end_ns = self._gpu.next_end_ns() or _NEVER
            else:
                ask_ns = self._ask(overloaded, start_ns)
            if self._free:
                due_ns = self._batcher.due_ns()
                leave_ns = _NEVER if due_ns is None else max(self.now_ns, due_ns)
            else:
                leave_ns = _NEVER
        self.now_ns = max([self._stop_ns, *self._done_ns])
        return StepResult.from_arrays(
            step, self._due_ns, self._done_ns, self._outcome, aborted=self._aborted, start_ns=start_ns
        )

    def _begin(self, step: Step) -> None:
        """Set up a step's books, and its requests to come as a heap of due times."""
        start_ns = self.now_ns
        self._stop_ns = start_ns + round(step.duration_s * 1e9)
        self._aborted = False
        self._closed = step.users is not None
        self._due_ns: list[int] = []
        self._done_ns: list[int] = []
        self._outcome: list[int] = []
        self._ended = 0
        self._upcoming = [start_ns] * (step.users or 0)
        self._schedule: Iterator[int] = iter(())
        if step.rate_rps is not None:
            named: dict[str, Arrivals] = {"poisson": Poisson(), "constant": Constant(), "gamma": Gamma(cv=2.0)}
            chunks = (self._arrivals or named[step.arrivals]).due_ns(step.rate_rps, step.duration_s, step.seed)
            self._schedule = chain.from_iterable((start_ns + chunk).tolist() for chunk in chunks)
            self._upcoming = list(islice(self._schedule, 1))

    def _arrive(self) -> None:
        heappop(self._upcoming)
        self._upcoming.extend(islice(self._schedule, 1))  # the open loop's next; it holds only one at a time
        accepted = self._batcher.offer(Job(arrived_ns=self.now_ns, inputs=len(self._due_ns)))
        self._due_ns.append(self.now_ns)
        self._done_ns.append(0)
        self._outcome.append(Outcome.OK)
        if not accepted:
            self._end_request(-1, Outcome.HTTP_STATUS, self.now_ns + _REFUSAL_NS)

    def _leave(self) -> None:
        jobs = self._batcher.take(self.now_ns)
        self._running.append((self._gpu.start(self.now_ns, sum(job.rows for job in jobs)), jobs))
        self._free -= 1

    def _finish(self) -> None:
        self._gpu.advance(self.now_ns)
        for batch, jobs in self._running:
            if batch.ended_ns is not None:
                self._free += 1
                for job in jobs:
                    self._end_request(job.inputs, Outcome.OK, batch.ended_ns)
        self._running = [(batch, jobs) for batch, jobs in self._running if batch.ended_ns is None]

    def _end_request(self, index: int, outcome: Outcome, done_ns: int) -> None:
        self._done_ns[index] = done_ns
        self._outcome[index] = outcome
        self._ended += 1
        due_ns = done_ns + self._think_ns
        if self._closed and due_ns < self._stop_ns:
            heappush(self._upcoming, due_ns)

    def _ask(self, overloaded: Overloaded, start_ns: int) -> int:
        """Ask whether to stop sending; return when to ask next."""
        waiting = [jobs[0].arrived_ns for _, jobs in self._running]
        if self._batcher.oldest_ns is not None:
            waiting.append(self._batcher.oldest_ns)
        sent = len(self._due_ns)
        self._aborted = overloaded(
            StepProgress(
                elapsed_s=(self.now_ns - start_ns) / 1e9,
                sent=sent,
                done=self._ended,
                in_flight=sent - self._ended,
                oldest_pending_s=(self.now_ns - min(waiting)) / 1e9 if waiting else 0.0,
            )
        )
        if self._aborted:
            self._schedule, self._upcoming, self._stop_ns = iter(()), [], self.now_ns
        next_ns = self.now_ns + ASK_EVERY_NS
        return next_ns if next_ns < self._stop_ns else _NEVER
