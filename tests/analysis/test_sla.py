import pytest

from analysis.sla import SLA, parse_latency_ns


@pytest.mark.parametrize(
    ("text", "quantile", "limit_ns"),
    [
        ("p99<200ms", 0.99, 200_000_000),
        ("p99.9 < 1.5s", 0.999, 1_500_000_000),
        (" p50<=80us ", 0.5, 80_000),
        ("p95<0.25ms", 0.95, 250_000),
        ("p99.99<1µs", 0.9999, 1_000),
    ],
)
def test_parse_reads_quantile_and_limit(text: str, quantile: float, limit_ns: int) -> None:
    """Any quantile, decimals and all units are read exactly."""
    sla = SLA.parse(text, error_budget=0.01)
    assert (sla.quantile, sla.limit_ns, sla.error_budget) == (quantile, limit_ns, 0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("99<200ms", "write a quantile and a limit"),
        ("p100<200ms", "between p0 and p100"),
        ("p0<200ms", "between p0 and p100"),
        ("p99<200", "with a unit"),
        ("p99<0ms", "above zero"),
        ("p99>200ms", "write a quantile and a limit"),
        ("p99<-1ms", "with a unit"),
    ],
)
def test_parse_names_the_remedy(text: str, message: str) -> None:
    """A bad SLA is answered with one sentence that quotes it and shows a good one."""
    with pytest.raises(ValueError, match=message):
        SLA.parse(text)


@pytest.mark.parametrize("text", ["p99<200ms", "p99.9<1.5s", "p50<80us", "p95<250us", "p99<1ms"])
def test_text_round_trips(text: str) -> None:
    """The printed form is read back as the same SLA."""
    assert str(SLA.parse(text)) == text
    assert SLA.parse(str(SLA.parse(text))) == SLA.parse(text)


def test_violation_share_has_no_rounding_dust() -> None:
    """The allowed share of p99 is exactly 0.01, not 0.010000000000000009."""
    assert SLA.parse("p99<1s").violation_share == 0.01
    assert SLA.parse("p99.9<1s").violation_share == 0.001


@pytest.mark.parametrize(
    ("field", "value"), [("quantile", 1.0), ("limit_ns", 0), ("metric", "ttft"), ("error_budget", 1.0)]
)
def test_values_are_validated(field: str, value: object) -> None:
    """A value outside its range names the field."""
    with pytest.raises(ValueError, match=f"SLA {field}"):
        SLA(**{"quantile": 0.99, "limit_ns": 1, field: value})  # type: ignore[arg-type]


def test_a_latency_rounds_to_whole_nanoseconds() -> None:
    """Decimals are exact fractions, rounded once."""
    assert parse_latency_ns("0.0015ms") == 1_500
