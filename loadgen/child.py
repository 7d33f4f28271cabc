"""Python processes of our own: isolated from the user's folder and from the terminal's Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent


def start(module: str, *arguments: str, stderr: int | None = None) -> "subprocess.Popen[bytes]":
    """Start `python -m module` with pipes on standard input and output; `stderr` is inherited, or as Popen takes it.

    The folder of the caller is not on its path (`-P`), or a folder there named `analysis` would hide ours. It has a
    session of its own, because Ctrl-C is for the coordinator, which lets its children finish.
    """
    path = os.pathsep.join(filter(None, [str(_HOME), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )
