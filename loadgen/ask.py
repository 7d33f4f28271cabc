"""One plain question to a target, outside of any load: what it says of itself."""

import http.client
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace

from loadgen.target import Endpoint, request_bytes

_TIMEOUT_S = 5.0
_MOST_BYTES = 16 * 1024 * 1024
Asked = (OSError, http.client.HTTPException)  # what `get` may raise


def get(endpoint: Endpoint, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    """Send a GET on a connection of its own; return status and body, at most 16 MiB of it.

    Raises:
        OSError: There is no connection, or it took more than 5 s.
        http.client.HTTPException: What came is no HTTP.
    """
    context, asked = endpoint.tls_context(), replace(endpoint, path=path)
    with ExitStack() as stack:
        connection = stack.enter_context(socket.socket(endpoint.family))
        connection.settimeout(_TIMEOUT_S)
        is_local = endpoint.family == socket.AF_UNIX
        connection.connect(endpoint.address if is_local else (endpoint.address, endpoint.port))
        if context is not None:
            connection = stack.enter_context(context.wrap_socket(connection, server_hostname=endpoint.host))
        connection.sendall(request_bytes(asked, "GET", {**headers, "Connection": "close"}, None))
        reply = stack.enter_context(http.client.HTTPResponse(connection))
        reply.begin()
        return reply.status, reply.read(_MOST_BYTES)
