"""Real servers and tools to measure against: found through OPFIND_PEERS (a folder) or PATH, never installed by us.

What is looked for are start scripts, `run_triton.sh` and `run_perf_analyzer.sh`; a script may install what it starts.
The first serves, on loopback, a model that sleeps 5 ms + 1 ms a request in batches of up to 8.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HOST, PORTS = "127.0.0.1", (18000, 18001, 18002)
URL = f"http://{HOST}:{PORTS[0]}/v2/models/sim/infer"
BODY = '{"inputs": [{"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}'
INSTALL_S, END_S = 600.0, 20.0


class NoPeerError(Exception):
    """A peer is not there, or its ports are taken; the message says why."""


def script(name: str) -> str:
    """Return the path of a peer's script.

    Raises:
        NoPeerError: It is nowhere.
    """
    found = shutil.which(name, path=os.environ.get("OPFIND_PEERS") or None) or shutil.which(name)
    if found is None:
        raise NoPeerError(f"{name} is neither in the folder OPFIND_PEERS nor on PATH")
    return str(Path(found).resolve())


def python_with(module: str) -> str:
    """Return a Python that can import a module: this one, or one of the environments in PEERS (default ~/peers).

    Raises:
        NoPeerError: None can.
    """
    folder = Path(os.environ.get("PEERS") or Path.home() / "peers")
    for python in (Path(sys.executable), *sorted(folder.glob("*/bin/python"))):
        command = [str(python), "-c", f"import {module}"]
        with contextlib.suppress(OSError):
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return str(python)
    raise NoPeerError(f"no Python here or in {folder} can import {module}")


@contextlib.contextmanager
def triton(command: str | None = None) -> Iterator[str]:
    """Run Triton, ready, as a child; yield the URL at which its model infers. Its first start may take minutes.

    Args:
        command: That starts it; None: `run_triton.sh`, wherever it is.

    Raises:
        NoPeerError: No script starts it, or its ports are taken.
        RuntimeError: It ended, or was not ready in time; the message has its last words.
    """
    command = command or script("run_triton.sh")
    for port in PORTS:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                raise NoPeerError(f"port {port}, which Triton needs, is taken")
    with tempfile.TemporaryFile("w+") as log:
        # A session of its own: Ctrl-C is for us, and we end the script with whatever it is still installing.
        process = subprocess.Popen([command], stdout=log, stderr=log, start_new_session=True)
        try:
            if not _is_ready(process):
                log.seek(0)
                raise RuntimeError(f"Triton did not start: {''.join(log.readlines()[-3:]).strip() or 'no output'}")
            yield URL
        finally:
            _end(process)


def _is_ready(process: "subprocess.Popen[bytes]") -> bool:
    """Wait until Triton says that it is ready, or has ended, or took too long."""
    give_up = time.monotonic() + INSTALL_S
    while process.poll() is None and time.monotonic() < give_up:
        connection = http.client.HTTPConnection(HOST, PORTS[0], timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return True
        time.sleep(0.1)
    return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
            return
