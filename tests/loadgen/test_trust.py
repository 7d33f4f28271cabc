"""Which rate is measured next, and what the rows allow to trust: tables of numbers."""

from dataclasses import replace

import pytest

from loadgen import health, session, trust
from loadgen.trust import Row, next_rate
from tests.loadgen.selfchecks import CEILING, row


@pytest.mark.parametrize(
    ("added_p99_s", "limit_s"),
    [(0.0001, 0.002), (0.000213, 0.0043), (0.00021, 0.0042), (0.01, 0.2), (0.0099, 0.2), (0.5, 10.0), (0.0, 1e-6)],
)
def test_the_limit_is_twenty_times_what_is_added(added_p99_s: float, limit_s: float) -> None:
    """Rounded up to two digits, never down, so that the promise holds."""
    assert row(100, added_p99_s=added_p99_s).limit_s == pytest.approx(limit_s)


@pytest.mark.parametrize(
    ("found", "flaw"),
    [
        (row(100), ""),
        (row(100, cpu_share=0.9), ""),
        (row(100, cpu_share=0.91), "CPU"),
        (row(100, achieved_share=0.99), ""),
        (row(100, achieved_share=0.98), "behind"),
        (row(100, added_p99_s=0.01), ""),
        (row(100, added_p99_s=0.011), "slow"),
        (row(100, cpu_share=0.95, achieved_share=0.5, added_p99_s=1.0), "CPU"),
    ],
)
def test_a_rate_is_trusted_by_three_rules(found: Row, flaw: str) -> None:
    """CPU, replies and latency; the one that a flag can change is named first."""
    assert found.flaw == flaw


def test_the_rules_are_those_of_a_run() -> None:
    """A step that selfcheck would trust is not called client-limited by a run: the shares are the same."""
    assert trust.SHARE == session._LATENESS_SHARE
    assert trust.MOST_CPU == health._MOST_CPU


@pytest.mark.parametrize(
    ("rows", "ceiling_rps", "rate_rps"),
    [
        ([], 83_000, 100),
        ([row(100)], 83_000, 1000),
        ([row(100), row(1000)], 83_000, 5000),
        ([row(100, added_p99_s=0.1)], 83_000, 100),  # a hiccup is asked for again
        ([row(100, added_p99_s=0.1), row(100)], 83_000, 1000),
        ([row(100, added_p99_s=0.1), row(100, added_p99_s=0.1)], 83_000, None),
        ([row(100, cpu_share=0.95)], 83_000, None),  # CPU is no hiccup
        ([row(10_000), row(20_000)], 83_000, 50_000),
        ([row(10_000), row(20_000)], 45_000, 30_000),  # the ceiling is nearer than the ladder's next rate
        ([row(20_000), row(50_000, cpu_share=0.95)], 83_000, 32_000),
        ([row(20_000), row(50_000, cpu_share=0.95), row(32_000)], 83_000, 40_000),
        ([row(20_000), row(23_000, cpu_share=0.95)], 83_000, None),  # near enough
        ([row(100 + k) for k in range(10)], 83_000, None),
    ],
)
def test_the_next_rate(rows: list[Row], ceiling_rps: float, rate_rps: float | None) -> None:
    """Up the ladder, then between the highest good and the lowest bad rate or the ceiling; ten rows at most."""
    assert next_rate(rows, ceiling_rps) == rate_rps


@pytest.mark.parametrize("most_rps", [150, 3_000, 7_777, 19_000, 21_000, 48_000, 60_000, 150_000])
def test_the_true_bound_is_found(most_rps: float) -> None:
    """Whatever a machine can hold, ten rows come within 40 % below it and never above."""
    rows: list[Row] = []
    while (rate_rps := next_rate(rows, 1.3 * most_rps)) is not None:
        rows.append(row(rate_rps, cpu_share=0.9 * rate_rps / most_rps))
    found = trust.trust(CEILING, rows, workers=1, cores=2).rate_rps
    assert found is not None
    assert 0.6 * most_rps <= found <= most_rps


def test_what_is_trusted_holds_at_every_lower_rate() -> None:
    """The limit is the worst of all rates up to the bound; a lower one comes with the rate up to which it holds."""
    rows = [
        row(100, added_p99_s=0.0002),
        row(1000, added_p99_s=0.0001),
        row(5000, added_p99_s=0.0005),
        row(20_000, added_p99_s=0.0004),
        row(50_000, cpu_share=0.95),
    ]
    found = trust.trust(CEILING, rows, workers=1, cores=2)
    assert (found.rate_rps, found.limit_s) == (20_000, 0.01)
    assert (found.fine_rps, found.fine_limit_s) == (1000, 0.004)
    assert found.limited_by == "a worker that used 95 % of its core at 50,000 req/s"
    assert "--workers 2 " in found.advice


def test_one_limit_is_said_once() -> None:
    """Where the lowest limit holds up to the bound, there is no finer one."""
    found = trust.trust(CEILING, [row(100), row(1000)], workers=1, cores=2)
    assert (found.rate_rps, found.limit_s) == (1000, 0.006)
    assert (found.fine_rps, found.fine_limit_s) == (None, None)


def test_nothing_is_trusted_above_a_rate_that_is_not() -> None:
    """A rate that failed twice bounds what lies above it; one that failed once and then held does not."""
    bad = row(1000, added_p99_s=0.1)
    assert trust.trust(CEILING, [row(100), bad, bad, row(5000)], workers=1, cores=2).rate_rps == 100
    assert trust.trust(CEILING, [row(100), bad, row(1000), row(5000)], workers=1, cores=2).rate_rps == 5000
    assert trust.trust(CEILING, [bad, bad], workers=1, cores=2).rate_rps is None


@pytest.mark.parametrize(
    ("shares", "workers", "cores", "limit", "advice"),
    [
        ((0.98, 0.95), 1, 8, "a worker", "--workers 2 sends from 2 of the 8 cores"),
        ((0.98, 0.50), 3, 4, "a worker", "--workers 4 "),
        ((0.98, 0.50), 1, 1, "a worker", "All cores send already"),
        ((0.60, 0.95), 4, 8, "the null server", "Nothing needs to be done"),
        ((0.50, 0.45), 1, 1, "the only core", "Against a server on another machine"),
        ((0.60, 0.50), 1, 8, "waiting for the CPU", "Stop what else uses"),
    ],
)
def test_what_ends_it_is_named_with_its_remedy(
    shares: tuple[float, float], workers: int, cores: int, limit: str, advice: str
) -> None:
    """The engine's core, the null server's, or neither; and the flag that helps, where one does."""
    ceiling = replace(CEILING, cpu_share=shares[0], server_cpu_share=shares[1])
    found = trust.trust(ceiling, [row(100)], workers=workers, cores=cores)
    assert found.limited_by.startswith(limit)
    assert found.advice.startswith(advice)
