"""Secrets never reach a file or a terminal: headers and URLs are masked before anything is written."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from scenarios.scenario import Scenario

MASK = "***"
# Only headers known to be harmless are shown: a list of secret ones would miss the next invention.
_HARMLESS_HEADERS = frozenset({
    "accept", "accept-charset", "accept-encoding", "accept-language", "cache-control", "connection", "content-encoding",
    "content-type", "expect", "host", "inference-header-content-length", "pragma", "te", "transfer-encoding",
    "user-agent", "x-request-id",
})  # fmt: skip
_SECRET_NAME = re.compile(r"key|token(?!s)|secret|pass|pwd|auth|sig|cred|session|jwt|code|hmac|otp", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"[A-Za-z0-9_.~+/=%-]{24,}")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)


def mask_header(name: str, value: str) -> str:
    """Return the value of a harmless header, and a mask for every other."""
    return value if name.strip().lower() in _HARMLESS_HEADERS else MASK


def mask_url(url: str) -> str:
    """Hide user and password, the values of query parameters that look secret, and the fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{MASK}@{host}" if "@" in parts.netloc else host
    query = "&".join(_mask_parameter(parameter) for parameter in parts.query.split("&"))
    return urlunsplit((parts.scheme, netloc, parts.path, query, ""))


def _mask_parameter(parameter: str) -> str:
    name, equals, value = parameter.partition("=")
    if not equals:
        return MASK if _SECRET_VALUE.fullmatch(name) else name
    is_secret = _SECRET_NAME.search(name) or _SECRET_VALUE.fullmatch(value)
    return f"{name}={MASK}" if is_secret else parameter


def mask_text(text: str) -> str:
    """Mask every URL inside a text, such as an error message."""
    return _URL.sub(lambda match: mask_url(match[0]), text)


def mask_command(arguments: Sequence[str]) -> str:
    """Return the command line as a shell would take it, headers and URLs masked."""
    shown, is_header = [], False
    for argument in arguments:
        flag = next((f for f in ("--header=", "-H") if argument.startswith(f) and argument != f), "")
        if is_header or flag:
            name, colon, value = argument.removeprefix(flag).partition(":")
            value = mask_header(name, value.strip())
            shown.append(f"{flag}{name}: {value}" if colon else f"{flag}{MASK}")
        else:
            shown.append(mask_text(argument))
        is_header = not is_header and argument in ("-H", "--header")
    return shlex.join(["opfind", *shown])


def mask(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as plain values for the run file: header values and URL masked, the body as size and digest."""
    plain: dict[str, Any] = msgspec.to_builtins(scenario, builtin_types=(bytes,))
    target: Mapping[str, Any] = plain["target"]
    body: bytes | None = target["body"]
    plain["target"] = {
        **target,
        "url": mask_url(target["url"]) if target["url"] else None,
        "headers": {name: mask_header(name, value) for name, value in target["headers"].items()},
        "body": None if body is None else {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()},
    }
    return plain
