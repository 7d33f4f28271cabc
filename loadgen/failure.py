"""An exception as a user sees it: one sentence and an exit code."""

import os
import tempfile
import traceback
from pathlib import Path

from loadgen.errors import OpfindError
from loadgen.mask import mask_text

INTERRUPTED = 130


def failure(error: BaseException, folder: Path | None) -> tuple[str, int]:
    """Return an error's sentence, secrets masked, and its exit code.

    A defect of ours leaves its traceback in a file: in `folder` where there is one, or among the temporary files.
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted before there was an answer", INTERRUPTED
    if isinstance(error, OpfindError) and error.exit_code != OpfindError.exit_code:
        return mask_text(str(error)), error.exit_code
    place = folder if folder and folder.is_dir() else Path(tempfile.gettempdir())
    path = place / f"opfind-error-{os.getpid()}.txt"
    try:
        path.write_text(mask_text("".join(traceback.format_exception(error))), encoding="utf-8")
        kept = f"the traceback is in {path}"
    except OSError as refusal:
        kept = f"the traceback could not be written to {path} ({refusal.strerror})"
    first_line = next(iter(mask_text(str(error)).splitlines()), "")
    what = first_line if isinstance(error, OpfindError) else f"{type(error).__name__}: {first_line}"
    return f"internal error, a defect of opfind ({what}); {kept}", OpfindError.exit_code
