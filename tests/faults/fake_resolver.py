"""opfind on a system whose resolver knows `target.test`, for a while: `python -m tests.faults.fake_resolver N ...`."""

import socket
import sys
from itertools import count
from typing import Any

from loadgen.cli import main

_real = socket.getaddrinfo
_asked = count(1)
_known = int(sys.argv.pop(1))


def _getaddrinfo(host: str, port: int, **how: Any) -> Any:
    if host == "target.test" and next(_asked) > _known:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _real("127.0.0.1" if host == "target.test" else host, port, **how)


if __name__ == "__main__":
    socket.getaddrinfo = _getaddrinfo  # type: ignore[assignment]
    sys.exit(main())
