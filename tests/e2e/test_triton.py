"""Real Triton, where it can be found (OPFIND_PEERS or PATH): its replies are read right, and the books close."""

import http.client
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loadgen.server.model_config import ModelConfig, TensorSpec
from loadgen.server.profile import DeviceProfile
from tests.loadgen.server.serving import serving
from tests.real_peers import BODY, NoPeerError, triton

ROOT = Path(__file__).resolve().parents[2]
RATE_RPS = 200  # well below 615, the ceiling of 8 requests in 13 ms


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve the model to the tests of this module."""
    try:
        with triton() as served:
            yield served
    except NoPeerError as missing:
        pytest.skip(str(missing))


def test_a_reply_of_triton(url: str) -> None:
    """The model echoes its input, in the KServe v2 form."""
    request = urllib.request.Request(url, BODY.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        outputs = json.load(reply)["outputs"]
    assert outputs == [{"name": "OUTPUT0", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.0, 3.0, 4.0]}]


def test_a_load_on_triton(url: str, tmp_path: Path) -> None:
    """Every reply of a load is the echo, the books close, and no request is faster than a batch of one."""
    done = subprocess.run(
        [
            sys.executable, "-m", "loadgen", "load", url, "--rate", str(RATE_RPS), "-d", "5s", "--arrivals", "constant",
            "--body", BODY, "--expect-json", "/outputs/0/data/3=4.0", "--json", "-o", "out",
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stderr  # 4: a machine that is busy elsewhere may send late, and says so
    told = json.loads(done.stdout)
    assert (told["ok"], told["offered"]) == (5 * RATE_RPS, 5 * RATE_RPS), done.stderr
    assert [told[name] for name in ("errors", "timeouts", "lost", "unsent")] == [0, 0, 0, 0]
    with np.load(tmp_path / "out" / "steps.npz") as columns:
        service_ns = columns["step01_done_ns"] - columns["step01_sent_ns"]
    assert service_ns.size == 5 * RATE_RPS
    assert service_ns.min() >= 6_000_000  # it sleeps 5 ms + 1 ms for each request of a batch


INPUT = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
SAME = {
    "an inference": {"inputs": [INPUT]},
    "with an id": {"id": "7", "inputs": [INPUT]},
    "nested data": {"inputs": [{**INPUT, "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}]},
    "an output by name": {"inputs": [INPUT], "outputs": [{"name": "OUTPUT0"}]},
    "a binary output": {"inputs": [INPUT], "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]},
    "an unknown input": {"inputs": [{**INPUT, "name": "X"}]},
    "an unknown output": {"inputs": [INPUT], "outputs": [{"name": "X"}]},
}


@pytest.mark.parametrize("body", SAME.values(), ids=SAME.keys())
def test_our_server_answers_what_triton_answers(url: str, body: object) -> None:
    """To the same request for the same model both give the same status, type and bytes."""
    model = ModelConfig(
        name="sim", platform="python", max_batch_size=8, device=DeviceProfile(t0_ms=0, t1_ms=0), max_queue_delay_us=0,
        inputs=(TensorSpec(name="INPUT0", dims=(4,)),), outputs=(TensorSpec(name="OUTPUT0", dims=(4,)),),
    )  # fmt: skip
    sent = json.dumps(body)
    with serving(model) as server:
        ours = server.ask("/v2/models/sim/infer", sent)
        about = server.ask("/v2/models/sim").json()
    base = url.partition("/v2/")[0]
    with urllib.request.urlopen(f"{base}/v2/models/sim", timeout=30) as reply:
        assert json.load(reply) == about
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=30)
    try:
        connection.request("POST", "/v2/models/sim/infer", sent)
        theirs = connection.getresponse()
        assert (theirs.status, theirs.getheader("Content-Type"), theirs.read()) == (
            ours.status, ours.headers["content-type"], ours.body,
        )  # fmt: skip
    finally:
        connection.close()
