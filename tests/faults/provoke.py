"""Faults that need more than a path of the fake target: each function provokes one, and returns how opfind ended."""

import asyncio
import contextlib
import functools
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

from tests.fake_target import FakeTarget, fake_target, free_port
from tests.faults.harness import ROOT, Ended, finish, opfind, start, workers_of

Provoke = Callable[[Path], Ended]

# Wide SLAs: on a busy machine sends that are some ms late must not make the client the limit.
LOAD = ("-d", "500ms", "--timeout", "500ms", "--sla-p99", "500ms")
TWENTY = ("--rate", "40", "--arrivals", "constant")
MANY = ("--rate", "300", "--arrivals", "constant", "-d", "1s")  # enough for a verdict on the SLA
LONG_LOAD = ("--rate", "100", "-d", "30s", "--timeout", "1s", "--sla-p99", "1s")
_SEARCH = ("--sla-p99", "200ms", "--timeout", "500ms", "--start-rps", "100")


def load(path: str, *level: str) -> Provoke:
    """Return what runs a short load, of twenty requests or another level, against a path of the fake target."""

    def provoke(folder: Path) -> Ended:
        with fake_target() as target:
            return opfind("load", target.base + path, *LOAD, *(level or TWENTY), folder=folder)

    return provoke


def search(path: str, *arguments: str) -> Provoke:
    """Return what searches the operating point of a path of the fake target."""

    def provoke(folder: Path) -> Ended:
        with fake_target() as target:
            return opfind("run", target.base + path, *_SEARCH, *arguments, folder=folder)

    return provoke


@contextlib.contextmanager
def _process(port: int) -> "Iterator[subprocess.Popen[str]]":
    """Run the fake target as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "tests.fake_target", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            yield process
        finally:
            process.kill()


def _kill_under_load(server: "subprocess.Popen[str]") -> None:
    assert server.stdout is not None
    assert server.stdout.readline() == "under load\n"
    server.kill()
    server.wait()


def _await_load(target: FakeTarget) -> None:
    """Wait until a step is under way, beyond the five requests of the preflight."""
    deadline_s = time.monotonic() + 30
    while target.requests.total() < 20:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def server_killed(folder: Path) -> Ended:
    """Kill the server under load, for good."""
    port = free_port()
    with _process(port) as server:
        process = start("load", f"http://127.0.0.1:{port}/ok", *LONG_LOAD, "-d", "2s", folder=folder)
        _kill_under_load(server)
        return finish(process, folder)


def server_restarted(folder: Path) -> Ended:
    """Kill the server in the middle of a step, and start it again at once."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_process(port))
        process = start("load", f"http://127.0.0.1:{port}/ok", *LONG_LOAD, "-d", "3s", folder=folder)
        _kill_under_load(server)
        stack.enter_context(_process(port))
        return finish(process, folder)


def server_away_in_search(folder: Path) -> Ended:
    """Reset 25 requests of the first step of a search, as a server does that dies and is back at once."""
    with fake_target() as target:
        target.dies_after, target.revives_after = 20, 45
        return opfind("run", target.base + "/slow/5", *_SEARCH, "--max-rps", "100", "--budget", "15s", folder=folder)


def _tls(**fields: Any) -> tuple[ssl.SSLContext, bytes]:
    """Return a server's settings for `localhost`, and the authority that a client must trust."""
    authority, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", **fields).configure_cert(context)
    return context, authority.cert_pem.bytes()


def _load_tls(base: str, path: str, authority: bytes, folder: Path) -> Ended:
    (folder / "ca.pem").write_bytes(authority)
    return opfind("load", base + path, *LOAD, *TWENTY, "--cacert", "ca.pem", folder=folder)


def expired_certificate(folder: Path) -> Ended:
    """Serve with a certificate that ended a year ago."""
    last_year = datetime.now(UTC) - timedelta(days=365)
    context, authority = _tls(not_before=last_year, not_after=last_year)
    with fake_target(tls=context) as target:
        return _load_tls(target.base.replace("127.0.0.1", "localhost"), "/ok", authority, folder)


def wrong_name(folder: Path) -> Ended:
    """Serve `localhost` under its address, which the certificate does not name."""
    context, authority = _tls()
    with fake_target(tls=context) as target:
        return _load_tls(target.base, "/ok", authority, folder)


def slow_handshake(folder: Path) -> Ended:
    """Take longer than the SLA allows to shake hands, anew for each request."""
    context, authority = _tls()
    answers = FakeTarget()

    async def shake_hands_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined] # or the client's first words are lost
        await asyncio.sleep(0.3)
        with contextlib.suppress(ConnectionError):  # it was only looked whether somebody listens
            await writer.start_tls(context)
            await answers.serve_connection(reader, writer)

    with fake_target(shake_hands_slowly) as target:
        base = target.base.replace("http://127.0.0.1", "https://localhost")
        (folder / "ca.pem").write_bytes(authority)
        return opfind(
            "load", base + "/close", *TWENTY, "-d", "500ms", "--sla-p99", "200ms", "--cacert", "ca.pem", folder=folder
        )


def backlog_overflow(folder: Path) -> Ended:
    """Listen with the shortest backlog, and never accept: the system drops what does not fit."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        return opfind("load", f"http://127.0.0.1:{listener.getsockname()[1]}/", *LOAD, *TWENTY, folder=folder)


def signalled(number: signal.Signals) -> Provoke:
    """Return what sends a signal to the coordinator in the middle of a step."""

    def provoke(folder: Path) -> Ended:
        with fake_target() as target:
            process = start("load", target.base + "/ok", *LONG_LOAD, folder=folder)
            _await_load(target)
            process.send_signal(number)
            return finish(process, folder)

    return provoke


def worker_killed(folder: Path) -> Ended:
    """Kill one of two workers in the middle of a step."""
    with fake_target() as target:
        process = start("load", target.base + "/ok", *LONG_LOAD, "-d", "2s", "--workers", "2", folder=folder)
        _await_load(target)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        return finish(process, folder)


def starved(folder: Path) -> Ended:
    """Let the worker run for 10 ms of every 100 during a search."""
    with fake_target() as target:
        process = start("run", target.base + "/slow/5", *_SEARCH, "--budget", "4s", folder=folder)
        _await_load(target)
        over = threading.Event()
        starver = threading.Thread(target=_starve, args=(workers_of(process), over))
        starver.start()
        try:
            return finish(process, folder)
        finally:
            over.set()
            starver.join()


def _starve(pids: list[int], over: threading.Event) -> None:
    with contextlib.suppress(ProcessLookupError):
        while not over.is_set():
            for number, pause_s in ((signal.SIGSTOP, 0.09), (signal.SIGCONT, 0.01)):
                for pid in pids:
                    os.kill(pid, number)
                time.sleep(pause_s)


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, most))


def disk_full(folder: Path) -> Ended:
    """Let no file grow beyond 20 KiB, which ends a write as a full disk does, and needs no disk."""
    limit = functools.partial(_limit, resource.RLIMIT_FSIZE, 20 << 10)
    with fake_target() as target:
        return opfind("load", target.base + "/ok", *LOAD, *TWENTY, folder=folder, preexec=limit)


def read_only(folder: Path) -> Ended:
    """Forbid writing into the output folder; root's right to write everywhere is taken away first."""
    (folder / "out").mkdir(mode=0o555)
    wrapper = ("setpriv", "--bounding-set", "-dac_override") if os.geteuid() == 0 else ()
    with fake_target() as target:
        ended = opfind("load", target.base + "/ok", *LOAD, *TWENTY, folder=folder, wrapper=wrapper)
        assert not target.requests  # said before any load
    return ended


def few_files(folder: Path) -> Ended:
    """Allow 64 open files, as `ulimit -n 64` does."""
    with fake_target() as target:
        limit = functools.partial(_limit, resource.RLIMIT_NOFILE, 64)
        return opfind("load", target.base + "/slow/20", *LOAD, "--users", "60", folder=folder, preexec=limit)


def unresolved(*, after: int) -> Provoke:
    """Return what loads a host whose name resolves so many times, and then no more."""

    def provoke(folder: Path) -> Ended:
        with fake_target() as target:
            port = target.base.rsplit(":", 1)[1]
            program = ("-m", "tests.faults.fake_resolver", str(after))
            ended = opfind(
                "load", f"http://target.test:{port}/ok", *LOAD, *MANY, "--re-resolve", "200ms", folder=folder,
                program=program,
            )  # fmt: skip
        if after:
            assert ended.run.steps[0].client["resolve_failures"] >= 1
        return ended

    return provoke
