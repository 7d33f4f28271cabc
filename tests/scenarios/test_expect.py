"""What a reply must be, and which bodies are sent: what is read, and what is refused with which words."""

from pathlib import Path
from typing import Any

import pytest

import scenarios
from scenarios import ScenarioError
from scenarios.expect import Expect, json_value, statuses


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("2xx", {200, 204, 299}, {199, 300}),
        ("200", {200}, {201}),
        ("200, 404,5XX", {200, 404, 500, 599}, {201, 400}),
    ],
)
def test_statuses(text: str, inside: set[int], outside: set[int]) -> None:
    """A list of statuses and classes."""
    found = statuses(text)
    assert inside <= found
    assert not outside & found


@pytest.mark.parametrize(
    ("text", "steps", "value"),
    [
        ("/outputs/0=4", ("outputs", "0"), 4),
        ('/a~1b/m~0n="x=y"', ("a/b", "m~n"), "x=y"),
        ("/~01=null", ("~1",), None),
        ("/= [1, {}] ", ("",), [1, {}]),
        ("=true", (), True),
    ],
)
def test_a_pointer_and_its_value(text: str, steps: tuple[str, ...], value: Any) -> None:
    """RFC 6901: `~1` is a slash, `~0` a tilde, the empty pointer the whole; the value is JSON."""
    assert json_value(text) == (steps, value)


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ({"status": ""}, "status: '' is not an HTTP status: write 200"),
        ({"status": "200,"}, "status: '' is not an HTTP status"),
        ({"status": "2x"}, "status: '2x' is not an HTTP status"),
        ({"status": "600"}, "status: '600' is not an HTTP status"),
        ({"status": "-200"}, "status: '-200' is not an HTTP status"),
        ({"body_regex": "a("}, "body_regex: 'a(' is not a regular expression (missing ), unterminated subpattern"),
        ({"json": ("/a",)}, "json: '/a' is not a pointer and a value"),
        ({"json": ("a=1",)}, "json: 'a=1' is not a pointer and a value"),
        ({"json": ("/~2=1",)}, "json: '/~2=1' is not a pointer and a value"),
        ({"json": ("/status=ok",)}, "json: 'ok' is not a JSON value; text needs its quotes, as in /status=\"ok\""),
        ({"json": ("/status=",)}, "json: '' is not a JSON value"),
    ],
)
def test_a_wrong_expectation_is_one_sentence(expect: dict[str, Any], says: str) -> None:
    """The message names the key, the value and the rule."""
    with pytest.raises(ValueError) as caught:
        Expect(**expect)
    assert says in str(caught.value)


def _load(folder: Path, text: str) -> scenarios.Scenario:
    path = folder / "s.toml"
    path.write_text(text, encoding="utf-8")
    return scenarios.load(str(path))


def test_a_file_says_what_to_expect(tmp_path: Path) -> None:
    """[expect] holds the same texts as the flags; a single status may be a number."""
    scenario = _load(tmp_path, "[expect]\nstatus = 404\nbody_regex = 'o+'\njson = ['/a=1', '/b=\"x\"']")
    assert scenario.expect == Expect(status="404", body_regex="o+", json=("/a=1", '/b="x"'))
    assert _load(tmp_path, "").expect == Expect()


def test_files_of_bodies_are_relative_to_the_scenario(tmp_path: Path) -> None:
    """Lines are named, a template is read; either means POST of JSON."""
    (tmp_path / "body.j2").write_text("{{ seq }}", encoding="utf-8")
    target = _load(tmp_path, "[target]\nbody_template = '@body.j2'").target
    assert (target.body_template, target.method) == ("{{ seq }}", "POST")
    assert target.headers == {"Content-Type": "application/json"}
    target = _load(tmp_path, "[target]\nurl = 'http://h/'\nbody_lines = 'r.jsonl'\nshuffle = true").target
    assert (target.body_lines, target.shuffle, target.method) == (str(tmp_path / "r.jsonl"), True, "POST")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[expect]\nstatus = '20'", "s.toml: expect.status: '20' is not an HTTP status"),
        ("[expect]\nbody_regx = 'x'", "s.toml: expect.body_regx: unknown key; did you mean 'body_regex'?"),
        ("[expect]\njson = '/a=1'", "s.toml: expect.json: '/a=1' must be a list"),
        ("[expect]\nstatus = [200]", "s.toml: expect.status: [200] must be text"),
        ("expect = 1", "s.toml: expect: must be a table, [expect]"),
        (
            "[target]\nbody = 'a'\nbody_template = 'b'",
            "target.body_template: body and body_template exclude each other",
        ),
        ("[target]\nbody_lines = 1", "s.toml: target.body_lines: 1 must be text"),
        ("[target]\nshuffle = true", "s.toml: target.shuffle: only the lines of body_lines can be shuffled"),
        ("[target]\nbody_template = '@binary'", "binary: is not UTF-8 text (byte 0)"),
        (
            "[target]\nurl = 'http://h/'\nmethod = 'HEAD'\n[expect]\nbody_regex = 'x'",
            "expect.body_regex: a reply to HEAD has no body",
        ),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    """The message names file, key and rule."""
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(ScenarioError) as caught:
        _load(tmp_path, text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
