"""The standard streams, where one is closed, full, or left by its reader."""

import os
import sys
from collections.abc import Callable
from typing import TextIO


def replace_closed() -> None:
    """Open the null device for each stream that is closed, as by `2>&-`: the next file opened would take its number."""
    for name in ("stdin", "stdout", "stderr"):  # in the order of their numbers: opening takes the lowest free one
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w"))


def write(stream: TextIO, action: Callable[[], object]) -> str | None:
    """Write to a stream by `action`, flush it, and return why that failed, in words; None when it did not.

    A reader that has gone, as after `| head`, is no failure. Either way the stream drops what still comes.
    """
    try:
        action()
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python complains again as it ends
        return None if isinstance(error, BrokenPipeError) else error.strerror or str(error)
    return None
