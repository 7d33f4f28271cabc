"""How a target is reached: TLS, unix sockets, IPv6, and names that move; real sockets and certificates made here."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from analysis import Step, StepProgress, StepResult
from loadgen.fleet import Fleet, Setup
from loadgen.target import Endpoint, request_bytes
from scenarios.scenario import Target
from tests.e2e.test_run import opfind
from tests.fake_target import FakeTarget, fake_target

Ran = tuple[StepResult, dict[str, Any], dict[str, int]]
SHORT = Step(rate_rps=40, duration_s=0.3, arrivals="constant")  # 12 requests
LAST_YEAR = datetime.now(UTC) - timedelta(days=365)


class Certificates:
    """Hold an authority, the file that names it, and what it issues."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = trustme.CA()
        self.cacert = str(folder / "ca.pem")
        self.authority.cert_pem.write_to_path(self.cacert)

    def server(self, *names: str, **fields: Any) -> ssl.SSLContext:
        """Return a server's settings with a certificate for some names."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names, **fields).configure_cert(context)
        return context

    def client(self) -> tuple[str, str, str]:
        """Return files of a client's certificate, of its key, and of both."""
        issued = self.authority.issue_cert("client@example.com")
        cert, key, both = (str(self.folder / f"client-{part}.pem") for part in ("cert", "key", "both"))
        issued.cert_chain_pems[0].write_to_path(cert)
        issued.private_key_pem.write_to_path(key)
        issued.private_key_and_cert_chain_pem.write_to_path(both)
        return cert, key, both


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Make an authority once."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def expired(certificates: Certificates) -> Iterator[FakeTarget]:
    """Serve with a certificate that ended a year ago."""
    context = certificates.server("localhost", "127.0.0.1", not_before=LAST_YEAR, not_after=LAST_YEAR)
    with fake_target(tls=context) as served:
        yield served


def run(
    url: str,
    step: Step = SHORT,
    overloaded: Callable[[StepProgress], bool] = lambda _: False,
    *,
    headers: dict[str, str] | None = None,
    timeout_ns: int = 2_000_000_000,
    re_resolve_s: float | None = None,
    **target: Any,
) -> Ran:
    """Run one step on a fleet of its own."""
    endpoint = Endpoint.of(url, Target(**target))
    request = request_bytes(endpoint, None, headers or {}, None)
    setup = Setup(
        endpoint=endpoint, request=request, timeout_ns=timeout_ns, connections=64, workers=1, re_resolve_s=re_resolve_s
    )
    with Fleet(setup) as fleet:
        return fleet.run_step(step, overloaded)


def assert_all_ok(ran: Ran) -> None:
    """Assert that requests were sent and that each was answered."""
    result, _, errors = ran
    assert (errors, result.counts["ok"]) == ({}, result.offered)
    assert result.offered > 0


def can_bind(family: socket.AddressFamily, address: str) -> bool:
    """Say whether this machine has an address."""
    try:
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


# TLS


def test_a_given_authority_is_trusted_and_sni_is_the_url_s_host(certificates: Certificates) -> None:
    """--cacert replaces the system's trust; a Host header of one's own reaches the server and does not change SNI."""
    heads: list[bytes] = []
    asked: list[str | None] = []
    context = certificates.server("localhost")
    context.sni_callback = lambda _, name, __: asked.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with fake_target(serve, tls=context) as target:
        url = target.base.replace("127.0.0.1", "localhost") + "/ok"
        ran = run(url, headers={"host": "virtual.test", "X-Model": "a b"}, cacert=certificates.cacert)
    assert_all_ok(ran)
    assert set(asked) == {"localhost"}
    lines = {tuple(head.decode().split("\r\n")) for head in heads}
    assert len(lines) == 1
    assert {"Host: virtual.test", "X-Model: a b"} < set(next(iter(lines)))
    assert heads[0].lower().count(b"host:") == 1


def test_an_address_is_verified_and_asks_for_no_name(certificates: Certificates) -> None:
    """For https://127.0.0.1 the certificate must name the address, and SNI, which takes names only, is left out."""
    asked: list[str | None] = []
    context = certificates.server("127.0.0.1")
    context.sni_callback = lambda _, name, __: asked.append(name)
    with fake_target(tls=context) as target:
        assert_all_ok(run(target.base + "/ok", cacert=certificates.cacert))
        assert set(asked) == {None}


def test_an_expired_certificate_is_a_connect_error_that_says_so(
    certificates: Certificates, expired: FakeTarget
) -> None:
    """Every request fails with the reason and what would help."""
    result, _, errors = run(expired.base + "/ok", cacert=certificates.cacert)
    assert result.counts["connect_error"] == result.offered == 12
    assert list(errors) == [
        "cannot connect: the TLS certificate is not accepted: certificate has expired; skip the check with --insecure"
    ]


def test_a_certificate_for_another_name_is_refused(certificates: Certificates) -> None:
    """The reason names the host that was asked for."""
    with fake_target(tls=certificates.server("other.test")) as target:
        result, _, errors = run(target.base.replace("127.0.0.1", "localhost") + "/ok", cacert=certificates.cacert)
    assert result.counts["connect_error"] == result.offered == 12
    assert "Hostname mismatch, certificate is not valid for 'localhost'; skip" in next(iter(errors))


def test_an_unknown_authority_is_refused(certificates: Certificates) -> None:
    """Without --cacert the system's trust holds, and the remedy is named."""
    with fake_target(tls=certificates.server("127.0.0.1")) as target:
        result, _, errors = run(target.base + "/ok")
    assert result.counts["connect_error"] == result.offered == 12
    assert "issuer certificate" in next(iter(errors))
    assert "--cacert FILE" in next(iter(errors))


def test_insecure_takes_any_certificate(expired: FakeTarget) -> None:
    """--insecure checks neither date, name nor authority."""
    assert_all_ok(run(expired.base.replace("127.0.0.1", "localhost") + "/ok", insecure=True))


def test_a_client_certificate_is_shown(certificates: Certificates) -> None:
    """A server that asks for one gets it, from two files or from one; without one no request succeeds."""
    context = certificates.server("127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(certificates.cacert)
    cert, key, both = certificates.client()
    with fake_target(tls=context) as target:
        url = target.base + "/ok"
        assert_all_ok(run(url, cacert=certificates.cacert, cert=cert, key=key))
        assert_all_ok(run(url, cacert=certificates.cacert, cert=both))
        result, _, _ = run(url, cacert=certificates.cacert)
    assert result.counts["ok"] == 0
    assert result.offered == 12


def test_a_slow_handshake_ends_at_the_timeout() -> None:
    """A server that takes the connection and never shakes hands costs each request its timeout, and no more."""

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    with fake_target(say_nothing) as target:
        result, _, errors = run(target.base.replace("http:", "https:"), timeout_ns=300_000_000)
    assert result.counts["connect_error"] + result.counts["unsent"] == result.offered == 12
    assert set(errors) <= {"cannot connect: connecting took too long", "no free connection before the timeout"}
    assert (result.end_ns - result.start_ns) / 1e9 < 5


def test_a_plain_server_behind_an_https_url() -> None:
    """The most frequent mix-up is named."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    with fake_target(refuse) as target:
        result, _, errors = run(target.base.replace("http:", "https:"))
    assert result.counts["connect_error"] == result.offered == 12
    assert list(errors)[0].endswith("does it speak plain http?")  # noqa: RUF015 (the dict must not be empty)


def test_a_server_that_hangs_up_during_the_handshake() -> None:
    """It is said that it was the handshake."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    with fake_target(hang_up) as target:
        result, _, errors = run(target.base.replace("http:", "https:"))
    assert result.counts["connect_error"] == result.offered == 12
    assert "TLS handshake" in next(iter(errors)) or "reset by peer" in next(iter(errors))


def test_the_preflight_ends_the_run_with_the_reason_and_the_remedy(
    certificates: Certificates, expired: FakeTarget, tmp_path: Path
) -> None:
    """Exit 5, one sentence."""
    done = opfind("run", expired.base + "/ok", "--sla-p99", "1s", "--cacert", certificates.cacert, folder=tmp_path)
    assert done.returncode == 5
    assert "certificate has expired" in done.stderr
    assert "--insecure" in done.stderr
    assert "Traceback" not in done.stderr


def test_insecure_is_said_wherever_the_answer_is(expired: FakeTarget, tmp_path: Path) -> None:
    """Terminal, summary.md and report.html all say that nobody checked who answered."""
    done = opfind("load", expired.base + "/ok", "--insecure", "--rate", "40", "-d", "1s", "-o", "out", folder=tmp_path)
    said = "TLS certificates were NOT verified"
    assert said in done.stdout, done.stderr
    assert said in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert said in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


# unix sockets and IPv6


def test_a_unix_socket_is_reached_with_the_url_s_host_and_path(tmp_path: Path, certificates: Certificates) -> None:
    """--unix-socket says where to connect, the URL what to ask for; https speaks TLS over it."""
    path = str(tmp_path / "model.sock")
    with fake_target(address=path) as target:
        assert_all_ok(run("http://nobody.invalid/ok?a=b", unix_socket=path))
        assert target.requests["/ok?a=b"] == 12
    Path(path).unlink(missing_ok=True)
    with fake_target(address=path, tls=certificates.server("model.test")):
        assert_all_ok(run("https://model.test/ok", unix_socket=path, cacert=certificates.cacert))


def test_a_missing_unix_socket_is_named(tmp_path: Path) -> None:
    """Exit 5, one sentence with the path, and nothing left behind."""
    done = opfind("run", "http://h/", "--sla-p99", "1s", "--unix-socket", "none.sock", folder=tmp_path)
    assert done.returncode == 5
    assert "unix socket 'none.sock': No such file or directory" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3  # the plan and the title, where they came first
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "opfind-runs"])


def test_ipv6_by_address_and_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """http://[::1] works, and so does a name that leads there."""
    if not can_bind(socket.AF_INET6, "::1"):
        pytest.skip("this machine has no ::1")
    with fake_target(address="::1") as target:
        assert_all_ok(run(target.base + "/ok"))
        port = int(target.base.rpartition(":")[2])
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [six])
        assert_all_ok(run(f"http://model.test:{port}/ok"))
        assert target.requests["/ok"] == 24


# names that move


class FakeNames:
    """Resolve every name as told; stands in for `socket.getaddrinfo` in the coordinator."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.error: OSError | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked = 0

    def __call__(self, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        """Answer, once that is allowed."""
        self.asked += 1
        self.may_answer.wait(20)
        if self.error:
            raise self.error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.address, self.port))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeNames, FakeTarget, FakeTarget]]:
    """Serve two targets on one port of two addresses, of which the name leads to the first."""
    if not can_bind(socket.AF_INET, "127.0.0.2"):
        pytest.skip("this machine's loopback has one address only")
    with fake_target() as first:
        port = int(first.base.rpartition(":")[2])
        with fake_target(address="127.0.0.2", port=port) as second:
            fake = FakeNames("127.0.0.1", port)
            monkeypatch.setattr(socket, "getaddrinfo", fake)
            yield fake, first, second
            fake.may_answer.set()


def test_a_name_is_resolved_once(names: tuple[FakeNames, FakeTarget, FakeTarget]) -> None:
    """Without --re-resolve nobody asks again, whatever becomes of the name."""
    fake, first, second = names
    endpoint = Endpoint.of(f"http://model.test:{fake.port}/close")
    fake.address = "127.0.0.2"
    request = request_bytes(endpoint, None, {}, None)
    with Fleet(Setup(endpoint=endpoint, request=request, timeout_ns=10**9, connections=8, workers=1)) as fleet:
        result, client, _ = fleet.run_step(SHORT, lambda _: False)
    assert (first.requests["/close"], second.requests["/close"]) == (result.offered, 0)
    assert fake.asked == 1
    assert "address" not in client


def test_new_connections_follow_the_name(names: tuple[FakeNames, FakeTarget, FakeTarget]) -> None:
    """With --re-resolve a name that moves during a step takes the new connections with it; no request is hurt."""
    fake, first, second = names

    def move(progress: StepProgress) -> bool:
        if progress.elapsed_s > 0.3:
            fake.address = "127.0.0.2"
        return False

    step = Step(rate_rps=40, duration_s=2.0, arrivals="constant")
    ran = run(f"http://model.test:{fake.port}/close", step, move, re_resolve_s=0.05)
    assert_all_ok(ran)
    assert first.requests["/close"] > 0
    assert second.requests["/close"] > 0
    assert ran[1]["address"] == "127.0.0.2"
    assert ran[1]["resolve_failures"] == 0


@pytest.mark.parametrize("load", [{"rate_rps": 40.0, "arrivals": "constant"}, {"users": 3}])
def test_connections_to_an_address_that_is_gone_are_left(
    names: tuple[FakeNames, FakeTarget, FakeTarget], load: dict[str, Any]
) -> None:
    """Connections that were kept alive are closed as their replies come: nobody is cut off, nobody stays."""
    fake, first, second = names
    seen_by_first = []

    def move(progress: StepProgress) -> bool:
        if progress.elapsed_s > 0.3:
            fake.address = "127.0.0.2"
        if second.requests["/slow/5"] > 0:
            seen_by_first.append(first.requests["/slow/5"])
        return False

    ran = run(f"http://model.test:{fake.port}/slow/5", Step(duration_s=2.0, **load), move, re_resolve_s=0.05)
    assert_all_ok(ran)
    assert first.requests["/slow/5"] > 0
    assert second.requests["/slow/5"] > 0
    assert len(set(seen_by_first[1:])) == 1


def test_a_failing_look_up_keeps_the_address_and_is_noted(names: tuple[FakeNames, FakeTarget, FakeTarget]) -> None:
    """The load goes on where it went; the step says that the resolver failed, and how."""
    fake, first, _ = names

    def fail(progress: StepProgress) -> bool:
        fake.error = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return False

    step = Step(rate_rps=40, duration_s=1.0, arrivals="constant")
    ran = run(f"http://model.test:{fake.port}/close", step, fail, re_resolve_s=0.05)
    assert_all_ok(ran)
    assert first.requests["/close"] == ran[0].offered
    assert ran[1]["address"] == "127.0.0.1"
    assert ran[1]["resolve_failures"] > 0
    assert "Temporary failure in name resolution" in ran[1]["resolve_error"]


def test_a_resolver_that_hangs_holds_nothing_up(names: tuple[FakeNames, FakeTarget, FakeTarget]) -> None:
    """While the system's resolver blocks, the step runs, ends, and so does the fleet."""
    fake, _, _ = names

    def hang(progress: StepProgress) -> bool:
        fake.may_answer.clear()
        return False

    step = Step(rate_rps=40, duration_s=1.0, arrivals="constant")
    assert_all_ok(run(f"http://model.test:{fake.port}/ok", step, hang, re_resolve_s=0.05))
    assert not fake.may_answer.is_set()
