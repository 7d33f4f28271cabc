"""Targets: what a URL means, and the bytes of a request."""

import socket
import ssl
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from loadgen.errors import TargetError, UsageError
from loadgen.target import Endpoint, request_bytes
from scenarios.scenario import Target


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
        ("ftp://127.0.0.1/", "not an HTTP address"),
        ("http://127.0.0.1:99999/", "not a URL"),
        ("http://127.0.0.1:0/", "not an HTTP address"),
        ("http://", "not an HTTP address"),
        ("http://127.0.0.1/a b", "percent-encode"),
        ("http://127.0.0.1/ä", "percent-encode"),
        ("http://bücher.test/", "xn--"),
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


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:443/", "127.0.0.1:443"),
        ("http://127.0.0.1:80/", "127.0.0.1"),
        ("https://127.0.0.1:443/", "127.0.0.1"),
        ("https://127.0.0.1:80/", "127.0.0.1:80"),
    ],
)
def test_host_names_the_port_unless_the_scheme_implies_it(url: str, host: str) -> None:
    """A port is left out only where it is the scheme's own (RFC 9110, section 7.2)."""
    assert f"\r\nHost: {host}\r\n".encode() in request_bytes(Endpoint.of(url), None, {}, None)


def test_a_link_s_zone_stays_at_home() -> None:
    """The zone of an address means something to this machine only (RFC 6874, section 4)."""
    endpoint = replace(Endpoint.of("127.0.0.1:8000"), host="fe80::1%eth0")
    assert b"\r\nHost: [fe80::1]:8000\r\n" in request_bytes(endpoint, None, {}, None)


def test_a_host_header_of_one_s_own_stands_alone() -> None:
    """It replaces the URL's, whatever its case."""
    request = request_bytes(Endpoint.of("127.0.0.1:8000"), None, {"HOST": "virtual.test"}, None)
    assert b"\r\nHost: virtual.test\r\n" in request
    assert request.lower().count(b"\r\nhost:") == 1


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a client's certificate, its key, an encrypted key, another's key, and what is none of these."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    mine, other = authority.issue_cert("mine.test"), authority.issue_cert("other.test")
    mine.cert_chain_pems[0].write_to_path(str(folder / "cert"))
    mine.private_key_pem.write_to_path(str(folder / "key"))
    other.private_key_pem.write_to_path(str(folder / "other"))
    loaded = serialization.load_pem_private_key(mine.private_key_pem.bytes(), None)
    form, lock = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"hunter2")
    (folder / "locked").write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, lock))
    (folder / "empty").touch()
    return folder


def test_good_files_make_a_context(files: Path) -> None:
    """Authority, certificate and key are read as the endpoint is made, and again in each worker."""
    target = Target(cacert=str(files / "ca"), cert=str(files / "cert"), key=str(files / "key"))
    context = Endpoint.of("https://127.0.0.1/", target).tls_context()
    assert context is not None
    assert context.cert_store_stats()["x509"] == 1
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"cacert": "none"}, r"--cacert '.*none': cannot be read \(No such file"),
        ({"cacert": "."}, r"--cacert '.*': cannot be read \(Is a directory"),
        ({"cacert": "empty"}, r"--cacert '.*empty': .*; name a PEM file of certificates"),
        ({"cacert": "key"}, r"--cacert '.*key': .*; name a PEM file of certificates"),
        ({"cert": "none"}, r"--cert '.*none': cannot be read"),
        ({"cert": "cert", "key": "none"}, r"--key '.*none': cannot be read"),
        ({"cert": "cert", "key": "other"}, r"--cert '.*cert' with --key '.*other': key values mismatch"),
        ({"cert": "cert"}, r"--cert '.*cert': holds no private key: name it with --key$"),
        ({"cert": "empty", "key": "key"}, r"--cert '.*empty' with --key"),
        ({"cert": "empty"}, r"--cert '.*empty': not in PEM format; name PEM files"),
        ({"cert": "cert", "key": "locked"}, r"the private key in '.*locked' is encrypted: decrypt it first"),
    ],
)
def test_a_bad_file_is_a_usage_error_that_names_it(files: Path, names: dict[str, str], says: str) -> None:
    """What cannot be read or does not fit ends before any load, in one sentence."""
    named: dict[str, Any] = {field: str(files / name) for field, name in names.items()}
    with pytest.raises(UsageError, match=says) as error:
        Endpoint.of("https://127.0.0.1/", Target(**named))
    assert "\n" not in str(error.value)


def test_a_bad_unix_socket_is_the_target_s_failure(tmp_path: Path) -> None:
    """Missing, no socket at all, nobody listening: each is named with its path."""
    stale, plain = tmp_path / "stale", tmp_path / "plain"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(stale))
    plain.touch()
    for path in (tmp_path / "none", stale, plain):
        with pytest.raises(TargetError, match=f"cannot connect to the unix socket '{path}': .+; check --unix-socket"):
            Endpoint.of("http://h/", Target(unix_socket=str(path)))


def test_a_unix_socket_s_path_has_a_longest_length() -> None:
    """One byte more than the system takes is a usage error that says how many bytes there may be."""
    longest = 107 if sys.platform == "linux" else 103
    with pytest.raises(TargetError, match="No such file"):
        Endpoint.of("http://h/", Target(unix_socket="x" * longest))
    with pytest.raises(UsageError, match=rf"is {longest + 1} bytes long, and a unix socket's path may have {longest}"):
        Endpoint.of("http://h/", Target(unix_socket="x" * (longest - 1) + "ä"))


def test_a_name_with_two_addresses_finds_the_one_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` may resolve to ::1 first while the server listens on 127.0.0.1 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        six = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0))
        four = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [six, four])
        assert Endpoint.of(f"http://localhost:{port}/").address == "127.0.0.1"
