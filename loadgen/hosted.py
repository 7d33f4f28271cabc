"""An `opfind run` in a clean process of its own, followed line by line from a process that must not run one itself."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from threading import Thread

from loadgen import child
from loadgen.failure import failure
from loadgen.stream import Line

_ASKS = (signal.SIGINT, signal.SIGTERM)  # a process to end
_ERROR = "opfind: error: "
_GRACE_S = 15.0  # an interrupted run awaits replies for 2 s and then writes its files


class HostedRun:
    """Run `opfind run` with `--stream` as a child, and hand on its lines as they come.

    The engine's processes belong to that child; when this process dies, however it does, the child ends them.

    Attributes:
        error: The sentence with which it failed, or None.
        has_answered: Its last line has come: it only ends from then on, and would die of a signal.
    """

    def __init__(self, words: Sequence[str], take: Callable[[Line], None], done: Callable[["HostedRun"], None]) -> None:
        """Start it.

        Args:
            words: Those after `opfind run`.
            take: Given each line, in a thread.
            done: Called once, after the last line, when the child has ended.
        """
        self.error: str | None = None
        self.has_answered = False
        self._defect: str | None = None
        self._process = child.start("loadgen", "run", "--stream", *words, stderr=subprocess.PIPE)
        self._words = Thread(target=self._read_words, name="opfind-words", daemon=True)
        self._words.start()
        self._lines = Thread(target=self._read_lines, args=(take, done), name="opfind-lines", daemon=True)
        self._lines.start()

    @property
    def exit_code(self) -> int | None:
        """Return how it ended, or None while it runs.

        Ended by a signal that asks for it, before it listened, its code is what it would have been later; killed by
        another one it counts as a defect of ours.
        """
        code = self._process.poll()
        if code is not None and -code in _ASKS and not self._defect:
            return 128 - code
        return 70 if self._defect or (code is not None and code < 0) else code

    def stop(self, number: int = signal.SIGINT) -> None:
        """Ask it to end; what was measured is kept and reported. Asked twice, it waits for no reply."""
        if not self.has_answered and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, seconds: float = _GRACE_S) -> None:
        """Wait for its end; one that does not come is forced."""
        self._lines.join(seconds)
        if self._lines.is_alive():
            self._process.kill()
            self._lines.join(seconds)

    def _read_lines(self, take: Callable[[Line], None], done: Callable[["HostedRun"], None]) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                told = json.loads(line)
                self.has_answered = told.get("event") is None
                take(told)
        except Exception as defect:  # noqa: BLE001 (a line that cannot be shown must not leave a search without an end)
            self._process.terminate()
            for _ in self._process.stdout:
                pass
            self._defect, _ = failure(defect, None)
        self._process.wait()
        self._words.join()
        self.error = self._defect or self.error or self._killed_by(-self._process.returncode)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()
        done(self)

    @staticmethod
    def _killed_by(number: int) -> str | None:
        """Say which signal ended the process, if one did; one that asks it to end found it before it listened."""
        if number in _ASKS:
            return "the search was ended before it began"
        return f"the search's process was killed by signal {number}: is memory short?" if number > 0 else None

    def _read_words(self) -> None:
        """Pass its words on to our standard error, and keep the sentence with which it fails."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            words = line.decode(errors="replace")
            if words.startswith(_ERROR):
                self.error = words.removeprefix(_ERROR).strip()
            sys.stderr.write(words)
            sys.stderr.flush()
