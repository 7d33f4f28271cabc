from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Outcome(IntEnum):
    """Say how a request ended. Everything but OK is a failure."""

    OK = 0
    HTTP_STATUS = 1
    CONNECT_ERROR = 2
    RESET = 3
    PROTOCOL_ERROR = 4
    TIMEOUT = 5
    LOST = 6  # its worker died
    UNSENT = 7  # due before the step ended, never put on the wire
    WRONG_REPLY = 8  # its status was expected, its contents were not


@dataclass(frozen=True, slots=True)
class Reason:
    """Say why a step is not sound.

    Attributes:
        kind: "client": the load generator was the limit; "target": the target broke; "books": the sums
            do not close; "drift": the server changed under the step.
        text: One sentence that a person can act on.
    """

    kind: Literal["client", "target", "books", "drift"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Ask for one load level: an arrival rate (open loop) or a number of users (closed loop).

    Attributes:
        rate_rps: Mean arrival rate, requests per second; None in a closed loop.
        users: Requests kept in flight, less think time; None in an open loop.
        duration_s: How long requests fall due, seconds; the drain comes on top.
        arrivals: Name of the arrival process ("poisson", "constant", "gamma", "replay"); the schedule is the runner's.
        seed: Seed of the schedule. The same seed gives the same schedule.
        purpose: Why the search asks: "ramp", "measure", "confirm", "probe"; "bracket" for the users of a closed loop
            with which a search in the open loop begins.
    """

    rate_rps: float | None = None
    users: int | None = None
    duration_s: float
    arrivals: str = "poisson"
    seed: int = 0
    purpose: str = "measure"

    def __post_init__(self) -> None:
        if (self.rate_rps is None) == (self.users is None):
            raise ValueError("Step: give exactly one of rate_rps and users")
        if self.rate_rps is not None and not self.rate_rps > 0:
            raise ValueError(f"Step rate_rps {self.rate_rps}: must be above zero")
        if self.users is not None and self.users < 1:
            raise ValueError(f"Step users {self.users}: must be at least 1")
        if not self.duration_s > 0:
            raise ValueError(f"Step duration_s {self.duration_s}: must be above zero")

    @property
    def level(self) -> float:
        """Return the load level: requests per second, or users."""
        return self.rate_rps if self.rate_rps is not None else float(self.users or 0)

    @property
    def counts(self) -> bool:
        """Say that its level is one of those that the search compares: neither a probe nor of the first bracket."""
        return self.purpose not in ("probe", "bracket")

    def place(self, achieved_rps: float) -> float:
        """Return where it lies on the axis of its search: users, or in the open loop the rate achieved."""
        return float(self.users) if self.users is not None and self.counts else achieved_rps


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Show a running step to `Search.overloaded`.

    Attributes:
        elapsed_s: Since the step's start, seconds.
        sent: Requests put on the wire so far.
        done: Requests ended so far, however they ended.
        in_flight: Requests due and not ended.
        oldest_pending_s: Age of the oldest of those, from its due time, seconds; 0 when there is none.
    """

    elapsed_s: float
    sent: int
    done: int
    in_flight: int
    oldest_pending_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepResult:
    """Hold what came back from a step: one entry a request, in order of due time, on one clock.

    Attributes:
        step: What was asked for.
        due_ns: int64 (n,), when each request was to be sent.
        done_ns: int64 (n,), when its reply was complete, or when the client gave up or learnt of the failure.
        outcome: uint8 (n,), an `Outcome`.
        sent_ns: int64 (n,), when it was put on the wire; 0 where it never was. None: not recorded.
        first_byte_ns: int64 (n,), when the reply began; 0 where none came. None: not recorded.
        start_ns: Start of the step.
        end_ns: End of its last request.
        aborted: The step was stopped early, by overload or by the user.
        drained: Every request was answered or failed; False when some timed out, so the server may not be empty.
        reasons: Why the step is not sound; none means sound.
        server: What the server said of itself during the step, or None.
    """

    step: Step
    due_ns: NDArray[np.int64]
    done_ns: NDArray[np.int64]
    outcome: NDArray[np.uint8]
    sent_ns: NDArray[np.int64] | None
    first_byte_ns: NDArray[np.int64] | None
    start_ns: int
    end_ns: int
    aborted: bool
    drained: bool
    reasons: tuple[Reason, ...]
    server: Mapping[str, Any] | None

    @classmethod
    def from_arrays(
        cls,
        step: Step,
        due_ns: ArrayLike,
        done_ns: ArrayLike,
        outcome: ArrayLike,
        *,
        aborted: bool = False,
        sent_ns: ArrayLike | None = None,
        first_byte_ns: ArrayLike | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        drained: bool = True,
        reasons: tuple[Reason, ...] = (),
        server: Mapping[str, Any] | None = None,
    ) -> "StepResult":
        """Build a result from columns of one length, in order of due time. None at all is legal.

        Raises:
            ValueError: The columns differ in length, due times go backwards, a request is done before it is
                due, or an outcome is unknown.
        """
        due = np.asarray(due_ns, dtype=np.int64)
        done = np.asarray(done_ns, dtype=np.int64)
        out = np.asarray(outcome, dtype=np.uint8)
        sent = None if sent_ns is None else np.asarray(sent_ns, dtype=np.int64)
        first = None if first_byte_ns is None else np.asarray(first_byte_ns, dtype=np.int64)
        for name, column in (("done_ns", done), ("outcome", out), ("sent_ns", sent), ("first_byte_ns", first)):
            if column is not None and column.shape != due.shape:
                raise ValueError(f"StepResult {name}: has shape {column.shape}, due_ns has {due.shape}")
        if due.size:
            if np.any(np.diff(due) < 0):
                raise ValueError("StepResult due_ns: must not decrease")
            if np.any(done < due):
                raise ValueError("StepResult done_ns: a request is done before it is due")
            if int(out.max()) > max(Outcome):
                raise ValueError(f"StepResult outcome: {int(out.max())} is unknown")
        if start_ns is None:
            start_ns = int(due[0]) if due.size else 0
        if end_ns is None:
            end_ns = max(start_ns, int(done.max())) if due.size else start_ns
        return cls(
            step=step, due_ns=due, done_ns=done, outcome=out, sent_ns=sent, first_byte_ns=first, start_ns=start_ns,
            end_ns=end_ns, aborted=aborted, drained=drained, reasons=tuple(reasons), server=server,
        )  # fmt: skip

    @property
    def sound(self) -> bool:
        """Say that nothing speaks against the step's numbers."""
        return not self.reasons

    @property
    def offered(self) -> int:
        """Return the number of requests whose due time came."""
        return int(self.due_ns.size)

    @property
    def counts(self) -> dict[str, int]:
        """Return requests by outcome name, all names present; they sum to `offered`."""
        tally = np.bincount(self.outcome, minlength=len(Outcome))
        return {kind.name.lower(): int(tally[kind]) for kind in Outcome}

    @property
    def offered_span_s(self) -> float:
        """Return the time over which requests fell due: the asked duration, or until the last due time if aborted."""
        if not self.aborted or not self.due_ns.size:
            return self.step.duration_s
        return max(1e-9, min(self.step.duration_s, (int(self.due_ns[-1]) - self.start_ns) / 1e9))

    @property
    def response_ns(self) -> NDArray[np.int64]:
        """Return due to done, int64 (n,), for every request, failed ones included."""
        return self.done_ns - self.due_ns

    def violations(self, limit_ns: int) -> NDArray[np.bool_]:
        """Return bool (n,): the request was slow or did not succeed."""
        violated: NDArray[np.bool_] = (self.response_ns > limit_ns) | (self.outcome != Outcome.OK)
        return violated
