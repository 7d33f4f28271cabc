"""What the twin's keeper believes, refuses, keeps and asks for; and what a search makes of that."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from analysis import SLA, OperatingPoint, Outcome, Search, Step, StepResult
from analysis.boundary import Crossing
from analysis.capacity import Capacity
from analysis.estimator import _MOST_REQUESTS, TwinEstimator, contradicts
from analysis.forecast import Forecast
from analysis.replay import Check
from analysis.twin import IN_SPELLS
from tests.analysis.fitted import GPU, MM1, results
from tests.bench.calibrate.des import Server, Simulator
from tests.bench.calibrate.servers import FIXED

P99 = SLA.parse("p99<50ms")
TRUE_RPS = 1697.0  # lambda* of GPU with P99, from 2e7 requests (`tests.bench.calibrate.truth.solve`)
CAPACITY = Capacity(rate_rps=GPU.capacity_rps, error=0.003, n=4000)
LOADS = (0.05, 0.3, 0.6, 1.3, 0.85, 0.9, 0.9)
CASES = {case.name: case for case in FIXED}


def estimator(seen: Sequence[StepResult], arrivals: str = "poisson", sla: SLA = P99) -> TwinEstimator:
    """Return a keeper of steps at `LOADS`."""
    keeper = TwinEstimator((sla,), arrivals)
    for result, load in zip(seen, LOADS, strict=True):
        keeper.add(result, overload=load > 1)
    return keeper


@pytest.fixture(scope="module")
def gpu() -> list[StepResult]:
    """Return steps of the usual server."""
    return results(GPU, 1, LOADS, requests=5000)


@pytest.fixture(scope="module")
def believed(gpu: list[StepResult]) -> TwinEstimator:
    """Return a keeper that believes its twin."""
    keeper = estimator(gpu)
    keeper.update(CAPACITY, {}, 1)
    return keeper


def test_a_believed_twin_says_where_the_sla_is_crossed(believed: TwinEstimator) -> None:
    """Its interval holds the truth and is narrow, the safe rate lies inside it, and the server is described."""
    assert believed.believed
    assert believed.refused is None
    point = believed.crossings["p99<50ms"]
    assert point.low_rps < TRUE_RPS < point.high_rps
    assert point.low_rps < point.safe_rps < point.rate_rps < 1.03 * point.low_rps
    model = believed.model()
    assert model is not None
    assert (model.instances, model.max_batch) == (1, 32)
    p99 = believed.quantiles("p99<50ms")[2]
    assert p99 is not None
    assert p99.low < 0.050 < (p99.high or 0)
    closed = believed.closed(P99)
    assert closed is not None
    assert closed.users > 10


def test_a_server_seen_for_less_than_a_minute_may_be_changing(gpu: list[StepResult]) -> None:
    """The same services make a wider interval the shorter the time in which they were seen, up to a minute."""
    width = {}
    for seconds in (15.0, 33.0, 60.0, 120.0):
        keeper = estimator(gpu)
        keeper.seconds = seconds
        keeper.update(CAPACITY, {}, 1)
        point = keeper.crossings["p99<50ms"]
        width[seconds] = point.high_rps / point.low_rps - 1
    assert width[15.0] > width[33.0] > width[60.0] == width[120.0]
    assert width[33.0] > 0.04


def test_it_answers_before_any_rate_has_passed() -> None:
    """An SLA of two service times is crossed at a third of the capacity; overload and one failing rate tell it.

    Not that it is found, nor that it is unmet, before a rate has passed.
    """
    simulator = Simulator(Server(t0_s=0.0278, instances=2, sigma=0.033), 3)
    search = Search(SLA.parse("p99<57ms"), seed=3, budget_s=120.0, precision=0.5)
    early = []
    passed = False
    while (step := search.next()) is not None:
        result = simulator.run_step(step, search.overloaded)
        search.add(result)
        point = search.answer()
        passed |= step.purpose != "ramp" and float(np.mean(result.violations(57_000_000))) < 0.01
        if point.method == "twin" and not passed:
            early.append(point)
            assert simulator.spent_s < 20
    assert early
    for one in early:
        assert one.verdict == "undecided"
        assert "counting" not in one.method_reason
        assert one.rate_rps is not None
        assert one.rate_rps.low < 26.8 < (one.rate_rps.high or 0)  # lambda*, by `tests.bench.calibrate.truth.solve`
    assert passed
    assert point.verdict == "found"


def test_a_failure_among_few_requests_leaves_the_twin_believed() -> None:
    """One failure in a thousand is allowed, and a few of 500 are chance, in one step; not in each of many."""
    (overload, *steps) = results(GPU, 1, (1.3, *(0.5,) * 16), requests=500)
    keeper = TwinEstimator((P99,))
    keeper.add(failing(overload, 2), overload=True)
    assert keeper.requests == overload.offered - 2
    for result in steps[:3]:
        keeper.add(failing(result, 2), overload=False)
    assert not keeper.final
    for result in steps[3:]:
        keeper.add(failing(result, 2), overload=False)
    assert keeper.refused == "requests failed"
    assert keeper.final


def test_a_step_that_failed_is_not_hidden_by_those_that_did_not() -> None:
    """Sixty thousand requests without a failure do not excuse thirty of five hundred at a higher rate."""
    keeper = TwinEstimator((P99,))
    keeper.add(results(GPU, 1, (0.5,), requests=60_000)[0], overload=False)
    last = results(GPU, 1, (0.9,), requests=500)[0]
    keeper.add(failing(last, 30), overload=False)
    assert keeper.refused == "requests failed"


def test_a_coarser_precision_needs_less_time(believed: TwinEstimator) -> None:
    """The seconds that a half-width needs fall as it grows; what no time can reach is None, as for an unknown SLA."""
    needed = [believed.needed_s("p99<50ms", precision) for precision in (0.02, 0.03, 0.05, 0.1)]
    seconds = [one for one in needed if one is not None]
    assert len(seconds) == 4
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > 1.5 * seconds[-1] > 0
    assert believed.needed_s("p99<50ms", 0.001) is None
    assert believed.needed_s("p99<1s", 0.05) is None


def test_the_tightest_sla_says_when_the_interval_may_be_narrow(gpu: list[StepResult]) -> None:
    """Beside a p99 of 50 ms, a p50 of a second, which binds nowhere, does not make it fit again sooner or later."""
    both = (SLA.parse("p50<1s"), P99)
    keeper = TwinEstimator(both)
    for result, load in zip(gpu, LOADS, strict=True):
        keeper.add(result, overload=load > 1)
    keeper.update(CAPACITY, {}, 1)
    keeper.forecasts["p50<1s"] = replace(keeper.forecasts["p50<1s"], lately=0.1, sd=0.1)  # hardly known
    needed, loose = (keeper.needed_s(str(sla), keeper.precision) for sla in (P99, both[0]))
    assert needed is not None
    assert loose is not None
    assert loose > 2 * needed
    assert keeper._narrow_s == max(keeper.least_s, needed)


def test_nothing_is_believed_before_anything_was_measured() -> None:
    """A keeper of nothing says so, has no model and no closed loop's answer, and is not final."""
    keeper = TwinEstimator((P99,))
    keeper.update(CAPACITY, {}, 1)
    assert keeper.refused == "nothing was measured yet"
    assert (keeper.believed, keeper.final, keeper.requests, keeper.model(), keeper.closed(P99)) == (
        False, False, 0, None, None,
    )  # fmt: skip


def failing(result: StepResult, count: int) -> StepResult:
    """Return a step some of whose requests failed."""
    outcome = np.zeros(result.offered)
    outcome[:count] = Outcome.HTTP_STATUS
    return StepResult.from_arrays(result.step, result.due_ns, result.done_ns, outcome, start_ns=result.start_ns)


def test_requests_that_failed_end_it(gpu: list[StepResult]) -> None:
    """More failures than one in a thousand and chance are no service that a queue explains: it is final."""
    keeper = TwinEstimator((P99,))
    keeper.add(failing(gpu[3], 100), overload=True)
    keeper.add(failing(gpu[2], gpu[2].offered // 1000), overload=False)
    assert not keeper.final
    assert keeper.requests == gpu[2].offered - gpu[2].offered // 1000  # fitted without them
    keeper.add(failing(gpu[2], 4 * gpu[2].offered // 1000), overload=False)
    assert keeper.final
    assert keeper.refused == "requests failed"
    for result in gpu:
        keeper.add(result, overload=False)
    keeper.update(CAPACITY, {}, 1, again=True)
    assert not keeper.believed
    assert keeper.refused == "requests failed"


def test_other_arrivals_than_poisson_are_refused(gpu: list[StepResult]) -> None:
    """It says which ones it cannot answer for."""
    keeper = estimator(gpu, "constant")
    keeper.update(CAPACITY, {}, 1)
    assert not keeper.believed
    assert keeper.final
    assert "constant" in (keeper.refused or "")


def crossing(rate_rps: float, half: float, clusters: float) -> Crossing:
    """Return what counting says."""
    return Crossing(
        rate_rps=rate_rps, low_rps=rate_rps * (1 - half), high_rps=rate_rps * (1 + half), safe_rps=rate_rps,
        clusters=clusters,
    )  # fmt: skip


def test_counting_contradicts_from_afar(gpu: list[StepResult], believed: TwinEstimator) -> None:
    """A counted crossing 20 % away with a half-width of 3 % refuses the twin; a wide one would not have."""
    far = crossing(0.8 * TRUE_RPS, 0.03, 30.0)
    keeper = estimator(gpu)
    keeper.update(CAPACITY, {"p99<50ms": far}, 1)
    assert keeper.refused == "counting violations contradicts it"
    assert not keeper.believed
    assert believed.check is not None
    assert contradicts(believed.forecasts["p99<50ms"], believed.check, far)
    assert not contradicts(believed.forecasts["p99<50ms"], believed.check, crossing(0.8 * TRUE_RPS, 0.5, 30.0))


def test_counting_that_comes_to_contradict_ends_belief_at_once(gpu: list[StepResult]) -> None:
    """Not only when there is so much more to fit that the twin would be fitted again."""
    keeper = estimator(gpu)
    keeper.update(CAPACITY, {"p99<50ms": crossing(TRUE_RPS, 0.03, 30.0)}, 1)
    assert keeper.believed
    keeper.update(CAPACITY, {"p99<50ms": crossing(0.8 * TRUE_RPS, 0.03, 30.0)}, 1)
    assert keeper.refused == "counting violations contradicts it"


def test_rare_delays_excuse_the_side_that_they_widen() -> None:
    """What may lie below because of rare pauses does not contradict counting that lies below; above it still does."""
    check = Check(misfit=0.0, quantiles=(), rate_rps=100.0, explained=1.0)
    plain = Forecast(
        rate_rps=100.0, sd=0.01, below=0.0, above=0.0, slope=20.0, lately=0.01, rare=0, quantiles=()
    )  # fmt: skip
    rare = replace(plain, below=0.2)
    low, high = crossing(85.0, 0.02, 20.0), crossing(115.0, 0.02, 20.0)
    assert contradicts(plain, check, low)
    assert contradicts(plain, check, high)
    assert not contradicts(rare, check, low)
    assert contradicts(rare, check, high)
    assert not contradicts(plain, replace(check, misfit=0.1), low)
    assert not contradicts(plain, check, None)
    assert not contradicts(plain, check, replace(low, clusters=2.0))


def test_another_capacity_in_overload_refuses(gpu: list[StepResult]) -> None:
    """The fitted server must complete in overload what was measured, within 6 %; said twice it is final."""
    keeper = estimator(gpu)
    for _ in range(2):
        assert not keeper.final
        keeper.update(replace(CAPACITY, rate_rps=1.15 * CAPACITY.rate_rps), {}, 1, again=True)
        assert "overload" in (keeper.refused or "")
        keeper.seconds += 20.0
    keeper.update(replace(CAPACITY, rate_rps=1.15 * CAPACITY.rate_rps), {}, 1, again=True)
    assert keeper.final


def test_memory_is_bounded() -> None:
    """However many requests pass, no more are kept than the bound and one step; the shortest steps stay whole."""
    keeper = TwinEstimator((P99,))
    n = 30_000
    due = np.arange(n) * 10**6
    for index in range(12):
        count = 500 if index == 0 else n
        keeper.add(
            StepResult.from_arrays(
                Step(rate_rps=1000.0, duration_s=count / 1000), due[:count], due[:count] + 10**6, np.zeros(count)
            ),
            overload=False,
        )  # fmt: skip
        assert keeper.requests <= _MOST_REQUESTS
    assert keeper.requests > 0.4 * _MOST_REQUESTS
    assert keeper._traces[0].arrival_s.size == 500
    assert keeper.seconds == pytest.approx(0.5 + 11 * 30)


def find(server: Server, sla: str, seed: int, budget_s: float = 60.0) -> tuple[OperatingPoint, Search]:
    """Search to the end."""
    simulator = Simulator(server, seed)
    search = Search(SLA.parse(sla), seed=seed, budget_s=budget_s)
    while (step := search.next()) is not None:
        search.add(simulator.run_step(step, search.overloaded))
    return search.answer(), search


def test_a_search_says_that_the_twin_answered() -> None:
    """On the usual server: method, the server in numbers, the closed loop's answer, and an interval with the truth."""
    answer, _ = find(GPU, "p99<50ms", 1)
    assert answer.verdict == "found"
    assert answer.method == "twin"
    assert "first-come, first-served" in answer.method_reason
    assert answer.server is not None
    assert answer.server.max_batch == 32
    assert answer.closed is not None
    assert answer.rate_rps is not None
    assert answer.rate_rps.low < TRUE_RPS < (answer.rate_rps.high or 0)


@pytest.mark.parametrize("seed", [1, 3])
def test_a_search_says_why_it_counted(seed: int) -> None:
    """Before a stack instead of a queue no twin is used, and the answer says why."""
    answer, search = find(replace(MM1, instances=4, order="lifo"), "p99<400ms", seed)
    assert answer.method == "counting"
    assert answer.server is None
    assert answer.closed is None
    assert search._open.twin.refused is not None
    assert search._open.twin.refused in answer.method_reason


def test_a_cold_server_is_recovered() -> None:
    """After five seconds of doubled service time the answer, within 120 s, is that of the warm server, and says so."""
    case = CASES["cold"]
    answer, search = find(case.server, case.sla, 1, 120.0)
    assert answer.verdict == "found"
    assert search.spent_s < 120
    assert answer.rate_rps is not None
    assert answer.rate_rps.value == pytest.approx(TRUE_RPS, rel=0.02)
    assert answer.safe_rps is not None
    assert answer.safe_rps < 1.01 * TRUE_RPS
    assert any("left out" in note for note in answer.notes)


def test_one_failed_request_does_not_hide_the_server() -> None:
    """A step with one failure in some thousands is fitted all the same, without that request."""
    seen = results(GPU, 1, requests=4000)
    outcome = seen[-1].outcome.copy()
    outcome[1000] = Outcome.RESET
    estimator = TwinEstimator([SLA.parse("p99<200ms")])
    estimator.add(replace(seen[-1], outcome=outcome), overload=False)
    assert estimator.requests == seen[-1].offered - 1
    assert estimator.refused == "nothing was measured yet"


def looking(*paces: float) -> tuple[Search, list[int]]:
    """Search on a server whose pace is another one at the first looks at its capacity, and the last pace from then on.

    Until three looks were taken, or it ends. Returned with the search: which steps the looks were.
    """
    server = replace(MM1, order="lifo", instances=4)
    simulators = {pace: Simulator(replace(server, t0_s=pace * server.t0_s), 1) for pace in (1.0, *paces)}
    search = Search(SLA.parse("p99<200ms"), seed=1, budget_s=150.0)
    looks: list[int] = []
    for number in range(200):
        step = search.next()
        if step is None or len(looks) == 3:
            break
        is_look = step.purpose == "ramp" and simulators[1.0].spent_s > 20
        looks += [number] * is_look
        pace = ([*paces, paces[-1]][min(len(looks), len(paces)) - 1]) if is_look else 1.0
        search.add(simulators[pace].run_step(step, search.overloaded))
    return search, looks


@pytest.mark.parametrize("pace", [1.5, 0.5])
def test_one_second_look_at_a_bad_moment_is_no_other_server(pace: float) -> None:
    """Where the capacity seems another one once, and not when it is looked at again, nothing is forgotten; twice, all.

    Above twice the capacity a look does not even overload the server, as when few requests come by chance.
    """
    search, looks = looking(pace, 1.0)
    assert looks[1] == looks[0] + 1
    ramp = search._open.ramp
    assert (ramp.calm_rps or 0) < 400 < (ramp.overload_rps or 0)
    answer = search.answer()
    assert not any("capacity changed" in note for note in answer.notes)
    assert answer.capacity_rps is not None
    assert answer.capacity_rps.value == pytest.approx(400, rel=0.1)
    search, _ = looking(pace, pace)
    assert any("capacity changed" in note for note in search.answer().notes)


def test_two_odd_looks_that_disagree_are_two_bad_moments() -> None:
    """Slower, then faster, then as it was: a third look is taken at once, and nothing is forgotten."""
    search, looks = looking(1.5, 0.5, 1.0)
    assert looks == [looks[0], looks[0] + 1, looks[0] + 2]
    assert not any("capacity changed" in note for note in search.answer().notes)
    assert not search._open.doubted


def test_steps_since_a_change_are_no_spells(gpu: list[StepResult]) -> None:
    """A server that is a tenth slower from one step on: what came before is left out, and the twin stays believed."""
    slower = results(replace(GPU, t0_s=1.1 * GPU.t0_s, t1_s=1.1 * GPU.t1_s), 2, (0.8, 0.85) * 6, requests=3000)
    keeper, clock_ns = estimator(gpu), gpu[-1].end_ns
    keeper.update(CAPACITY, {}, 1)
    assert keeper.believed
    now = Capacity(rate_rps=GPU.capacity_rps / 1.1, error=0.003, n=4000)
    for result in slower:
        shift = clock_ns + 10**9
        moved = StepResult.from_arrays(
            result.step, result.due_ns + shift, result.done_ns + shift, result.outcome, start_ns=result.start_ns + shift
        )
        keeper.add(moved, overload=False)
        keeper.update(now, {}, 1, again=True)
    assert keeper.believed, keeper.refused
    assert keeper.twin is not None
    assert keeper.twin.since_s is not None


def test_spells_are_seen_in_steps_whose_requests_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the first requests of each step are kept, seconds that are slow later in it refuse the twin."""
    monkeypatch.setattr("analysis.estimator._MOST_REQUESTS", 12_000)
    seen = results(GPU, 1, LOADS, requests=5000)
    keeper = estimator(seen)
    keeper.update(CAPACITY, {}, 1)
    assert keeper.believed
    spells = replace(GPU, spell_share=0.15, spell_factor=1.4)
    for result in results(spells, 5, (0.5,) * 6, requests=5000):
        keeper.add(result, overload=False)
    keeper.update(CAPACITY, {}, 1, again=True)
    assert keeper.refused in {IN_SPELLS, "service times depend on the ones before them"}
