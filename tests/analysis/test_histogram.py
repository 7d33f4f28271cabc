import json

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram

from analysis.histogram import HIGHEST_NS, Histogram


def test_counters_match_the_reference_library() -> None:
    """The layout is HdrHistogram's: the same values land in the same counters."""
    values = np.random.default_rng(1).lognormal(16, 3, 2000).astype(np.int64) + 1
    values = values[values <= HIGHEST_NS]
    reference = HdrHistogram(1, HIGHEST_NS, 3)
    for value in values.tolist():
        reference.record_value(value)
    ours = Histogram.of(values)
    for quantile in (0.01, 0.5, 0.95, 0.99, 0.999, 1.0):
        assert ours.quantile_ns(quantile) == reference.get_value_at_percentile(100 * quantile)


def test_quantiles_are_within_a_thousandth() -> None:
    """Three significant digits hold over nine decades."""
    values = np.geomspace(1, HIGHEST_NS, 5000).astype(np.int64)
    histogram = Histogram.of(values)
    for quantile in (0.1, 0.5, 0.9, 0.99):
        exact = np.sort(values)[int(np.ceil(quantile * values.size)) - 1]
        assert histogram.quantile_ns(quantile) == pytest.approx(exact, rel=1e-3)


def test_overflow_is_counted_and_is_slower_than_everything() -> None:
    """Failures and hour-long requests stay in the total; a quantile among them is infinite."""
    histogram = Histogram.of([10, 20, HIGHEST_NS + 1], overflow=1)
    assert histogram.total == 4
    assert histogram.overflow == 2
    assert histogram.quantile_ns(0.5) == 20
    assert histogram.quantile_ns(0.75) == float("inf")


def test_merging_equals_counting_together() -> None:
    """Blocks of a step add up to the step."""
    a, b = Histogram.of([1, 5, 7], overflow=1), Histogram.of([5, 10**9])
    a += b
    whole = Histogram.of([1, 5, 7, 5, 10**9], overflow=1)
    assert np.array_equal(a.counts, whole.counts)
    assert a.overflow == whole.overflow


def test_json_round_trips() -> None:
    """The run file's form loses nothing."""
    histogram = Histogram.of(np.random.default_rng(2).integers(0, 10**11, 500), overflow=3)
    back = Histogram.from_json(json.loads(json.dumps(histogram.as_json())))
    assert np.array_equal(back.counts, histogram.counts)
    assert back.overflow == 3


def test_the_empty_histogram_has_no_quantile() -> None:
    """Nothing counted: NaN, and an empty spectrum."""
    histogram = Histogram()
    assert np.isnan(histogram.quantile_ns(0.5))
    assert histogram.spectrum()[0].size == 0


def test_spectrum_rises_to_the_share_that_succeeded() -> None:
    """The spectrum's last share leaves the overflow out."""
    latency, share = Histogram.of([10, 20, 30], overflow=1).spectrum()
    assert latency.tolist() == [10, 20, 30]
    assert share[-1] == 0.75


def test_negative_latency_is_a_defect() -> None:
    """A request cannot end before it was due."""
    with pytest.raises(ValueError, match="negative"):
        Histogram.of([-1])
