"""The files of a run: a folder made before it, everything written after it, nothing measured ever lost."""

import itertools
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

import reports
from analysis import Histogram, Run, StepResult
from analysis.histogram import HIGHEST_NS, SIGNIFICANT_DIGITS
from loadgen.errors import UsageError

RUNS = Path("opfind-runs")


def prepare(output: Path | None) -> Path:
    """Make the folder of a run, a new one under `opfind-runs/` when none is named, and try to write into it.

    Raises:
        UsageError: It cannot be made or written.
    """
    folder = RUNS if output is None else output
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if output is None:
            folder = _new_folder()
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write into '{folder}': {error.strerror}; name another folder with -o") from None
    return folder


def _new_folder() -> Path:
    """Make a folder that no other run has: making it is the only safe way to ask."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = RUNS / (stamp if number == 1 else f"{stamp}_{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def write(run: Run, results: Sequence[StepResult], folder: Path) -> None:
    """Write every file of a run; one that fails, however it does, does not keep the others from being written.

    Raises:
        UsageError: One or more could not be written.
        Exception: A writer broke, a defect of ours.
    """
    writers: dict[str, Callable[[Path], None]] = {
        "run.json": lambda path: _write_text(path, json.dumps(run.as_json(), allow_nan=False)),
        "steps.npz": lambda path: _write_arrays(path, results),
        "steps.hlog": lambda path: _write_log(path, run),
        "summary.md": lambda path: _write_text(path, reports.markdown(run)),
        "junit.xml": lambda path: _write_text(path, reports.junit(run)),
        "report.html": lambda path: _write_text(path, reports.html(run)),
    }
    failed, defects = [], []
    for name, writer in writers.items():
        partial = folder / f".{name}.partial"
        try:
            writer(partial)
            partial.replace(folder / name)
        except Exception as error:  # noqa: BLE001 (whatever it is, the next file may still be written)
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError):
                failed.append(f"{name} ({error.strerror or error})")
            else:
                defects.append(error)
    if defects:
        raise defects[0]
    if failed:
        raise UsageError(f"could not write into '{folder}': {', '.join(failed)}; free some space and run again with -o")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _write_arrays(path: Path, results: Sequence[StepResult]) -> None:
    """Write the times of each request, int64 ns, one array a step and column, such as `step03_due_ns` for the third."""
    columns = {}
    for index, result in enumerate(results):
        for name in ("due_ns", "sent_ns", "first_byte_ns", "done_ns", "outcome"):
            column = getattr(result, name)
            if column is not None:
                columns[f"step{index + 1:02d}_{name}"] = column
    with path.open("wb") as file:  # np.savez would add an ending of its own to a name
        np.savez_compressed(file, **columns)


def _write_log(path: Path, run: Run) -> None:
    """Write response times as an HdrHistogram interval log: about a second an interval, values in ns."""
    with path.open("w", encoding="utf-8") as file:
        writer = HistogramLogWriter(file)
        writer.output_log_format_version()
        writer.output_comment("[Response times from the due time, ns; failed requests are left out]")
        writer.output_legend()
        for record in run.steps:
            level = f"{record.step.rate_rps:.6g} req/s" if record.step.rate_rps else f"{record.step.users} users"
            writer.output_comment(f"step {record.index + 1}: {record.step.purpose}, {level}")
            for second, block in enumerate(record.blocks):
                start_s = record.start_s + second
                end_s = max(start_s + 1e-6, min(start_s + 1, record.end_s))
                histogram = _standard(block)
                histogram.set_start_time_stamp(start_s * 1e3)
                histogram.set_end_time_stamp(end_s * 1e3)
                writer.output_interval_histogram(histogram)


def _standard(block: Histogram) -> HdrHistogram:
    """Return the block as the hdrhistogram package has it; the layouts are the same."""
    histogram = HdrHistogram(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
    data = block.as_json()
    for value, count in zip(data["lowest_ns"], data["count"], strict=True):
        histogram.record_value(value, count)
    return histogram
