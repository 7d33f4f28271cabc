"""The published distribution of servers that `calibrate` draws from, and a fixed set.

`draw(seed, count)` gives the same servers to everybody. Of every 16, five are "batch", three "mgc", three "slow" and
five "refuse". U is uniform, L log-uniform; a draw is thrown away unless its operating point is between 0.3 and 0.99
of its capacity (by short runs at eleven rates) and the capacity is between 10 and 20,000 req/s.

batch   FIFO, nearly deterministic. Four of five: batches of 4, 8, 16, 32 or 64; service of a full batch L(2, 50) ms, of
        which U(0.1, 0.9) is fixed; wait 0 (one of three) or L(0.1, 3) times the fixed part; 1, 1, 1, 2, 2, 4 or 8
        instances; lognormal shape U(0, 0.08); a constant network delay L(0.05, 0.5) ms; every reply later by up to
        L(0.01, 0.1) ms; in half of them the replies of a full batch leave one by one over L(0.1, 2) ms. One of five:
        one request at a time, L(1, 50) ms, shape U(0, 0.08). Limit: L(1.5, 10) times (service + wait). >= 100 req/s.
mgc     Random service, L(1, 50) ms, 1 to 8 instances: exponential; lognormal, shape U(0.3, 1); two classes,
        U(0.05, 0.3) of the requests L(3, 8) times slower; these times exponential; or batches as above of shape
        U(0.2, 0.6). Limit: L(1.5, 20) times the mean service. >= 300 req/s.
slow    As "mgc" or (one of four) nearly deterministic, service L(10, 100) ms, 1 to 4 instances, < 100 req/s.
refuse  Servers that no FIFO twin describes, or that change; a seed takes kinds from a shuffled list of all nine:
        processor sharing, LIFO, two priorities (U(0.2, 0.6) urgent), random routing to 2 to 4 queues, service with
        autocorrelation 0.9 (shape U(0.3, 0.6)), drift (U(3, 8) % of the capacity lost, exponential or linear over
        U(20, 60) s), rare stalls (U(20, 100) ms, 1 / L(250, 1000) of the time; thrown away, because no run is long
        enough for the truth, when the server can do over 20,000 requests between two of them, or more than half of the
        allowed share is late at 0.85 of the operating point),
        jitter (U(0.2, 1) ms before 2 to 4 batching instances), and bimodal (8 % of the seconds U(1.2, 2) times slower).
        >= 100 req/s.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from math import ceil, exp, log

import numpy as np

from analysis import SLA
from tests.bench.calibrate.des import Server
from tests.bench.calibrate.truth import highest_passing, shares

_MIX = (
    "batch", "refuse", "mgc", "slow", "batch", "refuse", "batch", "mgc",
    "refuse", "slow", "batch", "refuse", "mgc", "slow", "batch", "refuse",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Name a server and the SLA that it is to meet.

    Attributes:
        name: Unique in its set.
        group: The class in which it is pooled.
        server: The server.
        sla: As `SLA.parse` reads it.
    """

    name: str
    group: str
    server: Server
    sla: str

    @property
    def key(self) -> str:
        """Return a hash of the server and its SLA."""
        return sha256(repr((sorted(asdict(self.server).items()), self.sla)).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """Describe the server by the fields that are not the usual ones."""
        mine = ((field.name, getattr(self.server, field.name), field.default) for field in fields(self.server))
        return ", ".join(f"{name}={_short(value)}" for name, value, usual in mine if value != usual)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class _Dice:
    """Draw what the distribution is made of."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def log(self, low: float, high: float) -> float:
        return exp(self.uniform(log(low), log(high)))

    def of(self, *values: int) -> int:
        return values[int(self.rng.integers(len(values)))]

    def true(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def batching(self, *instances: int, sigma: float) -> Server:
        """Draw a server of batches."""
        size = self.of(4, 8, 16, 32, 64)
        full_s, fixed = self.log(0.002, 0.050), self.uniform(0.1, 0.9)
        return Server(
            t0_s=full_s * fixed, t1_s=full_s * (1 - fixed) / size, batch=size, sigma=sigma,
            wait_s=0.0 if self.true(1 / 3) else full_s * fixed * self.log(0.1, 3),
            instances=self.of(*instances),
            network_s=self.log(50e-6, 500e-6), jitter_s=self.log(10e-6, 100e-6),
            reply_s=self.log(100e-6, 2e-3) / size if self.true(0.5) else 0.0,
        )  # fmt: skip

    def single(self, low_s: float, high_s: float, *instances: int) -> Server:
        """Draw a server of single requests with random service."""
        server = Server(t0_s=self.log(low_s, high_s), instances=self.of(*instances), network_s=self.log(50e-6, 500e-6))
        kind = self.of(0, 1, 2, 3)
        if kind == 1:
            return replace(server, sigma=self.uniform(0.3, 1.0))
        if kind == 0:
            return replace(server, exponential=True)
        two = replace(server, slow_share=self.uniform(0.05, 0.3), slow_factor=self.log(3, 8))
        return two if kind == 2 else replace(two, exponential=True)


def _batch(dice: _Dice) -> Server:
    if dice.true(0.8):
        return dice.batching(1, 1, 1, 2, 2, 4, 8, sigma=dice.uniform(0, 0.08))
    plain = dice.single(0.001, 0.050, 1, 2, 4, 8)
    return Server(t0_s=plain.t0_s, instances=plain.instances, network_s=plain.network_s, sigma=dice.uniform(0, 0.08))


def _mgc(dice: _Dice) -> Server:
    if dice.true(0.2):
        return dice.batching(1, 1, 2, 4, sigma=dice.uniform(0.2, 0.6))
    return dice.single(0.001, 0.050, 1, 2, 4, 8)


def _slow(dice: _Dice) -> Server:
    plain = dice.single(0.010, 0.100, 1, 2, 4)
    if dice.true(0.25):
        return Server(t0_s=plain.t0_s, instances=plain.instances, network_s=plain.network_s, sigma=dice.uniform(0, 0.1))
    return plain


def _routed(dice: _Dice) -> Server:
    if dice.true(0.5):
        return replace(dice.batching(2, 3, 4, sigma=0.03), order="routed")
    return replace(dice.single(0.001, 0.020, 2, 3, 4), order="routed")


def _drifting(dice: _Dice) -> Server:
    lost, over_s, linear = dice.uniform(0.03, 0.08), dice.uniform(20, 60), dice.true(0.5)
    return replace(_batch(dice), drift=lost, drift_s=over_s, linear=linear)


def _stalling(dice: _Dice) -> Server:
    stall_s = dice.uniform(0.02, 0.1)
    return replace(_batch(dice), stall_s=stall_s, stall_every_s=stall_s * dice.log(250, 1000))


def _bimodal(dice: _Dice) -> Server:
    server = _batch(dice) if dice.true(0.5) else dice.single(0.001, 0.020, 1, 2, 4, 8)
    return replace(server, spell_share=0.08, spell_factor=dice.uniform(1.2, 2))


_REFUSED: dict[str, Callable[[_Dice], Server]] = {
    "sharing": lambda dice: replace(dice.single(0.001, 0.020, 1, 2, 4), order="sharing"),
    "lifo": lambda dice: replace(dice.single(0.001, 0.020, 1, 2, 4, 8), order="lifo"),
    "priority": lambda dice: replace(
        dice.single(0.001, 0.020, 1, 2, 4, 8), order="priority", urgent_share=dice.uniform(0.2, 0.6)
    ),
    "routed": _routed,
    "autocorrelated": lambda dice: Server(
        t0_s=dice.log(0.001, 0.020), instances=dice.of(1, 2, 4), sigma=dice.uniform(0.3, 0.6), rho=0.9
    ),
    "drift": _drifting,
    "stalls": _stalling,
    "jitter": lambda dice: replace(
        dice.batching(2, 2, 3, 4, sigma=dice.uniform(0, 0.08)), jitter_s=dice.uniform(0.2e-3, 1e-3)
    ),
    "bimodal": _bimodal,
}
_DRAWN: dict[str, Callable[[_Dice], Server]] = {"batch": _batch, "mgc": _mgc, "slow": _slow, **_REFUSED}
_RATES = {"batch": (100.0, 2e4), "mgc": (300.0, 2e4), "slow": (1.0, 100.0), "refuse": (100.0, 2e4)}


def draw(seed: int, count: int) -> list[Case]:
    """Draw servers, as the module says."""
    order = np.random.default_rng([seed, 0xCA5E])
    kinds = list(_REFUSED)
    shuffled = [kinds[k] for _ in range(ceil(count / len(kinds))) for k in order.permutation(len(kinds))]
    cases = []
    for index in range(count):
        group = _MIX[index % len(_MIX)]
        kind = shuffled.pop(0) if group == "refuse" else group
        rng = np.random.default_rng([seed, index])
        server, sla = _accepted(_Dice(rng), group, kind)
        cases.append(Case(name=f"{index:02d}-{kind}", group=group, server=server, sla=sla))
    return cases


def _accepted(dice: _Dice, group: str, kind: str) -> tuple[Server, str]:
    """Draw until a server's operating point is where its class wants it."""
    least, most = _RATES[group]
    while True:
        server = _DRAWN[kind](dice)
        is_random = server.exponential or server.slow_share or server.sigma > 0.1
        service_s = server.t0_s + server.t1_s * server.batch + server.wait_s
        limit_us = round(1e6 * service_s * dice.log(1.5, 20 if is_random else 10))
        sla = f"p99<{limit_us}us"
        if not 10 <= server.capacity_rps <= 20_000 or server.capacity_rps < least or 0.3 * server.capacity_rps > most:
            continue
        objective = SLA.parse(sla)
        rate = highest_passing(server, objective)
        if rate is None or not max(least, 0.3 * server.capacity_rps) <= rate <= min(most, 0.99 * server.capacity_rps):
            continue
        if kind == "stalls" and not _is_solvable(server, objective, rate):
            continue
        return server, sla


def _is_solvable(server: Server, sla: SLA, rate: float) -> bool:
    """Say that long runs see enough stalls, and that the share of violations is no plateau below the rate."""
    if server.capacity_rps * server.stall_every_s > 20_000:
        return False
    return bool(shares(server, sla, 0.85 * rate, 1_000_000, 0).mean() <= 0.5 * (1 - sla.quantile))


_GPU = Server(t0_s=0.002, t1_s=0.0005, batch=32, wait_s=0.005, sigma=0.03)
FIXED = (
    Case(
        name="default", group="batch", sla="p99<200ms",
        server=Server(t0_s=0.008, t1_s=0.0015, batch=32, wait_s=0.010, sigma=0.03),
    ),
    Case(name="gpu50", group="batch", server=_GPU, sla="p99<50ms"),
    Case(name="gpu20c2", group="batch", server=replace(_GPU, instances=2), sla="p99<20ms"),
    Case(name="nonmono", group="batch", server=replace(_GPU, t1_s=0.0002, wait_s=0.030), sla="p99<30ms"),
    Case(name="md1", group="batch", server=Server(t0_s=0.005), sla="p99<50ms"),
    Case(name="mmc", group="mgc", server=Server(t0_s=0.010, instances=4, exponential=True), sla="p99<80ms"),
    Case(name="heavy", group="mgc", server=Server(t0_s=0.020, instances=8, sigma=1.0), sla="p99<200ms"),
    Case(name="mm1", group="slow", server=Server(t0_s=0.010, exponential=True), sla="p99<100ms"),
    Case(name="stall", group="special", server=replace(_GPU, stall_s=0.050, stall_every_s=10.0), sla="p99<60ms"),
    Case(name="cold", group="special", server=replace(_GPU, cold_s=5.0, cold_factor=2.0), sla="p99<50ms"),
    Case(name="autoscale", group="special", server=replace(_GPU, instances=2, late_instances=1, late_s=25.0),
         sla="p99<50ms"),
    Case(name="full", group="special", server=replace(_GPU, queue_limit=64), sla="p99<100ms"),
    Case(name="cliff", group="special", server=replace(_GPU, cliff_rps=900.0, cliff_factor=2.5), sla="p99<50ms"),
)  # fmt: skip
