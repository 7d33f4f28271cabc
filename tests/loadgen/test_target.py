"""Targets: what a URL means, and the bytes of a request."""

import socket

import pytest

from loadgen.errors import TargetError, UsageError
from loadgen.target import Endpoint, request_bytes


def test_a_url_is_taken_apart() -> None:
    """Host, port, path and query are what the URL says."""
    endpoint = Endpoint.of("http://127.0.0.1:8000/v2/infer?a=b")
    assert (endpoint.host, endpoint.port, endpoint.path, endpoint.is_tls) == (
        "127.0.0.1", 8000, "/v2/infer?a=b", False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("url", "port", "path"), [("127.0.0.1:9/x", 9, "/x"), ("http://127.0.0.1", 80, "/"), ("https://[::1]", 443, "/")]
)
def test_defaults_of_a_url(url: str, port: int, path: str) -> None:
    """The scheme may be left out, and gives the port."""
    endpoint = Endpoint.of(url)
    assert (endpoint.port, endpoint.path) == (port, path)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://127.0.0.1/", "not an http or https URL"),
        ("http://127.0.0.1:99999/", "not a URL"),
        ("http://", "not an http or https URL"),
        ("http://127.0.0.1/a b", "percent-encode"),
        ("http://me:secret@127.0.0.1/", "Authorization"),
    ],
)
def test_a_bad_url_is_a_usage_error_without_secrets(url: str, says: str) -> None:
    """The message names the rule, and never repeats a password."""
    with pytest.raises(UsageError, match=says) as error:
        Endpoint.of(url)
    assert "secret" not in str(error.value)


def test_an_unknown_host_is_the_target_s_failure() -> None:
    """A name that does not resolve is said to be so."""
    with pytest.raises(TargetError, match=r"cannot resolve the host 'nobody\.invalid'"):
        Endpoint.of("http://nobody.invalid/")


def test_a_body_makes_a_json_post() -> None:
    """With a body: POST, JSON, its length in bytes."""
    request = request_bytes(Endpoint.of("http://127.0.0.1:8000/x"), None, {}, '{"ä": 1}'.encode())
    head, body = request.split(b"\r\n\r\n")
    assert head.split(b"\r\n")[:2] == [b"POST /x HTTP/1.1", b"Host: 127.0.0.1:8000"]
    assert b"Content-Type: application/json" in head
    assert b"Content-Length: 9" in head
    assert body == '{"ä": 1}'.encode()


def test_without_a_body_it_is_a_get() -> None:
    """No body: GET, no length."""
    request = request_bytes(Endpoint.of("http://[::1]:8000/"), None, {}, None)
    assert request.startswith(b"GET / HTTP/1.1\r\nHost: [::1]:8000\r\n")
    assert b"Content-" not in request


def test_headers_replace_defaults_whatever_their_case() -> None:
    """A user's header stands once."""
    request = request_bytes(Endpoint.of("127.0.0.1"), "put", {"content-type": "text/plain", "X-A": "1"}, b"x")
    assert request.startswith(b"PUT ")
    assert request.lower().count(b"content-type") == 1
    assert b"text/plain" in request
    assert b"X-A: 1\r\n" in request


@pytest.mark.parametrize(
    ("method", "headers"), [("GE T", {}), (None, {"A b": "1"}), (None, {"A": "1\r\nB: 2"}), (None, {"A": "€"})]
)
def test_what_would_break_the_request_is_refused(method: str | None, headers: dict[str, str]) -> None:
    """No method and no header can smuggle a line of its own."""
    with pytest.raises(UsageError):
        request_bytes(Endpoint.of("127.0.0.1"), method, headers, None)


def test_a_name_with_two_addresses_finds_the_one_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` may resolve to ::1 first while the server listens on 127.0.0.1 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [six, four])
        assert Endpoint.of(f"http://localhost:{port}/").address == "127.0.0.1"
