"""Who may import whom: a walk over every import statement, against the table in the design document."""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIRST_PARTY = {"analysis", "loadgen", "reports", "scenarios"}
# httptools, in place of aiohttp: see the measurement in loadgen/server/http.py. The load generator uses it too; they
# share the library and no code.
_SERVER_LIBRARIES = {"numpy", "httptools", "uvloop", "prometheus_client", "google.protobuf"}
_LIBRARIES = {
    "analysis": {"numpy", "scipy"},
    "scenarios": {"msgspec"},
    "reports": {"numpy", "matplotlib", "jinja2", "markupsafe"},
    "loadgen": {
        "numpy",
        "scipy",
        "msgspec",
        "matplotlib",
        "jinja2",
        "httptools",
        "uvloop",
        "hdrh",
        "prometheus_client",
    },
}
_OURS = {
    "analysis": {"analysis"},
    "scenarios": {"scenarios", "analysis"},
    "reports": {"reports", "analysis"},
    "loadgen": FIRST_PARTY,
}
# Locust changes sockets and threads of the process that imports it, so what imports it can be told by its name.
_ONLY_IN = {
    "click": "loadgen/cli.py",
    "rich": "loadgen/console.py",
    "locust": "loadgen/locust_*.py",
    "gevent": "loadgen/locust_*.py",  # Locust's own event loop
}
_NO_PURE_EDGE = {"time", "asyncio", "socket", "threading", "multiprocessing", "subprocess", "os", "pathlib", "signal"}


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every import in a source text, wherever it stands.

    Args:
        source: Python.
        package: Dotted name of the package that holds it, against which relative imports are read.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module)))
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield node.lineno, ast.literal_eval(node.args[0]) if isinstance(node.args[0], ast.Constant) else "?"


def _within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def violations(path: str, source: str) -> list[str]:
    """Return the forbidden imports of a file, each with its line and the rule.

    Args:
        path: From the repository's root, with `/`.
        source: Its text.
    """
    package = path.split("/", maxsplit=1)[0]
    is_server = path.startswith("loadgen/server/")
    found = []
    for line, name in imported(source, path.rpartition("/")[0].replace("/", ".")):
        rule = _broken_rule(path, package, name, is_server=is_server)
        if rule:
            found.append(f"{path}:{line}: imports {name}: {rule}")
    if path == "loadgen/__init__.py":
        found += [f"{path}:{line}: imports {name}: it imports nothing" for line, name in imported(source, "loadgen")]
    return found


def _broken_rule(path: str, package: str, name: str, *, is_server: bool) -> str | None:
    top = name.split(".", maxsplit=1)[0]
    if name.startswith("loadgen.locust_") and not fnmatch(path, _ONLY_IN["locust"]):
        return "it imports Locust: only in loadgen/locust_*.py"
    if top in FIRST_PARTY:
        ours = {"loadgen.errors", "loadgen.clock", "loadgen.server"} if is_server else _OURS[package]
        return None if _within(name, ours) else f"of ours only {', '.join(sorted(ours))}"
    if top in sys.stdlib_module_names:
        is_edge = package == "analysis" and top in _NO_PURE_EDGE
        return "analysis is pure: no clock, file, socket or process" if is_edge else None
    if top in _ONLY_IN:
        return None if fnmatch(path, _ONLY_IN[top]) else f"only in {_ONLY_IN[top]}"
    if is_server and top == "torch":
        return None if path.rpartition("/")[2].startswith("torch_") else "only in torch_*.py"
    libraries = _SERVER_LIBRARIES if is_server else _LIBRARIES[package]
    return None if _within(name, libraries) else f"libraries here: {', '.join(sorted(libraries))}"


def _sources() -> list[Path]:
    skipped = ROOT / "scenarios" / "locustfiles"
    return [p for top in sorted(FIRST_PARTY) for p in sorted((ROOT / top).rglob("*.py")) if skipped not in p.parents]


def test_every_import_is_allowed() -> None:
    """No file of the four packages imports what its package may not."""
    sources = _sources()
    assert {path.relative_to(ROOT).parts[0] for path in sources} == FIRST_PARTY
    found = [v for p in sources for v in violations(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("analysis/x.py", "import msgspec"),
        ("analysis/x.py", "from loadgen import clock"),
        ("analysis/x.py", "import time"),
        ("analysis/x.py", "def f():\n    import asyncio"),
        ("analysis/x.py", "from pathlib import Path"),
        ("analysis/x.py", "if TYPE_CHECKING:\n    from scenarios import Scenario"),
        ("scenarios/x.py", "import numpy"),
        ("scenarios/x.py", "import loadgen.errors"),
        ("reports/x.py", "from loadgen.progress import Progress"),
        ("reports/x.py", "import scenarios"),
        ("reports/x.py", "import rich"),
        ("loadgen/session.py", "import click"),
        ("loadgen/cli.py", "from rich.console import Console"),
        ("loadgen/worker.py", "import gevent"),
        ("loadgen/hosted.py", "import locust"),
        ("loadgen/hosted.py", "from loadgen.locust_bridge import ingest"),
        ("loadgen/worker.py", "import importlib\nimportlib.import_module('requests')"),
        ("loadgen/__init__.py", "import loadgen.errors"),
        ("loadgen/server/app.py", "from loadgen.target import Endpoint"),
        ("loadgen/server/app.py", "from loadgen import engine"),
        ("loadgen/server/app.py", "from .. import engine"),
        ("loadgen/server/app.py", "import analysis"),
        ("loadgen/server/app.py", "import aiohttp"),
        ("loadgen/server/app.py", "import torch"),
    ],
)
def test_the_walk_sees_a_violation(path: str, source: str) -> None:
    """A forbidden import is reported, however it is written: the check can fail."""
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("analysis/x.py", "import numpy as np\nfrom scipy import stats\nfrom analysis.sla import SLA\nimport math"),
        ("scenarios/x.py", "import msgspec, tomllib\nfrom pathlib import Path\nfrom analysis import SLA"),
        ("reports/x.py", "import jinja2\nfrom analysis import Run\nfrom . import text"),
        ("loadgen/cli.py", "import click\nfrom scenarios import Scenario"),
        ("loadgen/locust_bridge.py", "from locust import events\nfrom loadgen.locust_page import add_page"),
        ("loadgen/server/app.py", "import httptools\nfrom loadgen.clock import now_ns\nfrom .job import Job"),
        ("loadgen/server/torch_device.py", "import torch"),
    ],
)
def test_the_walk_lets_pass_what_is_allowed(path: str, source: str) -> None:
    """What the table allows is no violation."""
    assert violations(path, source) == []
