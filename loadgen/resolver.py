"""Look a target's host up again and again, in a thread: the system's resolver may block for seconds."""

import contextlib
import threading
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from loadgen.errors import TargetError
from loadgen.target import Endpoint, first_accepting, resolve


class Resolver:
    """Resolve a host every `every_s` seconds until `close`. A look-up that fails changes nothing but what is told.

    Attributes:
        endpoint: Where the host's name led to when `refresh` was last asked.
    """

    def __init__(self, endpoint: Endpoint, every_s: float) -> None:
        self.endpoint = endpoint
        self._failures: list[str] = []
        self._found: SimpleQueue[Endpoint | TargetError] = SimpleQueue()
        self._closed = threading.Event()
        threading.Thread(target=self._look_up, args=(endpoint, every_s), name="opfind-resolver", daemon=True).start()

    def refresh(self) -> bool:
        """Take what the thread has found; say whether the address has changed."""
        before = self.endpoint
        with contextlib.suppress(Empty):
            while True:
                match self._found.get_nowait():
                    case Endpoint() as endpoint:
                        self.endpoint = endpoint
                    case error:
                        self._failures.append(str(error))
        return self.endpoint != before

    def told(self) -> dict[str, Any]:
        """Return, as plain values by name, the address and what failed since this was last asked."""
        failures, self._failures = self._failures, []
        told: dict[str, Any] = {"address": self.endpoint.address, "resolve_failures": len(failures)}
        return told | ({"resolve_error": failures[-1]} if failures else {})

    def close(self) -> None:
        """Let the thread end; while the system's resolver holds it, it cannot, but it never outlives the process."""
        self._closed.set()

    def _look_up(self, endpoint: Endpoint, every_s: float) -> None:
        while not self._closed.wait(every_s):
            try:
                resolved = resolve(endpoint.host, endpoint.port)
            except TargetError as error:
                self._found.put(error)
                continue
            if not any(address[0] == endpoint.address for *_, address in resolved):  # it is gone
                family, address = first_accepting(resolved)
                endpoint = replace(endpoint, family=family, address=address)
                self._found.put(endpoint)
