"""Bodies and expectations over real processes and sockets, as a user gives them."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import Step
from loadgen.fleet import Fleet, Setup
from loadgen.target import Endpoint, request_head
from loadgen.workload import rendered
from tests.fake_target import fake_target

ROOT = Path(__file__).resolve().parents[2]


class Echo:
    """Answer each request with its own body, and keep the bodies and heads by the path that was asked."""

    def __init__(self) -> None:
        self.base = ""
        self.bodies: dict[str, list[bytes]] = {}
        self.heads: dict[str, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                path = head.split(" ", 2)[1]
                length = head.partition("Content-Length: ")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                self.bodies.setdefault(path, []).append(body)
                self.heads[path] = head
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    """Serve an `Echo` to all tests of this module."""
    served = Echo()
    with fake_target(served.serve) as target:
        served.base = target.base
        yield served


def load(url: str, *arguments: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    """Run a short constant load; return exit code, JSON and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "load", url, "--rate", "40", "-d", "500ms", "--arrivals", "constant",
         "--json", "-o", "out", *arguments],
        cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_lines_are_sent_in_turn(echo: Echo, tmp_path: Path) -> None:
    """Every line goes out as it stands, as JSON by POST, in order, and no expectation is broken by an echo."""
    (tmp_path / "requests.jsonl").write_text('{"n": 0}\n{"n": 1, "more": true}\n\n{"n": 2}\n', encoding="utf-8")
    _, told, errors = load(
        f"{echo.base}/lines", "--body-lines", "requests.jsonl", "--connections", "1", "--expect-body-regex", '"n"',
        folder=tmp_path,
    )  # fmt: skip
    assert told["ok"] == told["offered"] == 20, errors
    lines = [b'{"n": 0}', b'{"n": 1, "more": true}', b'{"n": 2}']
    assert echo.bodies["/lines"] == [lines[k % 3] for k in range(len(echo.bodies["/lines"]))]
    assert "POST /lines HTTP/1.1\r\n" in echo.heads["/lines"]
    assert "Content-Type: application/json\r\n" in echo.heads["/lines"]
    assert "Accept-Encoding: identity\r\n" in echo.heads["/lines"]
    environment = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["environment"]
    assert (environment["workload"]["requests"], environment["workload"]["body_bytes"]) == (3, 38)


@pytest.mark.parametrize("shuffle", [None, 5])
def test_two_workers_send_what_one_would(echo: Echo, shuffle: int | None) -> None:
    """Over several steps, what comes in is the first part of the stream, whatever the number of workers."""
    step, sent = Step(rate_rps=300, duration_s=0.3, arrivals="constant"), []
    for workers in (1, 2):
        path = f"/share/{shuffle}/{workers}"
        endpoint = Endpoint.of(echo.base + path)
        bodies = [b"%d" % k for k in range(1000)]
        with rendered(bodies, lambda n, at=endpoint: request_head(at, None, {}, n), shuffle=shuffle) as workload:  # type: ignore[misc]
            setup = Setup(
                endpoint=endpoint, request=b"POST ", workload=workload, timeout_ns=5 * 10**9, connections=16,
                workers=workers,
            )  # fmt: skip
            fleet = Fleet(setup)
        with fleet:
            counts = [fleet.run_step(step, lambda _: False)[0].counts for _ in range(2)]
        assert [count["ok"] for count in counts] == [90, 90]
        sent.append(sorted(echo.bodies[path], key=int))
    assert sent[0] == sent[1]
    assert len(set(sent[0])) == 180
    assert (sent[0] == sorted((b"%d" % k for k in range(180)), key=int)) == (shuffle is None)


def test_a_template_s_bodies_are_the_seed_s(echo: Echo, tmp_path: Path) -> None:
    """Each request has fields of its own; a second run with the same seed sends the same."""
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        load(
            f"{echo.base}/{run}", "--body-template", '{"n": {{ seq }}, "x": {{ float(0, 1) }}}', "--seed", "3",
            folder=tmp_path / run,
        )  # fmt: skip
    one, two = ([json.loads(body) for body in echo.bodies[path]] for path in ("/a", "/b"))
    in_order = sorted(one, key=lambda body: int(body["n"]))
    assert in_order == sorted(two, key=lambda body: int(body["n"]))
    assert [body["n"] for body in in_order] == list(range(len(one)))
    assert len({body["x"] for body in one}) == len(one) >= 20
    assert "Accept-Encoding" not in echo.heads["/a"]


def test_a_wrong_reply_counts_against_the_sla(echo: Echo, tmp_path: Path) -> None:
    """Each is an error with words of its own, and the SLA does not hold."""
    (tmp_path / "r.jsonl").write_text('{"out": [4]}\n{"out": [3]}\n', encoding="utf-8")
    code, told, errors = load(
        f"{echo.base}/wrong", "--body-lines", "r.jsonl", "--expect-json", "/out/0=4", "--sla-p99", "10s",
        "-H", "accept-encoding: br", folder=tmp_path,
    )  # fmt: skip
    assert (told["ok"], told["errors"]) == (10, 10), errors
    assert code in (1, 4)  # on a busy machine the client may have been late as well
    step = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["steps"][0]
    assert step["counts"]["wrong_reply"] == 10
    assert step["errors"] == {"unexpected reply: /out/0 is 3, not 4": 10}
    assert step["judgement"]["verdict"] == "fail"
    assert "\r\naccept-encoding: br\r\n" in echo.heads["/wrong"]
    assert echo.heads["/wrong"].lower().count("accept-encoding") == 1


def test_a_search_tells_what_no_reply_was(echo: Echo, tmp_path: Path) -> None:
    """When not even one preflight reply is as expected, the first thing wrong with it is said, with exit code 5."""
    done = subprocess.run(
        [sys.executable, "-m", "loadgen", "run", echo.base, "--sla-p99", "1s", "--body", "no", "--expect-json", "/a=1"],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 5
    assert "preflight requests" in done.stderr
    assert "unexpected reply: the body is not JSON" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--body-lines", "bad.jsonl"], "bad.jsonl: line 2: is not JSON"),
        (["--body-template", "{{ wrds(3) }}"], "unknown field 'wrds'; did you mean 'words'?"),
        (["--expect-body-regex", "("], "'(' is not a regular expression"),
    ],
)
def test_a_user_s_mistake(echo: Echo, tmp_path: Path, arguments: list[str], says: str) -> None:
    """Exit 2 and one sentence, before anything is sent, and no folder is left."""
    (tmp_path / "bad.jsonl").write_text("{}\n{\n", encoding="utf-8")
    code, told, errors = load(f"{echo.base}/mistake", *arguments, folder=tmp_path)
    assert (code, told) == (2, {})
    assert says in errors
    assert len([line for line in errors.splitlines() if "error" in line]) == 1
    assert "/mistake" not in echo.bodies
