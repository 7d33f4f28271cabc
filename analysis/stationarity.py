"""Whether the server stayed the same while it was measured, since when it has, and how long it took to warm up.

Every step is cut into pieces longer than the queue remembers. The logarithm of a low quantile of a piece (the service)
and of one above the median (the queue) is freed of its dependence on load by a straight line in y = ln h. What is left
is tested for a correlation with time, and for a step at the time where the rank sums of the two sides differ most
(Wilcoxon 1945, Pettitt 1979). The rank correlation with time (Spearman 1904) must support it: it assumes nothing of the
law, only that pieces of a server that stays the same may come in any order, so heavy tails raise no alarm.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from analysis.capacity import Capacity
from analysis.dwell import Dwell
from analysis.evidence import load, relaxation_s
from analysis.step import Outcome, StepResult

Floats = NDArray[np.float64]
_QUANTILES = (0.25, 0.6)
_LEVEL = 5e-5  # of one test: a run makes dozens
_AGAIN = 0.02  # of those that look for the end of a change once there is one
_LEAST, _FEWEST = 8, 3  # pieces for a test, and on either side of a change
_PIECE_S, _RELAXATIONS = 4.0, 5
_NOTHING = 0.003  # of ln latency
_RANK_LEVEL = 2e-3
_LARGEST = 0.5
_BLOCKS, _BLOCK_REQUESTS = 100, 10
_SLOWER, _DEVIATIONS = 1.25, 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stationarity:
    """Say since when a server has stayed the same.

    Attributes:
        since: Index of the first step after the last change that was found; 0 where none was.
        change: By how much slower the server became, as a share of its rate at the same latency; below zero: faster.
        change_per_s: The same for each second between the mean times of the two sides.
    """

    since: int = 0
    change: float = 0.0
    change_per_s: float = 0.0


def stationarity(dwells: tuple[Dwell, ...], capacity: Capacity) -> Stationarity:
    """Test whether the server changed, on growing beginnings of the run, so that what came later hides no early change.

    Args:
        dwells: In time order, on one clock.
        capacity: For the loads.
    """
    top = capacity.rate_rps * (1 + capacity.error)
    changes = [_last_change(*_pieces(dwells, top, quantile)) for quantile in _QUANTILES]
    return max(changes, key=lambda found: found.since)


def _pieces(dwells: tuple[Dwell, ...], top: float, quantile: float) -> tuple[NDArray[np.int64], Floats, Floats, Floats]:
    """Return the step's index, the time, the load y and the ln quantile of each piece, in time order."""
    rows: list[tuple[float, float, float, float]] = []
    for index, dwell in enumerate(dwells):
        z = np.array([np.log(max(part.quantile_s(quantile), 1e-9)) for part in dwell.parts if part.n])
        if not z.size or not np.isfinite(z).all():
            continue
        relax = relaxation_s(dwell.rate_rps, top, 2 * dwell.tail.quantile_s(max(_QUANTILES)))
        count = int(np.clip(dwell.length_s // max(_PIECE_S, _RELAXATIONS * relax), 1, z.size))
        y = float(load(dwell.rate_rps, top))
        ends = dwell.end_s - dwell.length_s * (1 - (np.arange(count) + 0.5) / count)
        rows += [
            (index, at, y, float(piece.mean()))
            for at, piece in zip(ends.tolist(), np.array_split(z, count), strict=True)
        ]
    table = np.array(rows).reshape(-1, 4)
    return table[:, 0].astype(np.int64), table[:, 1], table[:, 2], table[:, 3]


def _last_change(step: NDArray[np.int64], time: Floats, y: Floats, z: Floats) -> Stationarity:
    """Test growing beginnings of a run; go on from behind each change that is found."""
    first, found, n = 0, Stationarity(), min(_LEAST, z.size)
    while z.size >= _LEAST:
        level = _LEVEL / len(_QUANTILES)
        while n - first >= (_LEAST if level < _AGAIN else 2 * _FEWEST):
            part = slice(first, n)
            if _p_of_change(time[part], y[part], z[part]) > level:
                break
            split = first + _split(_freed(y[part], z[part]))
            inside = step[split - 1] == step[split] < step[-1]  # a change within a step ends it
            found = _describe(int(step[split] + inside), time[part], y[part], z[part], split - first)
            first, level = split, _AGAIN
        if n == z.size:
            break
        n = min(n + max(1, (n - first) // 4), z.size)
    return found


def _describe(step: int, time: Floats, y: Floats, z: Floats, split: int) -> Stationarity:
    """Express a change of ln latency at equal load as one of the rate: slower service also raises the load."""
    late = np.arange(z.size) >= split
    _, slope, shift = np.linalg.lstsq(np.column_stack([np.ones(z.size), y, late]), z, rcond=None)[0].tolist()
    busy = 1 + float(np.exp(y[late].mean()))  # dy / d ln rate
    change = float(np.clip(shift / (1 + max(slope, 0.0) * busy), -_LARGEST, _LARGEST))
    apart = float(time[late].mean() - time[~late].mean())
    return Stationarity(since=step, change=change, change_per_s=change / apart)


def _freed(y: Floats, values: Floats) -> Floats:
    """Return values less their straight line in y."""
    x = y - y.mean()
    spread = float(x @ x)
    residuals: Floats = values - values.mean() - (float(x @ values) / spread * x if spread > 1e-9 else 0.0)
    return residuals


def _p_of_change(time: Floats, y: Floats, z: Floats) -> float:
    """Return the p value of a trend or of a step in what load does not explain, where ranks support it; else 1."""
    free_z, free_time = _freed(y, z), _freed(y, time)
    if np.ptp(free_z) < _NOTHING or np.ptp(free_time) == 0:
        return 1.0
    by_rank = _p_of(stats.rankdata(free_z), stats.rankdata(free_time))
    if by_rank > _RANK_LEVEL:
        return 1.0
    late = _freed(y, (np.arange(z.size) >= _split(free_z)).astype(np.float64))
    return min(by_rank, _p_of(free_z, free_time), z.size * _p_of(free_z, late))


def _p_of(first: Floats, second: Floats) -> float:
    """Return the two-sided p value of a partial correlation (Fisher 1924)."""
    r, freedom = float(np.corrcoef(first, second)[0, 1]), first.size - 3
    return float(2 * special.stdtr(freedom, -abs(r) * (freedom / max(1 - r * r, 1e-12)) ** 0.5))


def _split(residuals: Floats) -> int:
    """Return the index before which the rank sum deviates most from chance."""
    n = residuals.size
    before = np.arange(_FEWEST, n - _FEWEST + 1)
    sums = np.cumsum(stats.rankdata(residuals))[before - 1]
    return int(before[np.argmax(np.abs(sums - before * (n + 1) / 2) / np.sqrt(before * (n - before)))])


def warmup_s(result: StepResult) -> float:
    """Return after how many seconds of a step the server was warm; 0 where its start was no slower than the rest.

    The MSER rule (White 1997) on the 25 % quantile of blocks of at least 10 requests finds the cut that leaves the mean
    of the rest most certain. It counts only where every block before it was slow, the blocks a quarter slower than the
    rest in the median and by four robust standard deviations: a queue that started empty starts fast.
    """
    ok = result.outcome == Outcome.OK
    due_s, response_s = (result.due_ns[ok] - result.start_ns) / 1e9, result.response_ns[ok] / 1e9
    blocks = min(_BLOCKS, response_s.size // _BLOCK_REQUESTS)
    if blocks < 2 * _LEAST:
        return 0.0
    edges = np.linspace(0, response_s.size, blocks + 1).astype(np.int64)
    z = np.log([max(float(np.quantile(block, 0.25)), 1e-9) for block in np.split(response_s, edges[1:-1])])
    cut = _mser(z)
    if cut == 0:
        return 0.0
    rest = np.median(z[cut:])
    spread = 1.48 * float(np.median(np.abs(z[cut:] - rest)))
    slower = float(np.median(z[:cut]) - rest)
    if slower < max(np.log(_SLOWER), _DEVIATIONS * spread) or z[:cut].min() < np.quantile(z[cut:], 0.75):
        return 0.0
    return float(due_s[edges[cut]])


def _mser(z: Floats) -> int:
    """Return the cut d in the first half that minimises sum (z - mean)^2 / (n - d)^2 over what follows it."""
    cuts = range(z.size // 2 + 1)
    errors = [float(z[cut:].var()) / (z.size - cut) for cut in cuts]
    return int(np.argmin(errors))
