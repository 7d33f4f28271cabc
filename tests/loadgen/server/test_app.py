import asyncio
from collections.abc import Awaitable, Callable, Sequence
from threading import Event
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from loadgen.clock import now_ns
from loadgen.server.app import App
from loadgen.server.config import ServerConfig
from loadgen.server.device import Device, SimulatedDevice
from loadgen.server.job import Job

FAST = ServerConfig(t0_ms=0.1, t1_ms=0.0, max_queue_delay_us=1000)
Client = TestClient[Request, Application]


def serving(
    check: Callable[[Client], Awaitable[None]], config: ServerConfig = FAST, device: Device | None = None
) -> None:
    """Serve on a free loopback port while `check` runs."""

    async def run() -> None:
        app = App(config, device or SimulatedDevice(config.gpu()), asyncio.get_running_loop())
        app.group.start()
        try:
            async with TestClient(TestServer(app.web_app())) as client:
                await check(client)
        finally:
            app.group.stop()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (b'{"inputs": [1, 2.5, "\\u00e9", null]}', [1, 2.5, "é", None]),
        (b'{"other": 1}', None),
        (b"{}", None),
        (b"", None),
    ],
)
def test_predict_answers_with_its_outputs(body: bytes, outputs: Any) -> None:
    """A request gets the device's outputs, its batch's size, and both of its times."""

    async def check(client: Client) -> None:
        async with client.post("/predict", data=body) as response:
            assert response.status == 200
            answer = await response.json()
        assert answer["outputs"] == outputs
        assert answer["batch_size"] == 1
        assert answer["queue_ms"] == pytest.approx(1.0)
        assert 0.05 < answer["compute_ms"] < 0.2

    serving(check)


def test_predict_answers_get() -> None:
    """A plain GET is a request without inputs, so that a load test without a body works."""

    async def check(client: Client) -> None:
        async with client.get("/predict") as response:
            assert response.status == 200
            assert (await response.json())["outputs"] is None

    serving(check)


def test_concurrent_requests_share_a_batch() -> None:
    """Requests that wait together leave in one batch, and each gets its own outputs."""

    async def check(client: Client) -> None:
        async def ask(number: int) -> dict[str, Any]:
            async with client.post("/predict", json={"inputs": number}) as response:
                answer: dict[str, Any] = await response.json()
                return answer

        answers = await asyncio.gather(*map(ask, range(4)))
        assert [answer["outputs"] for answer in answers] == [0, 1, 2, 3]
        assert {answer["batch_size"] for answer in answers} == {4}

    serving(check, ServerConfig(t0_ms=0.1, t1_ms=0.0, max_batch_size=4, max_queue_delay_us=10_000_000))


@pytest.mark.parametrize(
    "body",
    [b"{", b"[1]", b"7", b"null", b'{"inputs": NaN}', b"\xff\xfe", b'{"inputs": ' + b"9" * 5000 + b"}", b"[" * 100_000],
)
def test_malformed_body_is_400_with_one_sentence(body: bytes) -> None:
    """Whatever is no JSON object is refused in one sentence, and the server goes on."""

    async def check(client: Client) -> None:
        async with client.post("/predict", data=body) as response:
            assert response.status == 400
            error = (await response.json())["error"]
        assert error.startswith("The body is not")
        assert error.endswith(".")
        async with client.post("/predict") as response:
            assert response.status == 200

    serving(check)


def test_nesting_is_answered_or_refused() -> None:
    """JSON of any depth up to and beyond the parser's limit gets 200 or 400, never 500."""

    async def check(client: Client) -> None:
        seen = set()
        for depth in [*range(900, 1000, 1), 5000]:
            async with client.post("/predict", data=b'{"inputs": ' + b"[" * depth + b"]" * depth + b"}") as response:
                seen.add(response.status)
        assert seen == {200, 400}

    serving(check, ServerConfig(t0_ms=0.0, t1_ms=0.0, max_queue_delay_us=0))


@pytest.mark.parametrize("chunked", [False, True])
def test_large_body_is_413(chunked: bool) -> None:
    """A body above the bound is refused, with and without a Content-Length."""

    async def stream() -> Any:
        for _ in range(20):
            yield b"x" * 100

    async def check(client: Client) -> None:
        async with client.post("/predict", data=stream() if chunked else b"x" * 2000) as response:
            assert response.status == 413
            assert await response.json() == {"error": "The body is larger than 1000 bytes."}

    serving(check, ServerConfig(t0_ms=0.1, max_body_bytes=1000))


class Gate:
    """A device that holds its batches until it is opened, and then fails those whose inputs are "crash"."""

    def __init__(self) -> None:
        self.entered, self.open = Event(), Event()

    def run(self, jobs: Sequence[Job], start_ns: int) -> tuple[Sequence[Any], int]:
        """Hold a batch."""
        self.entered.set()
        self.open.wait(20)
        if any(job.inputs == "crash" for job in jobs):
            raise StopIteration
        return [None for _ in jobs], now_ns()


def test_full_queue_is_503_with_retry_after() -> None:
    """Beyond the queue's bound a request is refused at once, and the accepted ones are answered."""
    gate = Gate()

    async def check(client: Client) -> None:
        first = asyncio.create_task(client.post("/predict"))
        await asyncio.to_thread(gate.entered.wait, 20)
        second = asyncio.create_task(client.post("/predict"))
        while "opfind_server_queue_length 1.0" not in await (await client.get("/metrics")).text():
            pass
        async with client.post("/predict") as response:
            assert response.status == 503
            assert response.headers["Retry-After"] == "1"
            assert await response.json() == {"error": "The queue is full; try again later."}
        gate.open.set()
        assert [(await first).status, (await second).status] == [200, 200]

    serving(check, ServerConfig(max_batch_size=1, max_queue_delay_us=0, max_queue_size=1), gate)


def test_failed_batch_is_500() -> None:
    """A device that raises fails the requests of its batch, and only those."""
    gate = Gate()
    gate.open.set()

    async def check(client: Client) -> None:
        async with client.post("/predict", json={"inputs": "crash"}) as response:
            assert response.status == 500
            assert await response.json() == {"error": "The batch failed with StopIteration."}
        async with client.post("/predict") as response:
            assert response.status == 200
        assert 'outcome="failed"} 1.0' in await (await client.get("/metrics")).text()

    serving(check, FAST, gate)


def test_healthz_follows_the_instances() -> None:
    """The server is ready while its instances run, and no longer when they do not."""

    async def check() -> None:
        app = App(FAST, SimulatedDevice(FAST.gpu()), asyncio.get_running_loop())
        async with TestClient(TestServer(app.web_app())) as client:
            assert (await client.get("/healthz")).status == 503
            app.group.start()
            response = await client.get("/healthz")
            assert response.status == 200
            assert await response.json() == {"ready": True}
            app.group.stop()
            assert (await client.get("/healthz")).status == 503

    asyncio.run(check())


def test_metrics_count_requests_batches_and_times() -> None:
    """Prometheus' page counts requests by outcome, batches by size, and both times."""

    async def check(client: Client) -> None:
        for _ in range(3):
            await (await client.post("/predict")).read()
        await (await client.post("/predict", data=b"{")).read()
        response = await client.get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        lines = (await response.text()).splitlines()
        for line in (
            'opfind_server_requests_total{outcome="ok"} 3.0',
            'opfind_server_requests_total{outcome="invalid"} 1.0',
            'opfind_server_requests_total{outcome="refused"} 0.0',
            "opfind_server_batch_rows_sum 3.0",
            "opfind_server_compute_seconds_count 3.0",
            "opfind_server_queue_seconds_count 3.0",
            "opfind_server_queue_length 0.0",
        ):
            assert line in lines

    serving(check)
