import json

import pytest

from loadgen.scrape import Scrape, between, of_page, of_statistics
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
    found = of_page(page, "a")
    assert (found["requests"], found["queue_s"], found["compute_s"]) == (10, 4, 1)
    assert ("batches" in found) is (page is TRITON)


def test_models_are_told_apart() -> None:
    """Counters of another model do not count; without a model all do."""
    assert of_page(TRITON, "b") == {"requests": 100}
    assert of_page(TRITON, None)["requests"] == 110


def test_between_two_readings() -> None:
    """Counts grow by their difference, and times become the mean of a request."""
    after = {"requests": 30.0, "batches": 9.0, "queue_s": 5.0}
    assert between({"requests": 10.0, "batches": 4.0, "queue_s": 3.0}, after, 20) == {
        "requests": 20, "batches": 5, "queue_s": 0.1,
    }  # fmt: skip
    for before, later in ((None, after), (after, None), (after, after), (after, {"requests": 40.0, "batches": 1.0})):
        assert between(before, later, 20) is None
    for answered in (9, 41):
        assert between({"requests": 10.0}, after, answered) is None


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
        one, other = between(before[0], by_statistics.read(), 4), between(before[1], by_page.read(), 4)
    assert one is not None
    assert other is not None
    assert (one["requests"], one["rows"], one["batches"]) == (4, 8, 4)
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
