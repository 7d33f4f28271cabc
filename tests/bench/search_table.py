"""Print how well the search does on servers with known truth: `python -m tests.bench.search_table --reps 40`.

Truth lambda* comes from long runs (`tests.analysis.simulators.true_rate`, at least 4e6 requests a rate) or a formula;
--truth solves it again. --fresh N adds N servers drawn at random with --seed, their truth solved on the spot.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from math import log, sqrt

import numpy as np

from analysis import SLA, Search
from tests.analysis.simulators import GPU, Server, Simulator, true_rate


@dataclass(frozen=True, kw_only=True)
class Case:
    """Name a server, its SLA and its lambda*."""

    name: str
    server: Server
    sla: str
    truth_rps: float


_BATCH = Server(t0_s=0.002, t1_s=0.0005, batch=32, delay_s=0.005, sigma=0.03)
CASES = (
    Case(name="default", server=GPU, sla="p99<200ms", truth_rps=552.8),
    Case(name="gpu50", server=_BATCH, sla="p99<50ms", truth_rps=1695.8),
    Case(
        name="gpu20c2", sla="p99<20ms", truth_rps=2491.4,
        server=Server(t0_s=0.002, t1_s=0.0005, batch=32, delay_s=0.005, sigma=0.03, instances=2),
    ),
    Case(
        name="nonmono", sla="p99<30ms", truth_rps=3676.6,
        server=Server(t0_s=0.002, t1_s=0.0002, batch=32, delay_s=0.030, sigma=0.03),
    ),
    Case(name="mmc", server=Server(t0_s=0.01, instances=4, sigma="exponential"), sla="p99<80ms", truth_rps=334.6),
    Case(name="md1", server=Server(t0_s=0.005), sla="p99<50ms", truth_rps=154.7),
    Case(name="heavy", server=Server(t0_s=0.02, instances=8, sigma=1.0), sla="p99<200ms", truth_rps=361.3),
    Case(name="mm1", server=Server(t0_s=0.01, sigma="exponential"), sla="p99<100ms", truth_rps=100 - 10 * log(100)),
)  # fmt: skip


def draw(rng: np.random.Generator) -> tuple[str, Server, float]:
    """Draw a kind, a server and an SLA limit in seconds."""
    kind = str(rng.choice(["batch", "batchjit", "mgc", "md"]))
    t0 = 10 ** rng.uniform(-3, -1.5)
    if kind.startswith("batch"):
        t1, batch = t0 * 10 ** rng.uniform(-1.5, -0.3), int(2 ** rng.integers(2, 7))
        delay, sigma = t0 * float(rng.choice([0, 0.5, 1, 3])), float(rng.uniform(0.2, 0.6)) if kind != "batch" else 0.03
        instances = int(rng.choice([1, 1, 2, 4]))
        server = Server(t0_s=t0, t1_s=t1, batch=batch, delay_s=delay, instances=instances, sigma=sigma)
        return kind, server, (t0 + t1 * batch + delay) * float(rng.choice([1.5, 2, 3, 5, 8]))
    shape: float | str = 0.0 if kind == "md" else rng.choice(np.array(["exponential", 0.3, 0.6, 1.0], dtype=object))
    server = Server(t0_s=t0, instances=int(rng.choice([1, 2, 4, 8])), sigma=shape)
    return kind, server, t0 * float(rng.choice([8, 12, 20]))


def fresh(count: int, seed: int) -> Iterator[Case]:
    """Draw servers and solve their truth, each within a minute."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        kind, server, limit_s = draw(rng)
        us = round(limit_s * 1e6)
        truth = true_rate(server, us / 1e6, requests=600_000)
        if 0.31 * server.capacity_rps < truth < 0.995 * server.capacity_rps:
            yield Case(name=f"{kind}{index}", server=server, sla=f"p99<{us}us", truth_rps=truth)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, in percent (runs are independent: one seed each)."""
    z, share = 1.96, hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100 * (centre - reach), 100 * (centre + reach)


def row(case: Case, reps: int, seed: int, budget_s: float, precision: float) -> str:
    """Run the search `reps` times and return one line of the table."""
    found, width, error, spent, covered, unsafe, none = 0, [], [], [], 0, 0, 0
    for rep in range(reps):
        simulator = Simulator(case.server, seed=seed + rep)
        search = Search(SLA.parse(case.sla), seed=seed + rep, budget_s=budget_s, precision=precision)
        while (step := search.next()) is not None:
            search.add(simulator.run_step(step, search.overloaded))
        answer = search.answer()
        found += answer.verdict == "found"
        spent.append(search.spent_s)
        if answer.rate_rps is None or answer.safe_rps is None:
            none += 1
            continue
        low, high = answer.rate_rps.low, answer.rate_rps.high
        covered += low <= case.truth_rps and (high is None or case.truth_rps <= high)
        unsafe += answer.safe_rps > 1.01 * case.truth_rps
        error.append(100 * (answer.rate_rps.value / case.truth_rps - 1))
        width.append(100 * min(9.99, answer.rate_rps.relative_half_width))
    low, high = wilson(covered, max(1, reps - none))
    return (
        f"| {case.name} | {case.truth_rps:.1f} | {case.truth_rps / case.server.capacity_rps:.3f} "
        f"| {np.median(spent):.0f} ({max(spent):.0f}) | {np.mean(error):+.1f} | {np.quantile(np.abs(error), 0.95):.1f} "
        f"| {np.median(width):.1f} | {100 * covered / max(1, reps - none):.0f} ({low:.0f}-{high:.0f}) "
        f"| {100 * unsafe / reps:.0f} | {100 * (1 - found / reps):.0f} | {none} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--budget", type=float, default=180.0)
    parser.add_argument("--precision", type=float, default=0.05)
    parser.add_argument("--only", default="")
    parser.add_argument("--fresh", type=int, default=0)
    parser.add_argument("--truth", action="store_true")
    options = parser.parse_args()
    if options.truth:
        for case in CASES:
            solved = true_rate(case.server, SLA.parse(case.sla).limit_s, requests=4_000_000)
            print(f"{case.name}: {solved:.1f}, table {case.truth_rps:.1f}", flush=True)
        return
    print(
        "| server | lambda* | of capacity | test s (max) | bias % | abs95 % | half-width % | covered % (Wilson) ",
        end="",
    )
    print("| unsafe % | not found % | no answer |\n|---|---|---|---|---|---|---|---|---|---|---|")
    known = [case for case in CASES if not options.only or case.name in options.only.split(",")]
    for case in fresh(options.fresh, options.seed) if options.fresh else known:
        print(row(case, options.reps, options.seed, options.budget, options.precision), flush=True)


if __name__ == "__main__":
    main()
