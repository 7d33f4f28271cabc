"""The search rules of other tools, from their sources and manuals, on a simulated server.

They look for the same rate with the same test, the share of requests that violate the SLA in a window of fixed length.
All are told the server's order of magnitude: they begin at 5 % of its capacity, or look between that and 150 %.
"""

from collections.abc import Callable

import numpy as np

from analysis import SLA, Step
from tests.bench.calibrate.des import Server, Simulator

PRECISION = 0.01
Judge = Callable[[float], bool]
Answer = tuple[float | None, float]


def _judge(simulator: Simulator, sla: SLA, window_s: float, spent: list[float]) -> Judge:
    """Return a test of one rate that runs one window; the time for draining is not counted."""

    def passes(rate: float) -> bool:
        spent.append(window_s)
        result = simulator.run_step(Step(rate_rps=rate, duration_s=window_s))
        violated = result.violations(round(sla.limit_s * 1e9))
        return bool(violated.size) and float(violated.mean()) <= 1 - sla.quantile

    return passes


def _halve(low: float, high: float, passes: Judge) -> float:
    """Return the highest rate that passed, when the bracket is narrower than the precision."""
    while high > (1 + PRECISION) * low:
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def nighthawk(server: Server, sla: SLA, seed: int, window_s: float) -> Answer:
    """Double from a first rate until one fails, then halve the bracket; a first rate that fails is the end.

    Nighthawk's adaptive load controller with its exponential search (source/adaptive_load).
    """
    spent: list[float] = []
    passes = _judge(Simulator(server, seed), sla, window_s, spent)
    rate = 0.05 * server.capacity_rps
    if not passes(rate):
        return None, sum(spent)
    while passes(2 * rate):
        rate *= 2
    return _halve(rate, 2 * rate, passes), sum(spent)


def binary(server: Server, sla: SLA, seed: int, window_s: float) -> Answer:
    """Halve a bracket with one window a rate."""
    spent: list[float] = []
    passes = _judge(Simulator(server, seed), sla, window_s, spent)
    low = 0.05 * server.capacity_rps
    rate = _halve(low, 1.5 * server.capacity_rps, passes)
    return (None if rate == low else rate), sum(spent)


def perf_analyzer(server: Server, sla: SLA, seed: int, window_s: float = 5.0) -> Answer:
    """Halve a bracket; a rate runs until three windows in a row agree within 10 %, at most ten, else it fails.

    perf_analyzer's `--request-rate-range --binary-search --latency-threshold --percentile`: throughput and the
    percentile are compared, and the three windows together are held against the limit.
    """
    simulator, spent = Simulator(server, seed), [0.0]

    def passes(rate: float) -> bool:
        result = simulator.run_step(Step(rate_rps=rate, duration_s=10 * window_s))
        done_s = (result.done_ns - result.start_ns) / 1e9
        latency_s = result.response_ns / 1e9
        windows = [latency_s[(done_s >= k * window_s) & (done_s < (k + 1) * window_s)] for k in range(10)]
        for last in range(3, 11):
            three = windows[last - 3 : last]
            if _stable(three, sla.quantile):
                spent.append(last * window_s)
                return float(np.quantile(np.concatenate(three), sla.quantile)) <= sla.limit_s
        spent.append(10 * window_s)
        return False

    low = 0.05 * server.capacity_rps
    rate = _halve(low, 1.5 * server.capacity_rps, passes)
    return (None if rate == low else rate), sum(spent)


def _stable(windows: list[np.typing.NDArray[np.float64]], quantile: float) -> bool:
    if any(not window.size for window in windows):
        return False
    return all(
        max(values) <= 1.1 * min(values)
        for values in (
            [window.size for window in windows],
            [float(np.quantile(window, quantile)) for window in windows],
        )
    )


RULES: dict[str, Callable[[Server, SLA, int], Answer]] = {
    "Nighthawk, 10 s": lambda server, sla, seed: nighthawk(server, sla, seed, 10.0),
    "Nighthawk, 60 s": lambda server, sla, seed: nighthawk(server, sla, seed, 60.0),
    "perf_analyzer": perf_analyzer,
    "binary, 10 s": lambda server, sla, seed: binary(server, sla, seed, 10.0),
}
