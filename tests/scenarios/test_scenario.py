import math
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from analysis import SLA
from loadgen.server.config import ServerConfig
from loadgen.server.profile import DeviceProfile
from scenarios import Scenario, ScenarioError, bundled, device, load, read_due_times
from scenarios.device import Device
from scenarios.scenario import ServerSettings


def _error(tmp_path: Path, text: str) -> str:
    (tmp_path / "checkout.toml").write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load(str(tmp_path / "checkout.toml"))
    return str(caught.value)


def _load(tmp_path: Path, text: str) -> Scenario:
    (tmp_path / "checkout.toml").write_text(text)
    return load(str(tmp_path / "checkout.toml"))


@pytest.mark.parametrize("name", bundled())
def test_every_bundled_scenario_loads(name: str) -> None:
    """What comes with the program is valid and is found by its name."""
    assert load(name).name == name


def test_default_is_the_reference_server() -> None:
    """The default scenario: 8 ms + 1.5 ms a request, batches of 32, no target, no SLA of its own."""
    scenario = load("default")
    assert scenario.target.url is None
    assert scenario.target.method is None
    assert scenario.server == {
        "t0_ms": 8.0,
        "t1_ms": 1.5,
        "jitter_sigma": 0.03,
        "max_batch_size": 32,
        "preferred_batch_sizes": (),
        "max_queue_delay_us": 10_000,
        "instances": 1,
        "max_queue_size": 4096,
    }
    assert (scenario.load.mode, scenario.load.connections, scenario.load.workers) == ("open", 4096, None)
    assert (scenario.search.precision, scenario.search.budget_s, scenario.search.seed) == (0.05, 180.0, 0)
    assert scenario.slas == ()


def test_there_is_one_scenario_per_load_mode() -> None:
    """The bundled scenarios named after a load mode run in it."""
    assert load("open").load.mode == "open"
    assert load("closed").load.mode == "closed"


def test_reads_every_table(tmp_path: Path) -> None:
    """Durations, files, SLAs and the device arrive in the fields' units."""
    (tmp_path / "payload.json").write_bytes(b'{"x": 1}')
    (tmp_path / "times.txt").write_text("# recorded\n0\n0.5\n\n2.25  # late\n")
    scenario = _load(
        tmp_path,
        """
        require_rps = 100
        [target]
        url = "http://127.0.0.1:8000/predict"
        headers = { X-Model = "a" }
        body = "@payload.json"
        timeout = "1m30s"
        [server]
        device = "simulated"
        t0_ms = 2
        [load]
        mode = "closed"
        arrivals = "replay"
        replay = "@times.txt"
        think = "100ms"
        workers = 2
        [sla]
        objectives = ["p99<200ms", "p95<80ms"]
        error_budget = 0.01
        [search]
        budget = "3m"
        """,
    )
    assert scenario.name == "checkout"
    assert scenario.require_rps == 100
    assert scenario.target.body == b'{"x": 1}'
    assert scenario.target.method == "POST"
    assert scenario.target.headers == {"X-Model": "a", "Content-Type": "application/json"}
    assert scenario.target.timeout_s == 90
    assert (scenario.server["t0_ms"], scenario.server["t1_ms"]) == (2, 1.5)
    assert scenario.load.replay == (0, 0.5, 2.25)
    assert (scenario.load.think_s, scenario.load.workers) == (0.1, 2)
    assert scenario.slas == (SLA.parse("p99<200ms", error_budget=0.01), SLA.parse("p95<80ms", error_budget=0.01))
    assert scenario.search.budget_s == 180


@pytest.mark.parametrize("precision", ["0.02", "'2%'", "'0.02'", "'2 %'"])
@pytest.mark.parametrize("budget", ["180s", "3m", "2m60s"])
def test_budget_and_precision_are_spelled_as_on_the_command_line(tmp_path: Path, precision: str, budget: str) -> None:
    """A share is a number or a percentage, a time has its unit."""
    scenario = _load(tmp_path, f"plan_rps = 5000\n[search]\nprecision = {precision}\nbudget = '{budget}'")
    assert scenario.search.precision == pytest.approx(0.02)
    assert (scenario.search.budget_s, scenario.plan_rps) == (180, 5000)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[load]\nmode = "opn"', "checkout.toml: load.mode: 'opn' is not one of open, closed"),
        ("[load]\nconections = 4", "checkout.toml: load.conections: unknown key; did you mean 'connections'?"),
        ("[laod]\nmode = 'open'", "checkout.toml: laod: unknown key; did you mean 'load'?"),
        ("slas = []", "checkout.toml: slas: unknown key; did you mean 'sla'?"),
        ("[load]\nconnections = 0", "checkout.toml: load.connections: 0 must be a whole number >= 1"),
        ("[load]\nstart_rps = inf", "checkout.toml: load.start_rps: inf must be a number <= 1000000000.0"),
        ("[load]\nmax_rps = 'x'", "checkout.toml: load.max_rps: 'x' must be a number"),
        ("[load]\nstart_rps = 9\nmax_rps = 3", "checkout.toml: load.start_rps: 9 is above max_rps, 3"),
        ("[search]\nbudget = 3", "checkout.toml: search.budget: '3' is not a duration"),
        ("[search]\nbudget = '0s'", "checkout.toml: search.budget: 0.0 must be a number > 0.0"),
        ("[search]\nbudget_s = 3.0", "checkout.toml: search.budget_s: unknown key; did you mean 'budget'?"),
        ("[search]\nprecision = 5", "checkout.toml: search.precision: 5 must be a number < 1.0"),
        ("[search]\nprecision = '5'", "checkout.toml: search.precision: '5' is not a share: write a number below 1"),
        ("[search]\nprecision = '0%'", "checkout.toml: search.precision: 0.0 must be a number > 0.0"),
        ("plan_rps = 0", "checkout.toml: plan_rps: 0 must be a number > 0.0"),
        ("[sla]\nobjectives = ['p99<0ms']", "checkout.toml: sla.objectives: '0ms' is not a latency limit"),
        ("[sla]\nobjectives = ['p99<200']", "checkout.toml: sla.objectives: '200' is not a latency"),
        ("[sla]\nobjectives = ['p99<1s']\nerror_budget = 2.0", "checkout.toml: sla.error_budget: SLA error_budget 2.0"),
        ("[sla]\nerror_budgte = 0.1", "checkout.toml: sla.error_budgte: unknown key; did you mean 'error_budget'?"),
        ("[sla]\nobjectives = 'p99<1s'", "checkout.toml: sla: write objectives = "),
        ("[server]\nmax_batch = 4", "checkout.toml: server.max_batch: unknown key; did you mean 'max_batch_size'?"),
        ("[server]\npreferred_batch_sizes = [64]", "checkout.toml: server.preferred_batch_sizes: none may be above"),
        (
            "[server]\ndevice = 'warp'",
            "device 'warp': there is no such file, and the bundled ones are a100, h200, l4, simulated",
        ),
        ("[target]\nurl = 'ftp://h/'", "checkout.toml: target.url: 'ftp://h/' is not an HTTP address"),
        ("[target]\nurl = 'http://h:99999/'", "checkout.toml: target.url: 'http://h:99999/' is not a URL"),
        ('[target]\nheaders = { a = "x\\ny" }', "checkout.toml: target.headers: the value of 'a' must be one line"),
        ("[target]\nheaders = { a = 1 }", "checkout.toml: target.headers: "),
        (
            "[target]\nheaders = { Aa = '1', aA = '2' }",
            "checkout.toml: target.headers: aA is given twice: give it once",
        ),
        ("[target]\nheaders = { Content-Length = '1' }", "target.headers: Content-Length is set from the body: drop"),
        (
            "[target]\nshuffle = true",
            "checkout.toml: target.shuffle: only the lines of body_lines can be shuffled: give",
        ),
        ("[target]\nbody = '@none.json'", "none.json: cannot be read (No such file or directory)"),
        ("[target]\nbody = 3", "checkout.toml: target.body: 3 must be text"),
        ("[target]\ncacert = 3", "checkout.toml: target.cacert: 3 must be text"),
        ("[target]\nurl = 'h'\ncacert = 'a'", "checkout.toml: target.cacert: is about TLS, but the URL is not https"),
        ("[target]\nurl = 'h'\ninsecure = true", "checkout.toml: target.insecure: is about TLS, but the URL"),
        ("[target]\ncacert = 'a'\ninsecure = true", "checkout.toml: target.insecure: checks no certificate, so cacert"),
        ("[target]\nkey = 'a'", "checkout.toml: target.key: belongs to a certificate: name its file with cert"),
        ("[target]\nre_resolve = '0s'", "checkout.toml: target.re_resolve: 0.0 must be a number > 0.0"),
        ("[target]\nre_resolve = '1s'\nunix_socket = 'a'", "checkout.toml: target.re_resolve: a unix socket has"),
        ("[target]\nheaders = { a = '€' }", "checkout.toml: target.headers: the value of 'a' holds a character"),
        ("load = 3", "checkout.toml: load: must be a table, [load]"),
        ("[load]\narrivals = 'replay'", "checkout.toml: load.replay: name the file of due times"),
        ("a = 1\nb = = 2", "checkout.toml: is not valid TOML: Invalid value (at line 2, column 5)"),
        ("require_rps = 9\n[load]\nmax_rps = 8", "checkout.toml: require_rps: 9 is above max_rps, 8"),
        (
            "[target]\ntimeout = '1s'\n[sla]\nobjectives = ['p50<1s', 'p99<2s']",
            "checkout.toml: target.timeout: 1 s is below the longest SLA limit, 2 s",
        ),
        ("require_rps = -1", "checkout.toml: require_rps: -1 must be a number > 0.0"),
    ],
)
def test_an_error_names_file_key_and_rule(tmp_path: Path, text: str, sentence: str) -> None:
    """A broken rule gives one sentence that leads to the line to change."""
    message = _error(tmp_path, text)
    assert sentence in message
    assert "\n" not in message


def test_the_files_of_a_connection_are_beside_the_scenario(tmp_path: Path) -> None:
    """Relative names start where the scenario file is, as `body` does; absolute ones stand."""
    lines = "url = 'https://h/'\ncacert = 'ca.pem'\ncert = '/etc/me.pem'\nkey = 'me.key'\nunix_socket = 'a.sock'"
    (tmp_path / "one.toml").write_text(f"[target]\n{lines}")
    target = load(str(tmp_path / "one.toml")).target
    assert (target.cacert, target.cert) == (str(tmp_path / "ca.pem"), "/etc/me.pem")
    assert (target.key, target.unix_socket) == (str(tmp_path / "me.key"), str(tmp_path / "a.sock"))
    (tmp_path / "two.toml").write_text("[target]\nre_resolve = '10s'")
    assert load(str(tmp_path / "two.toml")).target.re_resolve_s == 10


def test_a_missing_scenario_names_the_bundled_ones() -> None:
    """A name that is neither bundled nor a file says what is there."""
    with pytest.raises(ScenarioError, match=r"scenario 'nosuch': there is no such file.* closed, default, open"):
        load("nosuch")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """A flag replaces its own value and leaves the rest of its table."""
    (tmp_path / "one.toml").write_text("[load]\nmax_rps = 50\nconnections = 7")
    scenario = load(
        str(tmp_path / "one.toml"),
        {"load": {"max_rps": 90.0}, "target": {"url": "http://127.0.0.1/"}, "slas": (SLA.parse("p99<1s"),)},
    )
    assert (scenario.load.max_rps, scenario.load.connections) == (90, 7)
    assert scenario.target.method == "GET"
    assert scenario.slas == (SLA.parse("p99<1s"),)


def test_a_body_given_by_flag_is_posted_as_json() -> None:
    """A body makes the request a POST of JSON, unless a header says otherwise."""
    scenario = load("default", {"target": {"url": "http://127.0.0.1/", "body": b"x"}})
    assert (scenario.target.method, scenario.target.headers) == ("POST", {"Content-Type": "application/json"})
    typed = load("default", {"target": {"body": b"x", "headers": {"content-type": "text/plain"}, "method": "PUT"}})
    assert (typed.target.method, typed.target.headers) == ("PUT", {"content-type": "text/plain"})


def test_a_login_in_the_url_becomes_a_header() -> None:
    """User and password leave the URL at once, so that no file or message can show them; a given header wins."""
    scenario = load("default", {"target": {"url": "ann:p%40ss@127.0.0.1:80/x"}})
    assert scenario.target.url == "http://127.0.0.1:80/x"
    assert scenario.target.headers == {"Authorization": "Basic YW5uOnBAc3M="}
    given = {"url": "http://a:b@127.0.0.1/", "headers": {"authorization": "Bearer t"}}
    assert load("default", {"target": given}).target.headers == {"authorization": "Bearer t"}


def test_the_server_settings_are_the_servers_own() -> None:
    """Defaults agree with the server's, which shares no code with the scenario."""
    settings = load("default").server
    assert ServerConfig(**settings) == ServerConfig()


@pytest.mark.parametrize(
    "name", [n for n in ServerSettings.__struct_fields__ if n not in ("preferred_batch_sizes", "device")]
)
def test_the_server_settings_have_the_servers_bounds(name: str) -> None:
    """A value at a bound of a scenario's setting is good for the server too; one beyond it is refused by both."""
    kind, meta = get_args(get_type_hints(ServerSettings, include_extras=True)[name])
    below, above = (
        (meta.ge - 1, meta.le + 1)
        if kind is int
        else (math.nextafter(meta.ge, -math.inf), math.nextafter(meta.le, math.inf))
    )
    assert getattr(ServerSettings(), name) == getattr(ServerConfig(), name)
    for value in (meta.ge, meta.le):
        setting = load("default", {"server": {name: value}}).server[name]
        assert setting == getattr(ServerConfig.from_json({name: value}), name)
    for value in (below, above):
        with pytest.raises(ScenarioError, match=name):
            load("default", {"server": {name: value}})
        with pytest.raises(ValueError, match=name):
            ServerConfig.from_json({name: value})


@pytest.mark.parametrize("name", [n for n in Device.__struct_fields__ if n not in ("source", "table_ms")])
def test_device_profiles_have_the_servers_bounds(name: str) -> None:
    """Both know the same fields, with the same defaults and bounds."""
    _, meta = get_args(get_type_hints(Device, include_extras=True)[name])
    assert getattr(Device(), name) == getattr(DeviceProfile(), name)
    assert set(Device.__struct_fields__) == set(DeviceProfile.__dataclass_fields__)
    for value in (meta.ge, meta.le):
        assert load("default", {"server": {"device": {name: value}}}).server["device"][name] == value
        assert getattr(DeviceProfile.from_table({name: value}), name) == value
    for value in (meta.ge - 1, meta.le + 1):
        with pytest.raises(ScenarioError, match=name):
            load("default", {"server": {"device": {name: value}}})
        with pytest.raises(ValueError, match=name):
            DeviceProfile.from_table({name: value})


@pytest.mark.parametrize("table", [[[1, 2.0]], [[1, 2.0], [1, 3.0]], [[1, 2.0], [2, 1.0]], [[0, 1.0], [2, 3.0]]])
def test_tables_are_bound_alike(table: list[list[float]]) -> None:
    """Both refuse a table of one pair, or one that does not increase."""
    with pytest.raises(ScenarioError, match="table_ms"):
        load("default", {"server": {"device": {"table_ms": table}}})
    with pytest.raises(ValueError, match="table_ms"):
        DeviceProfile.from_table({"table_ms": table})


@pytest.mark.parametrize("name", ["a100", "h200", "l4", "simulated"])
def test_bundled_profiles_say_where_their_numbers_come_from(name: str) -> None:
    """No bundled profile was measured, and each says so; the server takes every one of them."""
    profile = device(name)
    assert re.match(r"derived from public roofline numbers, not measured$|invented: ", profile["source"])
    assert DeviceProfile.from_table(profile).alone_ms(8) > DeviceProfile.from_table(profile).alone_ms(1) > 0


def test_a_scenario_names_a_whole_profile(tmp_path: Path) -> None:
    """A profile with more than three numbers goes to the server whole; what the scenario says beside it wins."""
    server = _load(tmp_path, '[server]\ndevice = "h200"\nt0_ms = 2\ninstances = 2').server
    assert (server["device"]["t0_ms"], server["device"]["row_bytes"], server["instances"]) == (2, 3584, 2)
    assert ServerConfig.from_json(server).profile().t0_ms == 2
    (tmp_path / "mine.toml").write_text("t3_ms = 1")
    with pytest.raises(ScenarioError, match=r"mine.toml: t3_ms: unknown key; did you mean 't1_ms'"):
        device(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("sizes", [(0,), (33,), (4, 33)])
def test_preferred_sizes_are_bound_alike(sizes: tuple[int, ...]) -> None:
    """Both refuse a preferred size below 1 or above the largest batch."""
    with pytest.raises(ScenarioError, match="preferred_batch_sizes"):
        load("default", {"server": {"preferred_batch_sizes": sizes}})
    with pytest.raises(ValueError, match="preferred_batch_sizes"):
        ServerConfig(preferred_batch_sizes=sizes)


def test_flags_are_validated_as_the_file_is() -> None:
    """A rule that a flag breaks is reported against the command line."""
    with pytest.raises(ScenarioError, match=r"command line: load.max_rps: -1 must be a number > 0"):
        load("default", {"load": {"max_rps": -1}})


@pytest.mark.parametrize("text", ["1\n", "2\n1\n", "1\n1\n", "-1\n2\n", "0\n1e300\n"])
def test_due_times_must_increase(tmp_path: Path, text: str) -> None:
    """A replay needs two due times or more, in order, that span some time."""
    (tmp_path / "times.txt").write_text(text)
    assert "load.replay: needs at least two due times" in _error(
        tmp_path, "[load]\narrivals = 'replay'\nreplay = 'times.txt'"
    )


@pytest.mark.parametrize("line", ["abc", "nan", "inf", "1 2"])
def test_a_replay_line_must_be_a_number(tmp_path: Path, line: str) -> None:
    """A line that is no number is named."""
    (tmp_path / "times.txt").write_text(f"0\n{line}\n")
    with pytest.raises(ScenarioError, match=f"times.txt: line 2: '{line}' is not a due time"):
        read_due_times(tmp_path / "times.txt")


def test_a_device_profile_holds_the_device_only(tmp_path: Path) -> None:
    """A profile gives the three device settings; a server's setting in it is refused."""
    assert device("simulated").items() >= {"t0_ms": 8.0, "t1_ms": 1.5, "jitter_sigma": 0.03}.items()
    (tmp_path / "gpu.toml").write_text("t0_ms = 1\ninstances = 2\n")
    with pytest.raises(ScenarioError, match=r"gpu.toml: instances: unknown key"):
        device(str(tmp_path / "gpu.toml"))
    (tmp_path / "gpu.toml").write_text("t0_ms = -1\n")
    with pytest.raises(ScenarioError, match=r"gpu.toml: t0_ms: -1 must be a number >= 0"):
        device(str(tmp_path / "gpu.toml"))
