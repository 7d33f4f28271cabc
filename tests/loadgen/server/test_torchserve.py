from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.loadgen.server.serving import FAST, QUICK, Served, serving


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """Serve one model to the tests of this module."""
    with serving(FAST) as server:
        yield server


@pytest.mark.parametrize("path", ["/predictions/fast", "/predictions/fast/1.0"])
@pytest.mark.parametrize(("body", "kind"), [(b"\x89PNG", "image/png"), (b'{"data": [1]}', "application/json")])
def test_prediction_gives_back_what_it_got(served: Served, path: str, body: bytes, kind: str) -> None:
    """Any body of any type is computed on, and the simulated model's answer is what it got."""
    reply = served.ask(path, body, Content_Type=kind)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, body, kind)


def test_health_and_management(served: Served) -> None:
    """The server tells that it is healthy, which models it has, and how each is set."""
    assert served.ask("/ping").json() == {"status": "Healthy"}
    assert served.ask("/models").json() == {"models": [{"modelName": "fast", "modelUrl": "fast"}]}
    (about,) = served.ask("/models/fast").json()
    assert (about["batchSize"], about["maxBatchDelay"], about["minWorkers"]) == (32, 1, 1)
    assert about["workers"] == [{"id": "0", "status": "READY"}]


def test_errors_have_torchserves_form(served: Served) -> None:
    """An unknown model is 404, a batch that fails 500, as objects of code, type and message."""
    for path in ("/predictions/slow", "/models/slow"):
        reply = served.ask(path, method="GET")
        assert (reply.status, reply.json()) == (
            404, {"code": 404, "type": "ModelNotFoundException", "message": "Model not found: slow"},
        )  # fmt: skip

    with serving(replace(FAST, device=replace(QUICK, failure_share=1.0))) as server:
        reply = server.ask("/predictions/fast", b"x")
    assert (reply.status, reply.json()["type"]) == (500, "InternalServerException")
