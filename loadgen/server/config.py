from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loadgen.server.batcher import Batcher
from loadgen.server.checks import check_keys, check_ranges
from loadgen.server.model_config import Instances, ModelConfig
from loadgen.server.profile import DeviceProfile
from loadgen.server.simulated_gpu import SimulatedGpu, lognormal_noise
from loadgen.server.waiting import QueuePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bound what the server holds, and how long it waits for slow clients.

    Attributes:
        max_body_bytes: Largest request body; beyond it the server answers 413.
        max_head_bytes: Longest request line with its headers; beyond it the server answers 431.
        max_connections: Most open connections; one more is answered 503 and closed.
        head_timeout_s: For a request line with its headers, from its first byte; then the server answers 408.
        body_timeout_s: For a body to come, and for a reply to be taken, seconds; then 408, and the end.
        idle_timeout_s: Longest wait for the next request of a connection, seconds.
        drain_s: Longest wait for accepted requests on shutdown, seconds.
    """

    max_body_bytes: int = 1 << 20
    max_head_bytes: int = 1 << 16
    max_connections: int = 10_000
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 300.0
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        check_ranges(self, (
            ("max_body_bytes", 1, 1 << 30), ("max_head_bytes", 256, 1 << 20), ("max_connections", 1, 1 << 20),
            ("head_timeout_s", 0.1, 3600), ("body_timeout_s", 0.1, 3600), ("idle_timeout_s", 0.1, 86_400),
            ("drain_s", 0, 600),
        ))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Configure a server of one simulated model. The defaults carry 571 req/s, and 554 req/s within a p99 of 200 ms.

    Attributes:
        t0_ms: Time of a batch that does not depend on its size, milliseconds.
        t1_ms: Time for each row, milliseconds.
        jitter_sigma: Standard deviation of the logarithm of each batch's time.
        device: A whole device profile, instead of the three numbers above.
        max_batch_size: Most rows in a batch.
        preferred_batch_sizes: Rows at which a batch leaves at once; empty for `max_batch_size` alone.
        max_queue_delay_us: Longest wait of the oldest job while an instance is free, microseconds.
        instances: Batches that can run at once.
        max_queue_size: Most waiting jobs; beyond it the server answers 503. The default is deep, so that overload
            shows as latency for seconds before it shows as errors.
        max_body_bytes: Largest request body; beyond it the server answers 413.
        drain_s: Longest wait for accepted requests on shutdown, seconds.
        seed: Of the jitter.
    """

    t0_ms: float = 8.0
    t1_ms: float = 1.5
    jitter_sigma: float = 0.03
    device: DeviceProfile | None = None
    max_batch_size: int = 32
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 10_000
    instances: int = 1
    max_queue_size: int = 4096
    max_body_bytes: int = 1 << 20
    drain_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, (
            ("t0_ms", 0, 60_000), ("t1_ms", 0, 60_000), ("jitter_sigma", 0, 3), ("max_batch_size", 1, 65_536),
            ("max_queue_delay_us", 0, 60_000_000), ("instances", 1, 64), ("max_queue_size", 1, 1 << 20),
            ("max_body_bytes", 1, 1 << 30), ("drain_s", 0, 600), ("seed", 0, (1 << 63) - 1),
        ))  # fmt: skip
        sizes = self.preferred_batch_sizes
        if not isinstance(sizes, tuple) or not all(type(n) is int and 1 <= n <= self.max_batch_size for n in sizes):
            raise ValueError(
                f"ServerConfig preferred_batch_sizes {sizes!r}: "
                f"must be whole numbers between 1 and max_batch_size {self.max_batch_size}"
            )

    @classmethod
    def from_json(cls, data: Any) -> "ServerConfig":
        """Build a config from a parsed JSON object; absent fields keep their defaults.

        Raises:
            ValueError: It is no object, a field is unknown, or a value breaks its rule.
        """
        given = dict(check_keys(data, cls, "JSON object"))
        sizes = given.get("preferred_batch_sizes", [])
        given["preferred_batch_sizes"] = tuple(sizes) if isinstance(sizes, list) else sizes
        if given.get("device") is not None:
            given["device"] = DeviceProfile.from_table(given["device"])
        return cls(**given)

    def profile(self) -> DeviceProfile:
        """Return the device's profile."""
        return self.device or DeviceProfile(t0_ms=self.t0_ms, t1_ms=self.t1_ms, jitter_sigma=self.jitter_sigma)

    def model(self) -> ModelConfig:
        """Return the one model."""
        return ModelConfig(
            max_batch_size=self.max_batch_size,
            preferred_batch_sizes=self.preferred_batch_sizes,
            max_queue_delay_us=self.max_queue_delay_us,
            instances=(Instances(count=self.instances),),
            queue=QueuePolicy(max_queue_size=self.max_queue_size),
            device=self.profile(),
            seed=self.seed,
        )

    def limits(self) -> Limits:
        """Return the bounds of the server."""
        return Limits(max_body_bytes=self.max_body_bytes, drain_s=self.drain_s)

    def batcher(self) -> Batcher:
        """Return the batching policy."""
        return self.model().batcher()

    def gpu(self, noise: Iterator[float] | None = None) -> SimulatedGpu:
        """Return the device's model, by default with the config's seeded lognormal jitter."""
        profile = self.profile()
        return SimulatedGpu(profile, lognormal_noise(profile.jitter_sigma, self.seed) if noise is None else noise)
