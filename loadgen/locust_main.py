"""Locust as a process of our own: `python -m loadgen.locust_main NAME LOCUST-FLAGS`, which `opfind ui` becomes."""

import sys
import traceback

from loadgen import shadow
from loadgen.errors import UsageError

_NO_USER = "the locustfile has no user: define a class such as `class Me(HttpUser)` with a task in it"


def main() -> None:
    """Run Locust; its exit code is the process's. What keeps it from starting is one sentence, and exit code 2."""
    sys.argv = sys.argv[1:]  # argparse, and so Locust's own complaints, name us as the user does
    try:
        shadow.check()
        # Locust first: it changes sockets and threads, which all that comes later must find changed. Then ours, before
        # Locust puts the user's folder in front of the path, where a file `analysis.py` would hide our package.
        import locust.main  # noqa: PLC0415

        import loadgen.locust_bridge  # noqa: PLC0415

        if sys.argv[0] == "opfind ui":
            loadgen.locust_bridge.use_engine()  # before its locustfile does so: --help is answered without any
        log = loadgen.locust_bridge.LastError()
    except UsageError as error:
        _end(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    try:
        locust.main.main()
    except SystemExit as error:
        if error.code in (0, None) or loadgen.locust_bridge.has_begun():
            raise
        if "No User class" in log.words:
            _end(_NO_USER)
        raise SystemExit(UsageError.exit_code) from None
    except Exception as error:
        if _passed(error, "load_locustfile_pytest"):  # tried where a file has no user, for it may hold pytest's tests
            _end(_NO_USER)
        if not _passed(error, "load_locustfile"):
            raise
        _end(f"the locustfile cannot be imported: {_where(error)}; mend it and start again")


def _passed(error: Exception, function: str) -> bool:
    """Say that it came up inside a function of Locust's."""
    return any(frame.name == function for frame in traceback.extract_tb(error.__traceback__))


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    file, line = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (frames[-1][0], frames[-1][1])
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {words} ({file}, line {line})"


def _end(sentence: str) -> None:
    sys.stderr.write(f"opfind: error: {' '.join(sentence.split())}\n")
    raise SystemExit(UsageError.exit_code)


if __name__ == "__main__":
    main()
