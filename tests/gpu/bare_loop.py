"""A served network beside the bare torch loop of the same network: what the server costs.

`python -m tests.gpu.bare_loop [--device 0] [--model encoder] [--seconds 10]`; `--device cpu --model encoder-tiny` runs
anywhere that torch is. The loop computes batches that lie on the device already, one after the other, and waits for
each; the server gets KServe requests over loopback. Prints a Markdown table: throughput of full batches, and the
latency of one request at a time.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loadgen.flags import place
from loadgen.server.torch_models import NETWORKS

BATCH = 32


def bare(network: str, device: int | None, rows: int, seconds: float) -> list[float]:
    """Return how long each batch of the bare loop took, seconds."""
    where = torch.device("cpu" if device is None else f"cuda:{device}")
    kind = torch.float32 if device is None else torch.bfloat16
    module = NETWORKS[network].build().eval().to(where, kind)
    given = [
        torch.zeros((rows, *spec.dims), device=where, dtype=torch.int64 if spec.datatype == "INT64" else kind)
        for spec in NETWORKS[network].inputs
    ]
    took: list[float] = []
    with torch.inference_mode():
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter()
            module(*given)
            if device is not None:
                torch.cuda.synchronize(where)
            took.append(time.perf_counter() - began)
    return took[len(took) // 5 :]  # the first are slow: kernels are chosen, clocks rise


@contextlib.contextmanager
def served(network: str, device: int | None) -> Iterator[str]:
    """Serve the network; yield the URL of its model."""
    where = '{ kind = "KIND_CPU" }' if device is None else f"{{ gpus = [{device}] }}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "server.toml")
        path.write_text(
            f"[[models]]\nname = 'net'\ncompute = '{network}'\nmax_batch_size = {BATCH}\nmax_queue_delay_us = 0\n"
            f"instances = [{where}]\n",
            encoding="utf-8",
        )
        command = [sys.executable, "-m", "loadgen", "serve", "--port", "0", "--config", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield process.stdout.readline().strip().removeprefix("listening on ") + "/v2/models/net"
            finally:
                process.terminate()


def loaded(url: str, users: int, seconds: float) -> dict[str, Any]:
    """Load the model in a closed loop; return what `opfind load --json` says."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "loadgen", "load", url, "--users", str(users), "-d", f"{seconds:g}s", "--json"]
        done = subprocess.run([*command, "-o", folder], capture_output=True, text=True, check=False)
        told: dict[str, Any] = json.loads(done.stdout)
        return told


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=place, default="0")
    parser.add_argument("--model", choices=sorted(NETWORKS), default="encoder")
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    card = "this processor" if options.device is None else torch.cuda.get_device_name(options.device)
    print(f"{NETWORKS[options.model].words}, on {card}, torch {torch.__version__}\n")
    print("| | bare loop | served | |\n|---|---|---|---|")
    with served(options.model, options.device) as url:
        full = loaded(url, 4 * BATCH, options.seconds)["throughput_rps"]
        alone_ms = loaded(url, 1, options.seconds)["p50_s"] * 1e3
    bare_full = BATCH / float(np.median(bare(options.model, options.device, BATCH, options.seconds)))
    bare_ms = float(np.median(bare(options.model, options.device, 1, options.seconds))) * 1e3
    print(f"| items a second, batches of {BATCH} | {bare_full:,.0f} | {full:,.0f} | {full / bare_full:.0%} |")
    print(f"| median latency of one, ms | {bare_ms:.2f} | {alone_ms:.2f} | {alone_ms - bare_ms:+.2f} |")


if __name__ == "__main__":
    main()
