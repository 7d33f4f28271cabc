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


def test_text_with_a_url_in_it_is_masked() -> None:
    """An error message may quote a URL; its login does not get through."""
    assert mask_text(f"cannot reach http://u:{SECRET}@h/x: refused") == "cannot reach http://***@h/x: refused"


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
    assert found["cores"] >= 1
    assert found["packages"]["numpy"]
    assert found["command"] == "opfind run -H 'Authorization: ***'"


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
