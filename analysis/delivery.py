"""Proof of delivery: did the requests leave as the schedule says? The times of sending against the times they were due.

A request that waited for a connection left late because of the target, not of the generator. Such a request is taken to
have left like the others.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
Floats = NDArray[Any]

_TOLERANCE = 0.05  # of the index of dispersion: within it the schedule was delivered as intended
_FAULT = 0.25
_MATTERS = 0.25  # of a window: less lateness than that is not seen in an answer, whatever it does to the dispersion
_SIGMAS = 5.0  # standard errors by batch means; with 20 batches chance exceeds five of them once in 12,000 times
_BATCHES = 20
_LEAST = 100  # requests, windows and gaps below which nothing is said
_LEAST_OWN = 0.9  # share of requests whose wait is the engine's own
_CLEAR = 10  # the mean gap is that many times the wait, or gaps say nothing of their distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Compare the arrivals that were sent with the intended ones. None: too few, or no schedule, to say.

    The index of dispersion is the variance of the counts in windows over their mean: 1 for Poisson, near 0 for evenly
    spaced, above 1 for bursts. In the wait of a queue it stands where the squared variation of the gaps stands, which
    adds to that of the service, ca² + cs² (Fendick and Whitt, "Measurements and approximations to describe the offered
    traffic and predict the average workload in a single-server queue", Proc. IEEE 1989). Its difference is what counts:
    relative above 1, where most of the wait is due to the arrivals; absolute below, where service adds its part.

    Attributes:
        intended: Index of dispersion of the due times of all requests that were sent.
        sent: That of the times at which they were sent.
        chance: Standard deviation of the difference if each request that changed its window did so by itself.
        blur: Standard error of the difference by batch means: large where few stalls make it.
        lateness: p99 of the engine's lateness, in windows.
        gap_distance: Of the sent gaps from the intended distribution: 0 is the same, near 1 as far as can be. The
            largest difference of the distribution functions (Kolmogorov-Smirnov); for evenly spaced arrivals the mean
            deviation of a gap, as a share of it. An effect size: n gaps that are just as intended show 0.87 / sqrt(n).
    """

    intended: float | None = None
    sent: float | None = None
    chance: float = 0.0
    blur: float = 0.0
    lateness: float = 0.0
    gap_distance: float | None = None

    @property
    def verdict(self) -> Literal["as intended", "uneven", "off"] | None:
        """Say how the schedule was delivered: "off" is of no use.

        Requests that leave up to d late are answered up to d later than they would have been, no matter in which bursts
        (a queue in order: delay all by d, then let some arrive earlier). So bursts alone are told, as "uneven"; "off"
        takes a lateness that matters, and a difference that is large, spread over the step and no chance. 0.25 shifts
        the rate at which a limit is met by 0.25 (1 - utilisation) / (ca² + cs²): 2.5 to 5 % at a utilisation of 0.8,
        the precision of an answer.
        """
        if self.intended is None or self.sent is None:
            return None
        scale = max(1.0, self.intended)
        difference = abs(self.sent - self.intended)
        if self.lateness > _MATTERS and difference - _SIGMAS * self.blur > _FAULT * scale:
            return "off"
        return "as intended" if difference - 3 * self.chance <= _TOLERANCE * scale else "uneven"


def delivery(
    due_ns: Times,
    sent_ns: Times,
    *,
    start_ns: int,
    span_ns: int,
    window_ns: int,
    lateness_p99_ns: float,
    arrivals: str,
    rate_rps: float,
    cv: float = 1.0,
) -> Delivery:
    """Compare sent with due times of one open-loop step; all its workers together.

    Args:
        due_ns: int64 (n,), increasing.
        sent_ns: int64 (n,), 0 where a request was never sent.
        start_ns: Start of the step.
        span_ns: How long requests fell due.
        window_ns: Width of the windows in which they are counted.
        lateness_p99_ns: Of the engine, waits for connections not counted. What left later than that waited for a
            connection, or belongs to the latest hundredth, which is judged by its lateness: it counts as sent like the
            others. Where that goes for more than a tenth, the dispersion says nothing.
        arrivals: "poisson", "constant", "gamma" or "replay".
        rate_rps: Mean rate.
        cv: Coefficient of variation of gamma gaps.
    """
    was_sent = sent_ns > 0
    due, sent = due_ns[was_sent], sent_ns[was_sent]
    wait = sent - due
    counted = _dispersions(due - start_ns, wait, wait <= lateness_p99_ns, span_ns, window_ns)
    distance = None
    if due.size > _LEAST and 1e9 / rate_rps > _CLEAR * float(np.quantile(wait, 0.99)):
        left = np.sort(sent)
        distance = _gap_distance(due[1:] - due[:-1], left[1:] - left[:-1], arrivals, rate_rps, cv)
    return Delivery(**counted, lateness=lateness_p99_ns / window_ns, gap_distance=distance)


def _dispersions(due: Times, wait: Times, own: NDArray[np.bool_], span_ns: int, window_ns: int) -> dict[str, float]:
    """Return the indices of dispersion as due and as sent, and two errors of their difference, by their names.

    That all requests left equally late is no change of the process, so the median wait is taken off. Chance: a request
    that moves from a window to the next changes the sum of squares by up to twice the windows' own deviation, so a
    share p of requests that do makes sqrt(8 p / windows), relative to the index.
    """
    windows = span_ns // window_ns
    if due.size < _LEAST or windows < _LEAST or own.mean() < _LEAST_OWN:
        return {}
    sent = np.maximum(np.where(own, due + wait - int(np.median(wait[own])), due), 0)
    moved = float((sent // window_ns != due // window_ns).mean())
    counts = [np.bincount(times // window_ns, minlength=windows)[:windows] for times in (due, sent)]
    mean = float(counts[0].mean())
    squares = [(count - count.mean()) ** 2 / mean for count in counts]
    intended, after = (float(square.mean()) for square in squares)
    size = windows // _BATCHES
    batches = (squares[1] - squares[0])[: size * _BATCHES].reshape(_BATCHES, size).mean(axis=1)
    return {
        "intended": intended,
        "sent": after,
        "chance": intended * float(np.sqrt(8 * moved / windows)),
        "blur": float(batches.std(ddof=1)) / float(np.sqrt(_BATCHES)),
    }


def _gap_distance(due_gaps: Times, sent_gaps: Times, arrivals: str, rate_rps: float, cv: float) -> float:
    """Return the distance of the sent gaps from the intended distribution."""
    gaps: Floats = np.sort(sent_gaps) * (rate_rps / 1e9)  # in mean gaps
    match arrivals:
        case "constant":
            return float(np.abs(gaps - 1).mean())
        case "replay":  # the schedule is the recording, scaled and repeated
            below = np.searchsorted(np.sort(due_gaps) * (rate_rps / 1e9), [gaps, np.nextafter(gaps, 0)], side="right")
            intended, before = below / due_gaps.size
        case _:
            intended = before = _gamma_distribution(gaps, 1 / cv**2 if arrivals == "gamma" else 1.0)
    rank = np.arange(gaps.size)
    return float(max(np.max((rank + 1) / gaps.size - intended), np.max(before - rank / gaps.size)))


def _gamma_distribution(gaps: Floats, shape: float) -> Floats:
    """Return the share of gamma gaps of mean 1 that are no longer; shape 1 is exponential."""
    if shape == 1:
        exponential: Floats = -np.expm1(-gaps)
        return exponential
    from scipy.special import gammainc  # noqa: PLC0415 (no engine process imports this, and few runs need it)

    share: Floats = gammainc(shape, shape * gaps)
    return share
