import json
from pathlib import Path
from typing import Any

import pytest

from loadgen.errors import TargetError, UsageError
from loadgen.inputs import Input, bodies_of, from_file, inputs_of, made
from loadgen.server import kserve
from loadgen.server.model_config import ModelConfig, TensorSpec
from loadgen.target import Endpoint
from scenarios.scenario import Target
from tests.fake_target import fake_target
from tests.loadgen.server.serving import HOST, serving

NUMBERS = Input(name="X", datatype="FP32", dims=(2,), is_batched=True)
OPEN = Input(name="IDS", datatype="INT64", dims=(-1,), is_batched=True)
TEXT = Input(name="T", datatype="BYTES", dims=(1,), is_batched=False)


def test_made_bodies_are_what_the_model_takes() -> None:
    """Bodies that are made pass the server's own check, for every type that JSON has; the same seed gives the same."""
    specs = tuple(
        TensorSpec(name=kind, datatype=kind, dims=(2, -1))
        for kind in ("BOOL", "UINT8", "INT8", "INT64", "FP32", "FP64", "BYTES")
    )
    inputs = [Input(name=spec.name, datatype=spec.datatype, dims=spec.dims, is_batched=True) for spec in specs]
    bodies = list(made(inputs, 7))
    assert bodies == list(made(inputs, 7))
    assert len(set(bodies)) == len(bodies) == 64
    for body in bodies:
        assert kserve.parse_infer(body, None, ModelConfig(inputs=specs)).rows == 1
    with pytest.raises(UsageError, match="FP16, which has no JSON form: give requests with --body"):
        next(made([Input(name="H", datatype="FP16", dims=(1,), is_batched=False)], 0))


def _bodies(tmp_path: Path, data: Any, *inputs: Input) -> list[dict[str, Any]]:
    (tmp_path / "inputs.json").write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return [json.loads(body) for body in from_file(tmp_path / "inputs.json", inputs)]


def test_a_file_of_inputs_becomes_bodies(tmp_path: Path) -> None:
    """Values, nested lists, content with a shape, raw bytes, single values, sequences: all forms of perf_analyzer."""
    first, second, third = _bodies(
        tmp_path,
        {"data": [
            {"X": [1, 2.5], "IDS": {"content": [1, 2, 3, 4], "shape": [4]}, "T": "é"},
            [{"X": [[1], [2]], "IDS": [5, 6], "T": ["a"]}],
            {"X": {"b64": "AACAPwAAAEA="}, "IDS": 7, "T": "b"},
        ]},
        NUMBERS, OPEN, TEXT,
    )  # fmt: skip
    assert first == {
        "inputs": [
            {"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [1, 2.5]},
            {"name": "IDS", "datatype": "INT64", "shape": [1, 4], "data": [1, 2, 3, 4]},
            {"name": "T", "datatype": "BYTES", "shape": [1], "data": ["é"]},
        ]
    }
    assert [entry["data"] for entry in second["inputs"]] == [[1, 2], [5, 6], ["a"]]
    assert [entry["data"] for entry in third["inputs"]] == [[1.0, 2.0], [7], ["b"]]
    assert third["inputs"][1]["shape"] == [1, 1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("{", "is not perf_analyzer's form"),
        ("[]", "is not perf_analyzer's form"),
        ({"data": {}}, "is not perf_analyzer's form"),
        ({"data": []}, "holds no request"),
        ({"data": [3]}, r"data\[0\]: must be an object"),
        ({"data": [{"X": [1, 2]}, {"Y": 1}]}, r"data\[1\]: the model's inputs are X, so see to X"),
        ({"data": [{"X": [1, 2, 3]}]}, r"data\[0\]: input 'X': 3 values do not make the shape \[2\]"),
        ({"data": [{"X": {"content": [1], "shape": "1"}}]}, "shape must be a list of whole numbers"),
        ({"data": [{"X": {"b64": "?"}}]}, "b64 does not hold whole values of FP32"),
        ({"data": [{"X": {"b64": "AAA="}}]}, "b64 does not hold whole values of FP32"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, data: Any, reason: str) -> None:
    """An error names the file, the request and the rule."""
    with pytest.raises(UsageError, match=reason):
        _bodies(tmp_path, data, NUMBERS)


def test_what_a_file_cannot_say(tmp_path: Path) -> None:
    """A missing file, a shape that is left open twice, and raw bytes for text are errors with their remedy."""
    with pytest.raises(UsageError, match="cannot be read"):
        list(from_file(tmp_path / "none.json", [NUMBERS]))
    twice = Input(name="X", datatype="FP32", dims=(-1, -1), is_batched=True)
    with pytest.raises(UsageError, match=r"leaves its shape open, \[-1, -1\]: give a shape"):
        _bodies(tmp_path, {"data": [{"X": [1]}]}, twice)
    with pytest.raises(UsageError, match="b64 is for numbers, and it is BYTES"):
        _bodies(tmp_path, {"data": [{"T": {"b64": ""}}]}, TEXT)


def test_a_model_tells_of_its_inputs() -> None:
    """Inputs, and whether they are batched, are read from the server; another server is told not to say so."""
    models = (ModelConfig(name="a"), ModelConfig(name="b", max_batch_size=0))
    with serving(*models) as server:
        for name, is_batched in (("a", True), ("b", False)):
            endpoint = Endpoint.of(f"http://{HOST}:{server.port}/v2/models/{name}/infer")
            assert inputs_of(endpoint, {}) == [
                Input(name="INPUT0", datatype="FP32", dims=(-1,), is_batched=is_batched)
            ]  # fmt: skip
        target = Target(url="http://h/v2/models/a/infer", protocol="kserve")
        bodies = list(bodies_of(target, Endpoint.of(f"http://{HOST}:{server.port}/v2/models/a/infer"), 0) or ())
        assert server.ask("/v2/models/a/infer", bodies[0]).status == 200
    assert bodies_of(Target(url="http://h/", protocol="http"), endpoint, 0) is None
    with (
        fake_target() as fake,
        pytest.raises(TargetError, match=r"does not tell of its inputs \(.*\): give them with --body"),
    ):
        inputs_of(Endpoint.of(f"{fake.base}/missing"), {})
    with fake_target() as fake, pytest.raises(TargetError, match="is not KServe's form"):
        inputs_of(Endpoint.of(f"{fake.base}/outputs"), {})


def test_why_a_model_does_not_tell() -> None:
    """A mistyped name and a server that is not there are told apart."""
    with serving() as server:
        with pytest.raises(TargetError, match="404: Request for unknown model: 'typo' is not found"):
            inputs_of(Endpoint.of(f"http://{HOST}:{server.port}/v2/models/typo/infer"), {})
        with pytest.raises(TargetError, match="200, and no JSON"):
            inputs_of(Endpoint.of(f"http://{HOST}:{server.port}/metrics"), {})
    with pytest.raises(TargetError, match="cannot connect: Connection refused"):
        inputs_of(Endpoint.of(f"http://{HOST}:{server.port}/v2/models/typo/infer"), {})
