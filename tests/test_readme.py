"""The README's commands are run as they stand there; the two long ones by `nox -s readme`."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from loadgen.server.model_config import ModelConfig
from tests.ahead import ahead
from tests.fake_target import fake_target, free_port
from tests.loadgen.server.serving import QUICK, serving
from tests.locust_process import ui

Ended = tuple[int, str, str]  # exit code, standard output and error

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
SHORT = [line for line in COMMANDS if line.startswith("opfind ")]


def arguments_of(line: str, base: str) -> list[str]:
    """Return a command's words with the README's server replaced by a test's."""
    path = "/outputs" if "--expect-json" in line else "/slow/5"
    words = [re.sub(r"http://127.0.0.1:8000/predict$", base + path, word) for word in shlex.split(line)[1:]]
    return [word.replace("http://127.0.0.1:8000", base) for word in words]


@contextlib.contextmanager
def target_of(line: str) -> Iterator[str]:
    """Run what a command asks: a model server where it names a model, else a small target; yield its base."""
    if "/bert" in line:
        with serving(ModelConfig(name="bert", device=QUICK, max_queue_delay_us=0)) as server:
            yield f"http://127.0.0.1:{server.port}"
    else:
        with fake_target() as target:
            yield target.base


def opfind(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    """Start opfind in a folder."""
    command = [sys.executable, "-m", "loadgen", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _write_inputs(folder: Path) -> None:
    """Write the files that the commands name."""
    (folder / "payload.json").write_text('{"inputs": [1, 2]}', encoding="utf-8")
    (folder / "inputs.json").write_text('{"data": [{"INPUT0": [1, 2]}]}', encoding="utf-8")
    shutil.copytree(ROOT / "tests" / "loadgen" / "server" / "models", folder / "models")
    (folder / "server.toml").write_text(
        "\n".join(re.findall(r"```toml\n(.*?)```", README, re.DOTALL)), encoding="utf-8"
    )
    (folder / "requests.jsonl").write_text('{"inputs": [1]}\n{"inputs": [2, 3]}\n', encoding="utf-8")


def run_of(line: str, folder: Path) -> Ended:
    """Run a search or a load of the README in a folder, on a small budget or short and gentle."""
    _write_inputs(folder)
    if " load " in line:
        bounds = ["--users", "4"] if "--users" in line else ["--rate", "50"]  # the last one counts
        bounds += ["-d", "1s"]
    else:
        bounds = ["--max-users", "2"] if "closed" in line else ["--start-rps", "40", "--max-rps", "40"]
        bounds += ["--require-rps", "40"] if "--require-rps" in line else []
        bounds += ["--budget", "6s"]
    with target_of(line) as base, opfind([*arguments_of(line, base), *bounds], folder) as process:
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr


@pytest.fixture(scope="module")
def ended(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Ended]]]:
    """Run the chosen commands."""

    def run(line: str) -> Ended:
        return run_of(line, tmp_path_factory.mktemp("readme"))

    with ahead(request, test_a_command_answers.__name__, "line", run, at_once=4) as found:
        yield found


@pytest.mark.parametrize(
    "line", [line for line in SHORT if (" run " in line and "--locustfile" not in line) or " load " in line]
)
def test_a_command_answers(line: str, ended: dict[str, Future[Ended]]) -> None:
    """Each `opfind run` gives an answer, and each `opfind load` the spectrum; those with Locust are in tests/e2e."""
    code, stdout, stderr = ended[line].result()
    if " load " in line:
        assert code in (0, 4), stderr
        assert "from due" in stdout
    else:
        assert code in (0, 1, 3, 4), stderr
        assert "search stopped" in (stdout + stderr).lower() or '"verdict"' in stdout


@pytest.mark.parametrize("line", [line for line in SHORT if " serve" in line])
def test_the_serve_command_serves(line: str, tmp_path: Path) -> None:
    """`opfind serve` says where it listens, and ends with exit code 0 when asked to."""
    _write_inputs(tmp_path)
    words = [str(free_port()) if word == "8000" else word for word in arguments_of(line, "")]
    words += [] if "--port" in words else ["--port", "0"]
    with opfind(words, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening on http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0


def test_the_ui_command_serves_its_page(tmp_path: Path) -> None:
    """`opfind ui` is in the README, and serves Locust's page with our tab."""
    assert "opfind ui" in SHORT
    with ui(folder=tmp_path) as page:
        assert "Operating point" in page.get()


def test_the_two_commands_stand_in_the_readme_and_in_ci() -> None:
    """There are two commands that set up and do everything, and CI runs the second one to the letter."""
    first, second = (line for line in COMMANDS if line.startswith("python3 -m venv"))
    assert first.endswith("opfind run --sla-p99 200ms")
    assert second in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_file_that_the_readme_names_exists() -> None:
    """No link into the repository is dead."""
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
