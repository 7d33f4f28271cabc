"""What a server says of itself: its own counters, read before and after a step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def read(self) -> dict[str, float] | None:
        """Return the counters as they are now, times in seconds; None where the server does not tell."""
        try:
            status, body = get(self.endpoint, self.endpoint.path, self.headers)
            if status != _HTTP_OK:
                return None
            return of_statistics(body) if self.is_statistics else of_page(body.decode(errors="replace"), self.model)
        except (*Asked, ValueError):
            return None


def of_page(page: str, model: str | None) -> dict[str, float]:
    """Return the counters of a page in Prometheus' text format.

    Raises:
        ValueError: It is none.
    """
    names = {sample: (ours, factor) for ours, samples in _SAMPLES.items() for sample, factor in samples.items()}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")  # the library appends it to counters that lack it
            if name not in names:
                continue
            of_model = sample.labels.get("model", sample.labels.get("model_name"))
            if model is None or of_model in (None, model):
                ours, factor = names[name]
                found[ours] = found.get(ours, 0.0) + sample.value * factor
    return found


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
    before: Mapping[str, float] | None, after: Mapping[str, float] | None, answered: int
) -> dict[str, float] | None:
    """Return what a server did between two readings: counts, and the mean queue and compute time of a request, seconds.

    None where it did not tell, began to count anew, or counted less than half or more than twice of the requests that
    were answered: then several servers answer in turn, or others ask it too.
    """
    if before is None or after is None:
        return None
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    requests = grown.get("requests", 0.0)
    if requests <= 0 or not answered / 2 <= requests <= 2 * answered or any(value < 0 for value in grown.values()):
        return None
    return {name: value / requests if name.endswith("_s") else value for name, value in grown.items()}
