"""The simulated queue against closed forms and against a loop that follows the rule word by word."""

from math import exp, factorial, log

import numpy as np
import pytest

from analysis.queueing import Floats, Lanes, Law, Rule, poisson_lanes, simulate

EXPONENTIAL = np.random.default_rng(3).exponential(size=50_000)
EXPONENTIAL /= EXPONENTIAL.mean()


def law(batch_s: list[float], ratios: Floats | None = None, delays_s: Floats | None = None) -> Law:
    """Return a law that serves a batch of b in batch_s[b - 1]; constant where no ratios are given."""
    ratios = np.ones(1) if ratios is None else ratios
    delays = np.zeros(ratios.size) if delays_s is None else delays_s
    return Law(batch_s=np.array([0.0, *batch_s]), ratios=ratios, delays_s=delays, restart=0.02)


def waits(rule: Rule, one: Law, rate_rps: float, lanes: int = 40, size: int = 20_000) -> Floats:
    """Return response times at a Poisson rate, the first quarter of every lane cut."""
    arrivals = poisson_lanes(lanes, size, np.random.default_rng(1)) / rate_rps
    return (simulate(rule, [one], arrivals, np.random.default_rng(2)) - arrivals)[:, size // 4 :]


def by_the_rule(rule: Rule, arrivals_s: list[float], batch_s: list[float], ratios: Floats, delays_s: Floats) -> Floats:
    """Return completions, each batch with the next ratio and delay, as the docstring of `Rule` says."""
    done: list[float] = []
    free, k = [float("-inf")] * rule.instances, 0
    while len(done) < len(arrivals_s):
        queue = arrivals_s[len(done) :]
        oldest_leaves = queue[0] + rule.wait_s
        is_full = queue[rule.max_batch - 1] if len(queue) >= rule.max_batch else float("inf")
        start = max(min(free), min(oldest_leaves, is_full)) + delays_s[k]
        size = sum(at <= start for at in queue[: rule.max_batch])
        end = start + batch_s[size - 1] * ratios[k]
        free[free.index(min(free))] = end
        done += [end] * size
        k += 1
    return np.array(done)


def replayed(rule: Rule, batch_s: list[float], arrivals_s: Floats, first: int, services: int) -> tuple[Floats, Floats]:
    """Return completions by `simulate` of one lane and by the loop, the ratios beginning with number `first`."""
    rng = np.random.default_rng(7)
    ratios, delays = rng.lognormal(0, 0.3, services), np.where(rng.random(services) < 0.05, 0.02, 0.0)
    by_rule = by_the_rule(rule, arrivals_s.tolist(), batch_s, np.roll(ratios, -first), np.roll(delays, -first))
    one = law(batch_s, ratios, delays)
    return simulate(rule, [one], arrivals_s[None], Unbroken((first + 0.5) / services))[0], by_rule


class Unbroken(np.random.Generator):
    """Draw the number that picks the first service, and from then on ones: no run is ever broken off."""

    def __init__(self, first: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._first = first

    def random(self, size: int | tuple[int, ...]) -> Floats:  # type: ignore[override]
        """Return the first number in the first row ever asked for."""
        drawn = np.ones(size)
        np.atleast_2d(drawn)[0] = self._first
        self._first = 1.0
        return drawn


@pytest.mark.parametrize("instances", [1, 2, 3])
@pytest.mark.parametrize(("batch", "wait_s"), [(8, 0.0), (8, 0.004), (8, 0.1), (1, 0.0)])
def test_batches_are_those_of_the_rule(instances: int, batch: int, wait_s: float) -> None:
    """Every completion is that of a loop over the rule, at a low load, at a high one, and beyond the capacity."""
    batch_s = [0.004 + 0.0005 * b for b in range(1, batch + 1)]
    rule = Rule(instances=instances, max_batch=batch, wait_s=wait_s)
    capacity = instances * batch / batch_s[-1]
    for load in (0.2, 0.7, 1.3):
        arrivals = poisson_lanes(1, 1500, np.random.default_rng(5))[0] / (load * capacity)
        got, wanted = replayed(rule, batch_s, arrivals, first=17, services=2000)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)


def test_services_come_in_runs_of_fifty() -> None:
    """A lane draws consecutive services, wraps round, and breaks a run off one time in fifty."""
    for rule in (Rule(), Rule(max_batch=2)):
        many = 1000
        one = law([1.0] * rule.max_batch, np.arange(1.0, many + 1))
        apart = np.arange(20_000.0)[None] * 2000  # every request finds the server idle
        drawn = (simulate(rule, [one], np.tile(apart, (4, 1)), np.random.default_rng(0)) - apart).round() - 1
        goes_on = np.diff(drawn, axis=1) % many == 1
        assert goes_on.mean() == pytest.approx(0.98, abs=0.003)
        assert drawn.mean() == pytest.approx(many / 2, rel=0.06)


def test_response_of_mm1() -> None:
    """Response times of M/M/1 are exponential with mean 1 / (mu - lambda): p50, p90 and p99."""
    times = waits(Rule(), law([0.01], EXPONENTIAL), 70.0)
    for quantile in (0.5, 0.9, 0.99):
        assert np.quantile(times, quantile) == pytest.approx(-log(1 - quantile) / 30, rel=0.04)


def test_md1_and_dd1() -> None:
    """M/D/1 waits rho s / (2 (1 - rho)) on average; D/D/1 never waits below the capacity, and ever longer above."""
    times = waits(Rule(), law([0.005]), 160.0)
    assert times.mean() == pytest.approx(0.005 + 0.8 * 0.005 / (2 * 0.2), rel=0.02)
    steady, crowded = np.arange(500) * 0.00501, np.arange(500) * 0.004
    done = simulate(Rule(), [law([0.005])], np.stack([steady, crowded]), np.random.default_rng(0))
    assert done[0] - steady == pytest.approx(0.005)
    assert done[1] - crowded == pytest.approx(0.005 + 0.001 * np.arange(500))


def test_mm4_follows_erlang_c() -> None:
    """Of M/M/4 Erlang's share of the requests waits, exponentially, with mean 1 / (c mu - lambda)."""
    rate, c, mu = 320.0, 4, 100.0
    load = rate / mu
    top = load**c / factorial(c) * c / (c - load)
    share = top / (sum(load**k / factorial(k) for k in range(c)) + top)
    spare = c * mu - rate
    times = waits(Rule(instances=c), law([1 / mu], EXPONENTIAL), rate, lanes=100)
    assert times.mean() == pytest.approx(1 / mu + share / spare, rel=0.025)
    for t in (
        0.01,
        0.02,
        0.04,
    ):  # integral of P(W > t - s) over the service time s, with P(W > w) = share exp(-spare w)
        above = exp(-mu * t) * (1 + share * mu / (mu - spare) * (exp((mu - spare) * t) - 1))
        assert (times > t).mean() == pytest.approx(above, rel=0.06)


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(instances=3), Rule(max_batch=4, wait_s=0.01), Rule(max_batch=4, instances=2)]
)
def test_lanes_are_apart_and_may_be_of_unequal_length(rule: Rule) -> None:
    """Cutting lanes short, one of them to nothing, leaves the rest of them as it was; what is cut is infinite."""
    arrivals = poisson_lanes(4, 300, np.random.default_rng(1)) / (200.0 * rule.instances)
    one = law([0.004, 0.005, 0.006, 0.007][: rule.max_batch], EXPONENTIAL)
    whole = simulate(rule, [one], arrivals, np.random.default_rng(2))
    kept = [300, 120, 0, 1]
    short = arrivals.copy()
    for lane, n in enumerate(kept):
        short[lane, n:] = np.inf
    cut = simulate(rule, [one], short, np.random.default_rng(2))
    for lane, n in enumerate(kept):
        assert np.isinf(cut[lane, n:]).all()
        same = max(0, n - rule.max_batch)  # the last batch may miss those that were cut
        np.testing.assert_allclose(cut[lane, :same], whole[lane, :same], rtol=0, atol=1e-9)
        assert (cut[lane, :n] > short[lane, :n]).all()


@pytest.mark.parametrize("rule", [Rule(), Rule(instances=2), Rule(max_batch=4, wait_s=0.01)])
def test_laws_are_compared_on_the_same_chances(rule: Rule) -> None:
    """The lanes of each law get the same random numbers: equal laws end equally, a slower one later."""
    arrivals = np.tile(poisson_lanes(2, 500, np.random.default_rng(1)) / 100.0, (3, 1))
    one = law([0.004, 0.005, 0.006, 0.007][: rule.max_batch], EXPONENTIAL)
    slower = Law(batch_s=1.1 * one.batch_s, ratios=one.ratios, delays_s=one.delays_s)
    done = simulate(rule, [one, one, slower], arrivals, np.random.default_rng(2))
    np.testing.assert_allclose(done[:2], done[2:4], rtol=0, atol=1e-9)
    assert not np.array_equal(done[0], done[1])
    assert (done[4:] > done[:2]).mean() > 0.99
    alone = simulate(rule, [one], arrivals[:2], np.random.default_rng(2))
    np.testing.assert_allclose(done[:2], alone, rtol=0, atol=1e-9)


def test_lanes_that_cannot_be_shared_out_are_an_error() -> None:
    """Three lanes are not two laws' worth, whatever the rule."""
    for rule in (Rule(), Rule(max_batch=2)):
        one = law([0.01] * rule.max_batch)
        with pytest.raises(ValueError, match="3 lanes cannot be shared out equally among 2 laws"):
            simulate(rule, [one, one], np.ones((3, 5)).cumsum(axis=1), np.random.default_rng(0))


@pytest.mark.parametrize(
    "rule", [Rule(), Rule(instances=3), Rule(max_batch=4, wait_s=0.01), Rule(max_batch=4, instances=2)]
)
@pytest.mark.parametrize("piece", [16, 700])
def test_a_server_that_goes_on_is_the_one_that_never_paused(rule: Rule, piece: int) -> None:
    """Fed in pieces, lanes serve every request as they do fed at once; what may yet be joined is served with the rest.

    Two loads beside each other, so that one is ahead of the other in requests; each lane goes on with its own services.
    """
    many, ratios = 3000, np.random.default_rng(7).lognormal(0, 0.3, 4000)
    unit = poisson_lanes(3, many, np.random.default_rng(1))
    arrivals = np.concatenate([unit / (load * rule.instances * rule.max_batch / 0.007) for load in (0.3, 0.9)])
    one = law([0.004, 0.005, 0.006, 0.007][: rule.max_batch], ratios)
    at_once = simulate(rule, [one, one], arrivals, Unbroken(0.3))
    lanes = Lanes(rule, [one, one], 6, Unbroken(0.3))
    got: list[list[Floats]] = [[] for _ in range(6)]
    for begin in range(0, many, piece):
        served = lanes.serve(arrivals[:, begin : begin + piece], last=begin + piece >= many)
        cuts = np.cumsum(served.counts)[:-1]
        parts = zip(np.split(served.arrival_s, cuts), np.split(served.done_s, cuts), strict=True)
        for lane, (arrival, done) in enumerate(parts):
            got[lane].append(np.stack([arrival, done]))
    for lane, parts_of_lane in enumerate(got):
        arrival, done = np.concatenate(parts_of_lane, axis=1)
        np.testing.assert_array_equal(arrival, arrivals[lane])
        np.testing.assert_allclose(done, at_once[lane], rtol=0, atol=1e-9)
