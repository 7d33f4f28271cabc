"""The plain protocol, health, metrics, and what all protocols share."""

import gzip
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from loadgen.server.config import Limits
from loadgen.server.model_config import Instances, ModelConfig, StageConfig
from loadgen.server.profile import DeviceProfile
from loadgen.server.waiting import QueuePolicy
from tests.loadgen.server.serving import FAST, QUICK, Gate, serving, until

AT_ONCE = ModelConfig(device=DeviceProfile(t0_ms=0, t1_ms=0), max_queue_delay_us=0)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (b'{"inputs": [1, 2.5, "\\u00e9", null]}', [1, 2.5, "é", None]),
        (b'{"other": 1}', None),
        (b"{}", None),
        (b"", None),
    ],
)
def test_predict_answers_with_its_outputs(body: bytes, outputs: Any) -> None:
    """A request gets the device's outputs, its batch's size, and both of its times."""
    with serving() as server:
        reply = server.ask("/predict", body)
    assert reply.status == 200
    answer = reply.json()
    assert answer["outputs"] == outputs
    assert answer["batch_size"] == 1
    assert answer["queue_ms"] == pytest.approx(1.0)
    assert 0.05 < answer["compute_ms"] < 0.2


def test_predict_answers_get() -> None:
    """A plain GET is a request without inputs, so that a load test without a body works."""
    with serving() as server:
        reply = server.ask("/predict")
    assert (reply.status, reply.json()["outputs"]) == (200, None)


def test_concurrent_requests_share_a_batch() -> None:
    """Requests that wait together leave in one batch, and each gets its own outputs."""
    config = ModelConfig(device=QUICK, max_batch_size=4, max_queue_delay_us=10_000_000)
    with serving(config) as server, ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda number: server.ask("/predict", f'{{"inputs": {number}}}').json(), range(4)))
    assert [answer["outputs"] for answer in answers] == [0, 1, 2, 3]
    assert {answer["batch_size"] for answer in answers} == {4}


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b"7", b"null", b'{"inputs": NaN}', b"\xff\xfe", b'{"inputs": ' + b"9" * 5000 + b"}", b"[" * 100_000],
)
def test_malformed_body_is_400_with_one_sentence(body: bytes) -> None:
    """Whatever is no JSON object is refused in one sentence, and the server goes on."""
    with serving() as server:
        reply = server.ask("/predict", body)
        assert reply.status == 400
        assert reply.json()["error"].startswith("The body is not")
        assert reply.json()["error"].endswith(".")
        assert server.ask("/predict").status == 200


def test_nesting_is_answered_or_refused() -> None:
    """JSON of any depth up to and beyond the parser's limit gets 200 or 400, never 500."""
    with serving(AT_ONCE) as server:
        seen = {
            server.ask("/predict", b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}").status
            for depth in [*range(950, 1000), 5000, 50_000]
        }
    assert seen == {200, 400}


def test_full_queue_is_503_with_retry_after() -> None:
    """Beyond the queue's bound a request is refused at once, and the accepted ones are answered."""
    gate = Gate()
    config = ModelConfig(max_batch_size=1, max_queue_delay_us=0, queue=QueuePolicy(max_queue_size=1))
    with serving(config, device=gate) as server, ThreadPoolExecutor() as pool:
        first = pool.submit(server.ask, "/predict")
        assert gate.entered.wait(20)
        second = pool.submit(server.ask, "/predict")
        until(lambda: b'pending_request_count{model="default",version="1"} 1.0' in server.ask("/metrics").body)
        refused = server.ask("/predict")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert refused.json() == {"error": "The queue is full; try again later."}
        gate.open.set()
        assert [first.result().status, second.result().status] == [200, 200]


def test_failed_batch_is_500() -> None:
    """A device that raises fails the requests of its batch, and only those."""
    with serving(FAST, device=Gate(is_open=True)) as server:
        reply = server.ask("/predict", b'{"inputs": "crash"}')
        assert (reply.status, reply.json()) == (500, {"error": "The batch failed with StopIteration."})
        assert server.ask("/predict").status == 200
        page = server.ask("/metrics").body
    assert b'nv_inference_request_failure{model="fast",reason="BACKEND",version="1"} 1.0' in page


def test_injected_failures_are_500() -> None:
    """A profile that fails every batch fails every request, and the server lives."""
    config = ModelConfig(device=DeviceProfile(t0_ms=0, t1_ms=0, failure_share=1.0), max_queue_delay_us=0)
    with serving(config) as server:
        assert [server.ask("/predict").status for _ in range(3)] == [500, 500, 500]


def test_time_out_in_the_queue_is_503_and_is_not_computed() -> None:
    """A request whose time in the queue is over is told so, and no device ever sees it."""
    gate = Gate()
    config = ModelConfig(max_batch_size=1, max_queue_delay_us=0, queue=QueuePolicy(default_timeout_us=5000))
    with serving(config, device=gate) as server, ThreadPoolExecutor() as pool:
        first = pool.submit(server.ask, "/predict", b'{"inputs": 1}')
        assert gate.entered.wait(20)
        late = pool.submit(server.ask, "/predict", b'{"inputs": 2}')
        until(lambda: server.call(lambda: server.app.models["default"].group.waiting) == 1)
        time.sleep(0.01)  # twice its time
        gate.open.set()
        assert (late.result().status, late.result().json()) == (503, {"error": "Request timeout expired"})
        assert first.result().status == 200
    assert gate.batches == [[1]]


def test_a_client_that_leaves_frees_its_place() -> None:
    """When a client closes its connection, its request leaves the queue and is never computed."""
    gate = Gate()
    config = ModelConfig(max_batch_size=1, max_queue_delay_us=0, queue=QueuePolicy(max_queue_size=1))
    with serving(config, device=gate) as server, ThreadPoolExecutor() as pool:
        model = server.app.models["default"]
        first = pool.submit(server.ask, "/predict", b'{"inputs": 1}')
        assert gate.entered.wait(20)
        with server.connect() as leaver:
            leaver.sendall(b'POST /predict HTTP/1.1\r\nContent-Length: 13\r\n\r\n{"inputs": 2}')
            until(lambda: model.group.waiting == 1)
        until(lambda: model.group.waiting == 0)
        second = pool.submit(server.ask, "/predict", b'{"inputs": 3}')
        until(lambda: model.group.waiting == 1)
        gate.open.set()
        assert [first.result().status, second.result().status] == [200, 200]
        assert server.call(lambda: model.statistics.reasons["CANCELED"]) == 1
    assert gate.batches == [[1], [3]]


def test_a_client_that_leaves_during_its_batch_disturbs_nobody() -> None:
    """A client may go while its batch runs; the other requests of the batch are answered."""
    gate = Gate()
    with serving(FAST, device=gate) as server, ThreadPoolExecutor() as pool:
        with server.connect() as leaver:
            leaver.sendall(b"GET /predict HTTP/1.1\r\n\r\n")
            stays = pool.submit(server.ask, "/predict")
            assert gate.entered.wait(20)
        until(lambda: server.call(lambda: server.app.models["fast"].statistics.reasons["CANCELED"]) == 1)
        gate.open.set()
        assert stays.result().status == 200


def test_health_follows_the_instances() -> None:
    """The server is ready while its instances run, and no longer when they do not; it lives all the time."""
    with serving() as server:
        assert [server.ask(path).status for path in ("/healthz", "/v2/health/ready", "/ping")] == [200, 200, 200]
        assert server.ask("/healthz").json() == {"ready": True}
        server.call(server.app.models["fast"].group.stop)
        paths = ("/healthz", "/v2/health/ready", "/v2/models/fast/ready", "/ping", "/v2/health/live")
        assert [server.ask(path).status for path in paths] == [503, 400, 400, 500, 200]


def test_metrics_have_tritons_names() -> None:
    """Prometheus' page has the counters that Triton has, under exactly its names, and what they count."""
    with serving() as server:
        for _ in range(3):
            server.ask("/predict")
        server.ask("/predict", b"{")
        reply = server.ask("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    lines = reply.body.decode().splitlines()
    own = '{model="fast",version="1"}'
    for line in (
        "# TYPE nv_inference_request_success counter",
        f"nv_inference_request_success{own} 3.0",
        f"nv_inference_count{own} 3.0",
        f"nv_inference_exec_count{own} 3.0",
        f"nv_inference_queue_duration_us{own} 3000.0",
        'nv_inference_request_failure{model="fast",reason="OTHER",version="1"} 1.0',
        f"nv_inference_pending_request_count{own} 0.0",
        f"opfind_server_batch_rows_sum{own} 3.0",
        'opfind_server_batch_rows_bucket{le="1",model="fast",version="1"} 3.0',
        'opfind_server_stage_seconds_count{model="fast",stage="queue",version="1"} 3.0',
        'opfind_server_stage_seconds_count{model="fast",stage="serialise",version="1"} 3.0',
    ):
        assert line in lines
    assert not any("_total" in line for line in lines if "nv_" in line)


def test_devices_tell_how_busy_they_are() -> None:
    """The time for which a device was busy is counted, and the gauge is its share since the page was last read."""
    config = ModelConfig(
        device=DeviceProfile(t0_ms=0, t1_ms=30, jitter_sigma=0), batching="none",
        instances=(Instances(gpus=(0, 3)),),
    )  # fmt: skip

    def read(name: str) -> dict[str, float]:
        lines = server.ask("/metrics").body.decode().splitlines()
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{")}

    with serving(config) as server:
        assert read("nv_gpu_utilization") == {"simulated-0": 0, "simulated-3": 0}
        for _ in range(3):
            server.ask("/predict")
        shares = read("nv_gpu_utilization")
        busy = read("opfind_server_device_busy_seconds_total")
    assert sum(busy.values()) == pytest.approx(0.09)
    assert 0 < sum(shares.values()) <= 1


def test_stages_lengthen_a_request_and_are_reported() -> None:
    """Work before and after the device delays a request by both times, and its page says how much each took."""
    config = ModelConfig(
        device=DeviceProfile(t0_ms=1, t1_ms=0, jitter_sigma=0), max_queue_delay_us=0,
        preprocess=StageConfig(time_ms=20), postprocess=StageConfig(time_ms=10),
    )  # fmt: skip
    with serving(config) as server:
        reply = server.ask("/predict", b'{"inputs": 7}')
        assert (reply.status, reply.json()["outputs"]) == (200, 7)
        stages = server.call(
            lambda: {k: v.total / 1e6 for k, v in server.app.models["default"].statistics.stages.items()}
        )
        total_ms = server.call(lambda: server.app.models["default"].statistics.success.ns / 1e6)
    assert stages["preprocess"] == pytest.approx(20, rel=0.5)
    assert stages["postprocess"] == pytest.approx(10, rel=0.5)
    assert total_ms >= stages["preprocess"] + stages["compute"] + stages["postprocess"]
    assert total_ms == pytest.approx(sum(stages.values()), abs=8)


def test_stages_overlap_the_device_or_hold_it() -> None:
    """Beside the device, work before it costs no capacity; done by the instance, it holds it."""
    spans = {}
    for overlap in (True, False):
        config = ModelConfig(
            device=DeviceProfile(t0_ms=20, t1_ms=0, jitter_sigma=0), batching="none", overlap=overlap,
            preprocess=StageConfig(time_ms=20, workers=4),
        )  # fmt: skip
        with serving(config) as server, ThreadPoolExecutor() as pool:
            list(pool.map(lambda _: server.ask("/predict"), range(4)))
            model = server.app.models["default"]
            spans[overlap] = server.call(lambda model=model: model.statistics.success.ns / 1e6)
    # One after the other, all four hold the instance for 20 or 40 ms: 20 + (20 + 40 + 60 + 80), or 40 + 80 + 120 + 160.
    assert spans[True] < 340
    assert spans[False] > 370


def test_full_stage_is_503() -> None:
    """A stage whose queue is full refuses."""
    config = ModelConfig(
        device=QUICK, max_queue_delay_us=0, preprocess=StageConfig(time_ms=300, workers=1, max_queue_size=0)
    )
    with serving(config) as server, ThreadPoolExecutor() as pool:
        first = pool.submit(server.ask, "/predict")
        until(lambda: server.call(lambda: server.app.models["default"].statistics.stages["preprocess"].total) > 0)
        reply = server.ask("/predict")
        assert (reply.status, "preprocessing" in reply.json()["error"]) == (503, True)
        assert first.result().status == 200


def test_preserved_order_holds_back_what_was_faster() -> None:
    """With two instances and `preserve_ordering`, the second batch is not answered before the first."""

    class Turns(Gate):
        def run(self, jobs: Any, start_ns: int) -> Any:
            if jobs[0].inputs == 1:
                return super().run(jobs, start_ns)
            return [job.inputs for job in jobs], start_ns

    for preserve, is_done in ((True, False), (False, True)):
        gate = Turns()
        config = replace(FAST, max_batch_size=1, max_queue_delay_us=0, preserve_ordering=preserve)
        with serving(config, device=gate, instances=2) as server, ThreadPoolExecutor() as pool:
            first = pool.submit(server.ask, "/predict", b'{"inputs": 1}')
            assert gate.entered.wait(20)
            second = pool.submit(server.ask, "/predict", b'{"inputs": 2}')
            until(lambda: server.call(lambda: server.app.models["fast"].group._taken) == 2)
            if is_done:
                assert second.result(20).status == 200
            assert not first.done()
            assert second.done() is is_done
            gate.open.set()
            assert [first.result().status, second.result().status] == [200, 200]


def test_compressed_bodies_are_read_and_bounded() -> None:
    """Gzip and deflate are undone, to the bound of a body; what is damaged or unknown is refused."""
    body = b'{"inputs": [1, 2]}'
    with serving(limits=Limits(max_body_bytes=1000)) as server:
        for encoding, packed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
            reply = server.ask("/predict", packed, Content_Encoding=encoding)
            assert (reply.status, reply.json()["outputs"]) == (200, [1, 2])
        for status, encoding, packed in (
            (400, "gzip", body), (400, "gzip", gzip.compress(body)[:-9]), (413, "gzip", gzip.compress(b" " * 10**7)),
            (415, "br", body),
        ):  # fmt: skip
            assert server.ask("/predict", packed, Content_Encoding=encoding).status == status


def test_unknown_paths_and_methods() -> None:
    """What is not there is a 404 that names it, a wrong method a 405 that says which are right."""
    with serving() as server:
        assert server.ask("/nothing").json() == {"error": "There is nothing at /nothing."}
        reply = server.ask("/v2/models/fast/infer")
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        reply = server.ask("/v2/models/slow/infer", b"{}")
        assert (reply.status, reply.json()) == (404, {"error": "Request for unknown model: 'slow' is not found"})
        reply = server.ask("/v2/models/fast/versions/9/infer", b"{}")
        assert reply.json() == {"error": "Request for unknown model: 'fast' version 9 is not found"}


def test_an_infinite_output_is_refused_and_counted_as_a_failure() -> None:
    """What JSON cannot hold is a 400, and no success in the statistics."""
    with serving(AT_ONCE) as server:
        reply = server.ask("/predict", b'{"inputs": [1e999]}')
        assert reply.status == 400
        assert "JSON cannot hold" in reply.json()["error"]
        (told,) = server.ask("/v2/models/stats").json()["model_stats"]
        assert (told["inference_stats"]["success"]["count"], told["inference_stats"]["fail"]["count"]) == (0, 1)


def test_paths_are_compared_decoded() -> None:
    """A model's name may be encoded in any way, a slash in it only as such; a target may name the host."""
    with serving(replace(AT_ONCE, name="a:b")) as server:
        found = ("a:b", "a%3ab", "a%3Ab", "%61:b")
        assert [server.ask(f"/v2/models/{name}").status for name in found] == [200] * len(found)
        assert [server.ask(f"/v2/models/{name}").status for name in ("a:b%2fready", "a%253ab", "%ff")] == [404] * 3
        assert server.ask("/v2%2fmodels/a:b").status == 404
        assert server.ask("/v2/models/a:c").json()["error"] == "Request for unknown model: 'a:c' is not found"
        targets = ("http://h/v2", "http://h:80/v2/models/a:b?x=/y", "/v2/")
        assert [server.ask(target).status for target in targets] == [200] * 3


def test_encodings_in_any_case_and_gzip_of_several_members() -> None:
    """The name of an encoding has no case, and the members of gzip are joined, within the same bound."""
    members = gzip.compress(b'{"inputs": ') + gzip.compress(b"[1, 2]}")
    with serving(limits=Limits(max_body_bytes=1500)) as server:
        reply = server.ask("/predict", members, Content_Encoding="GZIP")
        assert (reply.status, reply.json()["outputs"]) == (200, [1, 2])
        for status, packed in (
            (400, members[:-3]), (400, members + b"x"), (400, gzip.compress(b"") * 65),
            (413, gzip.compress(b" " * 800) * 2),
        ):  # fmt: skip
            assert server.ask("/predict", packed, Content_Encoding="gzip").status == status
