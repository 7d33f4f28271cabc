"""The device profile: how long a simulated device takes for a batch, and what else it does."""

from itertools import pairwise
from typing import Annotated

import msgspec
from msgspec import Meta

Time = Annotated[float, Meta(ge=0, le=60_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Rows = Annotated[int, Meta(ge=1)]


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Describe a device; the server, which shares no code with this, has the same fields (`DeviceProfile`).

    Attributes:
        source: Where the numbers come from, in words.
        t0_ms: Launch overhead of a batch, milliseconds.
        t1_ms: Time for each row, milliseconds.
        table_ms: Rows and milliseconds, both increasing, instead of these two.
        jitter_sigma: Standard deviation of the logarithm of each batch's time.
        occupancy: Share of the device that a batch keeps busy while it is alone; 0: by its rows.
        copy_gb_per_s: Bandwidth of copies, 10^9 bytes a second; 0: they take no time.
        row_bytes: That are copied for each row.
        stall_every_s: The device stands still so often, seconds; 0: never.
        stall_ms: For so long.
        drift_per_minute: Share by which its times grow in each minute of use.
        drift_most: Share by which they grow at most.
        cold_start_ms: Added to the first batch.
        failure_share: Share of batches that fail.
    """

    source: str = "invented"
    t0_ms: Time = 8.0
    t1_ms: Time = 1.5
    table_ms: tuple[tuple[Rows, Time], ...] = ()
    jitter_sigma: Annotated[float, Meta(ge=0, le=3)] = 0.03
    occupancy: Share = 0.0
    copy_gb_per_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    row_bytes: Annotated[int, Meta(ge=0, le=1 << 32)] = 0
    stall_every_s: Annotated[float, Meta(ge=0, le=1e6)] = 0.0
    stall_ms: Time = 0.0
    drift_per_minute: Annotated[float, Meta(ge=0, le=10)] = 0.0
    drift_most: Annotated[float, Meta(ge=0, le=10)] = 0.0
    cold_start_ms: Time = 0.0
    failure_share: Share = 0.0

    def __post_init__(self) -> None:
        table = self.table_ms
        if len(table) == 1 or any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(table)):
            raise ValueError("table_ms: must be at least two pairs of rows and milliseconds, both increasing")
        if not table and self.t0_ms + self.t1_ms == 0:
            raise ValueError("t0_ms: a batch must take time, but t0_ms and t1_ms are both 0")
