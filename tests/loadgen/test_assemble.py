from pathlib import Path
from typing import Any

import pytest

from analysis import SLA
from loadgen.assemble import assemble
from loadgen.errors import UsageError

_NONE: dict[str, Any] = dict.fromkeys(
    ["url", "sla_p99", "error_budget", "require_rps", "method", "body", "timeout", "mode", "arrivals", "start_rps",
     "max_rps", "max_users", "connections", "workers", "precision", "budget", "seed"]
) | {"slas": (), "headers": (), "scenario": "default"}  # fmt: skip


def _given(**flags: Any) -> dict[str, Any]:
    return {**_NONE, "sla_p99": "200ms", **flags}


def test_the_main_job_needs_one_flag() -> None:
    """`--sla-p99 200ms` alone gives the embedded server, an open Poisson load and p99<200ms."""
    scenario = assemble(_given())
    assert scenario.slas == (SLA.parse("p99<200ms"),)
    assert scenario.target.url is None
    assert (scenario.load.mode, scenario.load.arrivals) == ("open", "poisson")


def test_every_flag_reaches_its_field(tmp_path: Path) -> None:
    """Each flag changes the scenario where it says."""
    (tmp_path / "times.txt").write_text("0\n1\n3\n")
    (tmp_path / "body.json").write_text("{}")
    scenario = assemble(
        _given(
            url="http://127.0.0.1:1/p", slas=("p95<80ms",), error_budget=0.02, require_rps=7.0, method="PUT",
            headers=(("A", "b"),), body=f"@{tmp_path / 'body.json'}", timeout=3.0, mode="open",
            arrivals=("replay", str(tmp_path / "times.txt")), start_rps=2.0, max_rps=50.0, connections=9, workers=3,
            precision=0.1, budget=60.0, seed=5,
        )
    )  # fmt: skip
    assert scenario.slas == (SLA.parse("p99<200ms", error_budget=0.02), SLA.parse("p95<80ms", error_budget=0.02))
    assert scenario.require_rps == 7
    target, load, search = scenario.target, scenario.load, scenario.search
    assert (target.url, target.method, target.body, target.timeout_s) == ("http://127.0.0.1:1/p", "PUT", b"{}", 3)
    assert target.headers == {"A": "b", "Content-Type": "application/json"}
    assert (load.arrivals, load.replay, load.start_rps, load.max_rps) == ("replay", (0, 1, 3), 2, 50)
    assert (load.connections, load.workers) == (9, 3)
    assert (search.precision, search.budget_s, search.seed) == (0.1, 60, 5)


def test_gamma_takes_its_burstiness() -> None:
    """`--arrivals gamma:2` sets process and coefficient of variation."""
    load = assemble(_given(arrivals=("gamma", "2"))).load
    assert (load.arrivals, load.cv) == ("gamma", 2)


def test_flags_replace_the_scenarios_slas() -> None:
    """An SLA of the file holds only where no flag gives one; the error budget applies to either."""
    assert [str(sla) for sla in assemble(_given(scenario="open")).slas] == ["p99<200ms"]
    of_file = assemble(_given(scenario="open", sla_p99=None, error_budget=0.5)).slas
    assert [(str(sla), sla.error_budget) for sla in of_file] == [("p95<100ms", 0.5), ("p99<200ms", 0.5)]


def test_a_flag_replaces_a_header_of_the_file_whatever_its_case(tmp_path: Path) -> None:
    """`-H accept:…` replaces the file's Accept and keeps its other headers."""
    (tmp_path / "s.toml").write_text('[target]\nurl = "http://h/"\nheaders = { Accept = "a", B = "b" }\n')
    scenario = assemble(_given(scenario=str(tmp_path / "s.toml"), headers=(("accept", "c"),)))
    assert scenario.target.headers == {"B": "b", "accept": "c"}


def test_auto_workers_win_over_the_file(tmp_path: Path) -> None:
    """`--workers auto` takes back the number that a file gives."""
    (tmp_path / "s.toml").write_text("[load]\nworkers = 3\n")
    path = str(tmp_path / "s.toml")
    assert assemble(_given(scenario=path)).load.workers == 3
    assert assemble(_given(scenario=path, workers="auto")).load.workers is None


def test_limits_may_be_equal() -> None:
    """A timeout at the SLA's limit, and a required rate at the highest one, can be met."""
    scenario = assemble(_given(timeout=0.2, require_rps=400.0, max_rps=400.0))
    assert (scenario.target.timeout_s, scenario.require_rps) == (0.2, 400)


def test_any_http_token_is_a_method() -> None:
    """A method with a hyphen is legal (RFC 9110, 9.1)."""
    assert assemble(_given(url="http://h/", method="M-SEARCH")).target.method == "M-SEARCH"


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"sla_p99": None}, "there is no SLA: say what must hold, such as --sla-p99 200ms"),
        ({"sla_p99": "0ms"}, "--sla-p99: '0ms' is not a latency limit"),
        ({"sla_p99": "200"}, "--sla-p99: '200' is not a latency"),
        ({"slas": ("p100<1s",)}, "--sla: 'p100<1s' is not an SLA"),
        ({"scenario": "nosuch"}, "scenario 'nosuch': there is no such file"),
        ({"url": "ftp://h/"}, "command line: target.url: 'ftp://h/' is not an HTTP address"),
        ({"body": "@/nosuch/file"}, "/nosuch/file: cannot be read"),
        ({"method": "GET IT"}, "command line: target.method: 'GET IT' is not an HTTP method"),
        ({"start_rps": 5.0, "max_rps": 1.0}, "command line: load.start_rps: 5 is above max_rps, 1"),
        (
            {"timeout": 0.15, "slas": ("p50<100ms",)},
            "command line: target: timeout 0.15 s is below the longest SLA limit, 0.2 s, so requests",
        ),
        (
            {"require_rps": 500.0, "max_rps": 400.0},
            "command line: require_rps: 500 is above max_rps, 400, so it cannot be reached: raise max_rps",
        ),
        ({"mode": "closed", "max_rps": 5.0}, "--max-rps has no meaning in the closed load mode"),
        ({"scenario": "closed", "require_rps": 5.0}, "--require-rps has no meaning in the closed load mode"),
        ({"max_users": 5}, "--max-users has no meaning in the open load mode"),
        ({"headers": (("a b", "c"),)}, "command line: target.headers: 'a b' is not a header name"),
    ],
)
def test_a_users_mistake_is_one_sentence(flags: dict[str, Any], sentence: str) -> None:
    """A wrong flag, alone or against another, is a usage error that says what to write."""
    with pytest.raises(UsageError) as caught:
        assemble(_given(**flags))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
