from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from loadgen.server.job import FinishedBatch

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """Count what the server does, in a registry of its own.

    Attributes:
        ok: Requests answered.
        refused: Requests that met a full queue.
        invalid: Requests that were no such JSON, or too large.
        failed: Requests whose batch failed.
    """

    def __init__(self, *, max_batch_size: int, queue_length: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        requests = Counter(
            "opfind_server_requests", "Predict requests by outcome.", ["outcome"], registry=self._registry
        )
        self.ok = requests.labels("ok")
        self.refused = requests.labels("refused")
        self.invalid = requests.labels("invalid")
        self.failed = requests.labels("failed")
        self._queue = Histogram(
            "opfind_server_queue_seconds",
            "From a request's arrival to the start of its batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._compute = Histogram(
            "opfind_server_compute_seconds",
            "From the start to the end of a batch.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch = Histogram(
            "opfind_server_batch_rows",
            "Rows in a batch.",
            buckets=sorted({1 << i for i in range(max_batch_size.bit_length())} | {max_batch_size}),
            registry=self._registry,
        )
        Gauge("opfind_server_queue_length", "Requests that wait for a batch.", registry=self._registry).set_function(
            queue_length
        )

    def finished(self, batch: FinishedBatch) -> None:
        """Count a batch and its jobs."""
        (self.failed if isinstance(batch.outputs, Exception) else self.ok).inc(len(batch.jobs))
        self._batch.observe(batch.rows)
        self._compute.observe((batch.end_ns - batch.start_ns) / 1e9)
        for job in batch.jobs:
            self._queue.observe((batch.start_ns - job.arrived_ns) / 1e9)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
