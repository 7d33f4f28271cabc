"""Which protocol a URL speaks, seen from its path, and what the path of each must be."""

import re
from urllib.parse import urlsplit, urlunsplit

PROTOCOLS = ("kserve", "torchserve", "http")
_KSERVE = re.compile(r"(/.*)?/v2/models/(?P<model>[^/]+)(/versions/[^/]+)?(?P<infer>/infer)?/?")
_TORCHSERVE = re.compile(r"(/.*)?/predictions/(?P<model>[^/]+)(/[^/]+)?/?")


def protocol_of(url: str) -> str:
    """Return the protocol that a URL's path is one of: "kserve", "torchserve", or else "http"."""
    path = urlsplit(url).path
    if _KSERVE.fullmatch(path):
        return "kserve"
    return "torchserve" if _TORCHSERVE.fullmatch(path) else "http"


def model_of(url: str) -> str | None:
    """Return the model that a URL's path names, as it is written there, or None."""
    path = urlsplit(url).path
    found = _KSERVE.fullmatch(path) or _TORCHSERVE.fullmatch(path)
    return found["model"] if found else None


def completed(url: str, protocol: str) -> str:
    """Return the URL at which a model infers, where the URL names the model only.

    Raises:
        ValueError: It names no model, though the protocol needs one.
    """
    parts = urlsplit(url)
    if protocol == "kserve":
        found = _KSERVE.fullmatch(parts.path)
        if found is None:
            raise ValueError(
                f"url: '{url}' names no model, which kserve needs: write http://host:port/v2/models/NAME/infer"
            )
        path = parts.path.rstrip("/")
        return urlunsplit(parts._replace(path=path if found["infer"] else f"{path}/infer"))
    if protocol == "torchserve" and not _TORCHSERVE.fullmatch(parts.path):
        raise ValueError(
            f"url: '{url}' names no model, which torchserve needs: write http://host:port/predictions/NAME"
        )
    return url
