"""The rate of completions while the server always had work: what it can do at most."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.estimate import Estimate
from analysis.step import Outcome, StepResult

_GROUPS = 10
_LEAST_BACKLOG = 0.15  # of the requests: less is none
_STEADILY = 0.25  # of a step's backlog at its end stands in its middle, or more
_ENDS = 6  # a burst that begins or ends the window is looked for in its first and last sixth
_CAUTION = 1.15  # groups are a little correlated: with it the error is right over batch servers, M/M/4 and M/G/8


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Hold a completion rate under overload.

    Attributes:
        rate_rps: Completions per second.
        error: Relative standard error of it.
        n: Completions counted.
    """

    rate_rps: float
    error: float
    n: int

    @property
    def estimate(self) -> Estimate:
        """Return it as a number with a 95 % interval."""
        reach = float(stats.t.ppf(0.975, _GROUPS - 1)) * self.error
        return Estimate(
            value=self.rate_rps, low=self.rate_rps / (1 + reach), high=self.rate_rps * (1 + reach), n=self.n
        )


def backlog_of_chance(sent: float, *, least: float = _LEAST_BACKLOG) -> float:
    """Return the backlog that a server which keeps up does not show after so many requests, a share `least` or more.

    At the very capacity a backlog of about sqrt(2 sent) is one standard deviation; of few requests, two in five.
    """
    return min(max(10.0, least * sent, 4 * sqrt(sent)), max(5.0, 0.4 * sent))


def backlog_grew(result: StepResult, idle_s: float | None = None, *, steadily: bool = False) -> bool:
    """Say that the server fell behind: more requests were pending when sending ended than chance leaves there.

    What is pending because every reply takes its time is no backlog: the arrivals of the last `idle_s`, the response
    time of an idle server (Little 1961). Where it is unknown the first request shows it, which found the server empty.
    Nor is less than 15 % of the requests, because a bad moment leaves that too; unless it is to be told by having grown
    `steadily`, in the first half of the step as well.
    """
    if result.offered < 10:
        return False
    end = int(result.due_ns[-1])
    idle_ns = int(result.response_ns[0]) if idle_s is None else int(idle_s * 1e9)
    done = np.sort(result.done_ns)
    behind = []
    for at in ((result.start_ns + end) // 2, end):
        arrived, recent = np.searchsorted(result.due_ns, [at, at - idle_ns], "right").tolist()
        behind.append(arrived - int(np.searchsorted(done, at, "right")) - (arrived - recent))
    chance = backlog_of_chance(result.offered, least=0.0 if steadily else _LEAST_BACKLOG)
    grew = behind[1] > chance and behind[1] > 1.3 * behind[0]
    return bool(grew and (not steadily or behind[0] > _STEADILY * behind[1]))


def idle_response_s(result: StepResult) -> float:
    """Return the median response time of the requests, at least one, that found no other pending, seconds."""
    last_done = np.maximum.accumulate(result.done_ns)
    found_empty = np.concatenate([[True], result.due_ns[1:] >= last_done[:-1]])
    return float(np.median(result.response_ns[found_empty])) / 1e9


def measure_capacity(result: StepResult) -> Capacity | None:
    """Measure completions per second while a queue stood, the drain included.

    The window begins at the first completion after a tenth of the largest backlog stood, and ends when the backlog has
    drained to a quarter of its largest size (or to where it is less than a full server: unknown, so a quarter).
    Completions of one batch come together, so the window begins and ends with completions; the standard error comes
    from the time that equal groups of completions took, with their lag-1 covariance, for batches straddle groups.

    Returns:
        None when fewer than 6 requests completed in the window.
    """
    done = np.sort(result.done_ns[result.outcome == Outcome.OK]) / 1e9
    if done.size < 7:
        return None
    pending = np.searchsorted(result.due_ns / 1e9, done, "right") - np.searchsorted(
        np.sort(result.done_ns) / 1e9, done, "right"
    )
    largest = int(pending.max())
    deep = np.flatnonzero(pending > 0.25 * largest)
    first, last = int(deep[0]), int(deep[-1])
    return completion_rate(done[first : last + 1])


def completion_rate(done_s: NDArray[np.float64]) -> Capacity | None:
    """Return completions per second from ascending completion times that a busy server gave.

    The window begins and ends where completions pause: a batch comes as a burst, of a millisecond or two on a real
    server, and the first burst came from work done before it. Counted, it alone would add a batch to some dozens.

    Returns:
        None when fewer than 6 requests completed after the first burst.
    """
    pauses = np.diff(done_s)
    reach = pauses.size // _ENDS
    first = _first_pause(pauses[:reach])
    last = pauses.size - 1 - _first_pause(pauses[::-1][:reach])
    window = done_s[first : last + 1]
    n = window.size - 1
    if n < 6 or window[-1] <= window[0]:
        return None
    rate = n / float(window[-1] - window[0])
    return Capacity(rate_rps=rate, error=_error(window, rate), n=n)


def _first_pause(pauses: NDArray[np.float64]) -> int:
    """Return the index of the first gap that is at least half as long as the longest; 0 for no gap."""
    return int(np.argmax(pauses >= 0.5 * pauses.max())) if pauses.size else 0


def _error(window: NDArray[np.float64], rate: float) -> float:
    """Return the relative standard error of n / span from equal groups, cut where completions pause.

    Batches complete together: a cut inside one would count its spread as noise, so each cut moves to the longest pause
    nearby.
    """
    n = window.size - 1
    groups = min(_GROUPS, n // 4)
    if groups < 3:
        return 1 / sqrt(n)
    pauses, reach = np.diff(window), max(1, n // (2 * groups))
    cuts = [0]
    for middle in np.linspace(0, n, groups + 1)[1:-1].round().astype(int).tolist():
        low = max(cuts[-1] + 1, middle - reach)
        cuts.append(low + int(np.argmax(pauses[low : max(low + 1, middle + reach)])))
    cuts = [*sorted(set(cuts)), n]
    counts, spans = np.diff(np.asarray(cuts)), np.diff(window[cuts])
    excess = counts - rate * spans
    variance = float(excess @ excess) * counts.size / max(1, counts.size - 1)
    student = float(stats.t.ppf(0.84, max(1, counts.size - 1)))
    return max(0.003, _CAUTION * student * sqrt(variance) / n)


def pool(measured: list[Capacity]) -> Capacity | None:
    """Pool measurements by their precision; where they disagree, the error grows with their spread."""
    if not measured:
        return None
    weight = np.asarray([1 / c.error**2 for c in measured])
    rates = np.log([c.rate_rps for c in measured])
    mean = float(weight @ rates / weight.sum())
    misfit = float(weight @ (rates - mean) ** 2) / max(1, len(measured) - 1)
    error = float(weight.sum() ** -0.5) * max(1.0, misfit**0.5)
    return Capacity(rate_rps=float(np.exp(mean)), error=max(0.003, error), n=sum(c.n for c in measured))
