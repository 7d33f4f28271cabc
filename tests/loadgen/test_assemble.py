from pathlib import Path
from typing import Any

import pytest

from analysis import SLA
from loadgen.assemble import assemble, assemble_load
from loadgen.errors import UsageError

_NONE: dict[str, Any] = dict.fromkeys(
    ["url", "sla_p99", "error_budget", "require_rps", "method", "body", "timeout", "mode", "arrivals", "start_rps",
     "max_rps", "max_users", "connections", "workers", "precision", "budget", "seed", "bracket"]
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


def test_a_connection_s_flags_reach_their_fields() -> None:
    """Names of files stand as they were typed; an absent switch leaves the file's word."""
    flags = {"cacert": "ca.pem", "cert": "me.pem", "key": "me.key", "re_resolve": 10.0}
    target = assemble(_given(url="https://h/", **flags)).target
    assert (target.cacert, target.cert, target.key, target.re_resolve_s) == ("ca.pem", "me.pem", "me.key", 10)
    over = assemble(_given(url="https://h/", insecure=True, unix_socket="a.sock")).target
    assert (over.insecure, over.unix_socket) == (True, "a.sock")


def test_a_switch_that_is_not_given_leaves_the_file_s(tmp_path: Path) -> None:
    """A file may say insecure; the command line need not."""
    (tmp_path / "s.toml").write_text('[target]\nurl = "https://h/"\ninsecure = true\n')
    assert assemble(_given(scenario=str(tmp_path / "s.toml"), insecure=None)).target.insecure


def test_bodies_and_expectations_reach_their_fields(tmp_path: Path) -> None:
    """A file of lines is named, a template's file is read, expectations stay as they were written."""
    (tmp_path / "t.j2").write_text("{{ seq }}")
    scenario = assemble(_given(body_lines="r.jsonl", shuffle=True, expect_status="200,404", expect_json=("/a=1",)))
    assert (scenario.target.body_lines, scenario.target.shuffle) == ("r.jsonl", True)
    assert (scenario.expect.status, scenario.expect.json, scenario.expect.body_regex) == ("200,404", ("/a=1",), None)
    assert assemble(_given(body_template="{{ uuid() }}")).target.body_template == "{{ uuid() }}"
    assert assemble(_given(body_template=f"@{tmp_path / 't.j2'}")).target.body_template == "{{ seq }}"


def test_a_flag_s_body_replaces_all_that_the_file_says_of_bodies(tmp_path: Path) -> None:
    """One kind of body replaces another; --shuffle alone adds to the file's lines; expectations replace one by one."""
    text = '[target]\nbody_lines = "r.jsonl"\nshuffle = true\n[expect]\nstatus = "404"\njson = ["/a=1"]\n'
    (tmp_path / "s.toml").write_text(text)
    given = {"scenario": str(tmp_path / "s.toml")}
    target = assemble(_given(**given, body="{}")).target
    assert (target.body, target.body_lines, target.shuffle) == (b"{}", None, False)
    target = assemble(_given(**given, body_lines="other.jsonl")).target
    assert (target.body_lines, target.shuffle) == ("other.jsonl", False)
    assert assemble(_given(**given, body_lines="other.jsonl", shuffle=True)).target.shuffle
    assert assemble(_given(**given, shuffle=None)).target.shuffle
    expect = assemble(_given(**given, expect_status="2xx")).expect
    assert (expect.status, expect.json) == ("2xx", ("/a=1",))


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
        ({"url": "ftp://h/"}, "command line: URL: 'ftp://h/' is not an HTTP address"),
        ({"body": "@/nosuch/file"}, "/nosuch/file: cannot be read"),
        ({"method": "GET IT"}, "--method: 'GET IT' is not an HTTP method"),
        ({"start_rps": 5.0, "max_rps": 1.0}, "--start-rps: 5 is above --max-rps, 1"),
        (
            {"timeout": 0.15, "slas": ("p50<100ms",)},
            "--timeout: 0.15 s is below the longest SLA limit, 0.2 s, so requests",
        ),
        (
            {"require_rps": 500.0, "max_rps": 400.0},
            "--require-rps: 500 is above --max-rps, 400, so it cannot be reached: raise --max-rps",
        ),
        ({"mode": "closed", "max_rps": 5.0}, "--max-rps has no meaning in the closed load mode"),
        ({"mode": "closed", "bracket": "closed"}, "--bracket: has no meaning in the closed load mode"),
        ({"bracket": "closed", "max_rps": 50.0}, "--bracket: users keep to no rate: drop it, or --max-rps"),
        ({"bracket": "closed", "start_rps": 5.0}, "--bracket: users keep to no rate: drop it, or --start-rps"),
        ({"mode": "closed", "bracket": "open"}, "--bracket has no meaning in the closed load mode"),
        ({"scenario": "closed", "require_rps": 5.0}, "--require-rps has no meaning in the closed load mode"),
        ({"insecure": True}, "--insecure has no meaning for the bundled reference server: drop it or give a URL"),
        ({"unix_socket": "a"}, "--unix-socket has no meaning for the bundled reference server"),
        ({"re_resolve": 1.0}, "--re-resolve has no meaning for the bundled reference server"),
        ({"url": "h", "cert": ""}, "--cert: is about TLS, but the URL is not https"),
        ({"max_users": 5}, "--max-users has no meaning in the open load mode"),
        ({"body": "a", "body_lines": "b"}, "--body-lines: --body and --body-lines exclude each other: give one"),
        ({"shuffle": True}, "--shuffle: only the lines of --body-lines can be shuffled: give it, or drop --shuffle"),
        ({"expect_status": "ok"}, "--expect-status: 'ok' is not an HTTP status: write 200"),
        ({"expect_body_regex": "a("}, "--expect-body-regex: 'a(' is not a regular expression"),
        ({"expect_json": ("/a=b",)}, "--expect-json: 'b' is not a JSON value; text needs its quotes"),
        (
            {"url": "h", "method": "head", "expect_json": ("/a=1",)},
            "--expect-json: a reply to HEAD has no body: drop this",
        ),
        ({"headers": (("a b", "c"),)}, "--header: 'a b' is not a header name"),
        ({"headers": (("X-A", "1"), ("x-a", "2"))}, "--header: x-a is given twice: give it once, with both values"),
        ({"headers": (("Content-length", "1"),)}, "--header: Content-Length is set from the body: drop this header"),
        ({"headers": (("transfer-Encoding", "chunked"),), "body": "a"}, "--header: Transfer-Encoding has no meaning"),
        ({"url": "https://h", "cacert": "a", "insecure": True}, "--insecure: checks no certificate, so --cacert has"),
        ({"url": "h", "re_resolve": 1.0, "unix_socket": "a"}, "--re-resolve: a unix socket has no name to resolve"),
        ({"connections": 10**7}, "--connections: 10000000 must be a whole number <= 1000000"),
    ],
)
def test_a_users_mistake_is_one_sentence(flags: dict[str, Any], sentence: str) -> None:
    """A wrong flag, alone or against another, is a usage error that says what to write."""
    with pytest.raises(UsageError) as caught:
        assemble(_given(**flags))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_in_the_file_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    """Where a flag does not fit what the file says, the file's part keeps its own key."""
    (tmp_path / "s.toml").write_text('[target]\nurl = "https://h/"\ncacert = "a.pem"\ntimeout = "1s"\n')
    given = {"scenario": str(tmp_path / "s.toml")}
    for flags, sentence in (
        ({"insecure": True}, "--insecure: checks no certificate, so cacert has no meaning: drop one of them"),
        ({"sla_p99": "2s"}, "command line: target.timeout: 1 s is below the longest SLA limit, 2 s, so requests"),
        ({"url": "http://h/"}, "command line: target.cacert: is about TLS, but the URL is not https"),
    ):
        with pytest.raises(UsageError) as caught:
            assemble(_given(**given, **flags))
        assert str(caught.value).startswith(sentence)


def _loaded(**flags: Any) -> dict[str, Any]:
    return {**_NONE, "users": None, "rate": None, "think": None, "duration": 10.0, **flags}


def test_a_load_needs_no_sla() -> None:
    """`opfind load --rate 400` is an open step at that rate, on the embedded server, and nothing is judged."""
    scenario, step = assemble_load(_loaded(rate=400.0, arrivals=("constant", ""), seed=3))
    assert (scenario.slas, scenario.load.mode, scenario.target.url) == ((), "open", None)
    assert (step.rate_rps, step.users, step.duration_s, step.arrivals, step.seed) == (400, None, 10, "constant", 3)
    assert step.purpose == "load"


def test_a_load_of_one_expected_request_is_taken() -> None:
    """The length that the refusal names is long enough; an error budget is fine beside an SLA."""
    for rate_rps, duration_s in ((0.3, 3.334), (0.1, 10.0), (3.0, 1 / 3)):
        assert assemble_load(_loaded(rate=rate_rps, duration=duration_s))[1].rate_rps == rate_rps
    scenario, _ = assemble_load(_loaded(rate=5.0, sla_p99="1s", error_budget=0.5))
    assert scenario.slas[0].error_budget == 0.5


def test_users_make_a_load_closed() -> None:
    """`opfind load --users 64 --think 1s` is a closed step, whatever the scenario's own mode is."""
    scenario, step = assemble_load(_loaded(users=64, think=1.0, scenario="open", sla_p99="50ms"))
    assert (scenario.load.mode, scenario.load.think_s, step.users, step.rate_rps) == ("closed", 1, 64, None)
    assert scenario.slas == (SLA.parse("p99<50ms"),)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({}, "say how much load: either --users 64, a closed loop, or --rate 5000, an open one"),
        ({"users": 2, "rate": 5.0}, "give only one of --users, a closed loop, and --rate, an open one"),
        (
            {"rate": 0.3, "duration": 3.0},
            "--rate 0.3 is less than one request in 3 s: at least 3.334 s are needed, as in -d",
        ),
        (
            {"rate": 5.0, "error_budget": 0.01},
            "--error-budget has no meaning without an SLA: drop it or give one, such as --sla-p99 200ms",
        ),
        ({"rate": 5.0, "think": 1.0}, "--think has no meaning in the open load mode: drop it or use --users"),
        (
            {"users": 5, "arrivals": ("constant", "")},
            "--arrivals has no meaning in the closed load mode: drop it or use --rate",
        ),
    ],
)
def test_a_mistake_in_a_load_is_one_sentence(flags: dict[str, Any], sentence: str) -> None:
    """Each sentence ends with what to write instead."""
    with pytest.raises(UsageError) as caught:
        assemble_load(_loaded(**flags))
    assert str(caught.value) == sentence
