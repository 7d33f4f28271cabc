"""Measure how long a device takes for batches of each size, as a profile that the simulated device loads."""

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from loadgen.clock import NS_PER_MS, now_ns
from loadgen.server import tensors
from loadgen.server.job import Job
from loadgen.server.torch_device import TorchDevice, check_network, check_place
from loadgen.server.torch_models import NETWORKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Hold what was measured.

    Attributes:
        rows: Batch sizes, increasing.
        median_ms: Median time of a batch of each size, copies included, milliseconds.
        sigma: Standard deviation of the logarithm of a batch's time, over all sizes.
        source: What was measured, where and when.
    """

    rows: Sequence[int]
    median_ms: Sequence[float]
    sigma: float
    source: str

    def toml(self) -> str:
        """Return the profile; the times are made to increase, for a larger batch is never quicker but by chance."""
        times = [round(time_ms, 4) for time_ms in accumulate(self.median_ms, max)]
        table = ", ".join(f"[{rows}, {time_ms}]" for rows, time_ms in zip(self.rows, times, strict=True))
        return f'source = "{self.source}"\njitter_sigma = {min(3.0, self.sigma):.4f}\ntable_ms = [{table}]\n'


def measure(
    network: str, place: int | None, *, rows: Sequence[int], repeats: int, say: Callable[[str], object]
) -> Measured:
    """Measure batches of each size, `repeats` of each, in turn, so that a drift of the clock touches all sizes alike.

    Args:
        network: Name in `NETWORKS`.
        place: Number of the GPU; None: this processor.
        rows: Batch sizes, increasing.
        repeats: Of each size.
        say: Told what is being done.

    Raises:
        UsageError: There is no such network or GPU.
    """
    check_network(network)
    check_place(place)
    say(f"warming up {NETWORKS[network].words}")
    device = TorchDevice(network, place, max_rows=max(rows), seed=0)
    took: dict[int, list[float]] = {size: [] for size in rows}
    for number in range(repeats):
        say(f"round {number + 1} of {repeats}")
        for size in rows:
            job = _job(network, size)
            began_ns = now_ns()
            _, end_ns = device.run([job], began_ns)
            took[size].append((end_ns - began_ns) / NS_PER_MS)
    medians = [float(np.median(took[size])) for size in rows]
    logs = np.concatenate([np.log(np.array(took[size]) / median) for size, median in zip(rows, medians, strict=True)])
    day = time.strftime("%Y-%m-%d", time.gmtime())
    card = platform.processor() or platform.machine() if place is None else torch.cuda.get_device_name(place)
    source = f"measured: {NETWORKS[network].words}, on {card}, torch {torch.__version__}, {day}"
    # Half of the values lie within 0.6745 standard deviations of a normal distribution: pauses do not count this way.
    sigma = float(np.median(np.abs(logs))) / 0.6745
    return Measured(rows=list(rows), median_ms=medians, sigma=sigma, source=source.replace('"', "'"))


def _job(network: str, rows: int) -> Job:
    inputs = {
        spec.name: tensors.empty(spec.name, spec.datatype, (rows, *spec.dims)) for spec in NETWORKS[network].inputs
    }
    return Job(arrived_ns=0, inputs=inputs, rows=rows)
