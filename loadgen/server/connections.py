from collections import deque
from typing import TYPE_CHECKING

from loadgen.clock import NS_PER_S, now_ns
from loadgen.server.config import Limits
from loadgen.server.messages import Handle

if TYPE_CHECKING:
    from loadgen.server.http import Connection

_MOST_REFUSED = 8  # connections beyond the bound that may linger: each holds a file, and few may be left


class Connections:
    """Hold what the connections of a server share.

    Args:
        handle: Answers requests; what it raises is a defect, and ends the connection with a 500.
        limits: Of the server.
    """

    def __init__(self, handle: Handle, limits: Limits) -> None:
        self.handle = handle
        self.limits = limits
        self.open: set[Connection] = set()
        self._accepted = 0  # of those; the others are refused, and end soon
        self._refused: deque[Connection] = deque()
        self.is_draining = False
        self.head_ns = round(limits.head_timeout_s * NS_PER_S)
        self.body_ns = round(limits.body_timeout_s * NS_PER_S)
        self.idle_ns = round(limits.idle_timeout_s * NS_PER_S)

    def add(self, connection: "Connection") -> bool:
        """Hold a new connection; False when it is to be refused, since there are as many as there may be.

        The one that was refused longest ago has to go then, so that all of a burst learn why.
        """
        self.open.add(connection)
        if self._accepted < self.limits.max_connections:
            self._accepted += 1
            return True
        if len(self._refused) >= _MOST_REFUSED:
            self._refused.popleft().close()
        self._refused.append(connection)
        return False

    def remove(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self.open.discard(connection)
        if connection.is_accepted:
            self._accepted -= 1
        elif connection in self._refused:
            self._refused.remove(connection)

    def sweep(self) -> None:
        """End the connections that are too slow; to be called about once a second, instead of a timer for each."""
        at_ns = now_ns()
        for connection in [one for one in self.open if one.deadline_ns <= at_ns]:
            connection.expire()

    def drain(self) -> None:
        """End the connections that are idle, and each other one after its reply."""
        self.is_draining = True
        for connection in list(self.open):
            connection.drain()

    @property
    def working(self) -> int:
        """Return the number of connections whose reply is not yet sent."""
        return sum(connection.is_working for connection in self.open)
