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
# With a scheme, or without one but with a login; a mark behind it, as in `http://h/: refused`, belongs to the sentence.
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|[^\s'\"<>()/@:]+:[^\s'\"<>/@]+@)[^\s'\"<>]*[^\s'\"<>:;,.)]", re.IGNORECASE)
# Every other flag takes a value.
SWITCHES = frozenset({"--json", "--stream", "--insecure", "--shuffle", "--help", "-h", "--version"})


def mask_header(name: str, value: str) -> str:
    """Return the value of a harmless header, and a mask for every other."""
    return value if name.strip().lower() in _HARMLESS_HEADERS else MASK


def mask_url(url: str) -> str:
    """Hide user and password, the values of query parameters that look secret, and the fragment.

    As on the command line, a URL may lack its scheme.
    """
    if "://" not in url:
        return mask_url(f"http://{url}").removeprefix("http://")
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
    """Return the command line as a shell would take it: headers and URLs masked, an inline body hidden."""
    shown: list[str] = []
    flag, flags_end = "", False
    for argument in arguments:
        if flag:
            shown.append(_mask_value(flag, argument))
            flag = ""
        elif flags_end or not argument.startswith("-"):
            shown.append(mask_url(argument))
        elif argument.startswith("--"):
            name, equals, value = argument.partition("=")
            shown.append(f"{name}={_mask_value(name, value)}" if equals else argument)
            flags_end = argument == "--"
            flag = "" if equals or flags_end or argument in SWITCHES else argument
        else:
            name, value = argument[:2], argument[2:]
            shown.append(name + _mask_value(name, value) if value else argument)
            flag = "" if value or argument in SWITCHES else argument
    return shlex.join(["opfind", *shown])


def _mask_value(flag: str, value: str) -> str:
    if flag in ("-H", "--header"):
        name, colon, secret = value.partition(":")
        return f"{name}: {mask_header(name, secret.strip())}" if colon else MASK
    if flag in ("--body", "--body-template") and not value.startswith("@"):
        return MASK
    return mask_text(value)


def mask(scenario: Scenario) -> dict[str, Any]:
    """Return a scenario as plain values for the run file: header values and URL masked, bodies as size and digest."""
    plain: dict[str, Any] = msgspec.to_builtins(scenario, builtin_types=(bytes,))
    target: Mapping[str, Any] = plain["target"]
    plain["target"] = {
        **target,
        "url": mask_url(target["url"]) if target["url"] else None,
        "metrics_url": mask_url(target["metrics_url"]) if target["metrics_url"] else None,
        "headers": {name: mask_header(name, value) for name, value in target["headers"].items()},
        "body": _digest(target["body"]),
        "body_template": _digest((target["body_template"] or "").encode() or None),
    }
    return plain


def _digest(content: bytes | None) -> dict[str, Any] | None:
    return None if content is None else {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
