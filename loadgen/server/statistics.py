from bisect import bisect_left
from dataclasses import dataclass, field

STAGES = ("decode", "preprocess", "queue", "compute", "postprocess", "serialise")
SECONDS = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0,
    5.0, 10.0,
)  # fmt: skip
_SECONDS_NS = [round(bound * 1e9) for bound in SECONDS]


class Buckets:
    """Count values in buckets, as a Prometheus histogram does; a value at a bound belongs to the bucket below it.

    Args:
        bounds: Upper bounds of the buckets, increasing; one without a bound follows.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: list[int]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0

    def add(self, value: int) -> None:
        """Count a value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def bounds(self) -> list[int]:
        """Return the upper bounds."""
        return self._bounds


def _of_stages() -> dict[str, Buckets]:
    return {stage: Buckets(_SECONDS_NS) for stage in STAGES}


@dataclass(slots=True, kw_only=True)
class Tally:
    """Count events and the time that they took.

    Attributes:
        count: Events.
        ns: Their time together, nanoseconds.
    """

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count events that took `ns` together."""
        self.count += count
        self.ns += ns


@dataclass(slots=True, kw_only=True)
class Statistics:
    """Count what a model does; only the event loop's thread touches it.

    Attributes:
        max_rows: Most rows in a batch.
        success: Requests answered, from their arrival to their reply's being written.
        failure: Requests that were not, for whatever reason.
        queue: Requests answered: from joining the queue to the start of their batch.
        compute: Requests answered: from the start to the end of their batch, for each of them.
        reasons: Requests that were not answered, by why: "REJECTED" by a full queue or after their time in it,
            "CANCELED" by their sender, "BACKEND" for a batch that failed, "OTHER" for what was no valid request.
        inferences: Rows of requests that were answered.
        executions: Batches that ran.
        batches: By rows: batches, and their time.
        last_ms: When the last batch ended, milliseconds since 1970; 0 before the first.
        stages: Histograms of the time that requests spent in each stage, nanoseconds.
        rows: Histogram of the rows in a batch.
    """

    max_rows: int
    success: Tally = field(default_factory=Tally)
    failure: Tally = field(default_factory=Tally)
    queue: Tally = field(default_factory=Tally)
    compute: Tally = field(default_factory=Tally)
    reasons: dict[str, int] = field(default_factory=lambda: {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 0})
    inferences: int = 0
    executions: int = 0
    batches: dict[int, Tally] = field(default_factory=dict)
    last_ms: int = 0
    stages: dict[str, Buckets] = field(default_factory=_of_stages)
    rows: Buckets = field(init=False)

    def __post_init__(self) -> None:
        most = max(1, self.max_rows)
        self.rows = Buckets(sorted({1 << i for i in range(most.bit_length())} | {most}))

    def fail(self, reason: str, ns: int) -> None:
        """Count a request that was not answered after `ns`."""
        self.reasons[reason] += 1
        self.failure.add(ns)
