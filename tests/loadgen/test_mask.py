import json
from pathlib import Path

import pytest

import scenarios
from loadgen.environment import cgroup_cores, collect, git_commit
from loadgen.mask import mask, mask_command, mask_text, mask_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:1/p", "http://h:1/p"),
        (f"http://ann:{SECRET}@h/p", "http://***@h/p"),
        (f"http://h/p?model=a&api_key={SECRET}", "http://h/p?model=a&api_key=***"),
        (f"http://h/p?sig={SECRET}&max_tokens=5", "http://h/p?sig=***&max_tokens=5"),
        (f"http://h/p?x={SECRET * 4}", "http://h/p?x=***"),
        (f"http://h/p?{SECRET * 4}", "http://h/p?***"),
        (f"http://h/p#{SECRET}", "http://h/p"),
        ("http://[::1/", "***"),
        (f"ann:{SECRET}@127.0.0.1:80/ok?token={SECRET}", "***@127.0.0.1:80/ok?token=***"),
        (f"127.0.0.1:80/ok?token={SECRET}#{SECRET}", "127.0.0.1:80/ok?token=***"),
    ],
)
def test_a_url_loses_its_secrets_only(url: str, shown: str) -> None:
    """Login, secret parameters and the fragment go; what says where the load went stays."""
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["-H", f"Authorization: Bearer {SECRET}"],
        ["-H", f"X-Api-Key:{SECRET}"],
        ["--header", f"Cookie: a={SECRET}"],
        [f"--header=X-Whatever: {SECRET}"],
        [f"-HAuthorization: {SECRET}"],
        ["-H", SECRET],
        [f"http://u:{SECRET}@127.0.0.1/"],
        [f"http://127.0.0.1/?token={SECRET}"],
        [f"u:{SECRET}@127.0.0.1:80/ok?token={SECRET}"],
        [f"127.0.0.1:80/ok?token={SECRET}"],
        ["--json", f"localhost/ok?token={SECRET}"],
        ["--header", f"--json: {SECRET}"],
        ["--body", f'{{"api_key": "{SECRET}"}}'],
        [f"--body={SECRET}"],
        ["-o", "-H", "-H", f"X-Key: {SECRET}"],
        ["-oout", "-H", f"X-Key: {SECRET}"],
        ["--json", "-H", f"X-Key: {SECRET}"],
        ["--insecure", "-H", f"X-Key: {SECRET}"],
        ["--shuffle", "-H", f"X-Key: {SECRET}"],
        ["--body-template", f'{{"password": "{SECRET}"}}'],
        [f"--body-template={SECRET}"],
    ],
)
def test_the_command_line_shows_no_secret(arguments: list[str]) -> None:
    """However a header or URL is written, its secret is not in the recorded command."""
    shown = mask_command(["run", *arguments, "--seed", "1"])
    assert SECRET not in shown
    assert "***" in shown
    assert shown.startswith("opfind run ")
    assert shown.endswith("--seed 1")


def test_the_command_line_can_be_repeated() -> None:
    """What is no secret stands as a shell would need it."""
    shown = mask_command(["run", "--sla", "p95<80ms", "-H", "Content-Type: text/plain", "http://127.0.0.1/p"])
    assert shown == "opfind run --sla 'p95<80ms' -H 'Content-Type: text/plain' http://127.0.0.1/p"


def test_a_body_from_a_file_is_named() -> None:
    """The file's name is no secret; where flags end, what follows is a URL."""
    shown = mask_command(["run", "--body", "@a b.json", "--body=@c", "--", f"u:{SECRET}@h/"])
    assert shown == "opfind run --body '@a b.json' --body=@c -- '***@h/'"


def test_a_template_in_the_run_file_is_a_digest() -> None:
    """As a body, it is kept as size and digest; the name of a file of lines stays."""
    path = "requests.jsonl"
    plain = mask(scenarios.Scenario(name="s", target=scenarios.Target(body_template=SECRET)))
    assert plain["target"]["body_template"]["bytes"] == len(SECRET)
    assert SECRET not in json.dumps(plain)
    assert mask(scenarios.Scenario(name="s", target=scenarios.Target(body_lines=path)))["target"]["body_lines"] == path
    assert mask(scenarios.Scenario(name="s"))["target"]["body_template"] is None


def test_a_login_without_a_scheme_is_masked_in_text() -> None:
    """A message may quote the URL as it was typed."""
    assert mask_text(f"unexpected argument (u:{SECRET}@h/x)") == "unexpected argument (***@h/x)"
    assert mask_text("12:30 a@b, line 3: x") == "12:30 a@b, line 3: x"


def test_text_with_a_url_in_it_is_masked() -> None:
    """An error message may quote a URL; its login does not get through."""
    assert mask_text(f"cannot reach http://u:{SECRET}@h/x: refused") == "cannot reach http://***@h/x: refused"


@pytest.mark.parametrize("mark", [":", ",", ".", ";", ")", "),"])
def test_a_mark_behind_a_url_stays(mark: str) -> None:
    """The mask hides the secret, not the sentence around it, however often it is laid on."""
    for place in ("http://h/ok", "u:p@h/ok"):
        shown = mask_text(mask_text(f"cannot connect to {place}?token={SECRET}{mark} refused"))
        assert shown == f"cannot connect to {place.replace('u:p', '***')}?token=***{mark} refused"


def test_a_scenario_in_the_run_file_has_no_secret() -> None:
    """Headers are masked, the body is a digest, everything is plain JSON."""
    scenario = scenarios.load(
        "default",
        {
            "target": {
                "url": f"http://u:{SECRET}@h/p?key={SECRET}",
                "headers": {"X-Token": SECRET, "Accept": "text/html"},
                "body": b"{}",
            }
        },
    )
    plain = mask(scenario)
    text = json.dumps(plain)
    assert SECRET not in text
    assert "dTpodW50ZXIy" not in text  # the login in base64
    assert plain["target"]["headers"] == {
        "X-Token": "***",
        "Accept": "text/html",
        "Authorization": "***",
        "Content-Type": "application/json",
    }
    assert plain["target"]["body"]["bytes"] == 2
    assert plain["server"]["max_batch_size"] == 32


def test_the_environment_is_plain_and_masked() -> None:
    """The environment goes into the run file as it is: JSON, no secret, no name of the machine's user."""
    found = collect(["run", "-H", f"Authorization: {SECRET}"])
    text = json.dumps(found)
    assert SECRET not in text
    assert found["cores"] >= found["affinity_cores"] >= 1
    assert found["packages"]["numpy"]
    assert found["command"] == "opfind run -H 'Authorization: ***'"


def test_the_cores_are_the_machine_s_and_the_process_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process tied to two of eight cores notes both numbers; where a system has no affinity, that one is None."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {1, 2}, raising=False)
    found = collect([])
    assert (found["cores"], found["affinity_cores"]) == (8, 2)
    monkeypatch.delattr("os.sched_getaffinity")
    found = collect([])
    assert (found["cores"], found["affinity_cores"]) == (8, None)


def test_the_tightest_cgroup_limit_counts(tmp_path: Path) -> None:
    """A limit may sit on any level above the process."""
    leaf = tmp_path / "a" / "b"
    leaf.mkdir(parents=True)
    assert cgroup_cores(leaf, tmp_path) is None
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    (leaf / "cpu.max").write_text("max 100000\n")
    assert cgroup_cores(leaf, tmp_path) == 1.5


def test_a_folder_that_is_no_checkout_has_no_commit(tmp_path: Path) -> None:
    """Outside a git checkout there is no commit, and no error."""
    assert git_commit(tmp_path) is None
