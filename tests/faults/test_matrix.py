"""The faults of the README's table, one by one: a true verdict, closed books, the documented exit code, whole files.

The table is the expectation: fault, verdict (the words between backticks are opfind's own), exit code.
"""

import re
import signal
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path

import pytest

from tests.ahead import ahead
from tests.faults import provoke
from tests.faults.harness import FILES, ROOT, Ended, check_files
from tests.faults.provoke import MANY, load, search, signalled, unresolved

Firsts = dict[str, Future[Ended]]

_CLIENT_LIMITED = "4"
_ATTEMPTS = 3

PROVOKE = {
    "connection reset instead of a reply (RST)": load("/reset"),
    "connection closed instead of a reply (FIN)": load("/fin"),
    "half-closed: end of stream, and no reply": load("/half-closed"),
    "9 % of replies never sent": load("/forgetful", *MANY),
    "9 % of replies never sent, during a search of 5 s": search("/forgetful", "--budget", "5s"),
    "body at one byte a second": load("/byte-a-second"),
    "endless body": load("/endless"),
    "headers of 1 MB": load("/huge-head"),
    "malformed status line": load("/malformed"),
    "not HTTP at all": load("/garbage"),
    "`101 Switching Protocols`, unasked": load("/upgrade"),
    "`Content-Length` longer than the body": load("/too-long"),
    "`Content-Length` shorter than the body": load("/too-short"),
    "two different `Content-Length`": load("/two-lengths"),
    "response splitting: two replies to one request": load("/twice"),
    "bursts of 429": load("/burst/limited", *MANY),
    "bursts of 503": load("/burst/busy", *MANY),
    "TLS handshake slower than the SLA, anew for each request": provoke.slow_handshake,
    "expired certificate": provoke.expired_certificate,
    "certificate for another name": provoke.wrong_name,
    "listen backlog overflows": provoke.backlog_overflow,
    "server killed": provoke.server_killed,
    "server killed and restarted in mid-step": provoke.server_restarted,
    "server away for 25 requests, during a search up to 100 req/s": provoke.server_away_in_search,
    "host name does not resolve": unresolved(after=0),
    "host name resolves no longer, with `--re-resolve`": unresolved(after=1),
    "worker killed (SIGKILL)": provoke.worker_killed,
    "worker starved to 10 % of a CPU, during a search": provoke.starved,
    "Ctrl-C (SIGINT)": signalled(signal.SIGINT),
    "SIGTERM": signalled(signal.SIGTERM),
    "disk full": provoke.disk_full,
    "read-only output": provoke.read_only,
    "`ulimit -n 64` with 60 users": provoke.few_files,
}
_WITHOUT_FILES = frozenset(FILES)
_MISSING = {
    "expired certificate": _WITHOUT_FILES,
    "certificate for another name": _WITHOUT_FILES,
    "listen backlog overflows": _WITHOUT_FILES,
    "host name does not resolve": _WITHOUT_FILES,
    "read-only output": _WITHOUT_FILES,
    "disk full": frozenset({"report.html"}),
}


def rows() -> list[list[str]]:
    """Return the rows of the README's table."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Faults\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]


# Those in which opfind is to say that the CPU was not its own: a neighbour must not be why.
_ALONE = frozenset(fault for fault, _, exit_code in rows() if exit_code == _CLIENT_LIMITED)


@pytest.fixture(scope="module")
def firsts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firsts]:
    """Provoke the chosen faults."""

    def provoked(fault: str) -> Ended:
        return PROVOKE[fault](tmp_path_factory.mktemp("fault"))

    with ahead(request, test_a_fault_ends_in_a_true_verdict.__name__, "fault", provoked, 2, alone=_ALONE) as found:
        yield found


@pytest.mark.parametrize(("fault", "verdict", "exit_code"), rows(), ids=[row[0] for row in rows()])
def test_a_fault_ends_in_a_true_verdict(
    fault: str, verdict: str, exit_code: str, firsts: Firsts, tmp_path: Path
) -> None:
    """The verdict in opfind's own words, the exit code, and files that can be opened and whose books close."""
    if fault in _ALONE:
        wait(firsts.values())
        ended = PROVOKE[fault](tmp_path)
    else:
        ended = firsts[fault].result()
    for attempt in range(1, _ATTEMPTS):
        if exit_code == _CLIENT_LIMITED or str(ended.exit_code) != _CLIENT_LIMITED:
            break
        # Else other programs held the CPU, which opfind says rather than blame the target: once more.
        folder = tmp_path / str(attempt)
        folder.mkdir()
        ended = PROVOKE[fault](folder)
    assert str(ended.exit_code) == exit_code, ended.stderr
    for words in re.findall(r"`([^`]+)`", verdict):
        assert words in ended.said
    assert "Traceback" not in ended.stderr
    missing = _MISSING.get(fault, frozenset())
    if missing != FILES:
        check_files(ended, missing=missing)


def test_the_readme_s_table_has_exactly_these_faults() -> None:
    """Each row has what provokes it, and each thing that is provoked has a row."""
    assert sorted(row[0] for row in rows()) == sorted(PROVOKE)
