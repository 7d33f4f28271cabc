import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock
from typing import Any

from loadgen.clock import NS_PER_MS, now_ns
from loadgen.errors import UsageError
from loadgen.server.alarms import Alarms
from loadgen.server.device import Device, SimulatedDevice
from loadgen.server.instance_group import InstanceGroup
from loadgen.server.job import FinishedBatch, Job, RefusedError, Reply
from loadgen.server.model_config import ModelConfig, StageConfig
from loadgen.server.sharing import SharedDevice
from loadgen.server.simulated_gpu import SimulatedGpu, lognormal_noise
from loadgen.server.stage import Stage
from loadgen.server.statistics import Statistics, Tally

Answer = Callable[[Reply | RefusedError], object]
Gpus = dict[int, tuple[SharedDevice, Lock]]

_STAGE_SIGMA = 0.1  # spread of CPU work; no two requests take the same


class Model:
    """Run one model: its stages, its queue, its instances, its statistics.

    All methods belong to the event loop's thread, and so do the calls of a job's `reply`.

    Args:
        config: Of the model.
        devices: One for each instance.
        loop: Where replies are delivered.
        alarms: For the ends of stages.
    """

    def __init__(self, config: ModelConfig, devices: Sequence[Device], loop: AbstractEventLoop, alarms: Alarms) -> None:
        self.config = config
        self.statistics = Statistics(max_rows=config.max_batch_size)
        self._alarms = alarms
        self._call_soon = loop.call_soon_threadsafe  # one wake-up a batch
        self._is_draining = False
        self._before = _stage(config.preprocess, config) if config.overlap else None
        self._after = _stage(config.postprocess, config) if config.overlap else None
        self.group = InstanceGroup(
            config.batcher(),
            devices,
            deliver=self._deliver,
            expire=lambda jobs: self._call_soon(self._expired, jobs),
            preserve_ordering=config.preserve_ordering,
        )

    @property
    def ready(self) -> bool:
        """Say that requests are served."""
        return self.group.ready and not self._is_draining

    def drain(self) -> None:
        """Refuse what is new, and let what waits leave."""
        self._is_draining = True
        self.group.drain()

    def submit(
        self, inputs: Any, reply: Answer, *, rows: int = 1, began_ns: int = 0, priority: int = 0,
        timeout_ns: int | None = None,
    ) -> Job:  # fmt: skip
        """Accept a request; `reply` is called later, once.

        Args:
            inputs: What the device computes on.
            reply: Takes the answer, or why there is none; returns False where it had to refuse after all.
            rows: How much of a batch it fills.
            began_ns: When all of it had come; 0: at the moment of the call.
            priority: Level, 0 for the default.
            timeout_ns: Longest wait in the queue that its sender asks for.

        Raises:
            RefusedError: A queue is full, or the server is about to end; `reply` is not called.
        """
        at_ns = now_ns()
        job = Job(
            arrived_ns=at_ns, inputs=inputs, rows=rows, priority=priority, timeout_ns=timeout_ns,
            began_ns=began_ns or at_ns, reply=reply,
        )  # fmt: skip
        self.statistics.stages["decode"].add(at_ns - job.began_ns)
        if self._is_draining:
            raise self._refused(job, "The server is shutting down.", retry_after_s=None)
        if self._before is None:
            if not self.group.submit(job):
                raise self._refused(job, "The queue is full; try again later.")
            return job
        times = self._before.offer(at_ns, rows)
        if times is None:
            raise self._refused(job, "The queue of the preprocessing stage is full; try again later.")
        self.statistics.stages["preprocess"].add(times[1] - at_ns)
        self._alarms.at(times[1], partial(self._preprocessed, job))
        return job

    def cancel(self, job: Job) -> None:
        """Forget a request whose sender has left; its place in the queue is free, and nobody waits for its batch."""
        if job.reply is not None:
            job.reply = None
            self.group.cancel(job)
            self.statistics.fail("CANCELED", now_ns() - job.began_ns)

    def _refused(self, job: Job, sentence: str, *, retry_after_s: int | None = 1) -> RefusedError:
        self.statistics.fail("REJECTED", now_ns() - job.began_ns)
        return RefusedError(503, sentence, retry_after_s)

    def _preprocessed(self, job: Job) -> None:
        """Queue a job whose first stage is over; in the alarms' thread."""
        if job.reply is not None and not self.group.submit(job):
            self._call_soon(self._overflown, job)

    def _overflown(self, job: Job) -> None:
        if job.reply is not None:
            reply, job.reply = job.reply, None
            reply(self._refused(job, "The queue is full; try again later."))

    def _expired(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.reply is not None:
                reply, job.reply = job.reply, None
                self.statistics.fail("REJECTED", now_ns() - job.began_ns)
                reply(RefusedError(503, "Request timeout expired"))

    def _deliver(self, batch: FinishedBatch) -> None:
        """Take a batch in an instance's thread, and let it go through the last stage."""
        if self._after is None or isinstance(batch.outputs, Exception):
            self._call_soon(self._finish, batch, None)
            return
        at_ns = now_ns()
        self._call_soon(self._postprocess, batch, at_ns)

    def _postprocess(self, batch: FinishedBatch, at_ns: int) -> None:
        """Give each job of a batch to the last stage, which waits for its own queue: what is computed is not lost."""
        assert self._after is not None
        for index, job in enumerate(batch.jobs):
            times = self._after.offer(at_ns, job.rows)
            if times is None:
                self._overflown(job)
                continue
            self.statistics.stages["postprocess"].add(times[1] - at_ns)
            self._alarms.at(times[1], partial(self._call_soon, self._finish, batch, index))
        self._count(batch)

    def _finish(self, batch: FinishedBatch, only: int | None) -> None:
        """Hand a batch's outputs to the requests that wait for them, or those of one of its jobs."""
        if only is None:
            self._count(batch)
        chosen = enumerate(batch.jobs) if only is None else [(only, batch.jobs[only])]
        failure = _failure(batch)
        rows, compute_ns = batch.rows, batch.end_ns - batch.start_ns
        for index, job in chosen:
            reply, job.reply = job.reply, None
            if reply is None:  # its sender has left
                continue
            if failure is not None:
                self.statistics.fail("BACKEND", now_ns() - job.began_ns)
                reply(failure)
                continue
            queue_ns = batch.start_ns - job.arrived_ns
            is_sent = reply(
                Reply(outputs=batch.outputs[index], batch_size=rows, queue_ns=queue_ns, compute_ns=compute_ns)  # type: ignore[index]
            )
            if is_sent is False:
                self.statistics.fail("OTHER", now_ns() - job.began_ns)
            else:
                self._succeed(job, queue_ns, compute_ns)

    def _succeed(self, job: Job, queue_ns: int, compute_ns: int) -> None:
        own = self.statistics
        own.queue.add(queue_ns)
        own.compute.add(compute_ns)
        own.stages["queue"].add(queue_ns)
        own.stages["compute"].add(compute_ns)
        own.inferences += job.rows
        own.success.add(now_ns() - job.began_ns)

    def _count(self, batch: FinishedBatch) -> None:
        """Count a batch."""
        own, rows = self.statistics, batch.rows
        own.executions += 1
        own.last_ms = time.time_ns() // NS_PER_MS
        own.rows.add(rows)
        own.batches.setdefault(rows, Tally()).add(batch.end_ns - batch.start_ns)


def _failure(batch: FinishedBatch) -> RefusedError | None:
    if isinstance(batch.outputs, Exception):
        return RefusedError(500, f"The batch failed with {type(batch.outputs).__name__}.")
    if len(batch.outputs) != len(batch.jobs):
        return RefusedError(500, "The batch failed: the model gave another number of outputs than it got inputs.")
    return None


def _stage(stage: StageConfig, config: ModelConfig) -> Stage | None:
    if not stage.time_ms:
        return None
    noise = lognormal_noise(_STAGE_SIGMA, config.seed + (1 if stage is config.preprocess else 2))
    return Stage(
        workers=stage.workers, time_ns=stage.time_ms * NS_PER_MS, max_queue_size=stage.max_queue_size, noise=noise
    )


def devices_of(config: ModelConfig, gpus: Gpus) -> list[Device]:
    """Return the device of each instance of a model.

    Args:
        config: Of the model.
        gpus: The devices that models share, by number; those that are missing are added.

    Raises:
        UsageError: torch is to compute, and cannot.
    """
    places = [place for group in config.instances for place in group.places()]
    if not config.is_simulated:
        return _computing(config, places)
    made: dict[int, Device] = {}
    found: list[Device] = []
    for number, place in enumerate(places):
        if place is None:
            found.append(_simulated(config, (SharedDevice(), Lock()), number))
            continue
        if place not in made:
            made[place] = _simulated(config, gpus.setdefault(place, (SharedDevice(), Lock())), len(made))
        found.append(made[place])
    return found


def _computing(config: ModelConfig, places: Sequence[int | None]) -> list[Device]:
    """Return the devices of a model that torch runs.

    Raises:
        UsageError: torch is not installed, or cannot run it.
    """
    try:
        from loadgen.server.torch_device import torch_devices  # noqa: PLC0415 (torch takes seconds to import)
    except ImportError:
        raise UsageError(f"model '{config.name}' needs torch: pip install 'opfind[gpu]'") from None
    return torch_devices(config, places)


def _simulated(config: ModelConfig, shared: tuple[SharedDevice, Lock], number: int) -> Device:
    noise = lognormal_noise(config.device.jitter_sigma, config.seed + 1000 * number)
    gpu = SimulatedGpu(config.device, noise, shared[0], seed=config.seed + number)
    before_ms, after_ms = (0.0, 0.0) if config.overlap else (config.preprocess.time_ms, config.postprocess.time_ms)
    return SimulatedDevice(gpu, shared[1], before_ns=before_ms * NS_PER_MS, after_ns=after_ms * NS_PER_MS)
