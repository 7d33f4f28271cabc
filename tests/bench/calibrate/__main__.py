"""Calibrate the search on servers whose truth is known: coverage, safety, error and time, as a page of tables.

`python -m tests.bench.calibrate --seed 1 --servers 16 --reps 40 --jobs 2` draws servers (see servers.py), solves their
truth, runs the search and the peers' rules on them, and writes `page.md` into the folder. One line of `runs.jsonl` a
run: a second call with the same seed goes on where the first one ended, or adds replications.
"""

import argparse
import os
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from tests.bench.calibrate.runs import run_all, tasks, truths_of
from tests.bench.calibrate.servers import FIXED, draw
from tests.bench.calibrate.tables import page


def main(arguments: Sequence[str] | None = None) -> None:
    """Solve, run, and write the page."""
    parser = argparse.ArgumentParser(prog="calibrate", description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1, help="of the servers and of the runs")
    parser.add_argument("--servers", type=int, default=16, help="how many are drawn")
    parser.add_argument("--fixed", action="store_true", help="the fixed set instead of drawn servers")
    parser.add_argument("--only", default="", help="names or classes, by commas")
    parser.add_argument("--reps", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--budget", type=float, default=120.0, help="test time of the runs for the marks, seconds")
    parser.add_argument("--no-peers", action="store_true", help="leave the rules of other tools out")
    parser.add_argument("--out", type=Path, help="folder of the page and of the partial files")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for the processes to come
    folder = options.out or Path(f"calibration-{'fixed-' if options.fixed else ''}{options.seed}")
    folder.mkdir(parents=True, exist_ok=True)
    cases = list(FIXED) if options.fixed else draw(options.seed, options.servers)
    only = set(options.only.split(",")) - {""}
    cases = [case for case in cases if not only or {case.name, case.group} & only]
    with get_context("spawn").Pool(options.jobs) as pool:
        truths = truths_of(cases, folder / "truths.json", pool.imap_unordered)
        unsolved = [case.name for case in cases if case.name not in truths]
        cases = [case for case in cases if case.name in truths]
        runs = run_all(list(tasks(cases, options)), folder / "runs.jsonl", pool.imap_unordered)
    title = f"Calibration, seed {options.seed}, {len(cases)} servers, {options.reps} replications"
    if unsolved:
        title += f"; left out, because no run is long enough for their truth: {', '.join(unsolved)}"
    text = page(title, cases, truths, runs, options.budget)
    (folder / "page.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
