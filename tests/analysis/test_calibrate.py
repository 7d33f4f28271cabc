"""The simulator of `calibrate` against formulas and an independent one, its truth, its draws and its files."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import exp, factorial, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import SLA, Outcome, Step, StepProgress
from tests.analysis import simulators as slow
from tests.bench.calibrate import peers
from tests.bench.calibrate.des import Server, Simulator
from tests.bench.calibrate.figures import Share, figures
from tests.bench.calibrate.kernels import Floats
from tests.bench.calibrate.replicate import drive
from tests.bench.calibrate.runs import Task, run_all, tasks, truths_of
from tests.bench.calibrate.servers import FIXED, draw
from tests.bench.calibrate.tables import page
from tests.bench.calibrate.truth import solve

FIXED_BY_NAME = {case.name: case for case in FIXED}
MM1 = Server(t0_s=0.010, exponential=True)
GPU = Server(t0_s=0.002, t1_s=0.0005, batch=32, wait_s=0.005)


def latencies(server: Server, rate_rps: float, requests: int = 400_000) -> Floats:
    """Return the response times of one long step, seconds, the first tenth cut."""
    result = Simulator(server, 1).run_step(Step(rate_rps=rate_rps, duration_s=requests / rate_rps))
    return np.asarray(result.response_ns[requests // 10 :] / 1e9)


@pytest.mark.parametrize(
    "server", [MM1, replace(MM1, order="lifo"), replace(MM1, order="priority", urgent_share=0.3),
               replace(MM1, order="sharing"), replace(MM1, order="sharing", exponential=False, sigma=1.0)],
)  # fmt: skip
def test_mean_response_of_mm1_is_the_same_in_every_order(server: Server) -> None:
    """1 / (mu - lambda), whatever the order; for processor sharing whatever the law of service too."""
    assert latencies(server, 70.0).mean() == pytest.approx(1 / 30, rel=0.05)


def test_response_of_mm1_is_exponential() -> None:
    """The share above t is exp(-(mu - lambda) t)."""
    times = latencies(MM1, 60.0)
    for t in (0.02, 0.05, 0.1):
        assert (times > t).mean() == pytest.approx(exp(-40 * t), rel=0.08)


def test_random_routing_makes_separate_queues() -> None:
    """Two queues behind a random router are two M/M/1 at half the rate."""
    assert latencies(replace(MM1, order="routed", instances=2), 140.0).mean() == pytest.approx(1 / 30, rel=0.05)


def test_mmc_follows_erlang_c() -> None:
    """The share that waits, and the tail of the response time of M/M/4."""
    server, rate, c, mu = replace(MM1, instances=4), 320.0, 4, 100.0
    load = rate / mu
    top = load**c / factorial(c) * c / (c - load)
    waits = top / (sum(load**k / factorial(k) for k in range(c)) + top)
    spare = c * mu - rate
    above = {
        t: exp(-mu * t) * (1 + waits * mu / (mu - spare) * (exp((mu - spare) * t) - 1)) for t in (0.02, 0.05, 0.08)
    }  # integral of P(W > t - s) over the service time s, with P(W > w) = waits exp(-spare w)
    times = latencies(server, rate)
    for t, share in above.items():
        assert (times > t).mean() == pytest.approx(share, rel=0.06)


def test_md1_and_dd1() -> None:
    """M/D/1 waits rho s / (2 (1 - rho)) on average; D/D/1 never waits."""
    server = Server(t0_s=0.005)
    assert latencies(server, 160.0).mean() == pytest.approx(0.005 + 0.8 * 0.005 / (2 * 0.2), rel=0.03)
    steady = Simulator(server).run_step(Step(rate_rps=190.0, duration_s=20, arrivals="constant"))
    assert np.ptp(steady.response_ns) <= 1


def test_little() -> None:
    """The mean number in flight that the ticks show is the rate times the mean response."""
    seen: list[StepProgress] = []

    def watch(tick: StepProgress) -> bool:
        seen.append(tick)
        return False

    result = Simulator(GPU).run_step(Step(rate_rps=1200.0, duration_s=200), watch)
    in_flight = np.mean([tick.in_flight for tick in seen])
    assert in_flight == pytest.approx(result.offered / 200 * result.response_ns.mean() / 1e9, rel=0.02)


@pytest.mark.parametrize("instances", [1, 3])
def test_batches_are_those_of_the_other_simulator(instances: int) -> None:
    """On the same arrivals every reply leaves at the same nanosecond, pauses or not."""
    server = replace(GPU, instances=instances, stall_s=0.05, stall_every_s=1.0)
    simulator = Simulator(server)
    simulator._pauses = np.arange(0.7, 1000.0, 1.3)  # apart: the other one sees the last pause only
    result = simulator.run_step(Step(rate_rps=1500.0 * instances, duration_s=30))
    other = slow.Simulator(
        slow.Server(t0_s=0.002, t1_s=0.0005, batch=32, delay_s=0.005, instances=instances, stall_s=0.05,
                    stall_every_s=1.0)
    )  # fmt: skip
    other._stalls = simulator._pauses.tolist()
    assert np.abs(other._serve(result.due_ns / 1e9) - result.done_ns / 1e9).max() < 2e-9


def test_a_full_queue_rejects_as_erlang_says() -> None:
    """M/M/1/K turns (1 - rho) rho^K / (1 - rho^(K+1)) of the requests away, at once."""
    result = Simulator(replace(MM1, queue_limit=4)).run_step(Step(rate_rps=90.0, duration_s=4000))
    rejected = result.outcome == Outcome.HTTP_STATUS
    assert rejected.mean() == pytest.approx(0.1 * 0.9**5 / (1 - 0.9**6), rel=0.03)
    assert result.response_ns[rejected].max() == 0


def test_services_of_an_autocorrelated_server_are_alike() -> None:
    """The logarithms of consecutive services of an idle server correlate as asked, across steps too."""
    simulator = Simulator(Server(t0_s=0.001, sigma=0.5, rho=0.9, instances=50))
    logs = np.log(np.concatenate([simulator.run_step(_idle(k)).response_ns for k in range(40)]))
    assert np.corrcoef(logs[1:], logs[:-1])[0, 1] == pytest.approx(0.9, abs=0.03)
    assert logs.std() == pytest.approx(0.5, rel=0.1)


def _idle(seed: int) -> Step:
    return Step(rate_rps=100.0, duration_s=1, seed=seed, arrivals="constant")


def test_the_clock_remembers() -> None:
    """Cold start, drift, late instances and slow seconds show when their time comes, and not on a settled server."""
    base = Server(t0_s=0.004)

    def first_and_last(server: Server, *, settled: bool = False) -> tuple[float, float]:
        times = Simulator(server, settled=settled).run_step(Step(rate_rps=10.0, duration_s=60, arrivals="constant"))
        return times.response_ns[5] / 4e6, times.response_ns[-1] / 4e6

    assert first_and_last(replace(base, cold_s=3.0, cold_factor=2.0)) == pytest.approx((2, 1))
    assert first_and_last(replace(base, drift=0.2, drift_s=30.0, linear=True)) == pytest.approx((1, 1.25), rel=0.01)
    assert first_and_last(replace(base, drift=0.2, drift_s=5.0), settled=True) == pytest.approx((1.25, 1.25))
    busy = Step(rate_rps=300.0, duration_s=30, arrivals="constant")
    late = Simulator(replace(base, instances=2, late_instances=1, late_s=10.0)).run_step(busy)
    assert late.response_ns[2300] > 5e6 > late.response_ns[-1]
    spells = Simulator(replace(base, spell_share=0.1, spell_factor=3.0)).run_step(
        replace(busy, rate_rps=5.0, duration_s=2000)
    )
    assert (spells.response_ns > 8e6).mean() == pytest.approx(0.1, rel=0.25)


def test_delivery_is_later_by_network_and_jitter() -> None:
    """Replies of a batch leave one after the other, and each is late by the network and a random bit."""
    result = Simulator(replace(GPU, reply_s=1e-4, network_s=0.01, jitter_s=1e-3)).run_step(_idle(0))
    plain = Simulator(replace(GPU, reply_s=1e-4)).run_step(_idle(0))
    late_s = (result.done_ns - plain.done_ns) / 1e9
    assert 0.010 <= late_s.min() < 0.0102
    assert 0.0108 < late_s.max() <= 0.011
    crowd = Simulator(replace(GPU, reply_s=1e-4)).run_step(Step(rate_rps=1700.0, duration_s=5))
    assert np.isin(np.diff(crowd.done_ns), (99_999, 100_000, 100_001)).mean() > 0.5


def test_a_step_that_is_told_to_stop_sends_no_more_and_drains() -> None:
    """Nothing falls due after the tick, what was sent is served as ever, and the next step finds an idle server."""
    step = Step(rate_rps=150.0, duration_s=20, seed=3)
    whole = Simulator(MM1, 4).run_step(step)
    simulator = Simulator(MM1, 4)
    part = simulator.run_step(step, lambda tick: tick.oldest_pending_s > 0.5)
    assert part.aborted
    assert part.due_ns[-1] - part.start_ns <= part.step.duration_s * 1e9 / 2
    assert np.array_equal(part.done_ns, whole.done_ns[: part.offered])
    after = simulator.run_step(Step(rate_rps=1.0, duration_s=5))
    assert after.start_ns >= part.done_ns.max()


def test_closed_loop_keeps_its_users() -> None:
    """Users over the mean response are the throughput, and many users reach the capacity."""
    for users in (1, 8, 200):
        result = Simulator(GPU).run_step(Step(users=users, duration_s=30))
        assert result.offered / 30 == pytest.approx(users / result.response_ns.mean() * 1e9, rel=0.01)
    assert result.offered / 30 == pytest.approx(GPU.capacity_rps, rel=0.01)


def test_truth_of_mm1_is_its_formula() -> None:
    """The rate with p99 of 100 ms is mu - ln(100) / 0.1, and the runs say how far they may be off."""
    truth = solve(MM1, SLA.parse("p99<100ms"), segment=300_000, wanted=0.005)
    assert truth.error <= 0.005
    assert truth.rate_rps == pytest.approx(100 - 10 * log(100), rel=3 * truth.error)
    assert truth.slope == pytest.approx(0.1 * truth.rate_rps, rel=0.15)


def test_time_of_counting_is_that_of_the_study() -> None:
    """Counting at lambda* of the M/M/4 of the search study takes 543 s for 2 %."""
    case = FIXED_BY_NAME["mmc"]
    truth = solve(case.server, SLA.parse(case.sla), segment=500_000, wanted=0.003)
    assert 543 / 1.5 < truth.point_s["0.02"] < 543 * 1.5
    assert truth.point_s["0.05"] == pytest.approx(truth.point_s["0.02"] * 0.16)
    assert truth.bound_s["0.02"] <= truth.point_s["0.02"]


def test_draws_are_the_same_for_everybody() -> None:
    """A seed gives the same servers; another one others; sixteen are mixed as published."""
    cases = draw(5, 16)
    assert cases == draw(5, 16)
    assert cases[0].key != draw(6, 1)[0].key
    groups = [case.group for case in cases]
    assert [groups.count(group) for group in ("batch", "mgc", "slow", "refuse")] == [5, 3, 3, 5]
    assert len({case.name.split("-")[1] for case in cases if case.group == "refuse"}) == 5


def test_wilson() -> None:
    """The textbook interval for 8 of 10, and nothing out of nothing."""
    assert Share(hits=8, n=10).interval == pytest.approx((49.0, 94.3), abs=0.1)
    assert str(Share(hits=0, n=0)) == "-"


def test_figures_count_what_they_say() -> None:
    """Coverage is of the answers given; unsafe and none are of all runs."""
    good = {
        "rate": 100.0,
        "low": 95.0,
        "high": 105.0,
        "safe": 96.0,
        "spent_s": 10.0,
        "method": "twin",
        "verdict": "found",
    }
    runs = [good, good | {"low": 101.0, "safe": 102.0, "rate": 103.0, "high": None}, good | {"rate": None}, None]
    got = figures([(run, 100.0) for run in runs])
    assert (got.covered, got.unsafe, got.none) == (Share(hits=1, n=2), Share(hits=1, n=4), Share(hits=2, n=4))
    assert got.bias == pytest.approx(1.5)


def test_a_run_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Only what the file lacks is run: a cut line and a broken run again, the rest not; the page is whole."""
    cases = [FIXED_BY_NAME["md1"], FIXED_BY_NAME["mmc"]]
    todo = list(tasks(cases, argparse.Namespace(reps=3, seed=1, budget=30.0, no_peers=False)))
    asked: list[Task] = []

    def work(_function: Callable[[Any], Any], left: Sequence[Any]) -> Iterable[Any]:
        asked[:] = left
        stop = {
            "rate": 150.0,
            "low": 1.0,
            "high": 1e9,
            "safe": 1.0,
            "spent_s": 9.0,
            "method": "twin",
            "verdict": "found",
        }
        for index, task in enumerate(left):
            broken = index == 1 and len(left) > 2
            yield task, {"error": "lost"} if broken else {"answers": {"15": stop, "20": stop, "30": stop, "stop": stop}}

    path = tmp_path / "runs.jsonl"
    run_all(todo, path, work)
    assert len(asked) == 3 * 2 * 6
    path.write_text(path.read_text()[:-10])
    runs = run_all(todo, path, work)
    assert asked == [todo[1], todo[-1]]
    assert [len(some) for some in runs.values()] == [3] * 12
    truths = truths_of(
        cases, tmp_path / "truths.json", lambda _solve, some: ((case, _truth(case.server)) for case in some)
    )
    assert truths == truths_of(cases, tmp_path / "truths.json", lambda _solve, some: [1 / len(some)] if some else [])
    text = page("Title", cases, truths, runs, 30.0)
    assert "| md1 | Nighthawk, 10 s | 9 |" in text
    assert "120 s" not in text


def _truth(server: Server) -> Any:
    return solve(server, SLA.parse("p99<80ms"), segment=100_000, wanted=0.02)


def test_the_driver_answers_at_the_marks() -> None:
    """Answers are taken just after the marks of test time, and where the search stops."""
    answers = drive(FIXED_BY_NAME["md1"], 1, budget_s=30.0, precision=0.01, marks=[5.0, 15.0])
    assert list(answers) == ["5", "15", "stop"]
    assert answers["5"]["spent_s"] >= 5
    assert answers["stop"]["spent_s"] <= 31


def test_the_rules_of_other_tools_do_as_they_are_known_to() -> None:
    """A doubling search gives up where the lowest rate fails; the others come within a tenth."""
    nonmono, gpu = FIXED_BY_NAME["nonmono"], FIXED_BY_NAME["gpu50"]
    assert peers.nighthawk(nonmono.server, SLA.parse(nonmono.sla), 1, 10.0) == (None, 10.0)
    sla = SLA.parse(gpu.sla)
    for rule in ("Nighthawk, 10 s", "binary, 10 s", "perf_analyzer"):
        rate, spent_s = peers.RULES[rule](gpu.server, sla, 1)
        assert rate == pytest.approx(1695, rel=0.1)
        assert 50 <= spent_s <= 400
