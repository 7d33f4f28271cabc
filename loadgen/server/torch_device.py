"""A device that computes: a network of random weights, on a GPU or on this processor."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from loadgen.clock import now_ns
from loadgen.errors import UsageError
from loadgen.server.device import Device
from loadgen.server.job import Job
from loadgen.server.model_config import ModelConfig
from loadgen.server.tensors import Tensor
from loadgen.server.torch_models import NETWORKS

_WARM_UPS = 3
_DTYPES = {"FP32": torch.float32, "INT64": torch.int64}


class TorchDevice:
    """Run a network, one instance of it.

    On a GPU: weights in bf16; a stream of its own; inputs gathered in pinned memory and copied without blocking; a CUDA
    graph for each bucket of batch sizes (1, 2, 4, … the largest), into which a batch is padded. The GPU's path was
    written without a GPU at hand and has not run on one. On a processor: float32, and the same buckets.

    Everything is allocated, captured and run three times before the constructor returns: it is warm then.

    Args:
        network: Name in `NETWORKS`.
        place: Number of the GPU; None: this processor.
        max_rows: Largest batch.
        seed: Of the weights.
        is_batched: Shapes begin with the number of rows; else a request is one row, and its shape has none.
    """

    def __init__(self, network: str, place: int | None, *, max_rows: int, seed: int, is_batched: bool = True) -> None:
        self._is_batched = is_batched
        self._network = NETWORKS[network]
        self._place = torch.device("cpu" if place is None else f"cuda:{place}")
        self._is_gpu = place is not None
        self._stream: Any = torch.cuda.Stream(self._place) if self._is_gpu else None
        torch.manual_seed(seed)
        module = self._network.build().eval().requires_grad_(requires_grad=False)
        self._module = module.to(self._place, torch.bfloat16 if self._is_gpu else torch.float32)
        self._buckets = [1 << i for i in range(max_rows.bit_length()) if 1 << i < max_rows] + [max_rows]
        self._runs = {rows: self._prepare(rows) for rows in self._buckets}

    def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:  # noqa: ARG002 (a device's signature)
        """Compute a batch; each job's inputs are tensors by name, its outputs a list of tensors."""
        rows = sum(job.rows for job in jobs)
        bucket = next(size for size in self._buckets if size >= rows)
        host, compute, result = self._runs[bucket]
        for spec, buffer in zip(self._network.inputs, host, strict=True):
            at = 0
            for job in jobs:
                data = job.inputs[spec.name].data.reshape(job.rows, *spec.dims)
                buffer[at : at + job.rows] = torch.from_numpy(np.array(data))
                at += job.rows
        compute()
        found = result[:rows].numpy()
        output = self._network.output
        answers, at = [], 0
        for job in jobs:
            own = found[at : at + job.rows].copy()
            shape = own.shape if self._is_batched else own.shape[1:]
            answers.append([Tensor(output.name, "FP32", shape, own.reshape(-1))])
            at += job.rows
        return answers, now_ns()

    def _prepare(self, rows: int) -> tuple[list[Any], Any, Any]:
        """Allocate and warm up a bucket; return its input buffers, what computes it, and its output buffer."""
        specs = self._network.inputs
        pinned = {"pin_memory": True} if self._is_gpu else {}
        host = [torch.zeros((rows, *spec.dims), dtype=_DTYPES[spec.datatype], **pinned) for spec in specs]
        result = torch.zeros((rows, *self._network.output.dims), dtype=torch.float32, **pinned)
        compute = self._on_gpu(host, result) if self._is_gpu else self._on_processor(host, result)
        for _ in range(_WARM_UPS):
            compute()
        return host, compute, result

    def _on_processor(self, host: list[Any], result: Any) -> Any:
        def compute() -> None:
            with torch.inference_mode():
                result.copy_(self._module(*host))

        return compute

    def _on_gpu(self, host: list[Any], result: Any) -> Any:
        stream, module = self._stream, self._module
        with torch.cuda.device(self._place), torch.cuda.stream(stream), torch.inference_mode():
            given = [buffer.to(self._place) for buffer in host]

            def forward() -> Any:
                cast = [each.to(torch.bfloat16) if each.is_floating_point() else each for each in given]
                return module(*cast).float()

            for _ in range(_WARM_UPS):  # what a library allocates at its first use must not be captured
                forward()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                found = forward()

        def compute() -> None:
            with torch.cuda.stream(stream):
                for buffer, there in zip(host, given, strict=True):
                    there.copy_(buffer, non_blocking=True)
                graph.replay()
                result.copy_(found, non_blocking=True)
            stream.synchronize()

        return compute


def torch_devices(config: ModelConfig, places: Sequence[int | None]) -> list[Device]:
    """Return the device of each instance of a model; they are warm.

    Raises:
        UsageError: There is no such network or GPU, or the model's tensors are not the network's.
    """
    check_network(config.compute)
    network = NETWORKS[config.compute]
    if config.inputs != network.inputs or config.outputs != (network.output,):
        raise UsageError(
            f"model '{config.name}': its inputs and outputs must be those of '{config.compute}': leave them out"
        )
    for place in places:
        check_place(place)
    # Instances on this processor share its cores.
    on_processor = sum(place is None for place in places)
    if on_processor:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // on_processor))
    most = max(1, config.max_batch_size)
    is_batched = config.max_batch_size > 0
    return [
        TorchDevice(config.compute, place, max_rows=most, seed=config.seed, is_batched=is_batched) for place in places
    ]


def check_network(name: str) -> None:
    """Raise UsageError unless there is such a network."""
    if name not in NETWORKS:
        raise UsageError(f"compute '{name}': must be simulated, {', '.join(NETWORKS)}")


def check_place(place: int | None) -> None:
    """Raise UsageError unless there is such a GPU."""
    if place is not None and not (torch.cuda.is_available() and place < torch.cuda.device_count()):
        raise UsageError(f"there is no GPU {place} that torch can use: write kind = 'KIND_CPU', or --device cpu")
