"""Where the load goes, and the bytes of one request to it."""

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from loadgen.errors import TargetError, UsageError

_PROBE_S = 2.0
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Name one resource of a server, its address resolved once.

    Attributes:
        host: Name or address as the URL has it, without brackets.
        port: TCP port.
        path: Path and query, as sent in the request line.
        is_tls: Speak TLS, trusting what the system trusts.
        address: The first address of `host` that accepts a connection; the first at all if none does.
        family: Its `socket` address family.
    """

    host: str
    port: int
    path: str
    is_tls: bool
    address: str
    family: int = field(default=socket.AF_INET)

    @classmethod
    def of(cls, url: str) -> "Endpoint":
        """Parse and resolve a URL.

        Raises:
            UsageError: It is no http or https URL.
            TargetError: Its host does not resolve.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise UsageError(f"'{url}' is not a URL: {error}; write http://host:port/path") from None
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise UsageError(f"'{url}' is not an http or https URL: write http://host:port/path")
        if "@" in parts.netloc:
            raise UsageError("the URL holds a user or password: leave it out and give -H 'Authorization: …' instead")
        port = port or _DEFAULT_PORTS[parts.scheme]
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not path.isascii() or any(c <= " " or c == "\x7f" for c in path):
            raise UsageError("the URL's path holds a space, a control or a non-ASCII character: percent-encode it")
        try:
            found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TargetError(f"cannot resolve the host '{parts.hostname}': {reason}; check the URL") from None
        family, _, _, _, address = next(filter(_accepts, found), found[0])
        return cls(
            host=parts.hostname, port=port, path=path, is_tls=parts.scheme == "https", address=str(address[0]),
            family=int(family),
        )  # fmt: skip

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS settings for a connection, or None for plain TCP."""
        return ssl.create_default_context() if self.is_tls else None


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


def request_bytes(endpoint: Endpoint, method: str | None, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Build one HTTP/1.1 request: GET without a body, POST with one (JSON unless a header says otherwise).

    Raises:
        UsageError: The method or a header is not a legal HTTP token or value.
    """
    method = method or ("GET" if body is None else "POST")
    if not _TOKEN.fullmatch(method):
        raise UsageError(f"--method '{method}': must be an HTTP method, such as POST")
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    port = "" if endpoint.port in (80, 443) else f":{endpoint.port}"
    lines = {"Host": f"{host}{port}", "User-Agent": "opfind", "Accept": "*/*"}
    if body is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    named = {name.lower(): name for name in lines}
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise UsageError(f"header '{name}': a name is a token without spaces, and a value stays on one line")
        lines[named.get(name.lower(), name)] = value
    head = f"{method.upper()} {endpoint.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
    try:
        return f"{head}\r\n".encode("latin-1") + (body or b"")
    except UnicodeEncodeError:
        raise UsageError(
            "a header holds a character that HTTP cannot carry: use Latin-1 or percent-encode it"
        ) from None
