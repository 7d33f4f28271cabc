"""What a server says of itself: its own counters, read before and after a step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import isfinite
from threading import Event, Thread
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from loadgen.ask import Asked, get
from loadgen.target import Endpoint
from scenarios.protocol import model_of
from scenarios.scenario import Target

_HTTP_OK = 200
# By what we call it: the samples that servers have for it, less `_total`, and what makes seconds of their unit. Those
# are of Triton and ours (nv_), of TorchServe (ts_), and of vLLM (vllm:).
_SAMPLES: dict[str, dict[str, float]] = {
    "requests": {
        "nv_inference_request_success": 1, "ts_inference_requests": 1, "vllm:request_success": 1,
    },
    "rows": {"nv_inference_count": 1},
    "batches": {"nv_inference_exec_count": 1},
    "queue_s": {
        "nv_inference_queue_duration_us": 1e-6, "ts_queue_latency_microseconds": 1e-6,
        "vllm:request_queue_time_seconds_sum": 1,
    },
    "compute_s": {
        "nv_inference_compute_infer_duration_us": 1e-6, "ts_inference_latency_microseconds": 1e-6,
        "vllm:request_inference_time_seconds_sum": 1,
    },
}  # fmt: skip
# Of each device: the seconds for which it was busy, counted (ours), and how busy it is, a share of now (Triton's).
_BUSY_S, _UTILISATION, _DEVICE = "opfind_server_device_busy_seconds", "nv_gpu_utilization", "gpu_uuid"
_SAMPLE_S = 1.0
_RENEWED_S = 2.0  # Triton's --metrics-interval-ms: what a gauge says sooner is of the time before the step


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Hold what a server told at one time.

    Attributes:
        counters: By what we call them, times in seconds.
        busy_s: For how long each device was busy so far, seconds.
        utilisation: How busy each device is, a share.
    """

    counters: Mapping[str, float]
    busy_s: Mapping[str, float] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """Name where a server tells of itself.

    Attributes:
        endpoint: Of that place.
        headers: To send along.
        model: To which the counters belong, or None for all.
        is_statistics: It is KServe's statistics extension, not Prometheus' text.
    """

    endpoint: Endpoint
    headers: Mapping[str, str]
    model: str | None
    is_statistics: bool

    @classmethod
    def of(cls, endpoint: Endpoint, target: Target) -> "Scrape | None":
        """Return where a target tells of itself, or None where nobody said so.

        The bundled server has `/metrics`; a KServe model has its statistics; of others only `metrics_url` can tell, for
        a server is not asked for what may cost it time, or be counted, without its user's knowing.

        Raises:
            UsageError: `metrics_url` is no URL.
            TargetError: Its host does not resolve.
        """
        model = None if target.url is None else model_of(target.url)
        if target.metrics_url is not None:
            return cls(endpoint=Endpoint.of(target.metrics_url), headers={}, model=model, is_statistics=False)
        if target.url is None:
            return cls(endpoint=replace(endpoint, path="/metrics"), headers={}, model=None, is_statistics=False)
        if target.protocol == "kserve":
            path = endpoint.path.partition("?")[0].removesuffix("/infer")
            there = replace(endpoint, path=f"{path}/stats")
            return cls(endpoint=there, headers=target.headers, model=model, is_statistics=True)
        return None

    def read(self) -> Reading | None:
        """Return what the server tells now; None where it does not."""
        try:
            status, body = get(self.endpoint, self.endpoint.path, self.headers)
            if status != _HTTP_OK:
                return None
            if self.is_statistics:
                return Reading(counters=of_statistics(body))
            return of_page(body.decode(errors="replace"), self.model)
        except (*Asked, ValueError):
            return None


@contextmanager
def sampled(scrape: Scrape | None, before: Reading | None) -> Iterator[list[Mapping[str, float]]]:
    """Read how busy the devices are once a second meanwhile, where the server counts no time for which they were busy.

    Yields:
        What was read so far: a share by device, each time.
    """
    samples: list[Mapping[str, float]] = []
    if scrape is None or before is None or before.busy_s or not before.utilisation:
        yield samples
        return
    over = Event()

    def sample() -> None:
        wait_s = _RENEWED_S
        while not over.wait(wait_s):
            wait_s = _SAMPLE_S
            reading = scrape.read()
            if reading is not None and not over.is_set():
                samples.append(reading.utilisation)

    thread = Thread(target=sample, name="utilisation", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join(_SAMPLE_S)  # a server that hangs keeps nobody waiting: its time-out ends that reading


def of_page(page: str, model: str | None) -> Reading:
    """Return what a page in Prometheus' text format tells.

    Raises:
        ValueError: It is none.
    """
    names = {sample: (ours, factor) for ours, samples in _SAMPLES.items() for sample, factor in samples.items()}
    found: dict[str, float] = {}
    devices: dict[str, dict[str, float]] = {_BUSY_S: {}, _UTILISATION: {}}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")  # the library appends it to counters that lack it
            if name in devices and isfinite(sample.value):
                devices[name][sample.labels.get(_DEVICE, "")] = sample.value
            if name not in names:
                continue
            of_model = sample.labels.get("model", sample.labels.get("model_name"))
            if model is None or of_model in (None, model):
                ours, factor = names[name]
                found[ours] = found.get(ours, 0.0) + sample.value * factor
    return Reading(counters=found, busy_s=devices[_BUSY_S], utilisation=devices[_UTILISATION])


def of_statistics(body: bytes) -> dict[str, float]:
    """Return the counters of KServe's statistics extension.

    Raises:
        ValueError: It is not in that form.
    """
    try:
        models: list[Mapping[str, Any]] = msgspec.json.decode(body)["model_stats"]
        counts = [(model["inference_stats"], model) for model in models]
        return {
            "requests": sum(float(own["success"]["count"]) for own, _ in counts),
            "rows": sum(float(model["inference_count"]) for _, model in counts),
            "batches": sum(float(model["execution_count"]) for _, model in counts),
            "queue_s": sum(float(own["queue"]["ns"]) for own, _ in counts) / 1e9,
            "compute_s": sum(float(own["compute_infer"]["ns"]) for own, _ in counts) / 1e9,
        }
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError("not KServe's statistics") from error


def between(
    before: Reading | None,
    after: Reading | None,
    answered: int,
    *,
    length_s: float,
    samples: Sequence[Mapping[str, float]] = (),
) -> dict[str, float] | None:
    """Return what a server did between two readings.

    Args:
        before: Read before a step.
        after: Read after it.
        answered: Requests that were answered meanwhile.
        length_s: From the step's start to the end of its last request, seconds.
        samples: How busy each device was, now and then meanwhile.

    Returns:
        Counts; the mean queue and compute time of a request, seconds; `device_busy`, the share of the step for which
        the busiest device was busy, and `devices`, how many tell of that, where any does. None where the server did
        not tell, began to count anew, or counted less than half or more than twice of the requests that were answered:
        then several servers answer in turn, or others ask it too.
    """
    if before is None or after is None:
        return None
    grown = {name: value - before.counters.get(name, 0.0) for name, value in after.counters.items()}
    requests = grown.get("requests", 0.0)
    if requests <= 0 or not answered / 2 <= requests <= 2 * answered or any(value < 0 for value in grown.values()):
        return None
    means = {name: value / requests if name.endswith("_s") else value for name, value in grown.items()}
    return means | _busy(before, after, length_s, samples)


def _busy(before: Reading, after: Reading, length_s: float, samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return how busy the busiest device was, and how many devices there are; nothing where none tells."""
    if after.busy_s:
        both = after.busy_s.keys() & before.busy_s.keys()
        shares = [(after.busy_s[name] - before.busy_s[name]) / length_s for name in both]
    else:
        names = {name for sample in samples for name in sample}
        shares = [sum(sample.get(name, 0.0) for sample in samples) / len(samples) for name in names]
    if not shares:
        return {}
    return {"device_busy": min(1.0, max(0.0, *shares)), "devices": len(shares)}
