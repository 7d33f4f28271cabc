"""Traces of simulated servers, and twins with known laws, for the tests of the twin."""

from collections.abc import Sequence

import numpy as np

from analysis import Step, StepResult
from analysis.queueing import Floats, Law, Rule
from analysis.reconstruct import NO_GAP, Trace
from analysis.twin import Twin
from tests.bench.calibrate.des import Server, Simulator

GPU = Server(t0_s=0.002, t1_s=0.0005, batch=32, wait_s=0.005, sigma=0.03)
MM1 = Server(t0_s=0.010, exponential=True)
LOADS = (0.05, 0.3, 0.6, 0.8, 1.3, 0.85, 0.9)


def results(server: Server, seed: int, loads: Sequence[float] = LOADS, requests: int = 1500) -> list[StepResult]:
    """Run one step at each load (of the capacity, above 1: overload) on one clock."""
    simulator = Simulator(server, seed)
    rates = [load * server.capacity_rps for load in loads]
    return [
        simulator.run_step(Step(rate_rps=rate, duration_s=requests / rate, seed=100 * seed + index))
        for index, rate in enumerate(rates)
    ]


def traces(server: Server, seed: int, loads: Sequence[float] = LOADS, requests: int = 1500) -> list[Trace]:
    """Return the same as traces."""
    return [
        Trace.of(result, overload=load > 1)
        for result, load in zip(results(server, seed, loads, requests), loads, strict=True)
    ]


def known(rule: Rule, batch_s: Sequence[float], ratios: Floats, delays_s: Floats | None = None) -> Twin:
    """Return the twin whose law is given: batch_s[b - 1] for a batch of b, times a ratio, after a delay."""
    table = np.array([0.0, *batch_s])
    sizes = np.resize(np.arange(1, rule.max_batch + 1), ratios.size)
    delays = np.zeros(ratios.size) if delays_s is None else delays_s
    return Twin(
        rule=rule, law=Law(batch_s=table, ratios=ratios, delays_s=delays), base_s=batch_s[0], per_item_s=0.0,
        cv=float(ratios.std()), gap=NO_GAP, delay_s=0.0, place_s=np.zeros(rule.max_batch), spread_s=np.zeros(1), run=25,
        sizes=sizes, service_s=table[sizes] * ratios, dates_s=np.arange(ratios.size, dtype=np.float64),
    )  # fmt: skip


def mean_one(values: Floats) -> Floats:
    """Return values over their mean."""
    scaled: Floats = values / values.mean()
    return scaled
