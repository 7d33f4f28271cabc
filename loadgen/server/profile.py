from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadgen.server.checks import check_keys, check_ranges

_MOST_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """Say how long a device takes for a batch, and what else it does.

    Attributes:
        source: Where the numbers come from, in words.
        t0_ms: Launch overhead: the part of a batch's time that does not depend on its size, milliseconds.
        t1_ms: Time for each row, milliseconds.
        table_ms: Time by rows, milliseconds, instead of t0_ms + t1_ms * rows: (rows, time), both increasing. Between
            two sizes it is interpolated, below the first it is the first, beyond the last it goes on as between the
            last two.
        jitter_sigma: Standard deviation of the logarithm of each batch's time.
        occupancy: Share of the device that a batch keeps busy while it is alone, in (0, 1]; 0: by its rows, see
            `occupancy_of`.
        copy_gb_per_s: Bandwidth of copies to and from the device, 10^9 bytes a second; 0: copies take no time.
        row_bytes: That are copied for each row, both ways together.
        stall_every_s: The device stands still so often, seconds; 0: never.
        stall_ms: For so long, milliseconds.
        drift_per_minute: Share by which its times grow in each minute of use: it becomes warm, and its clock slower.
        drift_most: Share by which they grow at most.
        cold_start_ms: Added to the time of the first batch, milliseconds.
        failure_share: Share of batches that fail, in [0, 1].
    """

    source: str = "invented"
    t0_ms: float = 8.0
    t1_ms: float = 1.5
    table_ms: tuple[tuple[int, float], ...] = ()
    jitter_sigma: float = 0.03
    occupancy: float = 0.0
    copy_gb_per_s: float = 0.0
    row_bytes: int = 0
    stall_every_s: float = 0.0
    stall_ms: float = 0.0
    drift_per_minute: float = 0.0
    drift_most: float = 0.0
    cold_start_ms: float = 0.0
    failure_share: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, (
            ("t0_ms", 0, _MOST_MS), ("t1_ms", 0, _MOST_MS), ("jitter_sigma", 0, 3), ("occupancy", 0, 1),
            ("copy_gb_per_s", 0, 1e6), ("row_bytes", 0, 1 << 32), ("stall_every_s", 0, 1e6),
            ("stall_ms", 0, _MOST_MS), ("drift_per_minute", 0, 10), ("drift_most", 0, 10),
            ("cold_start_ms", 0, _MOST_MS), ("failure_share", 0, 1),
        ))  # fmt: skip
        rule = "must be pairs of rows and milliseconds, at least two, both increasing"
        for pair in self.table_ms:
            if len(pair) != 2 or type(pair[0]) is not int or pair[0] < 1 or not 0 <= pair[1] <= _MOST_MS:
                raise ValueError(f"DeviceProfile table_ms {list(pair)!r}: {rule}")
        if len(self.table_ms) == 1 or any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(self.table_ms)):
            raise ValueError(f"DeviceProfile table_ms {[list(pair) for pair in self.table_ms]!r}: {rule}")

    @classmethod
    def from_table(cls, data: Any) -> "DeviceProfile":
        """Build a profile from a parsed table; absent fields keep their defaults.

        Raises:
            ValueError: It is no table, a field is unknown, or a value breaks its rule.
        """
        fields = check_keys(data, cls, "table")
        table = fields.get("table_ms", ())
        if not isinstance(table, (list, tuple)) or not all(isinstance(pair, (list, tuple)) for pair in table):
            raise ValueError(f"DeviceProfile table_ms {table!r}: must be a list of pairs, rows and milliseconds")
        return cls(**{**fields, "table_ms": tuple(tuple(pair) for pair in table)})

    def alone_ms(self, rows: int) -> float:
        """Return how long a batch takes that is alone, without jitter and copies."""
        table = self.table_ms
        if not table:
            return self.t0_ms + self.t1_ms * rows
        if rows <= table[0][0]:
            return table[0][1]
        upper = min(bisect_left(table, rows, key=lambda pair: pair[0]), len(table) - 1)
        (low_rows, low_ms), (high_rows, high_ms) = table[upper - 1], table[upper]
        return low_ms + (high_ms - low_ms) * (rows - low_rows) / (high_rows - low_rows)

    def occupancy_of(self, rows: int) -> float:
        """Return the share of the device that a batch keeps busy while it is alone.

        At its full throughput the device needs `row_ms` for each row; the rest of a batch's time is launch and latency,
        in which it could serve others. So by the utilisation law (Denning & Buzen, "The Operational Analysis of
        Queueing Network Models", ACM Computing Surveys 10(3), 1978) the batch occupies row_ms * rows / alone_ms(rows).
        """
        alone_ms = self.alone_ms(rows)
        if self.occupancy or not alone_ms:
            return self.occupancy
        return min(1.0, self.row_ms * rows / alone_ms)

    @property
    def row_ms(self) -> float:
        """Return the time that each row takes of a full device: what one row more adds to the largest batches."""
        if not self.table_ms:
            return self.t1_ms
        (low_rows, low_ms), (high_rows, high_ms) = self.table_ms[-2:]
        return (high_ms - low_ms) / (high_rows - low_rows)

    def copy_ns(self, rows: int) -> float:
        """Return how long the copies of a batch take, nanoseconds; a gigabyte a second is a byte a nanosecond."""
        return rows * self.row_bytes / self.copy_gb_per_s if self.copy_gb_per_s else 0.0
