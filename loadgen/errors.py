"""The one error tree. Each leaf carries the exit code that the command line documents.

OpfindError                 70  a defect of ours, unless a leaf says otherwise
├── UsageError               2  bad flag, bad scenario file, unwritable output, no free port
└── TargetError              5  the target is unreachable or answered nothing useful
"""

from typing import ClassVar


class OpfindError(Exception):
    """An error whose message is one sentence for the user: what is wrong, and the remedy."""

    exit_code: ClassVar[int] = 70


class UsageError(OpfindError):
    """The user asked for something that cannot be: bad flag, bad file, unwritable folder, no free port."""

    exit_code: ClassVar[int] = 2


class TargetError(OpfindError):
    """The target failed: it is unreachable, or every preflight reply was a failure."""

    exit_code: ClassVar[int] = 5
