"""The checks that every change passes (`nox`), and the longer measurements (`nox -s bench`, …)."""

import re
import shlex
import tempfile
from pathlib import Path

import nox

nox.options.sessions = ["lint", "typing", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

CHECKERS = ("ruff==0.17.6", "mypy==2.4.1")
TEST_TOOLS = ("pytest>=8.3", "scipy>=1.13")


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
    session.install("-e", ".", *TEST_TOOLS)
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the engine against wrk, and the default scenario against its known truth; prints tables."""
    session.install("-e", ".", *TEST_TOOLS)
    session.run("python", "-m", "tests.bench.engine_cost", *session.posargs)
    session.run("python", "-m", "tests.bench.default_scenario", *session.posargs)


@nox.session(venv_backend="none")
def readme(session: nox.Session) -> None:
    """Run the README's two commands in a fresh clone elsewhere, as a stranger would."""
    commands = re.findall(r"^python3 -m venv .*$", Path("README.md").read_text(encoding="utf-8"), re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        session.run("git", "clone", "-q", ".", folder, external=True)
        for command in commands:
            session.run("bash", "-c", f"cd {shlex.quote(folder)} && time ({command})", external=True)
