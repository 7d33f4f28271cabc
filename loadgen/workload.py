"""The requests of a run: rendered before it as complete wire bytes, played round and round while it lasts."""

import contextlib
import hashlib
import itertools
import mmap
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import UsageError

_LEAST_SHUFFLED = 1 << 20  # turns that are drawn before a shuffled order comes again
_INT_BYTES = 8

Play = Callable[[int, int, int], Iterator[bytes]]  # first, worker, workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Name a file of rendered requests, and the order in which they go out.

    The file holds the requests back to back; from `tables_at` on, int64: where each begins and the last one ends, then
    the order, by number. It is written once and mapped by every worker, so that its pages are in memory once.

    Attributes:
        path: Of the file.
        requests: Different requests.
        turns: Length of the order; then it comes again.
        tables_at: Offset, bytes.
        body_bytes: All bodies together.
        sha256: Of all bodies, a line feed after each.
    """

    path: str
    requests: int
    turns: int
    tables_at: int
    body_bytes: int
    sha256: str

    def told(self) -> dict[str, Any]:
        """Return what to note of it: how many different requests, their length, and a digest of what they hold."""
        return {"requests": self.requests, "body_bytes": self.body_bytes, "sha256": self.sha256}

    def open(self) -> Play:
        """Map the file, and return what plays it.

        `play(first, worker, workers)` yields a worker's share of the endless stream, from its request `first` on: every
        `workers`-th one, so that all workers together send exactly what one would.
        """
        with Path(self.path).open("rb") as file:
            populate = getattr(mmap, "MAP_POPULATE", 0)  # or the first use of a page would be paid for during a step
            data = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ)
        tables = memoryview(data)[self.tables_at :].cast("q")
        begins, order = tables[: self.requests + 1], tables[self.requests + 1 :]

        def play(first: int, worker: int, workers: int) -> Iterator[bytes]:
            for turn in itertools.count(first + worker, workers):
                number = order[turn % self.turns]
                yield data[begins[number] : begins[number + 1]]

        return play


@contextlib.contextmanager
def rendered(
    bodies: Iterable[bytes], head: Callable[[int], bytes], *, shuffle: int | None = None
) -> Iterator[Workload]:
    """Render requests into a file that lasts as long as the context; who has opened it by then may go on playing it.

    Args:
        bodies: One a request, at least one.
        head: Returns everything before a body of so many bytes.
        shuffle: Seed of the order; None: the order of `bodies`.

    Raises:
        UsageError: There is no room for the file.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="opfind-requests-"))
            workload = _write(file, bodies, head, shuffle)
        except OSError as error:
            raise UsageError(
                f"the rendered requests cannot be kept in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a "
                "folder with more room"
            ) from None
        yield workload


def _write(file: IO[bytes], bodies: Iterable[bytes], head: Callable[[int], bytes], shuffle: int | None) -> Workload:
    begins, at, body_bytes, digest = array("q", [0]), 0, 0, hashlib.sha256()
    for body in bodies:
        at += file.write(head(len(body)) + body)
        begins.append(at)
        body_bytes += len(body)
        digest.update(body + b"\n")
    order = _order(len(begins) - 1, shuffle)
    tables_at = -(-at // _INT_BYTES) * _INT_BYTES
    file.write(bytes(tables_at - at))
    file.write(begins)
    file.write(order.tobytes())
    file.flush()
    return Workload(
        path=file.name, requests=len(begins) - 1, turns=order.size, tables_at=tables_at, body_bytes=body_bytes,
        sha256=digest.hexdigest(),
    )  # fmt: skip


def _order(requests: int, shuffle: int | None) -> NDArray[np.int64]:
    """Return who is when: 0, 1, …, or one shuffle after another, enough of them that none comes again soon."""
    if shuffle is None:
        return np.arange(requests, dtype=np.int64)
    epochs = max(2, -(-_LEAST_SHUFFLED // requests))
    once = np.tile(np.arange(requests, dtype=np.int64), (epochs, 1))
    return np.random.default_rng([shuffle, 0x5B0F]).permuted(once, axis=1).ravel()
