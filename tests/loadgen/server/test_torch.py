"""Real networks, small ones, on the processor: the path that a GPU takes too, but for copies and graphs."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.cli import main
from loadgen.errors import UsageError
from loadgen.server.job import Job
from loadgen.server.model import devices_of
from loadgen.server.model_config import Instances, ModelConfig
from loadgen.server.profile import DeviceProfile
from loadgen.server.server_file import read_server_file
from loadgen.server.tensors import Tensor
from tests.loadgen.server.serving import Served, serving

torch = pytest.importorskip("torch", reason="torch, the extra opfind[gpu], is not installed")
from loadgen.server.torch_device import TorchDevice, check_place  # noqa: E402 (only where torch is)
from loadgen.server.torch_models import NETWORKS  # noqa: E402

CPU = (Instances(kind="KIND_CPU"),)


def job(network: str, rows: int, seed: int = 0) -> Job:
    """Return a job of random inputs."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for spec in NETWORKS[network].inputs:
        shape = (rows, *spec.dims)
        count = int(np.prod(shape))
        data = rng.random(count).astype("f4") if spec.datatype == "FP32" else rng.integers(0, 1000, count)
        inputs[spec.name] = Tensor(spec.name, spec.datatype, shape, data)
    return Job(arrived_ns=0, inputs=inputs, rows=rows)


def computed(device: TorchDevice, *jobs: Job) -> list[np.ndarray[Any, Any]]:
    """Return the outputs of a batch."""
    outputs, _ = device.run(list(jobs), 0)
    return [tensors[0].data.reshape(tensors[0].shape) for tensors in outputs]


@pytest.mark.parametrize("network", ["mlp", "encoder-tiny", "resnet-tiny"])
def test_each_job_gets_its_own_rows(network: str) -> None:
    """In a batch, padded to its bucket or not, a job's outputs are those that it would get alone."""
    device = TorchDevice(network, None, max_rows=6, seed=1)
    jobs = [job(network, rows, seed) for seed, rows in enumerate((1, 3, 2))]
    together = computed(device, *jobs)
    assert [found.shape for found in together] == [(rows, *NETWORKS[network].output.dims) for rows in (1, 3, 2)]
    for one, found in zip(jobs, together, strict=True):
        assert computed(device, one)[0] == pytest.approx(found, abs=1e-4)
    assert np.abs(together[0]).max() > 0


def test_weights_are_those_of_the_seed() -> None:
    """The same seed makes the same network, another seed another one."""
    first, again, other = (computed(TorchDevice("mlp", None, max_rows=1, seed=s), job("mlp", 1))[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_networks_have_the_size_that_they_claim() -> None:
    """The large ones are as large as BERT-base's encoder, less its pooler, and as ResNet-50."""
    millions = {
        name: sum(weights.numel() for weights in NETWORKS[name].build().parameters()) / 1e6
        for name in ("encoder", "resnet")
    }
    assert millions["encoder"] == pytest.approx(108.6, abs=1)
    assert millions["resnet"] == pytest.approx(25.6, abs=0.5)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve two networks, as a server.toml says; one of them of two instances."""
    path = tmp_path_factory.mktemp("torch") / "server.toml"
    path.write_text(
        """
        [[models]]
        name = "mlp"
        compute = "mlp"
        max_batch_size = 4
        max_queue_delay_us = 0
        instances = [{ kind = "KIND_CPU", count = 2 }]
        [[models]]
        name = "bert"
        compute = "encoder-tiny"
        max_batch_size = 4
        instances = [{ kind = "KIND_CPU" }]
        """,
        encoding="utf-8",
    )
    models, limits = read_server_file(path, dict[str, Any]().__getitem__)
    with serving(*models, limits=limits) as server:
        yield server


def test_kserve_computes(served: Served) -> None:
    """The inputs that a model tells of are computed on, several rows at once, and the outputs are the network's."""
    (wanted,) = served.ask("/v2/models/bert").json()["inputs"]
    assert wanted == {"name": "IDS", "datatype": "INT64", "shape": [-1, 16]}
    body = {"inputs": [{"name": "IDS", "datatype": "INT64", "shape": [2, 16], "data": list(range(32))}]}
    (output,) = served.ask("/v2/models/bert/infer", json.dumps(body)).json()["outputs"]
    assert (output["name"], output["shape"], len(output["data"])) == ("STATE", [2, 128], 256)
    assert output["data"][:128] != output["data"][128:]


def test_the_other_protocols_compute_one_row(served: Served) -> None:
    """A list is the only input of one row, an object names inputs, nothing is zeros; what does not fit is refused."""
    row = list(range(64))
    plain = served.ask("/predict", json.dumps({"inputs": row})).json()
    named = served.ask("/predict", json.dumps({"inputs": {"X": row}})).json()
    assert plain["outputs"] == named["outputs"]
    assert len(plain["outputs"]["SCORES"]) == 1000
    assert served.ask("/predictions/mlp", json.dumps(row)).json() == plain["outputs"]
    assert served.ask("/predict").status == served.ask("/predictions/mlp", method="GET").status == 200
    for wrong in ([1, 2], {"Y": row}, "text", [[1] * 8] * 9, 7):
        assert served.ask("/predict", json.dumps({"inputs": wrong})).status == 400
        assert served.ask("/predictions/mlp", json.dumps(wrong)).status == 400


def test_without_batches_shapes_have_no_rows() -> None:
    """With `max_batch_size` 0 a network's output has the shape that its metadata says."""
    network = NETWORKS["mlp"]
    config = ModelConfig(
        name="mlp", compute="mlp", max_batch_size=0, instances=CPU, inputs=network.inputs, outputs=(network.output,)
    )
    (device,) = devices_of(config, {})
    outputs, _ = device.run([job("mlp", 1)], 0)
    assert outputs[0][0].shape == network.output.dims


def test_a_profile_of_this_processor_is_loaded_by_the_simulated_device(tmp_path: Path) -> None:
    """`opfind profile-device` writes what it measured, and the simulated device takes that time."""
    path = tmp_path / "cpu.toml"
    command = ["profile-device", "--model", "mlp", "--sizes", "1,4,16", "--repeats", "3", "-o", str(path)]
    assert main(command) == 0
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    assert found["source"].startswith("measured: three linear layers of 1024, on ")
    profile = DeviceProfile.from_table(found)
    assert [rows for rows, _ in profile.table_ms] == [1, 4, 16]
    assert 0.001 < profile.alone_ms(1) <= profile.alone_ms(16) < 1000


def test_usage_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An unknown network, a GPU that is not there, and a file that cannot be written are told with their remedy."""
    assert main(["profile-device", "--model", "gpt"]) == 2
    assert "compute 'gpt': must be simulated, encoder" in capsys.readouterr().err
    assert main(["profile-device", "--model", "mlp", "--sizes", "1,2", "--repeats", "1", "-o", str(tmp_path)]) == 2
    assert "cannot write" in capsys.readouterr().err
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="there is no GPU 0 that torch can use: write kind = 'KIND_CPU'"):
            check_place(0)
    (tmp_path / "server.toml").write_text("[[models]]\ncompute = 'gpt'")
    with pytest.raises(UsageError, match="compute 'gpt': must be simulated, encoder"):
        read_server_file(tmp_path / "server.toml", dict[str, Any]().__getitem__)
    with pytest.raises(UsageError, match="its inputs and outputs must be those of 'mlp'"):
        devices_of(ModelConfig(compute="mlp", instances=CPU), {})


def test_the_server_needs_torch_only_for_networks() -> None:
    """Serving the simulated device imports no torch, which takes seconds."""
    names = ("serve", "repository", "server_file")
    code = f"import sys, {', '.join(f'loadgen.server.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
