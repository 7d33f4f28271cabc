"""Where the load goes, how to reach it, and the bytes of one request to it."""

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from loadgen.errors import TargetError, UsageError
from scenarios.legal import check_headers, check_method, check_url
from scenarios.scenario import Target

_PROBE_S = 2.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNIX_PATH_BYTES = 107 if sys.platform == "linux" else 103  # sun_path in sys/un.h, less its NUL
_UNKNOWN_ISSUER = (18, 19, 20, 21)  # X509_V_ERR_…: self-signed, and three ways of not finding an issuer
_JUST_A_URL = Target()
_Protocol = TypeVar("_Protocol", bound=asyncio.Protocol)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Name one resource of a server and how to reach it, its address resolved once.

    Attributes:
        host: Name or address as the URL has it, without brackets; TLS asks for it and checks it (SNI).
        port: TCP port.
        path: Path and query, as sent in the request line.
        is_tls: Speak TLS.
        address: The first address of `host` that accepts a connection, the first at all if none does; or a unix
            socket's path.
        family: Its `socket` address family.
        cacert: File of the authorities to trust; None: those that the system trusts.
        insecure: Take any certificate.
        cert: File of the client's certificate, or None.
        key: File of its private key; None: it is in `cert`.
    """

    host: str
    port: int
    path: str
    is_tls: bool
    address: str
    family: int = field(default=socket.AF_INET)
    cacert: str | None = None
    insecure: bool = False
    cert: str | None = None
    key: str | None = None

    @classmethod
    def of(cls, url: str, target: Target = _JUST_A_URL) -> "Endpoint":
        """Parse a URL, read the TLS files, and find the address.

        Args:
            url: With or without `http://`.
            target: Says how to reach it; its own URL is not read.

        Raises:
            UsageError: It is no http or https URL, a file does not hold what it should, or a socket's path is too long.
            TargetError: Its host does not resolve, or there is no such unix socket.
        """
        url = url if "://" in url else f"http://{url}"
        try:
            check_url(url)
        except ValueError as error:
            raise UsageError(str(error)) from None
        parts = urlsplit(url)
        host, port = str(parts.hostname), parts.port or _DEFAULT_PORTS[parts.scheme]
        if target.unix_socket is not None:
            family, address = _unix_socket(target.unix_socket)
        else:
            family, address = first_accepting(resolve(host, port))
        endpoint = cls(
            host=host, port=port, path=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
            is_tls=parts.scheme == "https", address=address, family=family, cacert=target.cacert,
            insecure=target.insecure, cert=target.cert, key=target.key,
        )  # fmt: skip
        endpoint.tls_context()
        return endpoint

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings for connections, or None for plain ones.

        Raises:
            UsageError: A file cannot be read, or does not hold what it should.
        """
        if not self.is_tls:
            return None
        for flag, name in (("--cacert", self.cacert), ("--cert", self.cert), ("--key", self.key)):
            if name is not None:
                _check_readable(flag, name)
        try:
            context = ssl.create_default_context(cafile=self.cacert)
        except ssl.SSLError as error:
            raise UsageError(f"--cacert '{self.cacert}': {_reason(error)}; name a PEM file of certificates") from None
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.cert is not None:
            _load_client_certificate(context, self.cert, self.key)
        context.set_alpn_protocols(["http/1.1"])
        return context


def _load_client_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    try:
        context.load_cert_chain(cert, key, password=lambda: _refuse_encrypted(key or cert))
    except ssl.SSLError as error:
        if key is None and _holds_no_key(cert):
            raise UsageError(f"--cert '{cert}': holds no private key: name it with --key") from None
        files = f"--cert '{cert}'" + (f" with --key '{key}'" if key is not None else "")
        raise UsageError(
            f"{files}: {_reason(error)}; name PEM files of a certificate and of the private key that belongs to it"
        ) from None


def _holds_no_key(name: str) -> bool:
    """Say that a PEM file holds a certificate and nothing else."""
    content = Path(name).read_bytes()
    return b"CERTIFICATE-----" in content and b"PRIVATE KEY-----" not in content


def _check_readable(flag: str, name: str) -> None:
    try:
        with Path(name).open("rb"):
            pass
    except (OSError, ValueError) as error:
        raise UsageError(f"{flag} '{name}': cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _refuse_encrypted(name: str) -> NoReturn:
    """Refuse where OpenSSL would ask the terminal for a password, in every process."""
    raise UsageError(f"the private key in '{name}' is encrypted: decrypt it first, as 'openssl pkey' does")


def _reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's reason in words, without its codes; Python leaves it empty for some."""
    return error.reason.replace("_", " ").lower() if error.reason else "not in PEM format"


def _unix_socket(path: str) -> tuple[int, str]:
    length = len(os.fsencode(path))
    if length > _UNIX_PATH_BYTES:
        raise UsageError(
            f"--unix-socket '{path}': is {length} bytes long, and a unix socket's path may have {_UNIX_PATH_BYTES}: "
            "name a shorter one, such as a relative path or a link"
        )
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TargetError(f"cannot connect to the unix socket '{path}': {reason}; check --unix-socket") from None
    return socket.AF_UNIX, path


def resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    """Return what `socket.getaddrinfo` gives for a host; it may take its resolver's patience, seconds.

    Raises:
        TargetError: It does not resolve.
    """
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TargetError(f"cannot resolve the host '{host}': {reason}; check the URL") from None


def first_accepting(resolved: list[tuple[Any, ...]]) -> tuple[int, str]:
    """Return family and address of the first that accepts a connection, of the first at all if none does."""
    family, _, _, _, address = next(filter(_accepts, resolved), resolved[0])
    return int(family), str(address[0])


def _accepts(resolved: tuple[Any, ...]) -> bool:
    """Say whether somebody listens at an address: `localhost` may name two, with a server on one of them."""
    family, kind, protocol, _, address = resolved
    try:
        with socket.socket(family, kind, protocol) as probe:
            probe.settimeout(_PROBE_S)
            probe.connect(address)
    except OSError:
        return False
    return True


async def open_connection(
    loop: asyncio.AbstractEventLoop,
    endpoint: Endpoint,
    context: ssl.SSLContext | None,
    protocol: Callable[[], _Protocol],
) -> _Protocol:
    """Connect, shake hands where it is TLS, and return the protocol made for the connection.

    Raises:
        OSError: It failed; `strerror` says why, and what would help.
    """
    # An address is no server name for SNI, which Python leaves out by itself, but the certificate must name it.
    name = endpoint.host if context else None
    try:
        if endpoint.family == socket.AF_UNIX:
            _, made = await loop.create_unix_connection(protocol, endpoint.address, ssl=context, server_hostname=name)
        else:
            _, made = await loop.create_connection(
                protocol, endpoint.address, endpoint.port, family=endpoint.family, ssl=context, server_hostname=name
            )
    except OSError as error:
        raise OSError(error.errno, failure_words(error)) from None
    return made


def failure_words(error: OSError) -> str:
    """Say why a connection failed; of a certificate, what would help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        what = "trust its CA with --cacert FILE, or skip" if error.verify_code in _UNKNOWN_ISSUER else "skip"
        return f"the TLS certificate is not accepted: {why}; {what} the check with --insecure"
    if isinstance(error, ssl.SSLError):
        why = (error.reason or str(error)).replace("_", " ").lower()
        return f"TLS failed: {why}" + ("; does it speak plain http?" if why == "wrong version number" else "")
    return error.strerror or str(error) or "connection reset during the TLS handshake"


def request_bytes(endpoint: Endpoint, method: str | None, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Build one HTTP/1.1 request; see `request_head`."""
    return request_head(endpoint, method, headers, None if body is None else len(body)) + (body or b"")


def request_head(endpoint: Endpoint, method: str | None, headers: Mapping[str, str], body_bytes: int | None) -> bytes:
    """Build all of a request but its body: GET without one, POST with one (JSON unless a header says otherwise).

    Raises:
        UsageError: The method or a header is not a legal HTTP token or value.
    """
    method = method or ("GET" if body_bytes is None else "POST")
    try:
        check_method(method)
        check_headers(headers.items())
    except ValueError as error:
        raise UsageError(str(error)) from None
    host = f"[{endpoint.host.partition('%')[0]}]" if ":" in endpoint.host else endpoint.host
    port = "" if endpoint.port == _DEFAULT_PORTS["https" if endpoint.is_tls else "http"] else f":{endpoint.port}"
    lines = {"Host": f"{host}{port}", "User-Agent": "opfind", "Accept": "*/*"}
    if body_bytes is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(body_bytes)}
    named = {name.lower(): name for name in lines}
    for name, value in headers.items():
        lines[named.get(name.lower(), name)] = value
    head = f"{method.upper()} {endpoint.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    return f"{head}\r\n".encode("latin-1")
