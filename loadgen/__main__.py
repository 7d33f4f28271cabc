import signal
import sys

_BEFORE = signal.getsignal(signal.SIGINT)
if _BEFORE is signal.default_int_handler:  # Ctrl-C while modules load ends the command at once, and shows no traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from loadgen.cli import main  # noqa: E402 (this is what takes the time)

if _BEFORE is signal.default_int_handler:
    signal.signal(signal.SIGINT, _BEFORE)

if __name__ == "__main__":
    sys.exit(main())
