from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import UsageError
from loadgen.server.model_config import Instances, ModelConfig, TensorSpec
from loadgen.server.profile import DeviceProfile
from loadgen.server.repository import parse_model, read_repository
from loadgen.server.server_file import read_server_file
from loadgen.server.waiting import QueuePolicy

REPOSITORY = Path(__file__).parent / "models"
WHOLE = """
# Everything that this server acts on, in the forms in which people write it.
name: "m" backend: "py" "thon"
max_batch_size: 16
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ -1, 2 ] }, < name: "X"; data_type: TYPE_FP16; dims: 1 dims: 3 > ]
output { name: "Y" data_type: TYPE_BF16 dims: [] }
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }, { kind: KIND_CPU } ]
dynamic_batching {
  preferred_batch_size: [ 4, 8 ], max_queue_delay_microseconds: 500 preserve_ordering: true
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { max_queue_size: 9 }
  priority_queue_policy { key: 1 value: { timeout_action: DELAY default_timeout_microseconds: 7
                                          allow_timeout_override: true } }
}
parameters { key: "T0_MS" value: { string_value: "2.5" } }
parameters: { key: "OTHER" value: { string_value: 'x' } }
"""


def test_everything_is_read() -> None:
    """Each setting of the file becomes the lever of the same meaning."""
    model, ignored = parse_model(WHOLE, "m")
    assert ignored == []
    assert model == ModelConfig(
        name="m", platform="python", max_batch_size=16, preferred_batch_sizes=(4, 8), max_queue_delay_us=500,
        preserve_ordering=True, priority_levels=2, default_priority_level=2, queue=QueuePolicy(max_queue_size=9),
        priority_queues={
            1: QueuePolicy(timeout_action="DELAY", default_timeout_us=7, allow_timeout_override=True),
        },
        instances=(Instances(count=2, gpus=(0, 1)), Instances(kind="KIND_CPU")),
        inputs=(
            TensorSpec(name="TEXT", datatype="BYTES", dims=(-1, 2)), TensorSpec(name="X", datatype="FP16", dims=(1, 3)),
        ),
        outputs=(TensorSpec(name="Y", datatype="BF16", dims=()),),
        device=DeviceProfile(t0_ms=2.5, jitter_sigma=0.0),
    )  # fmt: skip
    assert model.instances[0].places() == [0, 0, 1, 1]


def test_without_dynamic_batching_each_request_goes_alone() -> None:
    """As in Triton, a model without that block is not batched; its name is that of its folder."""
    model, _ = parse_model("max_batch_size: 8", "x")
    assert (model.name, model.batching) == ("x", "none")


def test_unknown_fields_are_named_once_and_left_out() -> None:
    """What the server does not know is listed by its path, once each, in whatever form it stands."""
    text = """
    optimization { cuda { graphs: true } input_pinned_memory { enable: true } }
    model_warmup [ { name: "a" inputs { key: "X" value: { dims: [ 1 ] zero_data: true } } }, { name: "b" } ]
    input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 1 ] } },
            { name: "Z" data_type: TYPE_FP32 dims: [ 4 ] reshape: { shape: [ 2 ] } } ]
    version_policy: { specific { versions: [ 1, 2 ] } }
    response_cache < enable: true >
    future_number: -1.5e3, future_list: [ 1, 2, 3 ]; future_words: "a" 'b'
    [some.package/name] { x: 1 }
    """
    model, ignored = parse_model(text, "x")
    assert [spec.name for spec in model.inputs] == ["X", "Z"]
    assert ignored == [
        "[...]", "future_list", "future_number", "future_words", "input.reshape", "model_warmup", "optimization",
        "response_cache", "version_policy",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('\nmax_batch_size: "eight"', "line 2: .*Couldn't parse integer"),
        ("\n\ninstance_group [ { kind: KIND_TPU } ]", "line 3: .*Kind.*has no value named KIND_TPU"),
        ("\nmax_batch_size: -1", "line 2: ModelConfig max_batch_size -1: must be a whole number between"),
        ("max_batch_size: 99999999999999", "line 1: .*out of range"),
        ("input [ { name: 'a'", "Unexpected end of file|Expected"),
        ("optimization {\n", "line 2: .*Expected"),
        ("max_batch_size", "Unexpected end of file"),
        ("name: 'other'", "line 1: ModelConfig name 'other': must be that of the model's folder, 'x'"),
        ("\n\ndynamic_batching {\npreferred_batch_size: 9 }", "line 4: ModelConfig preferred_batch_sizes"),
        ("dynamic_batching {\npriority_levels: 2 }", "line 2: ModelConfig default_priority_level 0"),
        ("dynamic_batching { priority_queue_policy { key: 1 } }", "line 1: ModelConfig priority_queues"),
        ("\nmax_batch_size: 8 foo: }", "line 2: .*Expected a value"),
        ("foo: ]", "line 1: .*Expected a value"),
        ('default_model_filename: "model.py', "line 1: .*Expected a value"),
        ("instance_group { gpus: -1 }", "line 1: Instances gpus"),
        ('parameters { key: "T1_MS" value { string_value: "a" } }', "line 1: parameter T1_MS 'a': must be a number"),
        ('parameters { key: "T1_MS" value { string_value: "-1" } }', "line 1: DeviceProfile t1_ms -1"),
        ("input { name: 'a' }", "line 1: TensorSpec datatype of 'a': is missing"),
        ("\n$", "line 2: "),
        ("instance_group { kind: 1 }\ninstance_group { kind: 9 }", 'line 2: .*"Kind" has no value with number 9'),
        ("instance_group { count: 1 }\ninstance_group { count: 65 }", "line 2: Instances count 65"),
        ("input { name: 'a' data_type: 99 dims: 1 }", 'line 1: .*"DataType" has no value with number 99'),
        ("input { name: 'a' data_type: 11 }\ninput { name: 'b' }", "line 2: TensorSpec datatype of 'b': is missing"),
        ("\ndynamic_batching { default_queue_policy { timeout_action: 2 } }", "line 2: .*no value with number 2"),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value {\ntimeout_action: -1 } } }",
            "line 2: .*no value with number -1",
        ),
        ("\nname: 'x' }\nmax_batch_size: 8", 'line 2: .*Nothing is open that "}" could close'),
        ("name: 'x'\n> max_batch_size: 8", 'line 2: .*Nothing is open that ">" could close'),
        ("max_batch_size: 8 ]\nname: 'x'", 'line 1: .*Expected the name of a field, not "]"'),
        (
            "input [ { name: 'a' data_type: 1 },\n{ name: 'b' data_type: 1 },\n{ name: 'a' data_type: 2 } ]",
            "line 3: input 'a': is the name of another input too",
        ),
        (
            "output { name: 'a' data_type: 1 }\noutput {\nname: 'a' data_type: 1 }",
            "line 2: output 'a': is the name of another output too",
        ),
        ("dynamic_batching { priority_levels: 18446744073709551615 default_priority_level: 1 }", "priority_levels"),
        ("a {" * 5000, "nested too deep"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_reason(text: str, reason: str) -> None:
    """An error names the line and what is wrong there."""
    with pytest.raises(ValueError, match=reason):
        parse_model(text, "x")


def test_enums_may_be_numbers() -> None:
    """A number that has a name means what the name means; an input and an output may share theirs."""
    model, _ = parse_model(
        "input { name: 'a' data_type: 13 } output { name: 'a' data_type: 9 } instance_group { kind: 2 }\n"
        "dynamic_batching { default_queue_policy { timeout_action: 1 } }",
        "x",
    )
    assert (model.inputs[0].datatype, model.outputs[0].datatype) == ("BYTES", "INT64")
    assert (model.instances[0].kind, model.queue.timeout_action) == ("KIND_CPU", "DELAY")


def test_repository_is_a_folder_of_folders() -> None:
    """Models come in order of their folders; files beside them do not matter."""
    models, remarks = read_repository(REPOSITORY)
    assert [model.name for model in models] == ["echo", "ranker"]
    assert len(remarks) == 1
    assert remarks[0].endswith("ignored, because this server has no such thing: optimization, version_policy")


def test_repository_without_models_is_a_usage_error(tmp_path: Path) -> None:
    """A folder that is missing, empty, or holds what is no configuration is told in one sentence."""
    with pytest.raises(UsageError, match="cannot be read"):
        read_repository(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no model"):
        read_repository(tmp_path)
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "config.pbtxt"
    for content, reason in ((b"\xff", "not UTF-8"), (b"#" * (2 << 20), "larger than"), (b"{", "config.pbtxt: line 1")):
        file.write_bytes(content)
        with pytest.raises(UsageError, match=reason):
            read_repository(tmp_path)


_WORDS = st.sampled_from([*WHOLE.split(), "\n", "{", "}", "[", "]", "<", ">", ":", ",", "#", '"', "foo", "-", "1e400"])


@given(st.one_of(st.lists(_WORDS, max_size=40).map(" ".join), st.text(max_size=60)))
def test_any_text_is_a_model_or_an_error(text: str) -> None:
    """Whatever a file holds, it is a model or a sentence, never another exception."""
    try:
        model, _ = parse_model(text, "m")
    except ValueError as error:
        assert str(error)  # noqa: PT017 (an error is one of the two right ends)
    else:
        assert isinstance(model, ModelConfig)


def _read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "server.toml"
    path.write_text(text, encoding="utf-8")
    return read_server_file(path, {"slow": {"t0_ms": 99.0}}.__getitem__)


def test_our_own_form_says_the_same(tmp_path: Path) -> None:
    """A server.toml can say all that a config.pbtxt can, and stages, devices and limits beside it."""
    models, limits = _read(tmp_path, """
        [limits]
        max_connections = 7
        [[models]]
        name = "m"
        batching = "static"
        preferred_batch_sizes = [4, 8]
        priority_levels = 2
        default_priority_level = 1
        device = "slow"
        overlap = false
        preprocess = { time_ms = 2, workers = 3 }
        queue = { max_queue_size = 5 }
        priority_queues.2 = { timeout_action = "DELAY" }
        instances = [{ count = 2, gpus = [1] }]
        inputs = [{ name = "A", datatype = "INT64", dims = [3] }]
        [[models]]
        name = "n"
        device = { t0_ms = 1.0, table_ms = [[1, 2.0], [8, 4]] }
    """)  # fmt: skip
    assert limits.max_connections == 7
    first, second = models
    assert (first.batching, first.preferred_batch_sizes, first.device.t0_ms) == ("static", (4, 8), 99.0)
    assert (first.preprocess.workers, first.overlap, first.queue.max_queue_size) == (3, False, 5)
    assert (first.priority_queues[2].timeout_action, first.instances[0].places()) == ("DELAY", [1, 1])
    assert first.inputs == (TensorSpec(name="A", datatype="INT64", dims=(3,)),)
    assert second.device.table_ms == ((1, 2.0), (8, 4))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[models]", "server.toml: .*line 1"),
        ("", "there is no model"),
        ("models = 3", "there is no model"),
        ("[model]", "model: is no table"),
        ("[[models]]\nmax_batch = 3", "ModelConfig max_batch: is no field; there are name, "),
        ("[[models]]\nmax_batch_size = 1.5", "max_batch_size 1.5: must be a whole number"),
        ("[[models]]\nbatching = 'fast'", "ModelConfig batching 'fast': must be one of dynamic, static, none"),
        ("[[models]]\nqueue = 3", "QueuePolicy 3: must be a table"),
        ("[[models]]\ninputs = 3", "inputs: must be a list of tables"),
        ("[[models]]\ninputs = [{}]", "TensorSpec: missing .*'name'"),
        ("[[models]]\noutputs = [{ name = 'a' }, { name = 'a' }]", "ModelConfig outputs 'a': is the name of two"),
        ("[[models]]\npriority_queues.x = {}", "priority_queues: must be tables by level"),
        ("[[models]]\ndevice = { t0_ms = 'a' }", "DeviceProfile t0_ms 'a': must be a number"),
        ("[[models]]\n[[models]]", "name 'default': is that of two models"),
        ("[limits]\nmax_connections = 0\n[[models]]", "Limits max_connections 0: must be a whole number"),
    ],
)
def test_a_wrong_server_file_is_told(tmp_path: Path, text: str, reason: str) -> None:
    """An error names the file, the key and the rule."""
    with pytest.raises(UsageError, match=reason):
        _read(tmp_path, text)
