"""Batches, waiting limit, delays and services read off simulated arrivals and completions."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from analysis import Outcome, Step, StepResult
from analysis.queueing import Rule
from analysis.reconstruct import NO_GAP, Gap, Trace, batch_gaps, reconstruct, stab
from analysis.twin import Twin, fit
from tests.analysis.fitted import GPU, MM1, traces
from tests.bench.calibrate.des import Server

EXACT = replace(GPU, sigma=0.0)


def fitted(server: Server, seed: int) -> Twin:
    """Return the twin, which must not be refused."""
    found = fit(traces(server, seed))
    assert isinstance(found, Twin), found
    return found


@pytest.mark.parametrize("instances", [1, 2, 4])
@pytest.mark.parametrize("wait_s", [0.0, 0.005])
def test_services_of_the_known_rule_are_exact(instances: int, wait_s: float) -> None:
    """Given the rule, every batch, its size, its start and its service is that of the server, at every load."""
    server = replace(EXACT, instances=instances, wait_s=wait_s)
    rule = Rule(instances=instances, max_batch=32, wait_s=wait_s)
    for trace in traces(server, 1, requests=1000):
        found = reconstruct(trace, rule, Gap(1e-7, -1e-7), 0.0)
        assert found.odd == 0
        assert found.size.sum() == trace.arrival_s.size
        np.testing.assert_allclose(found.service_s, 0.002 + 0.0005 * found.size, atol=1e-8)
        assert not found.delay_s.any()
        assert np.abs(found.spread_s).max() < 2e-9


def test_members_of_a_paused_batch_show_how_late_it_began() -> None:
    """What came after a batch should have begun and still went with it gives its delay, not a longer service."""
    arrival = np.array([0.0, 0.001, 0.012, 0.030])
    done = np.array([0.0155, 0.0155, 0.0155, 0.0380])  # began at 0.012, not at 0.005; three take 3.5 ms
    trace = Trace(arrival_s=arrival, done_s=done, rate_rps=100.0, overload=False)
    found = reconstruct(trace, Rule(max_batch=8, wait_s=0.005), Gap(1e-7, -1e-7), 0.0)
    assert found.size.tolist() == [3, 1]
    assert found.delay_s == pytest.approx([0.007, 0.0])
    assert found.service_s == pytest.approx([0.0035, 0.003])
    assert found.odd == 1


def test_a_request_begins_when_the_cth_completion_before_it_has_passed() -> None:
    """With batches of one the start is the later of the arrival and the instance's becoming free; J is taken off."""
    trace = Trace(
        arrival_s=np.array([0.0, 1.0, 2.0, 9.0]), done_s=np.array([4.5, 3.5, 6.5, 10.5]), rate_rps=1.0, overload=False
    )
    two = reconstruct(trace, Rule(instances=2), NO_GAP, 0.5)
    assert two.start_s.tolist() == [0.0, 1.0, 3.0, 9.0]
    assert two.service_s.tolist() == [4.0, 2.0, 3.0, 1.0]
    assert two.waited.tolist() == [False, False, True, False]
    assert reconstruct(trace, Rule(), NO_GAP, 0.5).service_s.tolist() == [4.0, -1.0, 2.0, 1.0]


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize(("sigma", "network_s"), [(0.0, 0.0), (0.03, 0.0003)])
def test_a_batching_server_is_recovered(instances: int, sigma: float, network_s: float) -> None:
    """B and c exactly, W within 0.5 %, J within 10 us, t0 within 3 % and the capacity within 0.7 %."""
    server = replace(GPU, instances=instances, sigma=sigma, network_s=network_s)
    for seed in (1, 2):
        found = fitted(server, seed)
        assert (found.rule.max_batch, found.rule.instances) == (32, instances)
        assert found.rule.wait_s == pytest.approx(0.005, rel=0.005)
        assert found.delay_s == pytest.approx(network_s, abs=1e-5)
        assert found.base_s == pytest.approx(0.002, rel=0.03)
        assert found.per_item_s == pytest.approx(0.0005, rel=0.01)
        assert found.capacity_rps == pytest.approx(server.capacity_rps, rel=0.007 if sigma else 0.0002)
        assert found.cv == pytest.approx(sigma, rel=0.15, abs=0.001)
        assert found.since_s is None


@pytest.mark.parametrize("delivery", [{"reply_s": 5e-5}, {"reply_s": 2e-5, "jitter_s": 5e-5, "network_s": 2e-4}])
def test_replies_that_spread_do_not_hide_the_batches(delivery: dict[str, float]) -> None:
    """Replies that leave one by one, and jitter, leave B, c, W, t(b) as they are; J grows by less than the jitter."""
    for instances in (1, 2):
        server = replace(GPU, instances=instances, **delivery)  # type: ignore[arg-type]
        found = fitted(server, 2)
        assert (found.rule.max_batch, found.rule.instances) == (32, instances)
        assert found.rule.wait_s == pytest.approx(0.005, rel=0.005)
        assert found.base_s == pytest.approx(0.002, rel=0.03)
        assert found.capacity_rps == pytest.approx(server.capacity_rps, rel=0.007)
        assert server.network_s - 1e-5 <= found.delay_s <= server.network_s + server.jitter_s + 1e-5


def test_replies_that_leave_one_by_one_are_known_by_their_place() -> None:
    """The tenth reply of a batch is nine steps after the first."""
    found = fitted(replace(GPU, reply_s=5e-5, jitter_s=2e-5), 2)
    assert np.diff(found.place_s[:20]) == pytest.approx(5e-5, rel=0.3)
    assert found.place_s[10] == pytest.approx(5e-4, rel=0.05)


@pytest.mark.parametrize(
    ("server", "off"),
    [(Server(t0_s=0.005), 1e-5), (Server(t0_s=0.005, instances=2), 1e-5), (replace(MM1, instances=4), 0.03),
     (Server(t0_s=0.01, sigma=0.5, instances=3), 0.02)],
)  # fmt: skip
def test_servers_of_single_requests_are_recovered(server: Server, off: float) -> None:
    """M/D/1, M/D/2, M/M/4 and M/G/3: the instances exactly, the capacity as far as the services seen allow."""
    found = fitted(server, 1)
    assert found.rule == Rule(instances=server.instances)
    assert found.capacity_rps == pytest.approx(server.capacity_rps, rel=off)
    assert found.cv == pytest.approx(
        1.0 if server.exponential else (np.exp(server.sigma**2) - 1) ** 0.5, rel=0.1, abs=1e-6
    )


def test_batch_sizes_are_supposed_from_a_deep_backlog() -> None:
    """The likeliest supposition is right, the last is that there are no batches."""
    for server in (GPU, replace(GPU, jitter_s=1e-4), replace(GPU, batch=8, reply_s=1e-4)):
        (likeliest, gaps), *_, last = batch_gaps(traces(server, 2))
        assert likeliest == server.batch
        assert all(0 < gap.most_s < server.t0_s for gap in gaps)
        assert all((gap.least_s > 0) == bool(server.reply_s) for gap in gaps)  # else they overtake one another
        assert last == (1, [NO_GAP])
    assert batch_gaps(traces(MM1, 1)) == [(1, [NO_GAP])]
    nothing = Trace(arrival_s=np.zeros(0), done_s=np.zeros(0), rate_rps=1.0, overload=True)
    assert batch_gaps([nothing]) == [(1, [NO_GAP])]


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_two_instances_that_reply_at_once_are_told_apart(seed: int) -> None:
    """Batches of four whose replies leave one by one for a quarter of the time between them: runs of eight are two."""
    server = Server(t0_s=0.0014, t1_s=0.0006, batch=4, instances=2, sigma=0.03, network_s=2e-4, reply_s=1.5e-4)
    server = replace(server, jitter_s=5e-5)
    seen = traces(server, seed, requests=3000)
    assert batch_gaps(seen)[0][0] == 4
    found = fit(seen)
    assert isinstance(found, Twin), found
    assert (found.rule.instances, found.rule.max_batch) == (2, 4)
    assert found.rule.wait_s < 2e-5
    assert found.capacity_rps == pytest.approx(server.capacity_rps, rel=0.01)


def test_batches_that_end_at_once_by_chance_are_two() -> None:
    """At 0.4 of the capacity, of two instances whose replies leave one by one: two single requests are no batch of two.

    What is taken for one scatters more than the service does.
    """
    server = Server(t0_s=0.0015, t1_s=0.00035, batch=4, instances=2, sigma=0.07, network_s=3e-4, reply_s=6e-5)
    server = replace(server, jitter_s=2e-5)
    found = fit(traces(server, 1, loads=(0.05, 0.3, 0.4, 1.3, 0.42, 0.45, 0.4), requests=6000))
    assert isinstance(found, Twin), found
    assert found.gap.least_s == pytest.approx(6e-5 - 2e-5, abs=1e-5)
    assert found.cv == pytest.approx(server.sigma, rel=0.15)
    for batch in range(1, 5):
        assert found.law.batch_s[batch] == pytest.approx(server.t0_s + server.t1_s * batch, rel=0.01)


def test_few_replies_that_overtake_one_another_tear_no_batch() -> None:
    """Replies of one batch come 50 us apart, and one in 250 is held up by 60 us: one batch in 8 has no least gap."""
    rng = np.random.default_rng(1)
    seen = [
        replace(trace, done_s=trace.done_s + 6e-5 * (rng.random(trace.done_s.size) < 0.004))
        for trace in traces(replace(GPU, reply_s=5e-5), 3)
    ]
    assert all(gap.least_s < 0 for _, gaps in batch_gaps(seen)[:-1] for gap in gaps)
    found = fit(seen)
    assert isinstance(found, Twin), found
    assert found.cv == pytest.approx(GPU.sigma, rel=0.1)
    assert found.capacity_rps == pytest.approx(GPU.capacity_rps, rel=0.01)


def test_replies_that_a_client_reads_at_once_have_no_least_gap() -> None:
    """5 us apart they are as near as those of two batches that end at once."""
    seen = traces(replace(GPU, reply_s=5e-6), 3)
    assert all(gap.least_s < 0 for _, gaps in batch_gaps(seen)[:-1] for gap in gaps)


def test_torn_batches_make_no_gap_that_joins_them_all() -> None:
    """One reply in 300 is held up beyond its batch, while the server is a little faster than it was before.

    Of a gap as long as those between the faster batches only the other runs are left: all full, and right by half.
    """
    (before,), (trace,) = (
        traces(replace(GPU, reply_s=5e-6, t0_s=t0_s), 1, loads=(1.3,)) for t0_s in (GPU.t0_s + 0.004, GPU.t0_s)
    )
    trace = replace(trace, done_s=trace.done_s + np.where(np.arange(trace.done_s.size) % 300 == 150, 0.04, 0.0))
    (batch, gaps), *_ = batch_gaps([before, trace])
    assert batch == GPU.batch
    assert gaps[0].most_s < 0.001  # and between batches 18 ms


def test_stab_finds_where_most_intervals_lie() -> None:
    """[2, 3) lies in three of the four; empty intervals and no intervals at all count for nothing."""
    lows, highs = np.array([0.0, 2.0, 1.0, 7.0, 5.0]), np.array([3.0, 9.0, 4.0, 8.0, 5.0])
    assert stab(lows, highs) == (2.0, 3.0, 0.75)
    assert stab(np.array([1.0]), np.array([1.0])) == (0.0, 0.0, 0.0)


def test_a_trace_is_in_the_order_of_sending() -> None:
    """Requests that were sent late arrived when they were sent, in that order; an early stamp counts as due."""
    due, sent = np.array([0, 10, 20, 30]) * 10**6, np.array([0, 25, 21, 29]) * 10**6
    result = StepResult.from_arrays(
        Step(rate_rps=100.0, duration_s=1.0), due + 5 * 10**9, due + 5 * 10**9 + 40 * 10**6,
        np.full(4, Outcome.OK), sent_ns=sent + 5 * 10**9, start_ns=5 * 10**9,
    )  # fmt: skip
    trace = Trace.of(result, overload=True)
    assert trace.arrival_s == pytest.approx([0.0, 0.021, 0.025, 0.030])
    assert trace.done_s == pytest.approx([0.040, 0.060, 0.050, 0.070])
    assert (trace.start_s, trace.rate_rps, trace.overload) == (5.0, 100.0, True)
    assert trace.head(2).arrival_s.size == 2


def test_too_few_requests_are_no_server() -> None:
    """A few dozen requests give half a sentence, which says that it is too early."""
    refused = fit(traces(GPU, 1, loads=(0.1,), requests=30))
    assert cast("str", refused).endswith("yet")
