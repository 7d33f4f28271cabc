"""What HTTP lets a URL, a method and a header be; the error says which rule is broken, its key first."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OUR_OWN = {  # headers that say how long the body is: a wrong one would be blamed on the target
    "content-length": "Content-Length is set from the body: drop this header",
    "transfer-encoding": "Transfer-Encoding has no meaning for a body that is sent in one piece: drop this header",
}


def check_url(url: str) -> None:
    """Raise ValueError unless a URL names a place that HTTP can ask."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"url: '{url}' is not a URL ({error})") from None
    if "@" in parts.netloc:
        raise ValueError("url: holds a user or password: give -H 'Authorization: …' instead")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError(f"url: '{url}' is not an HTTP address: write http://host:port/path")
    if not url.isascii() or any(ord(sign) <= 32 or ord(sign) == 127 for sign in url):
        raise ValueError(
            "url: contains spaces, control or non-ASCII characters; percent-encode them (%20), or in a host write xn--…"
        )


def check_method(method: str) -> None:
    """Raise ValueError unless a method is an HTTP token."""
    if not _TOKEN.fullmatch(method):
        raise ValueError(f"method: '{method}' is not an HTTP method such as GET or POST")


def check_headers(headers: Iterable[tuple[str, str]]) -> None:
    """Raise ValueError unless each header can stand in a request, and none is there twice; names do not mind case."""
    seen: set[str] = set()
    for name, value in headers:
        check_header(name, value)
        if name.lower() in seen:
            raise ValueError(f"headers: {name} is given twice: give it once, with both values")
        seen.add(name.lower())


def check_header(name: str, value: str) -> None:
    """Raise ValueError unless a header can stand in a request, on a line of its own."""
    if name.lower() in _OUR_OWN:
        raise ValueError(f"headers: {_OUR_OWN[name.lower()]}")
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"headers: '{name}' is not a header name: use letters, digits and hyphens")
    if any((ord(sign) < 32 and sign != "\t") or ord(sign) == 127 for sign in value):
        raise ValueError(f"headers: the value of '{name}' must be one line without control characters")
    if any(ord(sign) > 255 for sign in value):
        raise ValueError(f"headers: the value of '{name}' holds a character that HTTP cannot carry: percent-encode it")
