"""opfind's Locust processes as a user starts them, and what a browser would ask them, for tests."""

import contextlib
import http.cookiejar
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fake_target import free_port

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 40.0
QUICK = ("--start-rps", "40", "--max-rps", "40", "--budget", "2s")  # one rate: a lower bound, or undecided


def opfind(*words: str, folder: Path, module: str = "loadgen") -> "subprocess.Popen[str]":
    """Start opfind in a folder, or another module."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *words], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(*words: str, folder: Path) -> tuple[int, str, str]:
    """Run opfind to its end; return exit code, standard output and standard error."""
    with opfind(*words, folder=folder) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def all_ended(commands: Sequence[Sequence[str]], folder: Path) -> list[tuple[int, str]]:
    """Run several opfinds to their ends, at once; return exit code and standard error of each."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(opfind(*words, folder=folder)) for words in commands]
        errors = [process.communicate(timeout=PATIENCE_S)[1] for process in processes]
    return [(process.returncode, err) for process, err in zip(processes, errors, strict=True)]


class Page:
    """A running `opfind ui`, as one browser sees it."""

    def __init__(self, base: str, process: "subprocess.Popen[str]") -> None:
        self.base = base
        self.process = process
        self._browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))

    def get(self, path: str = "/") -> str:
        """Return what stands there."""
        with self._browser.open(self.base + path, timeout=20) as reply:
            text: str = reply.read().decode()
            return text

    def post(self, path: str, **form: str) -> dict[str, Any]:
        """Send a form, and return the JSON that comes back."""
        data = urllib.parse.urlencode(form).encode()
        with self._browser.open(urllib.request.Request(self.base + path, data=data), timeout=PATIENCE_S) as reply:
            told: dict[str, Any] = json.loads(reply.read())
            return told

    def live(self) -> str:
        """Return what the tab shows now."""
        return self.get("/opfind/live")

    def until(self, is_so: Callable[[str], bool]) -> str:
        """Wait until the tab shows it, and return what it shows."""
        return until(self.live, is_so)


def until(ask: Callable[[], str], is_so: Callable[[str], bool]) -> str:
    """Ask until the answer is so, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)
    return answer


@contextlib.contextmanager
def ui(*words: str, folder: Path, base_path: str = "", locust: bool = False) -> Iterator[Page]:
    """Run `opfind ui`, or plain Locust, on a free port until it serves, yield it, and end it."""
    port = free_port()
    command = ("-f", words[0]) if locust else ("ui", *words[:1])
    flags = (*words[1:], "--web-port", str(port))
    with opfind(*command, *flags, folder=folder, module="locust" if locust else "loadgen") as process:
        page = Page(f"http://127.0.0.1:{port}{base_path}", process)
        try:
            until(lambda: _state(page), lambda state: state == "up" or process.poll() is not None)
            yield page
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _state(page: Page) -> str:
    try:
        page.get()
    except OSError:
        return "down"
    return "up"


def family(pid: int) -> set[int]:
    """Return a process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {pid}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def listening(pids: set[int]) -> set[str]:
    """Return the addresses on which these processes listen, as the kernel writes them: 0100007F is 127.0.0.1."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in sockets}
