"""Locust, in the place of this process: importing it changes sockets and threads, so it never runs in one of ours."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

_HOME = Path(__file__).resolve().parent.parent
_LOCUSTFILES = _HOME / "scenarios" / "locustfiles"


def locust(name: str, ours: str, words: Sequence[str]) -> NoReturn:
    """Replace this process by Locust, whose signals and exit code are then ours.

    Args:
        name: What the user typed, such as `opfind ui`; complaints begin with it.
        ours: One of the packaged locustfiles.
        words: Flags of Locust's and ours; further locustfiles among them are loaded beside the packaged one.
    """
    files, flags = with_locustfiles(str(_LOCUSTFILES / ours), words)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    path = os.pathsep.join(filter(None, [str(_HOME), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "loadgen.locust_main", name, f"--locustfile={files}", *flags]
    os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": path})  # noqa: S606 (there is no shell to be had)


def with_locustfiles(ours: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """Put the locustfiles that the words name, such as one with login code, behind ours.

    Returns:
        All of them, as Locust reads them, and the other words.
    """
    own, others, rest = [], [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in ("-f", "--locustfile"):
            own.append(value if equals else next(rest, ""))
        elif word.startswith("-f") and not word.startswith("--"):
            own.append(word[2:])
        else:
            others.append(word)
    return ",".join([ours, *filter(None, own)]), others
