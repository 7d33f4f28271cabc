"""The KServe v2 protocol, pure and through the server; in Triton's dialect."""

import json
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.server import describe, kserve, tensors
from loadgen.server.job import RefusedError
from loadgen.server.model_config import DATATYPES, ModelConfig, TensorSpec
from loadgen.server.profile import DeviceProfile
from loadgen.server.tensors import Tensor, TensorError
from loadgen.server.waiting import QueuePolicy
from tests.loadgen.server.serving import Served, serving

AT_ONCE = DeviceProfile(t0_ms=0, t1_ms=0)
SIM = ModelConfig(
    name="sim", device=AT_ONCE, max_batch_size=8, max_queue_delay_us=0,
    inputs=(TensorSpec(name="A", dims=(4,)), TensorSpec(name="T", datatype="BYTES", dims=(-1,))),
    outputs=(
        TensorSpec(name="B", dims=(4,)), TensorSpec(name="U", datatype="BYTES", dims=(-1,)),
        TensorSpec(name="Z", datatype="INT64", dims=(2,)),
    ),
)  # fmt: skip
ONE = ModelConfig(
    name="one", device=AT_ONCE, max_batch_size=8, max_queue_delay_us=0, inputs=(TensorSpec(name="A", dims=(4,)),),
    outputs=(TensorSpec(name="B", dims=(4,)),),
)  # fmt: skip
FLAT = replace(ONE, name="flat", max_batch_size=0)
A = {"name": "A", "datatype": "FP32", "shape": [1, 4], "data": [1, 2.5, 3, 4]}
T = {"name": "T", "datatype": "BYTES", "shape": [1, 2], "data": ["x", "é"]}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Serve the models to the tests of this module."""
    with serving(SIM, ONE, FLAT) as server:
        yield server


def test_infer_answers_json(served: Served) -> None:
    """The simulated model gives back what it got where types agree, else zeros; the id comes back too."""
    reply = served.ask("/v2/models/sim/infer", json.dumps({"id": "7", "inputs": [A, T]}))
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "id": "7", "model_name": "sim", "model_version": "1",
        "outputs": [
            {"name": "B", "datatype": "FP32", "shape": [1, 4], "data": [1.0, 2.5, 3.0, 4.0]},
            {"name": "U", "datatype": "BYTES", "shape": [1, 2], "data": ["x", "é"]},
            {"name": "Z", "datatype": "INT64", "shape": [1, 2], "data": [0, 0]},
        ],
    }  # fmt: skip


def test_the_elements_of_a_shape_are_counted_only_once_it_fits() -> None:
    """200,000 dimensions are refused for being as many: their product alone would keep the server busy for minutes."""
    body = json.dumps({"inputs": [A | {"shape": [1, *[10**18] * 200_000]}]}).encode()
    with pytest.raises(RefusedError, match="unexpected shape"):
        kserve.parse_infer(body, None, ONE)


def test_infer_takes_nested_data_and_several_rows(served: Served) -> None:
    """Data may be nested as its shape is; rows of one request share a batch, which the statistics count."""
    nested = {**A, "shape": [2, 4], "data": [[1, 2, 3, 4], [5, 6, 7, 8]]}
    before = served.ask("/v2/models/one/stats").json()["model_stats"][0]
    reply = served.ask("/v2/models/one/versions/1/infer", json.dumps({"inputs": [nested]}))
    assert reply.json()["outputs"][0]["data"] == [1, 2, 3, 4, 5, 6, 7, 8]
    after = served.ask("/v2/models/one/stats").json()["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert [entry["batch_size"] for entry in after["batch_stats"]] == [2]
    assert after["inference_stats"]["success"]["count"] - before["inference_stats"]["success"]["count"] == 1


def binary(inputs: list[dict[str, Any]], raw: bytes, **more: Any) -> tuple[bytes, str]:
    """Return a body with binary data, and the length of its JSON."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + raw, str(len(head))


def test_infer_speaks_binary_both_ways(served: Served) -> None:
    """Inputs come and outputs go as raw bytes, each output as it was asked for."""
    numbers = np.array([1.5, -2, 3, 4], dtype="<f4").tobytes()
    texts = b"".join(struct.pack("<I", len(text)) + text for text in (b"\xff\x00", b""))
    body, length = binary(
        [
            {"name": "T", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(texts)}},
            {"name": "A", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}},
        ],
        texts + numbers,
        outputs=[{"name": "U", "parameters": {"binary_data": True}}, {"name": "B"}],
    )
    reply = served.ask("/v2/models/sim/infer", body, Inference_Header_Content_Length=length)
    assert reply.status == 200, reply.body
    assert reply.headers["content-type"] == "application/octet-stream"
    at = int(reply.headers["inference-header-content-length"])
    assert json.loads(reply.body[:at])["outputs"] == [
        {"name": "B", "datatype": "FP32", "shape": [1, 4], "data": [1.5, -2.0, 3.0, 4.0]},
        {"name": "U", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": len(texts)}},
    ]
    assert reply.body[at:] == texts
    body, length = binary([A, T], b"", parameters={"binary_data_output": True}, outputs=[{"name": "B"}])
    reply = served.ask("/v2/models/sim/infer", body)
    assert reply.body.endswith(np.array([1, 2.5, 3, 4], dtype="<f4").tobytes())


def test_models_without_batches(served: Served) -> None:
    """With `max_batch_size` 0 tensors have no batch dimension."""
    reply = served.ask("/v2/models/flat/infer", json.dumps({"inputs": [{**A, "shape": [4]}]}))
    assert reply.json()["outputs"][0]["shape"] == [4]
    assert served.ask("/v2/models/flat").json()["inputs"][0]["shape"] == [4]


def _with(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{**A, **changes}]}


WRONG: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "not JSON"),
    "a number that is none": (b'{"inputs": NaN}', "not JSON"),
    "no object": ([], "must be a JSON object"),
    "no inputs": ({}, "Unable to find 'inputs'"),
    "inputs no list": ({"inputs": {}}, "Unable to find 'inputs'"),
    "too few inputs": ({"inputs": []}, "expected 1 inputs but got 0 inputs for model 'one'"),
    "an input twice": ({"inputs": [A, A]}, "input 'A' already exists in request"),
    "an input no object": ({"inputs": [3]}, "must be a JSON object with a name"),
    "an unknown input": (_with(name="X"), "unexpected inference input 'X' for model 'one'"),
    "another type": (_with(datatype="INT32"), "data-type is 'INT32', but model 'one' expects 'FP32'"),
    "no type": (_with(datatype="FLOAT"), "invalid datatype for input 'A'"),
    "no shape": (_with(shape=None), "shape of input 'A' must be a list"),
    "a negative shape": (_with(shape=[-1, 4]), "shape of input 'A' must be a list of whole"),
    "another shape": (_with(shape=[1, 5]), "unexpected shape for input 'A' for model 'one'. Expected [-1,4], got [1,5"),
    "too few dimensions": (_with(shape=[4]), "Expected [-1,4], got [4]"),
    "no rows": (_with(shape=[0, 4]), "at least one row"),
    "too many rows": (_with(shape=[9, 4]), "inference request batch-size must be <= 8 for 'one'"),
    "too few numbers": (_with(data=[1]), "its shape [1, 4] has 4 elements, not 1"),
    "text for numbers": (_with(data=["1", "2", "3", "4"]), "not of type FP32"),
    "truth for numbers": (_with(data=[True, 1, 2, 3]), "not of type FP32"),
    "no data": ({"inputs": [{k: v for k, v in A.items() if k != "data"}]}, "neither data nor binary data"),
    "data no list": (_with(data=7), "data must be a list"),
    "a number that JSON cannot give back": (_with(data=[1e300, 0, 0, 0]), "ask for binary data"),
    "parameters no object": ({"inputs": [A], "parameters": 3}, "parameters of the request must be"),
    "a priority of words": ({"inputs": [A], "parameters": {"priority": "high"}}, "parameter 'priority' must be"),
    "a priority of other digits": ({"inputs": [A], "parameters": {"priority": "²"}}, "parameter 'priority' must be"),
    "a time-out below zero": ({"inputs": [A], "parameters": {"timeout": -1}}, "parameter 'timeout' must be"),
    "binary data that is not there": (_with(parameters={"binary_data_size": 16}), "binary_data_size of input 'A'"),
    "outputs no list": ({"inputs": [A], "outputs": {"name": "B"}}, "'outputs' must be a list"),
    "an output no object": ({"inputs": [A], "outputs": ["B"]}, "each output must be a JSON object"),
    "an unknown output": ({"inputs": [A], "outputs": [{"name": "X"}]}, "unexpected inference output 'X'"),
    "binary of words": (
        {"inputs": [A], "outputs": [{"name": "B", "parameters": {"binary_data": "yes"}}]}, "must be true or false",
    ),
    "classification": (
        {"inputs": [A], "outputs": [{"name": "B", "parameters": {"classification": 2}}]}, "classification extension",
    ),
    "all binary of words": ({"inputs": [A], "parameters": {"binary_data_output": 1}}, "must be true or false"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), WRONG.values(), ids=WRONG.keys())
def test_what_the_model_does_not_take_is_400(served: Served, body: Any, reason: str) -> None:
    """A wrong request is refused in one sentence that names what is wrong, in Triton's form."""
    sent = body if isinstance(body, bytes) else json.dumps(body)
    reply = served.ask("/v2/models/one/infer", sent)
    assert reply.status == 400, reply.body
    assert list(reply.json()) == ["error"]
    assert reason in reply.json()["error"]


@pytest.mark.parametrize(
    ("body", "length", "reason"),
    [
        (b"{}", "3", "Inference-Header-Content-Length must be"),
        (b"{}", "-1", "Inference-Header-Content-Length must be"),
        (b"{}", "9" * 30, "Inference-Header-Content-Length must be"),
        (*binary([{**A, "data": None, "parameters": {"binary_data_size": 15}}], bytes(15)), "has 15 bytes"),
        (*binary([{**A, "parameters": {"binary_data_size": 16}}], bytes(17)), "1 bytes of binary data that belong"),
    ],
)
def test_wrong_binary_requests_are_400(served: Served, body: bytes, length: str, reason: str) -> None:
    """A body whose binary part does not add up is refused."""
    reply = served.ask("/v2/models/one/infer", body, Inference_Header_Content_Length=length)
    assert reply.status == 400
    assert reason in reply.json()["error"]


def test_priority_and_time_out_reach_the_queue() -> None:
    """The parameters of a request become its job's; Triton's clients may send them as text."""
    body = json.dumps({"inputs": [A], "parameters": {"priority": "2", "timeout": 1500}}).encode()
    asked = kserve.parse_infer(body, None, ONE)
    assert (asked.priority, asked.timeout_ns) == (2, 1_500_000)
    assert kserve.parse_infer(json.dumps({"inputs": [A]}).encode(), None, ONE).timeout_ns is None


def test_metadata_config_and_health(served: Served) -> None:
    """The server tells of itself and of its models, and 404 of any other."""
    about = served.ask("/v2").json()
    assert about["name"] == "opfind"
    assert "binary_tensor_data" in about["extensions"]
    model = served.ask("/v2/models/sim").json()
    assert model["inputs"][1] == {"name": "T", "datatype": "BYTES", "shape": [-1, -1]}
    assert model["versions"] == ["1"]
    config = served.ask("/v2/models/sim/config").json()
    assert config["input"][1] == {"name": "T", "data_type": "TYPE_STRING", "dims": [-1]}
    assert config["max_batch_size"] == 8
    assert config["dynamic_batching"]["preferred_batch_size"] == [8]
    paths = ("/v2/health/live", "/v2/health/ready", "/v2/models/sim/ready", "/v2/models/sim/versions/1/ready")
    assert [served.ask(path).status for path in paths] == [200] * 4
    assert [served.ask(path).status for path in ("/v2/models/x", "/v2/models/x/ready", "/v2/models/x/stats")] == [
        404
    ] * 3
    assert {entry["name"] for entry in served.ask("/v2/repository/index", "{}").json()} == {"sim", "one", "flat"}
    assert len(served.ask("/v2/models/stats").json()["model_stats"]) == 3


def test_config_of_a_model_without_batching_has_no_batching() -> None:
    """Clients see from the block's absence that a model does not batch."""
    assert "dynamic_batching" not in describe.model_config(replace(ONE, batching="none"))
    assert describe.model_config(replace(ONE, queue=QueuePolicy(max_queue_size=3)))["dynamic_batching"][
        "default_queue_policy"
    ]["max_queue_size"] == 3  # fmt: skip


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(DATATYPES))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    count = int(np.prod(shape))
    if datatype == "BYTES":
        array = np.empty(count, dtype=np.object_)
        array[:] = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
        return Tensor("x", datatype, shape, array)
    dtype = np.dtype(tensors._DTYPES[datatype])
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    if datatype == "BOOL":
        raw = bytes(byte & 1 for byte in raw)
    return Tensor("x", datatype, shape, np.frombuffer(raw, dtype=dtype))


@given(_tensors())
def test_binary_form_is_lossless(tensor: Tensor) -> None:
    """Any tensor is the same after it was written as bytes and read again, to the bit."""
    raw = tensors.to_bytes(tensor)
    again = tensors.from_bytes("x", tensor.datatype, tensor.shape, raw)
    assert tensors.to_bytes(again) == raw
    assert again.data.size == tensor.data.size


@given(_tensors())
def test_json_form_is_lossless_where_there_is_one(tensor: Tensor) -> None:
    """Any tensor that JSON can hold is the same after JSON."""
    try:
        text = kserve.dump_json(tensors.to_list(tensor))
    except (TensorError, RefusedError):
        assert tensor.datatype in ("FP16", "BF16", "FP32", "FP64", "BYTES")
        return
    again = tensors.from_json("x", tensor.datatype, tensor.shape, kserve.parse_json(text))
    assert tensors.to_bytes(again) == tensors.to_bytes(tensor)


_VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=5), st.sampled_from(["A", "B", "FP32", "INT64", "BYTES"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.sampled_from([
        "name", "datatype", "shape", "data", "parameters", "binary_data_size", "binary_data", "inputs", "outputs",
        "priority", "timeout", "id",
    ]), inner, max_size=5)),
    max_leaves=25,
)  # fmt: skip
_REQUESTS = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.one_of(
                _VALUES,
                st.fixed_dictionaries(
                    {"name": st.just("A"), "datatype": st.just("FP32")},
                    optional={"shape": st.one_of(st.just([1, 4]), _VALUES), "data": _VALUES, "parameters": _VALUES},
                ),
            ),
            max_size=2,
        )
    },
    optional={"outputs": _VALUES, "parameters": _VALUES, "id": _VALUES},
)


@given(st.one_of(_REQUESTS, _VALUES), st.binary(max_size=40), st.sampled_from([None, b"", b"0", b"17", b"x", b"JSON"]))
@settings(deadline=None)
def test_any_request_is_taken_or_refused(message: Any, tail: bytes, length: bytes | None) -> None:
    """Whatever JSON and bytes a request holds, it is read and can be answered, or is refused with a 400."""
    head = json.dumps(message).encode()
    try:
        asked = kserve.parse_infer(head + tail, str(len(head)).encode() if length == b"JSON" else length, ONE)
        body, _ = kserve.render_infer(asked, kserve.echo(asked.tensors, asked.rows, ONE), ONE)
    except RefusedError as why:
        assert (why.status, bool(str(why))) == (400, True)  # noqa: PT017 (a refusal is one of the two right ends)
    else:
        assert body.startswith(b"{")


@pytest.mark.parametrize("raw", [b"\x01", b"\x05\0\0\0abc", b"\0\0\0\0" * 3])
def test_texts_cut_off_are_refused(raw: bytes) -> None:
    """Binary texts that end too early, or are too many, are an error."""
    with pytest.raises(TensorError, match="its binary data"):
        tensors.from_bytes("x", "BYTES", (2,), raw)


def test_numbers_outside_their_type_are_refused() -> None:
    """A whole number that its type cannot hold is an error, not another number."""
    for datatype, number in (("INT8", 128), ("UINT8", -1), ("INT64", 2**63), ("UINT64", 2**64), ("FP32", 10**400)):
        with pytest.raises(TensorError, match="outside the range"):
            tensors.from_json("x", datatype, (1,), [number])
    with pytest.raises(TensorError, match="no JSON form"):
        tensors.from_json("x", "FP16", (1,), [1])
    with pytest.raises(TensorError, match="must be a string"):
        tensors.from_json("x", "BYTES", (1,), [1])
