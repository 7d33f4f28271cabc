"""The requests of a step as they come in from the workers: in memory while they are few, in a mapped file beyond."""

import struct
import tempfile
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]

pack_row = struct.Struct("=5q").pack  # due, sent, first byte, done (ns), outcome: a row as an engine writes it

_SPILL_BYTES = 64 * 1024 * 1024
_COLUMNS = 5
ROW_BYTES = 8 * _COLUMNS
_WIDTH = _COLUMNS + 1  # and the worker
_WIDE_BYTES = 8 * _WIDTH


class Rows:
    """Collect rows of int64: due, sent, first byte, done (ns), outcome, worker. Use as a context manager."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(_SPILL_BYTES)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._spool.close()

    def add(self, block: bytes, worker: int) -> None:
        """Append a worker's block of rows."""
        rows = np.frombuffer(block, dtype=np.int64).reshape(-1, _COLUMNS)
        self.add_table(np.column_stack([rows, np.full(len(rows), worker)]))

    def add_table(self, table: Table) -> None:
        """Append rows, int64 (n, 6)."""
        self._spool.write(np.ascontiguousarray(table).tobytes())

    def latest(self, most: int) -> Table:
        """Return at most the latest `most` rows, int64 (n, 6), in the order in which they came."""
        size = self._spool.tell()
        self._spool.seek(max(0, size - most * _WIDE_BYTES))
        rows = np.frombuffer(self._spool.read(), dtype=np.int64).reshape(-1, _WIDTH)
        self._spool.seek(size)
        return rows

    def columns(self) -> Table:
        """Return all rows as columns, int64 (6, n), in order of due time; mapped from a file when they have spilled."""
        size = self._spool.tell()
        if size <= _SPILL_BYTES:
            rows = self.latest(size // _WIDE_BYTES)
            return np.ascontiguousarray(rows[np.argsort(rows[:, 0], kind="stable")].T)
        self._spool.flush()
        shape = (size // _WIDE_BYTES, _WIDTH)
        spilled = np.memmap(self._spool, dtype=np.int64, mode="r", shape=shape)
        order = np.argsort(spilled[:, 0], kind="stable")
        with tempfile.TemporaryFile() as file:  # the mapping outlives the descriptor
            columns = np.memmap(file, dtype=np.int64, mode="w+", shape=shape[::-1])
        for index in range(_WIDTH):  # one column at a time is all that is ever in memory
            columns[index] = spilled[:, index][order]
        return columns
