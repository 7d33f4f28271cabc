"""The rate that a known twin predicts against formulas and another simulator, its doubts, and its check by replay."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from analysis import SLA, doubt
from analysis.doubt import FLOOR, rare_doubt
from analysis.forecast import Forecast, _pooled, _Stand, crossing, forecast
from analysis.queueing import Rule, poisson_lanes, simulate
from analysis.reconstruct import Trace
from analysis.replay import Tally, replay, unexplained
from analysis.simulation import Responses, Steady, steady_responses
from analysis.twin import Twin, fit
from tests.analysis.fitted import GPU, known, mean_one, traces
from tests.bench.calibrate.des import Server
from tests.bench.calibrate.truth import shares

RNG = np.random.default_rng(1)
NEARLY_CONSTANT = mean_one(RNG.lognormal(0, 0.03, 20_000))
EXPONENTIAL = known(Rule(), [0.010], mean_one(RNG.exponential(size=40_000)))


def batching(server: Server) -> Twin:
    """Return the twin of a server of batches."""
    table = [server.t0_s + server.t1_s * b for b in range(1, server.batch + 1)]
    return known(Rule(instances=server.instances, max_batch=server.batch, wait_s=server.wait_s), table, NEARLY_CONSTANT)


def found(twin: Twin, sla: str, seed: int = 1) -> Forecast:
    """Return the forecast, which there must be."""
    result = forecast(twin, SLA.parse(sla), seed)
    assert result is not None
    return result


def settled(twin: Twin, rate_rps: float, limit_s: float) -> float:
    """Return the share of requests slower than a limit once the server has settled."""
    (responses,) = steady_responses(twin, [(twin.law, rate_rps)], limit_s, [1])
    return responses.share


NOT_MONOTONE = replace(GPU, t1_s=0.0002, wait_s=0.030)


@pytest.mark.parametrize(
    ("server", "sla"), [(GPU, "p99<50ms"), (replace(GPU, instances=2), "p99<20ms"), (NOT_MONOTONE, "p99<30ms")]
)
def test_batching_servers_cross_where_another_simulator_has_them_cross(server: Server, sla: str) -> None:
    """1.5 % below the forecast fewer requests than allowed are slow, 1.5 % above more; sd is between 0.3 and 1 %."""
    result = found(batching(server), sla)
    below, above = (
        shares(server, SLA.parse(sla), times * result.rate_rps, 1_500_000, 5).mean() for times in (0.985, 1.015)
    )
    assert below < 0.01 < above
    assert 0.003 <= result.sd < 0.01
    assert result.lately < result.sd
    assert (result.rare, result.below, result.above) == (0, 0.0, 0.0)
    limit_s = SLA.parse(sla).limit_s
    assert result.quantiles[-1][:2] == (0.99, limit_s)
    _, median_s, sd = result.quantiles[0]
    assert sd < 0.05
    more, fewer = (
        shares(server, SLA.parse(f"p50<{median_s * exp(times * sd):.6f}s"), result.rate_rps, 1_500_000, 5).mean()
        for times in (-3, 3)
    )
    assert fewer < 0.5 < more


def test_a_server_that_holds_the_sla_up_to_its_capacity_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the rate stays at the highest that is asked, and more simulations say no more: four pairs are enough."""
    counted = []

    class Counted(Steady):
        def more(self) -> list[Responses]:
            counted.append(self)
            return super().more()

    monkeypatch.setattr("analysis.forecast.Steady", Counted)
    twin = batching(replace(GPU, t0_s=0.001, t1_s=0.00005, batch=64, wait_s=0.0))
    result = forecast(twin, SLA.parse("p99<200ms"), 1, 0.99)
    assert result is not None
    assert result.rate_rps == pytest.approx(twin.capacity_rps, rel=0.005)
    assert len(counted) == 4


def test_cases_are_simulated_on_the_same_chances_and_go_on_from_where_they_were() -> None:
    """Equal cases give equal responses, round by round; a higher rate more slow ones; the next round is another."""
    for server, limit_s in ((GPU, 0.03), (replace(GPU, batch=1, t1_s=0.0, instances=3), 0.012)):
        twin = batching(server)
        low, high = (twin.law, 0.8 * twin.capacity_rps), (twin.law, 0.95 * twin.capacity_rps)
        steady = Steady(twin, [low, low, high], limit_s, 20_000, [3])
        rounds = [steady.more() for _ in range(2)]
        for one, same, other in rounds:
            assert np.array_equal(one.seconds, same.seconds)
            assert one.share < other.share
            assert one.seconds.size == one.counts.sum() > 19_000
            assert one.slow.sum() == (one.seconds > limit_s).sum()
        assert not np.array_equal(rounds[0][0].seconds[:1000], rounds[1][0].seconds[:1000])


@pytest.mark.parametrize("server", [replace(GPU, t0_s=0.05, batch=1024), replace(GPU, batch=300, wait_s=0.0)])
def test_batches_may_be_larger_than_what_a_lane_is_asked_for(server: Server) -> None:
    """At a low load, too, a round serves every lane, and what it was warmed up with is not in it."""
    twin = batching(server)
    for load in (0.02, 0.9):
        (responses,) = steady_responses(twin, [(twin.law, load * twin.capacity_rps)], 1.0, [1])
        assert (responses.counts > 0).all()
        assert 0 <= responses.share <= 1


def test_services_that_follow_one_another_do_so_however_the_simulation_is_cut() -> None:
    """Half of the services are twice as long, in spells: slow ones are neither cut short nor drawn out.

    The share of slow responses is that of long runs in one go, within four standard errors, whether the lanes are few
    or many, of which the first that cannot fill a batch is done early.
    """
    spells = np.repeat(np.where(np.random.default_rng(5).random(400) < 0.5, 1.4, 0.7), 20)
    rule, table = Rule(max_batch=32, wait_s=0.005), [0.002 + 0.0005 * b for b in range(1, 33)]
    twin = known(rule, table, mean_one(spells))
    twin = replace(twin, law=replace(twin.law, restart=0.05))
    rate, limit_s = 0.85 * twin.capacity_rps, 0.06
    arrivals = poisson_lanes(200, 12_000, np.random.default_rng(1)) / rate
    done = simulate(rule, [twin.law], arrivals, np.random.default_rng(2))
    long = ((done - arrivals)[:, 2000:-32] > limit_s).mean(axis=1)
    for requests in (20_000, 400_000):
        steady = Steady(twin, [(twin.law, rate)], limit_s, requests, [3])
        rounds = [steady.more()[0] for _ in range(8)]
        lanes = np.sum([one.slow for one in rounds], axis=0) / np.sum([one.counts for one in rounds], axis=0)
        error = (long.var() / long.size + lanes.var() / lanes.size) ** 0.5
        assert long.mean() > 0.05
        assert abs(lanes.mean() - long.mean()) < 4 * error


def test_the_error_of_the_place_is_how_it_scatters() -> None:
    """Of M/M/1 at 98 % of its capacity, whose queue outlives a round: over 24 seeds, within half."""
    places, errors = [], []
    for seed in range(24):
        stand = _Stand(EXPONENTIAL, SLA.parse("p90<1s"), log(0.977 / 0.023), [seed])
        for _ in range(6):
            stand.go_on()
        moved, _, error = _pooled([stand], stand.y, 0.1)
        places.append(moved)
        errors.append(error)
    assert np.std(places) == pytest.approx(np.mean(errors), rel=0.5)
    assert np.mean(places) == pytest.approx(0.0, abs=0.05)  # p90 of M/M/1 is ln 10 / (mu - lambda)


def test_a_low_rate_that_fails_too_is_not_the_answer() -> None:
    """Where batches wait 30 ms to fill, p99<30ms fails at 500 req/s and near the capacity: the upper rate is meant."""
    twin, sla = batching(NOT_MONOTONE), SLA.parse("p99<30ms")
    assert settled(twin, 500.0, 0.03) > 0.01
    upper = crossing(twin, sla)
    assert upper is not None
    assert upper > 3500


def test_the_end_of_a_simulation_is_no_part_of_the_settled_server() -> None:
    """At 3,000 req/s nearly no request is slow, though every batch would wait 30 ms did no other request come."""
    share = settled(batching(NOT_MONOTONE), 3000.0, 0.03)
    assert share == pytest.approx(shares(NOT_MONOTONE, SLA.parse("p99<30ms"), 3000.0, 300_000, 1).mean(), abs=0.001)


def test_mm1_crosses_where_its_formula_says() -> None:
    """p99 of M/M/1 is ln 100 / (mu - lambda): within 1.5 % on average, p50 and p95 within 3 %; s = lambda t."""
    truth, sla = 100 - log(100) / 0.1, SLA.parse("p99<100ms")
    results = [forecast(EXPONENTIAL, sla, seed) for seed in range(4)]
    rates = np.array([result.rate_rps for result in results if result is not None])
    assert rates.size == len(results)
    assert rates.mean() == pytest.approx(truth, rel=0.015)  # of which the 40,000 services drawn are off by 0.008
    result = found(EXPONENTIAL, "p99<100ms")
    assert abs(log(result.rate_rps / truth)) < 0.03
    assert crossing(EXPONENTIAL, SLA.parse("p99<100ms")) == pytest.approx(truth, rel=0.03)
    for (quantile, value, sd), share in zip(result.quantiles, (0.5, 0.95, 0.99), strict=True):
        assert quantile == share
        assert value == pytest.approx(-log(1 - share) / (100 - truth), rel=0.03)
        assert 0 < sd < 0.1
    assert result.slope == pytest.approx(truth * 0.1, rel=0.15)


def test_the_doubt_shrinks_with_the_services_seen() -> None:
    """A quarter of the services doubles what more services would narrow, roughly; both cover the formula."""
    truth = 100 - log(100) / 0.1
    many, few = (
        found(known(Rule(), [0.010], np.random.default_rng(3).exponential(size=n)), "p99<100ms") for n in (8000, 500)
    )
    assert 2 < few.lately / many.lately < 8
    for result in (many, few):
        assert abs(log(result.rate_rps / truth)) < 3 * result.sd


def test_of_many_services_fewer_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resamples of 4,000 of 16,000 services tell the doubt that resamples of them all do, within their own chance."""
    twin = known(Rule(), [0.010], np.random.default_rng(3).exponential(size=16_000))
    whole = found(twin, "p99<100ms").lately
    monkeypatch.setattr(doubt, "_MOST", 4_000)
    assert 0.6 < found(twin, "p99<100ms").lately / whole < 1.6


@pytest.mark.parametrize(
    ("twin", "sla"), [(EXPONENTIAL, "p99<20ms"), (batching(GPU), "p99<6ms"), (batching(NOT_MONOTONE), "p99<20ms")]
)
def test_no_rate_meets_a_limit_below_the_service(twin: Twin, sla: str) -> None:
    """An idle server that is too slow already has no crossing."""
    assert crossing(twin, SLA.parse(sla)) is None
    assert forecast(twin, SLA.parse(sla), 1) is None


def test_rare_pauses_widen_the_interval() -> None:
    """That eight pauses were seen says little of how many come: both sides widen."""
    table = [0.002 + 0.0005 * b for b in range(1, 33)]
    delays = np.zeros(4000)
    delays[250::500] = 0.050
    rule, ratios = Rule(max_batch=32, wait_s=0.005), NEARLY_CONSTANT[:4000]
    seen = found(known(rule, table, ratios, delays), "p99<60ms")
    assert seen.rare == 8
    assert 0.05 < seen.below < 1.0
    assert 0.02 < seen.above < seen.below


def test_what_one_pause_holds_up_is_one_event() -> None:
    """Four pauses of 90 ms, in each of which fourteen requests came, are four events; far apart they are 56."""
    ratios, sla = NEARLY_CONSTANT[:16_000].copy(), SLA.parse("p99<72ms")
    for pause in range(4):
        ratios[700 + 4000 * pause :][:14] += np.linspace(3.6, 2.0, 14)
    twin = known(Rule(instances=8), [0.025], ratios)  # a service a second
    together = replace(twin, dates_s=np.arange(ratios.size, dtype=np.float64) / 250)
    (events, below, _), (requests, little, _) = (rare_doubt(one, 270.0, sla, 1) for one in (together, twin))
    assert (events, requests) == (4, 56)
    assert below > 2 * little


def test_a_trend_is_part_of_the_doubt_and_a_known_load_leads_to_the_same_place() -> None:
    """What a drift leaves uncertain is in sd alone; beginning 2 % beside the answer leads back to it."""
    twin = batching(replace(GPU, instances=2))
    plain = found(twin, "p99<20ms")
    load = 0.98 * plain.rate_rps / twin.capacity_rps
    led = forecast(replace(twin, trend=0.03), SLA.parse("p99<20ms"), 1, load)
    assert led is not None
    assert led.rate_rps == pytest.approx(plain.rate_rps, rel=0.01)
    assert led.sd == pytest.approx((plain.sd**2 + 0.03**2) ** 0.5, rel=0.05)
    assert led.lately == pytest.approx(plain.lately, rel=0.3, abs=0.5 * FLOOR)  # so exactly it is asked for


@pytest.fixture(scope="module")
def seen() -> tuple[Twin, list[Trace]]:
    """Return a fitted twin and what it was fitted to."""
    observed = traces(GPU, 2, loads=(0.05, 0.5, 1.3, 0.85, 0.9), requests=4000)
    twin = fit(observed)
    assert isinstance(twin, Twin)
    return twin, observed


def test_a_right_twin_replays_what_was_seen(seen: tuple[Twin, list[Trace]]) -> None:
    """Its misfit is below 1 %, it explains the tails, and only steps near the answer are replayed."""
    check = replay(*seen, 0.9 * GPU.capacity_rps, 0.01, 1)
    assert check is not None
    assert check.misfit < 0.01
    assert check.explained > 0.9
    assert check.rate_rps == pytest.approx(0.875 * GPU.capacity_rps)
    for _, predicted, observed in check.quantiles:
        assert predicted == pytest.approx(observed, rel=0.1)


@pytest.mark.parametrize("slower", [0.9, 1.1])
def test_a_wrong_twin_is_found_out(seen: tuple[Twin, list[Trace]], slower: float) -> None:
    """A tenth faster or slower than the server, it does not replay what was seen, by more than 2 % of the rate."""
    twin, observed = seen
    law = replace(twin.law, batch_s=slower * twin.law.batch_s)
    check = replay(replace(twin, law=law), observed, 0.9 * GPU.capacity_rps, 0.01, 1)
    assert check is not None
    assert check.misfit > 0.02


def test_overload_and_short_steps_are_not_replayed(seen: tuple[Twin, list[Trace]]) -> None:
    """With nothing else there is no check."""
    twin, observed = seen
    assert replay(twin, [trace.head(99) for trace in observed], 500.0, 0.01, 1) is None
    assert replay(twin, [trace for trace in observed if trace.overload], 500.0, 0.01, 1) is None


@pytest.mark.parametrize(
    ("load", "share", "since_s", "is_surprise"),
    [
        (0.6, 0.02, None, True),  # at a load at which the twin says none
        (0.6, 0.002, None, False),  # too few to move the answer
        (0.6, 0.02, 5.0, False),  # before the server changed
        (0.99, 0.02, None, False),  # so near to the crossing that chance may do it
    ],
)
def test_slow_requests_that_the_twin_does_not_say_are_a_surprise(
    seen: tuple[Twin, list[Trace]], load: float, share: float, since_s: float | None, *, is_surprise: bool
) -> None:
    """Of 100,000 requests at a load, relative to the twin's rate."""
    twin = replace(seen[0], since_s=since_s)
    sla = SLA.parse("p99<50ms")
    crossing = 0.96 * GPU.capacity_rps
    step = Tally(rate_rps=load * crossing, start_s=3.0, requests=100_000, slow={str(sla): int(100_000 * share)})
    assert unexplained(twin, [step], sla, rate_rps=crossing, sd=0.01, seed=1) == is_surprise


def test_what_the_twin_says_itself_is_no_surprise(seen: tuple[Twin, list[Trace]]) -> None:
    """As many slow requests below its rate as it says, however many: batches that wait to fill fail at low rates."""
    sla, rate = SLA.parse("p99<9ms"), 0.3 * GPU.capacity_rps
    (responses,) = steady_responses(seen[0], [(seen[0].law, rate)], sla.limit_s, [1], 100_000)
    assert responses.share > 0.05
    step = Tally(rate_rps=rate, start_s=3.0, requests=100_000, slow={str(sla): int(1e5 * responses.share)})
    assert not unexplained(seen[0], [step], sla, rate_rps=2 * rate, sd=0.01, seed=1)
    more = replace(step, slow={str(sla): int(3e5 * responses.share)})
    assert unexplained(seen[0], [more], sla, rate_rps=2 * rate, sd=0.01, seed=1)
