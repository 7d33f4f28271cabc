"""The files of a run: what other programs read from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

from analysis import Run, Step, StepRecord
from analysis.histogram import HIGHEST_NS, SIGNIFICANT_DIGITS
from loadgen import files
from loadgen.errors import UsageError
from tests.factories import make_run, run_step


def test_the_interval_log_is_standard(tmp_path: Path) -> None:
    """HdrHistogram's own reader gets the run's quantiles back from steps.hlog, step by step."""
    run = make_run()
    files.write(run, (), tmp_path)
    reader = HistogramLogReader(str(tmp_path / "steps.hlog"), _empty())
    read = _empty()
    while (interval := reader.get_next_interval_histogram()) is not None:
        read.add(interval)
    reader.input_file.close()
    whole = run.steps[0].histogram
    for record in run.steps[1:]:
        whole += record.histogram
    assert read.get_total_count() == whole.total - whole.overflow
    whole.overflow = 0
    assert read.get_value_at_percentile(99.0) == pytest.approx(whole.quantile_ns(0.99), rel=1e-3)


def _empty() -> HdrHistogram:
    return HdrHistogram(1, HIGHEST_NS, SIGNIFICANT_DIGITS)


def test_each_request_s_times_are_kept(tmp_path: Path) -> None:
    """steps.npz holds due, done and outcome of every request, by step."""
    result = run_step(Step(rate_rps=300.0, duration_s=2.0))
    files.write(make_run(), (result,), tmp_path)
    with np.load(tmp_path / "steps.npz") as arrays:
        assert np.array_equal(arrays["step01_due_ns"], result.due_ns)
        assert np.array_equal(arrays["step01_done_ns"], result.done_ns)
        assert np.array_equal(arrays["step01_outcome"], result.outcome)


def test_run_json_reads_back(tmp_path: Path) -> None:
    """run.json is JSON, and `Run.from_json` gives the run back."""
    import json

    run = make_run()
    files.write(run, (), tmp_path)
    again = Run.from_json(json.loads((tmp_path / "run.json").read_text(encoding="utf-8")))
    assert again.as_json() == run.as_json()
    assert isinstance(again.steps[0], StepRecord)


def test_a_full_disk_loses_only_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be written is named, no half of it stays, and the others are written."""

    def full(path: Path, *_: object) -> None:
        path.write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_arrays", full)
    with pytest.raises(UsageError, match=r"steps\.npz \(No space left on device\)"):
        files.write(make_run(), (), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "junit.xml", "report.html", "run.json", "steps.hlog", "summary.md",
    ]  # fmt: skip


def test_a_defect_in_one_file_loses_that_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer of ours that breaks, as JSON does over a number that it cannot write, is told after the others ran."""
    run = make_run()
    broken = replace(run, environment={**run.environment, "load": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write(broken, (), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "junit.xml", "report.html", "steps.hlog", "steps.npz", "summary.md",
    ]  # fmt: skip


def test_an_unwritable_folder_is_told_before_the_run(tmp_path: Path) -> None:
    """A folder that cannot be made is a usage error that names the flag."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match="-o"):
        files.prepare(tmp_path / "file" / "folder")


def test_a_run_gets_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in one second do not share a folder, not even when each looked before the other made it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    first, second = files.prepare(None), files.prepare(None)
    assert first != second
    assert first.is_dir()
    assert second.is_dir()


def test_a_place_for_runs_that_is_no_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dangling link where runs should lie is a usage error, not an endless search for a free name."""
    monkeypatch.chdir(tmp_path)
    files.RUNS.symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot write into 'opfind-runs'"):
        files.prepare(None)
