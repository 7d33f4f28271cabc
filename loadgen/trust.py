"""What a load generator's numbers can be trusted for, from what it measured of itself on a server that does nothing.

All the latency that it shows there was added by the generator, the kernel and that server. Three rules:

- A rate is held when every request is answered and at least 99 % of the offered rate is achieved.
- No worker uses more than 90 % of a core, as in the steps of a run (`loadgen.health`).
- An SLA limit is at least 20 times the p99 of the added latency: at most 5 % of the limit is the generator's own. The
  lateness of sends, which a run holds to the same share of its limit, is a part of what is added.

A rate that is good for no limit of 200 ms or below is not trusted, nor is any rate above one that is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.text import share

SHARE = 0.05  # of an SLA limit that the generator may add to 99 % of requests
MOST_CPU = 0.9  # of a core
_COARSEST_S = 0.2  # an SLA limit
SLOWEST_S = SHARE * _COARSEST_S  # added p99
LEAST_ACHIEVED = 0.99
_RATES_RPS = (100.0, 1e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6)
_MOST_ROWS = 10
_CLOSER = 1.15  # rates nearer than this factor are not told apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Say what the engine does at most: a closed loop without think time.

    Attributes:
        rate_rps: Replies per second.
        cpu_us_per_request: Of the workers together.
        cpu_share: Of a core, by the busiest worker.
        server_cpu_share: Of a core, by the null server.
    """

    rate_rps: float
    cpu_us_per_request: float
    cpu_share: float
    server_cpu_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Say what the engine did at one Poisson rate.

    Attributes:
        rate_rps: Asked for.
        requests: That fell due.
        achieved_share: Of the offered rate, in successful replies.
        added_p50_s: From the due time to the end of the reply; also `added_p99_s`.
        lateness_p50_s: From the due time until the engine turned to the request; also p99 and max.
        cpu_us_per_request: Of the workers together.
        cpu_share: Of a core, by the busiest worker.
        server_cpu_share: Of a core, by the null server.
    """

    rate_rps: float
    requests: int
    achieved_share: float
    added_p50_s: float
    added_p99_s: float
    lateness_p50_s: float
    lateness_p99_s: float
    lateness_max_s: float
    cpu_us_per_request: float
    cpu_share: float
    server_cpu_share: float

    @property
    def limit_s(self) -> float:
        """Return the lowest SLA limit that this rate is good for, rounded up to two digits."""
        limit_s = max(self.added_p99_s / SHARE, 1e-6)
        unit = 10.0 ** (math.floor(math.log10(limit_s) + 1e-9) - 1)
        return float(f"{math.ceil(limit_s / unit - 1e-9) * unit:.2g}")

    @property
    def flaw(self) -> str:
        """Say in a word why this rate cannot be trusted; empty if it can."""
        if self.cpu_share > MOST_CPU:
            return "CPU"
        if self.achieved_share < LEAST_ACHIEVED:
            return "behind"
        return "slow" if self.added_p99_s > SLOWEST_S else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Say what can be trusted on this machine.

    Attributes:
        rate_rps: Up to this rate; None: no rate at all.
        limit_s: SLA limits down to this, at all rates up to that.
        fine_rps: Up to this lower rate ...
        fine_limit_s: ... lower limits can be trusted, down to this; None where there is no such rate.
        limited_by: What ends it, in words.
        advice: What to do about it.
    """

    rate_rps: float | None
    limit_s: float | None
    fine_rps: float | None
    fine_limit_s: float | None
    limited_by: str
    advice: str


def next_rate(rows: Sequence[Row], ceiling_rps: float) -> float | None:
    """Return the rate to measure next, or None when what can be trusted is known.

    Up a ladder below the ceiling, then between the highest trusted rate and the lowest that is not. A rate that failed
    for another reason than CPU is asked for once more: one failure is a hiccup, as in a run.
    """
    if not rows:
        return _RATES_RPS[0]
    if len(rows) >= _MOST_ROWS:
        return None
    last, measured = rows[-1], [row.rate_rps for row in rows]
    if last.flaw not in ("", "CPU") and measured.count(last.rate_rps) == 1:
        return last.rate_rps
    good = {row.rate_rps for row in rows if not row.flaw}
    if not good:
        return None
    highest, bad = max(good), set(measured) - good
    above = next((rate for rate in _RATES_RPS if highest < rate < ceiling_rps), None)
    if not bad and above:
        return above
    between = float(f"{math.sqrt(highest * min(bad, default=ceiling_rps)):.2g}")
    return between if between > _CLOSER * highest and between not in measured else None


def trust(ceiling: Ceiling, rows: Sequence[Row], *, workers: int, cores: int) -> Trust:
    """Return what the rows allow to trust, by the rules at the head of this module."""
    bad_rps = min({row.rate_rps for row in rows} - {row.rate_rps for row in rows if not row.flaw}, default=math.inf)
    bad = next((row for row in reversed(rows) if row.rate_rps == bad_rps), None)
    limits: list[tuple[float, float]] = []  # rate, and the limit that holds at it and at all rates below
    for row in sorted(rows, key=lambda row: row.rate_rps):
        if not row.flaw and row.rate_rps < bad_rps:
            limits.append((row.rate_rps, max(row.limit_s, limits[-1][1] if limits else 0.0)))
    rate_rps, limit_s = limits[-1] if limits else (None, None)
    fine = [(rate, limit) for rate, limit in limits if limit == limits[0][1] != limit_s]
    fine_rps, fine_limit_s = fine[-1] if fine else (None, None)
    limited_by, advice = _limit(bad or ceiling, workers=workers, cores=cores)
    return Trust(
        rate_rps=rate_rps, limit_s=limit_s, fine_rps=fine_rps, fine_limit_s=fine_limit_s, limited_by=limited_by,
        advice=advice,
    )  # fmt: skip


def _limit(at: Row | Ceiling, *, workers: int, cores: int) -> tuple[str, str]:
    """Say what ends the trust, and what to do about it."""
    where = f"at {at.rate_rps:,.0f} req/s"
    if at.cpu_share > MOST_CPU:
        words = f"a worker that used {share(at.cpu_share)} of its core {where}"
        if workers >= cores:
            return words, "All cores send already: take a machine with more of them, or several machines."
        return words, f"--workers {min(cores, 2 * workers)} sends from {min(cores, 2 * workers)} of the {cores} cores."
    if at.server_cpu_share > MOST_CPU:
        words = f"the null server, which used {share(at.server_cpu_share)} of its core {where}"
        return words, "Nothing needs to be done: the generator itself can do more than this shows."
    if cores == 1 and at.cpu_share + at.server_cpu_share > MOST_CPU:
        words = f"the only core, of which the null server took {share(at.server_cpu_share)} {where}"
        return words, "Against a server on another machine it can do more; a second core would show how much."
    words = (
        f"waiting for the CPU {where}: the busiest worker used {share(at.cpu_share)} of a core, "
        f"the null server {share(at.server_cpu_share)}"
    )
    return words, "Stop what else uses this machine's cores, or lift its CPU limit, and try again."
