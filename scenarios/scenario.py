"""The scenario: everything that a run needs to know, frozen, validated once when it is built."""

import base64
import re
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec
from msgspec import Meta

from analysis import SLA
from scenarios.device import Device
from scenarios.expect import Expect
from scenarios.legal import check_headers, check_method, check_url
from scenarios.protocol import completed, protocol_of

_MAX = 1e9  # every number is finite: TOML knows inf and nan, a load does not
Positive = Annotated[float, Meta(gt=0, le=_MAX)]
NotNegative = Annotated[float, Meta(ge=0, le=_MAX)]
AtLeastOne = Annotated[int, Meta(ge=1, le=10**6)]
_Struct = TypeVar("_Struct", bound=msgspec.Struct)
BODY_KEYS = ("body", "body_lines", "body_template", "input_data")


class ScenarioError(ValueError):
    """A scenario is wrong; the message is one sentence that names file, key and rule."""


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say where requests go and what they carry.

    Attributes:
        url: http://host:port/path, never with a login in it; None: the embedded reference server.
        protocol: Of the URL; None only with the embedded server. "kserve": without a body the inputs are made from what
            the model says of itself.
        method: None only with the embedded server, whose own request is then sent.
        headers: By name, as given.
        body: Of every request. At most one of this and the next three is given; none: no body.
        body_lines: Path of a file with a JSON body on each line, sent in turn, round and round.
        body_template: Jinja text that is rendered with random fields, once for each request (see `loadgen.bodies`).
        input_data: Path of a file of inputs in perf_analyzer's JSON form, for "kserve" only.
        shuffle: Send the lines in a random order, another one each time round.
        metrics_url: Where the server tells of itself in Prometheus' text format; None: where its protocol says.
        timeout_s: Of one request from its due time, seconds; None: 10 times the slowest SLA, at least 2 s.
        cacert: File of the authorities whose certificates are trusted; None: those that the system trusts.
        insecure: Take any certificate.
        cert: File of the client's certificate.
        key: File of its private key; None: it is in `cert`.
        unix_socket: Path of the socket to connect to; the URL then gives Host and path.
        re_resolve_s: Resolve the host again so often, seconds; None: only once.
    """

    url: str | None = None
    protocol: Literal["kserve", "torchserve", "http"] | None = None
    method: str | None = None
    headers: dict[str, str] = {}
    body: bytes | None = None
    body_lines: str | None = None
    body_template: str | None = None
    input_data: str | None = None
    shuffle: bool = False
    metrics_url: str | None = None
    timeout_s: Positive | None = None
    cacert: str | None = None
    insecure: bool = False
    cert: str | None = None
    key: str | None = None
    unix_socket: str | None = None
    re_resolve_s: Positive | None = None

    def __post_init__(self) -> None:
        if self.url is not None:
            check_url(self.url)
            completed(self.url, self.protocol or "http")
        if self.metrics_url is not None:
            check_url(self.metrics_url)
        if self.method is not None:
            check_method(self.method)
        check_headers(self.headers.items())
        self._check_bodies()
        self._check_connection()

    def _check_bodies(self) -> None:
        given = [name for name in BODY_KEYS if getattr(self, name) is not None]
        if len(given) > 1:
            both = " and ".join(f"`{name}`" for name in given)
            raise ValueError(f"{given[1]}: {both} exclude each other: give one of them")
        if self.input_data is not None and self.protocol != "kserve":
            raise ValueError("input_data: is for models that speak kserve: give such a URL, or `protocol`")
        if self.shuffle and self.body_lines is None:
            raise ValueError("shuffle: only the lines of `body_lines` can be shuffled: give it, or drop `shuffle`")

    def _check_connection(self) -> None:
        of_tls = next((name for name in ("cacert", "insecure", "cert") if getattr(self, name) not in (None, False)), "")
        if of_tls and self.url is not None and urlsplit(self.url).scheme != "https":
            raise ValueError(f"{of_tls}: is about TLS, but the URL is not https: write https://, or leave it out")
        if self.insecure and self.cacert is not None:
            raise ValueError("insecure: checks no certificate, so `cacert` has no meaning: drop one of them")
        if self.key is not None and self.cert is None:
            raise ValueError("key: belongs to a certificate: name its file with `cert`")
        if self.re_resolve_s is not None and self.unix_socket is not None:
            raise ValueError("re_resolve_s: a unix socket has no name to resolve: drop one of them")


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say how load is made.

    Attributes:
        mode: "open": requests fall due by a schedule; "closed": users wait for their reply.
        arrivals: Open loop: the process that draws the schedule.
        cv: Of "gamma": coefficient of variation of the gaps.
        replay: Of "replay": due times, seconds, not decreasing.
        think_s: Closed loop: pause of a user between reply and next request, seconds.
        connections: Highest number of open connections, over all workers.
        workers: Engine processes; None: chosen from the machine's cores.
        start_rps: Where an open search begins; None: the search decides.
        max_rps: Where an open search ends at the latest.
        max_users: Where a closed search ends at the latest.
    """

    mode: Literal["open", "closed"] = "open"
    arrivals: Literal["poisson", "constant", "gamma", "replay"] = "poisson"
    cv: Positive = 1.0
    replay: tuple[float, ...] = ()
    think_s: NotNegative = 0.0
    connections: AtLeastOne = 4096
    workers: Annotated[int, Meta(ge=1, le=1024)] | None = None
    start_rps: Positive | None = None
    max_rps: Positive | None = None
    max_users: AtLeastOne | None = None

    def __post_init__(self) -> None:
        if self.start_rps is not None and self.max_rps is not None and self.start_rps > self.max_rps:
            raise ValueError(f"start_rps: {self.start_rps:g} is above `max_rps`, {self.max_rps:g}: swap them")
        if self.arrivals == "replay" and not self.replay:
            raise ValueError("replay: name the file of due times that arrivals = 'replay' needs, one time in s a line")
        if self.replay and not _increasing(self.replay):
            raise ValueError("replay: needs at least two due times, in seconds, not negative, that increase")


class SearchPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say how well the answer is to be known, and what it may cost.

    Attributes:
        precision: Half-width of the interval over its value that ends the search, in (0, 1).
        budget_s: Time that load may run, seconds.
        seed: Of every random stream. The same seed gives the same schedules.
        bracket: How a search in the open loop begins: by raising the rate until the server falls behind, or by doubling
            the users of a closed loop until its throughput no longer grows.
    """

    precision: Annotated[float, Meta(gt=0, lt=1)] = 0.05
    budget_s: Positive = 180.0
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    bracket: Literal["open", "closed"] = "open"


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name the embedded server's settings; a Scenario holds them as a plain mapping, which the server's process reads.

    Attributes:
        device: A whole device profile, instead of the three numbers that follow.
        t0_ms: Time of a batch, its constant part, milliseconds.
        t1_ms: Time of a batch for every request in it, milliseconds.
        jitter_sigma: Sigma of the lognormal factor on that time.
        max_batch_size: Requests.
        preferred_batch_sizes: Sizes at which a batch leaves at once.
        max_queue_delay_us: Longest wait for a fuller batch, microseconds.
        instances: Copies of the model that share the device.
        max_queue_size: Requests that may wait; one more is answered 503.
    """

    device: Device | None = None
    t0_ms: Annotated[float, Meta(ge=0, le=60_000)] = 8.0
    t1_ms: Annotated[float, Meta(ge=0, le=60_000)] = 1.5
    jitter_sigma: Annotated[float, Meta(ge=0, le=3)] = 0.03
    max_batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 32
    preferred_batch_sizes: tuple[AtLeastOne, ...] = ()
    max_queue_delay_us: Annotated[int, Meta(ge=0, le=60_000_000)] = 10_000
    instances: Annotated[int, Meta(ge=1, le=64)] = 1
    max_queue_size: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096

    def __post_init__(self) -> None:
        if any(size > self.max_batch_size for size in self.preferred_batch_sizes):
            raise ValueError(f"preferred_batch_sizes: none may be above max_batch_size, {self.max_batch_size}")
        if self.t0_ms + self.t1_ms == 0:
            raise ValueError("t0_ms: a batch must take time, but t0_ms and t1_ms are both 0")


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Be everything that a run needs to know.

    Attributes:
        name: Of the scenario.
        target: Where requests go.
        expect: What a reply must be to count as a success.
        server: Settings of the embedded server, all of `ServerSettings` present but for a device that is None; unused
            when the target has a URL.
        load: How load is made.
        slas: What must hold; empty where neither file nor flag says so.
        search: How well the answer is to be known.
        require_rps: Rate that must be reached, requests per second, or None.
        plan_rps: Rate of a whole fleet, for which the answer gives a number of replicas, or None.
    """

    name: str
    target: Target = Target()
    expect: Expect = Expect()
    server: dict[str, Any] = {}
    load: Load = Load()
    slas: tuple[SLA, ...] = ()
    search: SearchPlan = SearchPlan()
    require_rps: Positive | None = None
    plan_rps: Positive | None = None

    def __post_init__(self) -> None:
        longest_s = max((sla.limit_s for sla in self.slas), default=0.0)
        if self.target.timeout_s is not None and self.target.timeout_s < longest_s:
            raise ValueError(
                f"target.timeout_s: {self.target.timeout_s:g} s is below the longest SLA limit, {longest_s:g} s, so "
                "requests within the SLA would fail: raise the timeout, or leave it out"
            )
        if self.expect.reads_body and (self.target.method or "").upper() == "HEAD":
            key = "json" if self.expect.body_regex is None else "body_regex"
            raise ValueError(f"expect.{key}: a reply to HEAD has no body: drop this, or use another method")
        highest = self.load.max_rps
        if self.require_rps is not None and highest is not None and self.require_rps > highest:
            raise ValueError(
                f"require_rps: {self.require_rps:g} is above `load.max_rps`, {highest:g}, so it cannot be reached: "
                "raise `load.max_rps`, or require less"
            )
        if self.search.bracket == "closed":
            if self.load.mode == "closed":
                raise ValueError("search.bracket: has no meaning in the closed load mode, which counts users: drop it")
            for name in ("start_rps", "max_rps"):
                if getattr(self.load, name) is not None:
                    raise ValueError(f"search.bracket: users keep to no rate: drop it, or `load.{name}`")


class _ServerTable(msgspec.Struct, frozen=True):
    server: ServerSettings


def build(plain: Mapping[str, Any], source: str, names: Mapping[str, str]) -> Scenario:
    """Build a scenario from its plain form: the fields' names, numbers in their fields' units.

    Args:
        plain: The tables.
        source: What to name in an error: the file, or the command line.
        names: What a user calls a key, by its path here, where the two differ: a key of the file, or a flag.

    Raises:
        ScenarioError: A rule is broken.
    """
    table = _convert({"server": plain.get("server", {})}, _ServerTable, source, names)
    settings = msgspec.to_builtins(table.server)
    whole = {
        **plain,
        "server": {key: value for key, value in settings.items() if value is not None},
        "target": _with_defaults(plain.get("target", {})),
    }
    return _convert(whole, Scenario, source, names)


def check_device(plain: Mapping[str, Any], source: str) -> None:
    """Check a device profile.

    Raises:
        ScenarioError: A rule is broken.
    """
    _convert(plain, Device, source, {})


def _with_defaults(target: Any) -> Any:
    """Fill in what a URL and a body imply: http, credentials as a header, GET, or POST of JSON."""
    if not isinstance(target, Mapping):
        return target
    filled, headers = dict(target), target.get("headers", {})
    url, has_body = filled.get("url"), any(filled.get(key) is not None for key in BODY_KEYS)
    if isinstance(url, str) and isinstance(headers, Mapping):
        filled["url"], login = _split_login(url if "://" in url else f"http://{url}")
        headers = headers if _has(headers, "authorization") else {**headers, **login}
        if filled.get("protocol") is None:
            filled["protocol"] = _protocol_of(filled["url"])
        if filled["protocol"] == "kserve":
            filled["url"], has_body = _completed(filled["url"]), True
    if filled.get("method") is None and (has_body or url is not None):
        filled["method"] = "POST" if has_body else "GET"
    if has_body and isinstance(headers, Mapping) and not _has(headers, "content-type"):
        headers = {**headers, "Content-Type": "application/json"}
    return {**filled, "headers": headers}


def _protocol_of(url: str) -> str:
    try:
        return protocol_of(url)
    except ValueError:  # it is no URL, which its own check says better
        return "http"


def _completed(url: str) -> str:
    try:
        return completed(url, "kserve")
    except ValueError:  # the same
        return url


def _has(headers: Mapping[Any, Any], name: str) -> bool:
    return name in {str(given).lower() for given in headers}


def _split_login(url: str) -> tuple[str, dict[str, str]]:
    """Take `user:password@` out of a URL, as the header that says the same (RFC 7617)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url, {}
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, {}
    token = base64.b64encode(unquote(login).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), {"Authorization": f"Basic {token}"}


def _convert(plain: Mapping[str, Any], kind: type[_Struct], source: str, names: Mapping[str, str]) -> _Struct:
    """Convert to a Struct; turn the library's message into a sentence that names source, key and rule.

    A flag needs no source. In a rule, `key` or `table.key` in backquotes stands for what the user calls that key.
    """
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        sentence = _sentence(message, path.strip(".`"), plain, kind, names)
        raise ScenarioError(sentence if sentence.startswith("--") else f"{source}: {sentence}") from None


def _sentence(message: str, path: str, plain: Any, kind: Any, names: Mapping[str, str]) -> str:
    """Say which key breaks which rule."""
    value, field_type = plain, kind
    for key in re.findall(r"[^.\[\]]+", path):
        field_type = _inner_type(field_type, key)
        value = value[int(key)] if key.isdigit() else value.get(key) if isinstance(value, Mapping) else value
    shown = names.get(path, path).removesuffix("[...]")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        fields = (f"{path}.{name}".strip(".") for name in field_type.__struct_fields__)
        valid = [names.get(field, field).rpartition(".")[2] for field in fields]
        return unknown_key(f"{path}.{unknown[1]}".strip("."), valid)
    if message.startswith("Invalid enum value"):
        return f"{shown}: {value!r} is not one of {', '.join(map(str, get_args(field_type)))}"
    expected = re.fullmatch(r"Expected `(.*?)`(?:, got `.*`|( [<>=]+ \S+))?", message)
    if expected:
        words = {"int": "a whole number", "float": "a number", "str": "text", "object": "a table", "array": "a list"}
        wanted = " or ".join(words.get(word, word) for word in expected[1].split(" | ") if word != "null")
        return f"{shown}: {value!r} must be {wanted}{expected[2] or ''}"
    key, colon, rule = message.partition(": ")
    if colon and key.partition(".")[0] in getattr(field_type, "__struct_fields__", ()):
        place = f"{path}.{key}".strip(".")
        return f"{names.get(place, place)}: {_with_names(rule, path, names)}"
    return f"{shown}: {message}" if shown else message


def _with_names(rule: str, table: str, names: Mapping[str, str]) -> str:
    def name(match: re.Match[str]) -> str:
        path = match[1] if "." in match[1] else f"{table}.{match[1]}"
        return names.get(path, path).rpartition(".")[2]

    return re.sub(r"`([a-z_.]+)`", name, rule)


def unknown_key(path: str, valid: list[str]) -> str:
    """Say that a key is unknown, with the nearest valid one."""
    near = get_close_matches(path.rpartition(".")[2], valid, n=1)
    remedy = f"did you mean '{near[0]}'?" if near else f"the keys here are {', '.join(sorted(valid))}"
    return f"{path}: unknown key; {remedy}"


def _inner_type(kind: Any, key: str) -> Any:
    """Return the type of a Struct's field, without what may be None beside it."""
    if not hasattr(kind, "__struct_fields__"):
        return kind
    found = get_type_hints(kind).get(key)
    options = [option for option in get_args(found) if option is not type(None)]
    is_optional = get_origin(found) is not Literal and len(options) == 1 and type(None) in get_args(found)
    return options[0] if is_optional else found


def _increasing(times: tuple[float, ...]) -> bool:
    steady = all(early <= late for early, late in pairwise(times))
    return len(times) >= 2 and steady and 0 <= times[0] < times[-1] <= _MAX
