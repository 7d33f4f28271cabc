from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest

from loadgen.server.profile import DeviceProfile
from loadgen.server.sharing import SharedDevice
from loadgen.server.simulated_gpu import SimulatedGpu

FLAT = DeviceProfile(t0_ms=10, t1_ms=0, jitter_sigma=0)
TABLE = DeviceProfile(table_ms=((1, 4.0), (8, 5.0), (32, 17.0)))
MS = 1_000_000


@pytest.mark.parametrize(("rows", "time_ms"), [(1, 4.0), (8, 5.0), (20, 11.0), (32, 17.0), (64, 33.0)])
def test_table_is_interpolated_and_goes_on(rows: int, time_ms: float) -> None:
    """Between two sizes a table is a straight line, and beyond the last it goes on as before it."""
    assert TABLE.alone_ms(rows) == pytest.approx(time_ms)


def test_table_below_its_first_size_is_constant() -> None:
    """Smaller batches than the smallest measured take as long as that one."""
    assert DeviceProfile(table_ms=((4, 2.0), (8, 3.0))).alone_ms(1) == 2.0


def test_occupancy_is_what_full_throughput_needs() -> None:
    """A batch occupies its rows at full throughput over its time; a profile may say otherwise; never more than all."""
    assert TABLE.row_ms == 0.5
    assert TABLE.occupancy_of(1) == pytest.approx(0.125)
    assert TABLE.occupancy_of(32) == pytest.approx(16 / 17)
    assert replace(TABLE, occupancy=0.4).occupancy_of(32) == 0.4
    assert DeviceProfile(table_ms=((1, 1.0), (2, 4.0))).occupancy_of(2) == 1.0
    assert DeviceProfile(t0_ms=0, t1_ms=0).occupancy_of(3) == 0.0


def ends(profile: DeviceProfile, *starts_ms: float, rows: int = 1) -> list[float]:
    """Return how long batches take that are alone, milliseconds."""
    gpu = SimulatedGpu(profile, repeat(1.0))
    return [gpu.end_ns(gpu.start(round(at * MS), rows)) / MS - at for at in starts_ms]


def test_copies_take_their_bytes_over_the_bandwidth() -> None:
    """A batch of 8 rows of 1 MB at 8 GB/s takes 1 ms more."""
    profile = replace(FLAT, copy_gb_per_s=8, row_bytes=1_000_000)
    assert ends(profile, 0, rows=8) == [11.0]


def test_cold_start_lengthens_the_first_batch_only() -> None:
    """The first batch pays for the start."""
    assert ends(replace(FLAT, cold_start_ms=500), 0, 1000, 2000) == [510, 10, 10]


def test_stalls_lengthen_the_batches_into_which_they_fall() -> None:
    """Every second the device stands still for 100 ms, and who runs then is later by that."""
    profile = replace(FLAT, stall_every_s=1, stall_ms=100)
    assert ends(profile, 0, 500, 995, 1200, 1990) == [10, 10, 110, 10, 110]


def test_warming_up_slows_to_a_bound() -> None:
    """Times grow by 20 % a minute of use, to 50 % at most."""
    profile = replace(FLAT, drift_per_minute=0.2, drift_most=0.5)
    assert ends(profile, 0, 60_000, 120_000, 600_000) == pytest.approx([10, 12, 14, 15])


def test_failures_come_with_their_share() -> None:
    """Batches fail by chance, with the profile's share, the same for the same seed."""
    draws = [[SimulatedGpu(replace(FLAT, failure_share=0.3), repeat(1.0), seed=1).fails()] for _ in range(3)]
    assert draws[0] == draws[1] == draws[2]
    gpu = SimulatedGpu(replace(FLAT, failure_share=0.3), repeat(1.0))
    assert sum(gpu.fails() for _ in range(10_000)) == pytest.approx(3000, abs=200)


def test_models_that_share_a_device_slow_each_other() -> None:
    """Two models on one device want 160 % of it, so both take 1.6 times as long; on two devices neither does."""
    profile = DeviceProfile(t0_ms=0.2, t1_ms=0.1, jitter_sigma=0)  # 8 rows: 1 ms, of which 0.8 ms occupy it
    shared = SharedDevice()
    first, second = (SimulatedGpu(profile, repeat(1.0), shared) for _ in range(2))
    assert [gpu.end_ns(gpu.start(0, 8)) for gpu in (first, second)] == [1 * MS, 1.6 * MS]
    assert first.next_end_ns() == second.next_end_ns() == 1.6 * MS
    first.advance(2 * MS)
    assert shared.busy_ns == pytest.approx(1.6 * MS)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (3, "must be a table"),
        ({"t2_ms": 1}, "t2_ms: is no field"),
        ({"t0_ms": -1}, "t0_ms -1: must be a number between 0"),
        ({"occupancy": 1.5}, "occupancy 1.5: must be a number between 0 and 1"),
        ({"table_ms": 3}, "must be a list of pairs"),
        ({"table_ms": [3]}, "must be a list of pairs"),
        ({"table_ms": [[1, 2]]}, "at least two"),
        ({"table_ms": [[1, 2], [1, 3]]}, "both increasing"),
        ({"table_ms": [[1, 2], [2, 1]]}, "both increasing"),
        ({"table_ms": [[1.5, 2], [2, 3]]}, "pairs of rows and milliseconds"),
        ({"table_ms": [[1, 2, 3], [2, 3]]}, "pairs of rows and milliseconds"),
    ],
)
def test_wrong_profiles_are_told(data: Any, rule: str) -> None:
    """An error names the field, the value and the rule."""
    with pytest.raises(ValueError, match=rule):
        DeviceProfile.from_table(data)
