"""What a closed loop would have answered, against what a closed queueing system does."""

from itertools import pairwise

import numpy as np
import pytest

from analysis import SLA, Step
from analysis.closed_twin import closed_answer, closed_loop
from analysis.queueing import Rule
from analysis.twin import Twin
from tests.analysis.fitted import GPU, known, mean_one
from tests.bench.calibrate.des import Simulator
from tests.bench.calibrate.truth import shares

TABLE = [0.002 + 0.0005 * b for b in range(1, 33)]
NEARLY_CONSTANT = mean_one(np.random.default_rng(1).lognormal(0, 0.03, 4000))
ONE, TWO = (known(Rule(instances=c), [0.010], np.ones(100)) for c in (1, 2))
BATCHES = known(Rule(max_batch=32, wait_s=0.005), TABLE, NEARLY_CONSTANT)


@pytest.mark.parametrize(("twin", "users", "rate", "mean_s"), [
    (ONE, 1, 100.0, 0.010), (ONE, 7, 100.0, 0.070), (TWO, 1, 100.0, 0.010), (TWO, 2, 200.0, 0.010),
    (TWO, 8, 200.0, 0.040), (BATCHES, 1, 1 / 0.0075, 0.0075),
])  # fmt: skip
def test_throughput_and_response_of_constant_service(twin: Twin, users: int, rate: float, mean_s: float) -> None:
    """min(N, c) / s completions a second, each after N / that rate; one user waits for the batch to fill in vain."""
    response, throughput = closed_loop(twin, users, np.random.default_rng(0))
    assert throughput == pytest.approx(rate, rel=0.003)
    assert response.mean() == pytest.approx(mean_s, rel=0.003)


@pytest.mark.parametrize("users", [5, 40, 100])
def test_batches_are_those_of_the_simulator(users: int) -> None:
    """Mean and p99 of the response time, and the throughput, are those of the simulated servers of `calibrate`."""
    response, throughput = closed_loop(BATCHES, users, np.random.default_rng(0))
    other = Simulator(GPU, 1).run_step(Step(users=users, duration_s=30))
    assert throughput == pytest.approx(other.offered / 30, rel=0.01)
    assert response.mean() == pytest.approx(other.response_ns.mean() / 1e9, rel=0.01)
    assert np.quantile(response, 0.99) == pytest.approx(np.quantile(other.response_ns, 0.99) / 1e9, rel=0.03)


def test_the_highest_number_of_users_is_that_of_the_formula() -> None:
    """N users of one server each wait N s; where one is too many there is none; an open queue never settles there."""
    for limit_ms, users in ((25, 2), (55, 5), (205, 20)):
        answer = closed_answer(ONE, SLA.parse(f"p99<{limit_ms}ms"), 1)
        assert answer is not None
        assert answer.users == users
        assert answer.throughput_rps == pytest.approx(100.0, rel=0.003)
        assert answer.quantile_s is None
    assert closed_answer(ONE, SLA.parse("p99<9ms"), 1) is None


def test_a_longer_limit_never_allows_fewer_users() -> None:
    """Users and throughput grow with the limit, up to the capacity."""
    limits = (9, 10, 12, 20, 40, 80, 160)
    answers = [answer for ms in limits if (answer := closed_answer(BATCHES, SLA.parse(f"p99<{ms}ms"), 1)) is not None]
    assert len(answers) == len(limits)
    for fewer, more in pairwise(answers):
        assert fewer.users <= more.users
        assert fewer.throughput_rps <= 1.01 * more.throughput_rps
    assert answers[0].users < 10
    assert answers[-1].users > 200
    assert answers[-1].throughput_rps == pytest.approx(BATCHES.capacity_rps, rel=0.01)


def test_the_same_rate_by_itself_has_the_quantile_that_it_says() -> None:
    """When requests come by themselves at the rate that the users reached, one in a hundred is slower than it says."""
    answer = closed_answer(BATCHES, SLA.parse("p99<14ms"), 1)
    assert answer is not None
    assert answer.quantile_s is not None
    sla = SLA.parse(f"p99<{round(1e6 * answer.quantile_s)}us")
    assert shares(GPU, sla, answer.throughput_rps, 300_000, 1).mean() == pytest.approx(0.01, rel=0.4)
