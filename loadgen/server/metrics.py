"""The page for Prometheus: Triton's metrics under Triton's names, and histograms of stages and batches."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from loadgen.clock import NS_PER_S, now_ns
from loadgen.server.kserve import VERSION
from loadgen.server.model import Gpus, Model
from loadgen.server.statistics import Buckets

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_NS_PER_US = 1000
# Name, help, and value of Triton's counters ("Metrics", Triton Inference Server user guide). Each request is one
# success, each row of it one inference, each batch one execution.
_COUNTERS: dict[str, tuple[str, Callable[[Model], float]]] = {
    "nv_inference_request_success": (
        "Number of successful inference requests", lambda model: model.statistics.success.count,
    ),
    "nv_inference_count": ("Number of inferences performed", lambda model: model.statistics.inferences),
    "nv_inference_exec_count": ("Number of model executions performed", lambda model: model.statistics.executions),
    "nv_inference_request_duration_us": (
        "Cumulative inference request duration in microseconds",
        lambda model: model.statistics.success.ns // _NS_PER_US,
    ),
    "nv_inference_queue_duration_us": (
        "Cumulative inference queuing duration in microseconds",
        lambda model: model.statistics.queue.ns // _NS_PER_US,
    ),
    "nv_inference_compute_input_duration_us": (
        "Cumulative compute input duration in microseconds", lambda _: 0,
    ),
    "nv_inference_compute_infer_duration_us": (
        "Cumulative compute inference duration in microseconds",
        lambda model: model.statistics.compute.ns // _NS_PER_US,
    ),
    "nv_inference_compute_output_duration_us": (
        "Cumulative inference compute output duration in microseconds", lambda _: 0,
    ),
}  # fmt: skip
_SUFFIXED = re.compile(rb"^(# (?:HELP|TYPE) nv_\w+?)_total ", re.MULTILINE)


class Devices:
    """Say how busy the simulated devices are: in all, and since they were last asked."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus
        self._before: dict[int, tuple[int, float]] = {}

    def read(self) -> list[tuple[str, float, float]]:
        """Return name, seconds that it was busy, and the share of the time since the last reading; 0 at the first."""
        found = []
        for number, (device, lock) in sorted(self._gpus.items()):
            with lock:
                busy_ns = device.busy_ns
            at_ns = now_ns()
            then_ns, before_ns = self._before.get(number, (at_ns, busy_ns))
            self._before[number] = at_ns, busy_ns
            # A batch's time counts once it is over, so a short interval may hold more than its length.
            share = min(1.0, (busy_ns - before_ns) / max(1, at_ns - then_ns))
            found.append((f"simulated-{number}", busy_ns / NS_PER_S, share))
        return found


class _Collector(Collector):
    """Read the models' statistics when the page is asked for."""

    def __init__(self, models: Sequence[Model], devices: Devices) -> None:
        self._models = models
        self._devices = devices

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for name, (text, value) in _COUNTERS.items():
            metric = Metric(name, text, "counter")
            for model in self._models:
                metric.add_sample(name, _labels(model), value(model))  # a Counter's samples would end in _total
            yield metric
        yield self._failures()
        yield self._pending()
        yield from self._of_devices()
        yield self._histogram(
            "opfind_server_stage_seconds", "Time of requests in each stage of the server.", "stage",
            lambda model: model.statistics.stages.items(), scale=1e9,
        )  # fmt: skip
        yield self._histogram(
            "opfind_server_batch_rows", "Rows in a batch.", None, lambda model: [("", model.statistics.rows)], scale=1
        )

    def _failures(self) -> Metric:
        name = "nv_inference_request_failure"
        metric = Metric(name, "Number of failed inference requests", "counter")
        for model in self._models:
            for reason, count in model.statistics.reasons.items():
                metric.add_sample(name, {**_labels(model), "reason": reason}, count)
        return metric

    def _pending(self) -> Metric:
        name = "nv_inference_pending_request_count"
        metric = Metric(name, "Instantaneous number of pending requests awaiting execution per-model.", "gauge")
        for model in self._models:
            metric.add_sample(name, _labels(model), model.group.waiting)
        return metric

    def _of_devices(self) -> Iterator[Metric]:
        share = Metric("nv_gpu_utilization", "GPU utilization rate [0.0 - 1.0)", "gauge")
        busy = Metric("opfind_server_device_busy_seconds", "Time for which the device was busy.", "counter")
        for name, busy_s, of_time in self._devices.read():
            share.add_sample("nv_gpu_utilization", {"gpu_uuid": name}, of_time)
            busy.add_sample("opfind_server_device_busy_seconds_total", {"gpu_uuid": name}, busy_s)
        yield share
        yield busy

    def _histogram(
        self,
        name: str,
        text: str,
        label: str | None,
        buckets_of: Callable[[Model], Iterable[tuple[str, Buckets]]],
        *,
        scale: float,
    ) -> Metric:
        labels = ["model", "version", *([label] if label else [])]
        metric = HistogramMetricFamily(name, text, labels=labels)
        for model in self._models:
            for value, buckets in buckets_of(model):
                own = [model.config.name, VERSION, *([value] if label else [])]
                metric.add_metric(own, _cumulative(buckets, scale), buckets.total / scale)
        return metric


def _cumulative(buckets: Buckets, scale: float) -> list[tuple[str, float]]:
    """Return a histogram as Prometheus has it: to each bound, how many values are not above it."""
    bounds = [f"{bound / scale:g}" for bound in buckets.bounds] + ["+Inf"]
    total, told = 0, []
    for bound, count in zip(bounds, buckets.counts, strict=True):
        total += count
        told.append((bound, float(total)))
    return told


def _labels(model: Model) -> dict[str, str]:
    return {"model": model.config.name, "version": VERSION}


def exposition(models: Sequence[Model], devices: Devices) -> bytes:
    """Return everything in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(models, devices))
    # prometheus_client writes `# TYPE name_total counter` over samples of any name; Triton has no `_total`.
    return _SUFFIXED.sub(rb"\1 ", generate_latest(registry))
