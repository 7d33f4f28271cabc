"""CPU per request of the load engine against wrk on one nginx worker, paired; start-up excluded.

Cost = (CPU of a long run - CPU of a short run) / difference in requests, over the whole process tree. Prints a Markdown
table. Needs wrk, nginx and two cores: `python -m tests.bench.engine_cost [--rounds 3] [--short 5] [--long 25]`.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

Measure = Callable[[int], tuple[float, int]]
USERS = 64
BODY = json.dumps({"inputs": [round(0.1 * k, 1) for k in range(12)]})
CLIENT_CPU, SERVER_CPU = {0}, {1}


@contextlib.contextmanager
def nginx(port: int) -> Iterator[str]:
    """Serve a fixed reply from one nginx worker on the second core."""
    with tempfile.TemporaryDirectory() as folder:
        temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
        Path(folder, "nginx.conf").write_text(
            f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
            "events { worker_connections 4096; }"
            f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/body; {temp}"
            f'server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 "hello world\\n"; }} }} }}'
        )
        command = ["nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
        process = subprocess.Popen(command)
        os.sched_setaffinity(process.pid, SERVER_CPU)
        time.sleep(0.5)
        try:
            yield f"http://127.0.0.1:{port}/predict"
        finally:
            process.terminate()
            process.wait(10)


def cpu_and_output(command: list[str]) -> tuple[float, str]:
    """Run a command on the client's core; return CPU seconds of its whole tree, and what it printed."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, CLIENT_CPU)  # before it starts anything of its own
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, output


def wrk(url: str, seconds: int, script: Path) -> tuple[float, int]:
    """Return CPU seconds and requests of a wrk run."""
    cpu_s, output = cpu_and_output(["wrk", "-t1", f"-c{USERS}", f"-d{seconds}s", "-s", str(script), url])
    found = re.search(r"(\d+) requests in", output)
    assert found is not None, output
    return cpu_s, int(found[1])


def ours(url: str, seconds: int, workers: int = 1) -> tuple[float, int]:
    """Return CPU seconds and requests of one step of the engine, with all its recording."""
    command = [sys.executable, "-m", "tests.bench.engine_cost", "--step", url, str(seconds), str(workers)]
    cpu_s, output = cpu_and_output(command)
    return cpu_s, int(output.split()[-1])


def run_step(url: str, seconds: int, workers: int) -> None:
    """Run one closed-loop step as a session does: recorded, watched once a second, summarised."""
    from analysis import SLA, Step, StepRecord, judge
    from loadgen.fleet import Fleet, Setup, StepView
    from loadgen.target import Endpoint, request_bytes

    slas = (SLA.parse("p99<200ms"),)
    endpoint = Endpoint.of(url)
    request = request_bytes(endpoint, None, {}, BODY.encode())
    setup = Setup(endpoint=endpoint, request=request, timeout_ns=2 * 10**9, connections=4096, workers=workers)

    def watch(view: StepView) -> None:
        judge(view.result, slas)

    with Fleet(setup) as fleet:
        result, client, errors = fleet.run_step(Step(users=USERS, duration_s=seconds), lambda _: False, watch=watch)
    record = StepRecord.of(result, slas, index=0, origin_ns=result.start_ns, client=client, errors=errors)
    print(record.counts["ok"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--short", type=int, default=5)
    parser.add_argument("--long", type=int, default=25)
    parser.add_argument("--step", nargs=3)
    options = parser.parse_args()
    if options.step:
        run_step(options.step[0], int(options.step[1]), int(options.step[2]))
        return
    if not shutil.which("wrk") or not shutil.which("nginx") or (os.cpu_count() or 1) < 2:
        print("engine_cost: skipped, it needs wrk, nginx and two cores")
        return
    print(
        "| round | wrk, µs CPU/request | opfind, µs CPU/request | ratio | wrk, req/s | opfind, req/s |\n"
        "|---|---|---|---|---|---|"
    )
    ratios = []
    with nginx(18080) as url, tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "post.lua")
        script.write_text(
            f"wrk.method='POST'; wrk.body='{BODY}'; wrk.headers['Content-Type']='application/json'", encoding="utf-8"
        )
        for index in range(options.rounds):
            cost, rate = [], []
            runs: tuple[Measure, ...] = (lambda s: wrk(url, s, script), lambda s: ours(url, s))
            for run in runs:
                (short_cpu, short_n), (long_cpu, long_n) = run(options.short), run(options.long)
                cost.append((long_cpu - short_cpu) * 1e6 / (long_n - short_n))
                rate.append((long_n - short_n) / (options.long - options.short))
            ratios.append(cost[1] / cost[0])
            print(
                f"| {index + 1} | {cost[0]:.2f} | {cost[1]:.2f} | {ratios[-1]:.2f} | {rate[0]:.0f} | {rate[1]:.0f} |",
                flush=True,
            )
    print(f"\nmedian ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
