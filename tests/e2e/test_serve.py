"""`opfind serve` as real clients see it, unmodified; they are found through OPFIND_PEERS or PATH, else skipped."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_peers import NoPeerError, python_with, script

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = ROOT / "tests" / "loadgen" / "server" / "models"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serve the tests' model repository; give host and port."""
    command = [sys.executable, "-m", "loadgen", "serve", "--port", "0", "--model-repository", str(REPOSITORY)]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip().removeprefix("listening on http://")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_tritonclient_drives_our_server(address: str) -> None:
    """NVIDIA's client library gets from our server all that it asks for, in JSON, in binary, and compressed."""
    try:
        python = python_with("tritonclient.http")
    except NoPeerError as missing:
        pytest.skip(str(missing))
    client = Path(__file__).with_name("triton_client.py")
    done = subprocess.run([python, str(client), address], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "all calls were answered\n"), done.stderr


def test_perf_analyzer_drives_our_server(address: str, tmp_path: Path) -> None:
    """NVIDIA's load generator measures our server, and what it reads from the server's statistics adds up."""
    try:
        command = [script("run_perf_analyzer.sh"), "-m", "echo", "-u", address, "-i", "http"]
    except NoPeerError as missing:
        pytest.skip(str(missing))
    table = tmp_path / "levels.csv"
    done = subprocess.run(
        [*command, "--concurrency-range", "8", "-p", "1000", "-s", "90", "-f", str(table)],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    assert 200 < float(row["Inferences/Second"]) < 8 / 0.013
    batch_us = float(row["Server Compute Infer"])
    assert 6_000 <= batch_us < 14_000  # 5 ms + 1 ms for each of up to 8 rows
    executions = re.search(r"Execution count: (\d+)", done.stdout)
    inferences = re.search(r"Inference count: (\d+)", done.stdout)
    assert executions is not None
    assert inferences is not None
    assert 2 < int(inferences[1]) / int(executions[1]) <= 8


@pytest.mark.parametrize("data", [None, {"data": [{"INPUT0": [1, 2, 3, 4]}, {"INPUT0": [5, 6, 7, 8]}]}])
def test_opfind_drives_a_model_by_its_name_alone(address: str, tmp_path: Path, data: object) -> None:
    """A URL that names a model is enough: inputs are made or read, and each step carries what the server counted."""
    (tmp_path / "inputs.json").write_text(json.dumps(data), encoding="utf-8")
    done = subprocess.run(
        [
            sys.executable, "-m", "loadgen", "load", f"{address}/v2/models/echo", "--rate", "100", "-d", "2s",
            "--arrivals", "constant", "--json", "-o", "out", *(["--input-data", "inputs.json"] if data else []),
        ],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 4), done.stderr
    told = json.loads(done.stdout)
    assert (told["ok"], told["offered"]) == (200, 200)
    (step,) = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["steps"]
    server = step["server"]
    assert server["requests"] == server["rows"] == 200
    assert 25 <= server["batches"] <= 200
    assert 0.001 < server["queue_s"] < 0.05  # each waits 2 ms for others, and perhaps for the batch before
    assert 0.0059 < server["compute_s"] < 0.05


def test_metrics_count_what_was_served(address: str) -> None:
    """Whatever the tests before sent, successes, inferences and executions are in their order."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as reply:
        page = reply.read().decode()
    counts = [
        float(next(line for line in page.splitlines() if line.startswith(f'{name}{{model="echo"')).split()[-1])
        for name in ("nv_inference_exec_count", "nv_inference_request_success", "nv_inference_count")
    ]
    assert counts == sorted(counts)
