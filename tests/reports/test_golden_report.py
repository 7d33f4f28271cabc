import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import Run
from reports import html, junit, markdown
from tests.factories import TWIN, make_answer, make_run

GOLDEN = Path(__file__).parent / "golden"
_DRAWN = re.compile(r"<svg.*?</svg>|<style>.*?</style>", re.DOTALL)


def _read(name: str) -> str:
    return (GOLDEN / name).read_text(encoding="utf-8")


def _golden_run() -> Run:
    """Render from the stored file, so that no golden report depends on numpy's or scipy's version."""
    return Run.from_json(json.loads(_read("run.json")))


def _made() -> Run:
    """Return a run whose answer has everything that an answer can have, and that plans a fleet."""
    run = make_run(answer=make_answer(**TWIN))
    return replace(run, scenario={**run.scenario, "plan_rps": 5000.0})


def _assert_close(got: Any, want: Any, path: str = "run") -> None:
    """Compare nested plain values; floats may differ in their last digits."""
    if isinstance(want, dict):
        assert list(got) == list(want), path
        for key in want:
            _assert_close(got[key], want[key], f"{path}.{key}")
    elif isinstance(want, list):
        assert len(got) == len(want), path
        for index, (one, other) in enumerate(zip(got, want, strict=True)):
            _assert_close(one, other, f"{path}[{index}]")
    elif isinstance(want, float):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-9), path
    else:
        assert got == want, path


def _compare(name: str, text: str, *, update: bool) -> None:
    if update:
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == _read(name)


def test_run_json_is_golden(update_golden: bool) -> None:
    """The format of run.json does not change unnoticed."""
    text = json.dumps(_made().as_json(), indent=1)
    if update_golden:
        (GOLDEN / "run.json").write_text(text + "\n", encoding="utf-8")
    _assert_close(json.loads(text), json.loads(_read("run.json")))


def test_html_is_golden(update_golden: bool) -> None:
    """The page's words and structure do not change unnoticed; figures and style have tests and eyes of their own."""
    _compare("report.html", _DRAWN.sub("", html(_golden_run())), update=update_golden)


def test_markdown_is_golden(update_golden: bool) -> None:
    """The pull request comment does not change unnoticed."""
    _compare("summary.md", markdown(_golden_run()), update=update_golden)


def test_junit_is_golden(update_golden: bool) -> None:
    """The test case file does not change unnoticed."""
    _compare("junit.xml", junit(_golden_run()), update=update_golden)


def test_reports_do_not_depend_on_the_way_through_the_file() -> None:
    """A run read back from its file gives the same reports, byte for byte, as the run that was written."""
    run = _made()
    again = Run.from_json(json.loads(json.dumps(run.as_json())))
    assert [html(again), markdown(again), junit(again)] == [html(run), markdown(run), junit(run)]
