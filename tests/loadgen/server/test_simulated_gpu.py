from collections.abc import Iterator
from itertools import islice, repeat

import numpy as np
import pytest

from loadgen.server.profile import DeviceProfile
from loadgen.server.simulated_gpu import SimulatedGpu, lognormal_noise


def gpu(*, t0: float = 800.0, t1: float = 100.0, noise: Iterator[float] | None = None) -> SimulatedGpu:
    """Return a device without jitter, in nanoseconds that are easy to add up."""
    return SimulatedGpu(DeviceProfile(t0_ms=t0 / 1e6, t1_ms=t1 / 1e6), noise or repeat(1.0))


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_lone_batch_takes_affine_time(rows: int) -> None:
    """A batch that is alone takes t0 + t1 * rows."""
    device = gpu()
    batch = device.start(1000, rows)
    assert device.end_ns(batch) == device.next_end_ns() == 1000 + 800 + 100 * rows


def test_small_batches_overlap() -> None:
    """Two batches whose occupancies sum to less than 1 do not slow each other."""
    device = gpu()
    first, second = device.start(0, 2), device.start(300, 2)  # occupancy 0.2 each
    assert [device.end_ns(first), device.end_ns(second)] == [1000, 1300]


def test_full_device_slows_by_the_sum_of_occupancies() -> None:
    """Two batches of occupancy 0.8 that start together both take 1.6 times as long."""
    device = gpu()
    first, second = device.start(0, 32), device.start(0, 32)
    assert [device.end_ns(first), device.end_ns(second)] == [6400, 6400]


def test_slowdown_lasts_only_while_both_run() -> None:
    """A batch is slowed from the other's start to its end, and work is conserved."""
    device = gpu()
    first = device.start(0, 32)  # 4000 alone
    second = device.start(2000, 32)  # from here both at 1 / 1.6
    assert device.end_ns(first) == 2000 + 2000 * 1.6
    assert device.end_ns(second) == 5200 + 2000  # half was done at 5200, the rest alone
    device.advance(5200)
    assert first.ended_ns == 5200
    assert device.next_end_ns() == 7200


def test_device_never_exceeds_its_throughput() -> None:
    """Four instances with full batches together carry 1 / t1 rows a second, not four times one instance's rate."""
    device = gpu()
    running = [device.start(at, 32) for at in (0, 1, 2, 3)]
    rows, now = 0, 0
    while rows < 32 * 400:
        now = device.next_end_ns() or 0
        device.advance(now)
        ended = [batch for batch in running if batch.ended_ns is not None]
        rows += 32 * len(ended)
        running = [batch for batch in running if batch.ended_ns is None] + [device.start(now, 32) for _ in ended]
    assert rows / now == pytest.approx(1 / 100, rel=0.01)


def test_without_row_time_nothing_is_shared() -> None:
    """With t1 = 0 instances are independent servers; with t0 = t1 = 0 a batch takes no time."""
    device = gpu(t1=0.0)
    assert [device.end_ns(device.start(at, 1)) for at in (0, 10, 20)] == [800, 810, 820]
    free = gpu(t0=0.0, t1=0.0)
    assert free.end_ns(free.start(7, 32)) == 7


def test_time_never_runs_backwards() -> None:
    """A batch whose start lies before an end that was already seen starts at that end."""
    device = gpu()
    device.start(0, 2)
    device.advance(1000)
    assert device.end_ns(device.start(900, 2)) == 2000


def test_prediction_is_what_happens() -> None:
    """With nothing more started, every batch ends within rounding of when it was predicted to."""
    device = gpu(noise=lognormal_noise(0.5, seed=3))
    batches = [device.start(at, rows) for at, rows in ((0, 32), (100, 4), (350, 16), (400, 1))]
    predicted = [device.end_ns(batch) for batch in batches]
    while (end_ns := device.next_end_ns()) is not None:
        device.advance(end_ns)
    ended = [batch.ended_ns for batch in batches]
    assert ended == pytest.approx(predicted, abs=4)
    assert device.next_end_ns() is None


def test_same_seed_same_times() -> None:
    """The jitter is a function of the seed."""

    def ends(seed: int) -> list[int]:
        device = gpu(t0=8e6, t1=1.5e6, noise=lognormal_noise(0.03, seed))
        return [device.end_ns(device.start(at * 10**9, 8)) for at in range(50)]

    assert ends(1) == ends(1)
    assert ends(1) != ends(2)


def test_jitter_has_mean_one_and_its_sigma() -> None:
    """The noise is lognormal with mean 1 and the asked standard deviation of its logarithm."""
    noise = np.array(list(islice(lognormal_noise(0.3, seed=0), 200_000)))
    assert noise.mean() == pytest.approx(1.0, abs=0.003)
    assert np.log(noise).std() == pytest.approx(0.3, rel=0.01)
