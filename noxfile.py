"""The checks that every change passes (`nox`), and the longer measurements (`nox -s bench`, …)."""

import os
import re
import shlex
import tempfile
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.options.sessions = ["lint", "typing", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "uv|virtualenv"  # uv makes each environment in seconds, where it is there

CHECKERS = ("ruff==0.17.6", "mypy==2.4.1")
TEST_TOOLS = ("hypothesis>=6.100", "numba>=0.61", "pytest>=8.3", "scipy>=1.13", "selenium>=4.25", "trustme>=1.2")
# Hundreds of Python processes are started: none compiles again what it imports, whatever the caller's settings say.
COMPILED = {"UV_COMPILE_BYTECODE": "1", "PYTHONDONTWRITEBYTECODE": None}
# PyTorch's own index of wheels for processors alone: from PyPI, Linux gets gigabytes of CUDA.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*CHECKERS[:1])
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly."""
    session.install("-e", ".", *TEST_TOOLS, *CHECKERS[1:], "nox")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments after -- go to pytest."""
    session.env.update(COMPILED)
    session.install("-e", ".", *TEST_TOOLS)
    install_torch(session)
    session.run("python", "-m", "pytest", *session.posargs)


def install_torch(session: nox.Session) -> None:
    """Install torch for the processor alone, where its index answers; elsewhere the tests of networks skip."""
    # The index and nothing else: settings might name another one, whose newer torch would be taken instead.
    is_uv = session.venv_backend == "uv"
    alone = ("--no-config",) if is_uv else ("--isolated", "--retries", "0", "--timeout", "10")
    once = {"PIP_CONFIG_FILE": os.devnull, "UV_HTTP_TIMEOUT": "10", "UV_HTTP_RETRIES": "0"}
    try:
        session.install(*alone, "--no-deps", "--index-url", TORCH_INDEX, "torch>=2.4", silent=True, env=once)
    except CommandFailed:
        session.warn(f"{TORCH_INDEX} does not answer, or has no torch for this Python: the tests of networks skip")
        return
    session.install("torch>=2.4")  # is there: only what it needs, from where everything else comes


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the engine beside wrk and Locust, and the default scenario against its known truth; prints tables.

    Names after -- choose others: `nox -s bench -- triton` compares with perf_analyzer, `servers` our server with Triton
    (both need OPFIND_PEERS), `levers` measures what each lever of the server does, and `overload` sends three times its
    capacity for a minute.
    """
    session.install("-e", ".", *TEST_TOOLS)
    for name in session.posargs or ("engine_cost", "open_loop", "side_by_side", "endurance", "default_scenario"):
        session.run("python", "-m", f"tests.bench.{name}")


@nox.session
def calibrate(session: nox.Session) -> None:
    """Run the search on servers drawn at random whose truth is known; arguments after -- go to the bench."""
    session.install("-e", ".", *TEST_TOOLS)
    session.run("python", "-m", "tests.bench.calibrate", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed a million reply streams to the engine's connections; arguments after -- are another number and a seed."""
    session.install("-e", ".", *TEST_TOOLS)
    session.run("python", "-m", "tests.faults.fuzz", *(session.posargs or ["1000000"]))


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Run the README's long commands in a fresh clone elsewhere, as a stranger would."""
    text = Path("README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python3 -m venv .*$|^opfind selfcheck$", text, re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        session.run("git", "clone", "-q", ".", folder, external=True)
        for command in commands:
            in_place = f"cd {shlex.quote(folder)} && PATH=.venv/bin:$PATH && time ({command})"
            session.run("bash", "-c", in_place, external=True)
