from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from loadgen.clock import NS_PER_MS
from loadgen.server.batcher import Batcher
from loadgen.server.simulated_gpu import SimulatedGpu, lognormal_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Configure the reference server. The defaults carry 571 req/s, and 554 req/s within a p99 of 200 ms.

    Attributes:
        t0_ms: Time of a batch that does not depend on its size, milliseconds.
        t1_ms: Time for each row, milliseconds.
        jitter_sigma: Standard deviation of the logarithm of each batch's time.
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
    max_batch_size: int = 32
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 10_000
    instances: int = 1
    max_queue_size: int = 4096
    max_body_bytes: int = 1 << 20
    drain_s: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("t0_ms", 0, 60_000),
            ("t1_ms", 0, 60_000),
            ("jitter_sigma", 0, 3),
            ("max_batch_size", 1, 65_536),
            ("max_queue_delay_us", 0, 60_000_000),
            ("instances", 1, 64),
            ("max_queue_size", 1, 1 << 20),
            ("max_body_bytes", 1, 1 << 30),
            ("drain_s", 0, 600),
            ("seed", 0, (1 << 63) - 1),
        ):
            value, whole = getattr(self, name), _FIELD_TYPES[name] is int
            is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
            if not (is_number and low <= value <= high):
                kind = "whole number" if whole else "number"
                raise ValueError(f"ServerConfig {name} {value!r}: must be a {kind} between {low} and {high}")
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
        if not isinstance(data, dict):
            raise ValueError(f"ServerConfig {data!r}: must be a JSON object")  # noqa: TRY004 (a wrong value, whatever its type)
        unknown = sorted(data.keys() - _FIELD_TYPES.keys())
        if unknown:
            raise ValueError(f"ServerConfig {unknown[0]}: is no field; there are {', '.join(_FIELD_TYPES)}")
        sizes = data.get("preferred_batch_sizes", [])
        return cls(**{**data, "preferred_batch_sizes": tuple(sizes) if isinstance(sizes, list) else sizes})

    def batcher(self) -> Batcher:
        """Return the batching policy."""
        return Batcher(
            max_batch_size=self.max_batch_size,
            preferred_sizes=self.preferred_batch_sizes,
            max_queue_delay_ns=self.max_queue_delay_us * 1000,
            max_queue_size=self.max_queue_size,
        )

    def gpu(self, noise: Iterator[float] | None = None) -> SimulatedGpu:
        """Return the device's model, by default with the config's seeded lognormal jitter."""
        return SimulatedGpu(
            t0_ns=self.t0_ms * NS_PER_MS,
            t1_ns=self.t1_ms * NS_PER_MS,
            noise=lognormal_noise(self.jitter_sigma, self.seed) if noise is None else noise,
        )


_FIELD_TYPES = {field.name: field.type for field in fields(ServerConfig)}
