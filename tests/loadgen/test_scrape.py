import json
from threading import Event

import pytest

from loadgen import scrape as scraping
from loadgen.scrape import Reading, Scrape, between, of_page, of_statistics, sampled
from loadgen.server.model_config import ModelConfig
from loadgen.server.profile import DeviceProfile
from loadgen.target import Endpoint
from scenarios.scenario import Target
from tests.fake_target import fake_target
from tests.loadgen.server.serving import FAST, HOST, serving

TRITON = """
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="a",version="1"} 10.000000
nv_inference_request_success{model="b",version="1"} 100.000000
nv_inference_count{model="a",version="1"} 20.000000
nv_inference_exec_count{model="a",version="1"} 5.000000
nv_inference_queue_duration_us{model="a",version="1"} 4000000.000000
nv_inference_compute_infer_duration_us{model="a",version="1"} 1000000.000000
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.5
"""
TORCHSERVE = """
# TYPE ts_inference_requests_total counter
ts_inference_requests_total{model_name="a",model_version="default",hostname="h",} 10.0
# TYPE ts_queue_latency_microseconds counter
ts_queue_latency_microseconds{model_name="a",model_version="default",hostname="h",} 4000000.0
# TYPE ts_inference_latency_microseconds counter
ts_inference_latency_microseconds{model_name="a",model_version="default",hostname="h",} 1000000.0
"""
VLLM = """
# TYPE vllm:request_success_total counter
vllm:request_success_total{finished_reason="stop",model_name="a"} 7.0
vllm:request_success_total{finished_reason="length",model_name="a"} 3.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{le="+Inf",model_name="a"} 10.0
vllm:request_queue_time_seconds_count{model_name="a"} 10.0
vllm:request_queue_time_seconds_sum{model_name="a"} 4.0
# TYPE vllm:request_inference_time_seconds histogram
vllm:request_inference_time_seconds_bucket{le="+Inf",model_name="a"} 10.0
vllm:request_inference_time_seconds_count{model_name="a"} 10.0
vllm:request_inference_time_seconds_sum{model_name="a"} 1.0
"""


@pytest.mark.parametrize("page", [TRITON, TORCHSERVE, VLLM], ids=["Triton", "TorchServe", "vLLM"])
def test_pages_of_real_servers_are_read(page: str) -> None:
    """The names that Triton, TorchServe and vLLM have for requests, queueing and computing are known."""
    found = of_page(page, "a").counters
    assert (found["requests"], found["queue_s"], found["compute_s"]) == (10, 4, 1)
    assert ("batches" in found) is (page is TRITON)


def test_models_are_told_apart() -> None:
    """Counters of another model do not count; without a model all do."""
    assert of_page(TRITON, "b").counters == {"requests": 100}
    assert of_page(TRITON, None).counters["requests"] == 110


def test_between_two_readings() -> None:
    """Counts grow by their difference, and times become the mean of a request."""
    first, after = _reading(requests=10.0, batches=4.0, queue_s=3.0), _reading(requests=30.0, batches=9.0, queue_s=5.0)
    assert between(first, after, 20, length_s=1.0) == {"requests": 20, "batches": 5, "queue_s": 0.1}
    for before, later in (
        (None, after), (after, None), (after, after), (after, _reading(requests=40.0, batches=1.0)),
    ):  # fmt: skip
        assert between(before, later, 20, length_s=1.0) is None
    for answered in (9, 41):
        assert between(_reading(requests=10.0), after, answered, length_s=1.0) is None


def _reading(busy_s: dict[str, float] | None = None, **counters: float) -> Reading:
    return Reading(counters=counters, busy_s=busy_s or {})


def test_the_busiest_device_is_told_by_the_time_that_it_was_busy() -> None:
    """Seconds that are counted give the share of the step's length, never above one, of the device that has most."""
    before = _reading({"a": 5.0, "b": 1.0}, requests=1.0)
    for grown_s, share in ((3.0, 0.75), (4.1, 1.0)):
        after = _reading({"a": 6.0, "b": 1.0 + grown_s}, requests=9.0)
        assert between(before, after, 8, length_s=4.0) == {"requests": 8, "device_busy": share, "devices": 2}


def test_where_a_device_counts_no_time_its_gauge_is_averaged() -> None:
    """Of a gauge that was read now and then the mean counts; where nothing was read, nothing is told."""
    pages = _reading(requests=1.0), _reading(requests=9.0)
    told = between(*pages, 8, length_s=4.0, samples=[{"a": 0.9, "b": 0.5}, {"a": 0.7, "b": 0.5}])
    assert told == {"requests": 8, "device_busy": pytest.approx(0.8), "devices": 2}
    assert between(*pages, 8, length_s=4.0) == {"requests": 8}


def test_tritons_gauge_is_read_while_a_step_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton tells only how busy a device is now: it is asked meanwhile, and a server that counts is left alone."""
    monkeypatch.setattr(scraping, "_RENEWED_S", 0.01)
    monkeypatch.setattr(scraping, "_SAMPLE_S", 0.01)
    asked, enough = [], Event()

    def read(_: Scrape) -> Reading | None:
        asked.append(1)
        if len(asked) == 5:
            enough.set()
        return of_page(TRITON, None) if len(asked) > 1 else None

    monkeypatch.setattr(Scrape, "read", read)
    scrape = Scrape(endpoint=Endpoint.of("http://127.0.0.1:1/metrics"), headers={}, model=None, is_statistics=False)
    with sampled(scrape, of_page(TRITON, None)) as samples:
        assert enough.wait(20)
    assert samples[:3] == [{"GPU-1": 0.5}] * 3
    asked.clear()
    for before in (None, _reading(), Reading(counters={}, busy_s={"a": 1.0}, utilisation={"a": 0.5})):
        with sampled(scrape, before) as samples:
            pass
        assert not samples
        assert not asked


def test_our_server_tells_how_busy_its_device_was() -> None:
    """Over the time of four requests that take the device 10 ms each, the share is 40 ms of that time."""
    config = ModelConfig(device=DeviceProfile(t0_ms=0, t1_ms=10, jitter_sigma=0), batching="none")
    with serving(config) as server:
        scrape = Scrape.of(Endpoint.of(f"http://{HOST}:{server.port}/predict"), Target())
        assert scrape is not None
        before = scrape.read()
        for _ in range(4):
            assert server.ask("/predict", "{}").status == 200
        told = between(before, scrape.read(), 4, length_s=0.1)
    assert told is not None
    assert told["device_busy"] == pytest.approx(0.4)
    assert told["devices"] == 1


def test_statistics_that_are_none_are_refused() -> None:
    """Whatever is not in KServe's form is an error, never another exception."""
    for body in (b"{", b"[]", b"{}", b'{"model_stats": [{}]}', b'{"model_stats": 3}'):
        with pytest.raises(ValueError, match="not KServe's statistics"):
            of_statistics(body)


def test_our_server_tells_the_same_in_both_forms() -> None:
    """Prometheus' page and the statistics extension of one server agree."""
    with serving(FAST) as server:
        base = f"http://{HOST}:{server.port}"
        url = f"{base}/v2/models/fast/infer"
        by_statistics = Scrape.of(Endpoint.of(url), Target(url=url, protocol="kserve"))
        by_page = Scrape.of(Endpoint.of(url), Target(url=url, protocol="kserve", metrics_url=f"{base}/metrics"))
        assert by_statistics is not None
        assert by_page is not None
        before = by_statistics.read(), by_page.read()
        for _ in range(4):
            body = {"inputs": [{"name": "INPUT0", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}
            assert server.ask("/v2/models/fast/infer", json.dumps(body)).status == 200
        one, other = (
            between(first, then.read(), 4, length_s=1.0)
            for first, then in zip(before, (by_statistics, by_page), strict=True)
        )
    assert one is not None
    assert other is not None
    assert (one["requests"], one["rows"], one["batches"]) == (4, 8, 4)
    assert "device_busy" not in one
    assert (other.pop("device_busy"), other.pop("devices")) == (0, 1)  # what takes no time a row occupies nothing
    assert one["queue_s"] == pytest.approx(0.001)
    assert other == pytest.approx(one, abs=2e-6)


def test_only_who_is_known_to_tell_is_asked() -> None:
    """A plain URL is not asked for anything; one that fails to tell gives nothing."""
    with fake_target() as fake:
        endpoint = Endpoint.of(f"{fake.base}/ok")
        assert Scrape.of(endpoint, Target(url=f"{fake.base}/ok", protocol="http")) is None
        for path in ("/missing", "/ok", "/fin", "/garbage"):
            scrape = Scrape.of(endpoint, Target(url=f"{fake.base}/ok", metrics_url=f"{fake.base}{path}"))
            assert scrape is not None
            assert not scrape.read()
