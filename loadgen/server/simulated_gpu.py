"""The model of a GPU's time. Pure: time is passed in, so that tests run it years ahead of any clock."""

from collections.abc import Iterator

import numpy as np

from loadgen.clock import NS_PER_MS, NS_PER_S
from loadgen.server.profile import DeviceProfile
from loadgen.server.sharing import RunningBatch, SharedDevice

_CHUNK = 4096
_NS_PER_MINUTE = 60 * NS_PER_S


def lognormal_noise(sigma: float, seed: int) -> Iterator[float]:
    """Yield independent lognormal factors of mean 1; `sigma` is the standard deviation of their logarithm."""
    rng = np.random.default_rng([seed, 0x5E7])  # the service stream: never shared with arrivals
    while True:
        yield from rng.lognormal(-sigma * sigma / 2, sigma, _CHUNK).tolist()


class SimulatedGpu:
    """Model batches of one model on a device that others may share.

    A batch of b rows that is alone takes (t0 + t1 * b) * noise, or what the profile's table says, plus its copies. It
    occupies the share of the device that `DeviceProfile.occupancy_of` gives; how batches that together want more than
    the device has slow each other is in `SharedDevice`. So never more than 1 / t1 rows a second leave the device,
    however many instances there are. With t0 = t1 = 0 a batch takes no time. With t1 = 0 nothing is shared: every
    instance is a server of its own.

    A stall that falls into a batch's time lengthens it by the stall; warming up lengthens all times by a share that
    grows with the time since the first batch.

    Args:
        profile: Of the device.
        noise: Factor on the time of each batch, in the order in which batches start; mean 1.
        shared: The device, where other models run on it too.
        seed: Of the failures.
    """

    def __init__(
        self, profile: DeviceProfile, noise: Iterator[float], shared: SharedDevice | None = None, *, seed: int = 0
    ) -> None:
        self.profile = profile
        self.shared = shared or SharedDevice()
        self._noise = noise
        self._chance = np.random.default_rng([seed, 0xFA11])
        self._first_ns: int | None = None

    def start(self, at_ns: int, rows: int) -> RunningBatch:
        """Put a batch on the device at `at_ns`."""
        profile = self.profile
        whole_ns = round(profile.alone_ms(rows) * NS_PER_MS, 3)  # 0.0001 ms is 100 ns, not a rounding error more
        alone_ns = whole_ns * next(self._noise) + profile.copy_ns(rows)
        if self._first_ns is None:
            self._first_ns = at_ns
            alone_ns += profile.cold_start_ms * NS_PER_MS
        used_ns = max(0, at_ns - self._first_ns)
        alone_ns *= 1 + min(profile.drift_most, profile.drift_per_minute * used_ns / _NS_PER_MINUTE)
        if profile.stall_every_s:
            every_ns = profile.stall_every_s * NS_PER_S
            stalls = (used_ns + alone_ns) // every_ns - used_ns // every_ns
            alone_ns += stalls * profile.stall_ms * NS_PER_MS
        return self.shared.place(at_ns, alone_ns, profile.occupancy_of(rows))

    def fails(self) -> bool:
        """Draw whether the next batch fails."""
        share = self.profile.failure_share
        return bool(share) and bool(self._chance.random() < share)

    def advance(self, to_ns: int) -> None:
        """Let time pass until `to_ns`; see `SharedDevice`."""
        self.shared.advance(to_ns)

    def end_ns(self, batch: RunningBatch) -> int:
        """Return when a batch ends; see `SharedDevice`."""
        return self.shared.end_ns(batch)

    def next_end_ns(self) -> int | None:
        """Return when the first of the running batches ends; see `SharedDevice`."""
        return self.shared.next_end_ns()
