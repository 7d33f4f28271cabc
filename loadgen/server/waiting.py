import heapq
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Literal

from loadgen.server.job import Job

_FEW_LEFT = 64  # entries of jobs that have left, not worth a rebuild


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    """Say what a queue does with jobs that wait: Triton's ModelQueuePolicy (model_config.proto).

    Attributes:
        max_queue_size: Most waiting jobs; 0 for no bound of its own.
        default_timeout_us: Longest wait, microseconds; 0 for no limit.
        timeout_action: What becomes of a job that has waited so long. "REJECT": it is refused. "DELAY": it is served
            after all jobs of its level that have not.
        allow_timeout_override: A job may ask for a shorter wait than the default, never for a longer one. Without a
            default any wait is shorter; there Triton 2.51 ignores what the request asks for.
    """

    max_queue_size: int = 0
    default_timeout_us: int = 0
    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    allow_timeout_override: bool = False

    def timeout_ns(self, asked_ns: int | None) -> int | None:
        """Return how long a job may wait that asks for `asked_ns`; None for ever."""
        default_ns = self.default_timeout_us * 1000 or None
        if not asked_ns or not self.allow_timeout_override:
            return default_ns
        return asked_ns if default_ns is None else min(asked_ns, default_ns)


class _Level:
    """Hold the jobs of one priority: those within their time, and those that were delayed."""

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.may_expire = bool(policy.default_timeout_us) or policy.allow_timeout_override
        self.fresh: OrderedDict[Job, None] = OrderedDict()  # ordered: whoever leaves, leaves in constant time
        self.delayed: OrderedDict[Job, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.fresh) + len(self.delayed)


class Waiting:
    """Hold the jobs that wait, in the order in which they are to be served. Pure: time is passed in.

    As Triton's PriorityQueue (scheduler_utils.cc): level 1 before level 2 and so on; within a level by arrival; jobs
    that were delayed after the others of their level, and before the next level. A policy holds for each level by
    itself, its bound included.

    Args:
        default: Policy of the levels that have none of their own.
        levels: Priority levels, at least 1.
        default_level: Of a job that names none.
        policies: Policy by level.
    """

    def __init__(
        self,
        default: QueuePolicy,
        *,
        levels: int = 1,
        default_level: int = 1,
        policies: Mapping[int, QueuePolicy] | None = None,
    ) -> None:
        of_level = policies or {}
        self._levels = [_Level(of_level.get(level, default)) for level in range(1, levels + 1)]
        self._default = default_level
        self._only = self._levels[0] if levels == 1 else None
        # All jobs by arrival; of one queue that delays nobody, the queue itself.
        only = self._only
        self._has_one_order = only is not None and only.policy.timeout_action != "DELAY"
        self._arrivals = only.fresh if only is not None and self._has_one_order else OrderedDict[Job, None]()
        self._expiries: list[tuple[int, int, Job]] = []  # a heap; jobs that have left meanwhile are skipped
        self._number = count()
        self.rows = 0

    def __len__(self) -> int:
        """Return the number of jobs."""
        return len(self._only) if self._only is not None else sum(map(len, self._levels))

    @property
    def is_fifo(self) -> bool:
        """Say that jobs are served in the order in which they arrived."""
        return self._only is not None and not self._only.delayed

    def level_of(self, job: Job) -> int:
        """Return the level of a job: the one that it names, or as in Triton the default where there is no such one."""
        return job.priority if 1 <= job.priority <= len(self._levels) else self._default

    def _of(self, job: Job) -> _Level:
        return self._levels[self.level_of(job) - 1] if self._only is None else self._only

    def add(self, job: Job) -> bool:
        """Add a job that arrives after all others; False when its level is full."""
        level = self._of(job)
        policy = level.policy
        if policy.max_queue_size and len(level) >= policy.max_queue_size:
            return False
        timeout_ns = policy.timeout_ns(job.timeout_ns) if level.may_expire else None
        if timeout_ns is not None:
            job.expires_ns = job.arrived_ns + timeout_ns
            heapq.heappush(self._expiries, (job.expires_ns, next(self._number), job))
        level.fresh[job] = None
        if not self._has_one_order:
            self._arrivals[job] = None
        self.rows += job.rows
        return True

    def remove(self, job: Job) -> bool:
        """Take a job out; False when it does not wait here (any more)."""
        level = self._of(job)
        if job in level.fresh:
            del level.fresh[job]
        elif job in level.delayed:
            del level.delayed[job]
        else:
            return False
        if not self._has_one_order:
            del self._arrivals[job]
        self.rows -= job.rows
        self._prune()
        return True

    def _prune(self) -> None:
        """Rebuild the heap when most of it are jobs that have left: one that waits long would keep them all in it."""
        if len(self._expiries) > 2 * sum(len(level.fresh) for level in self._levels) + _FEW_LEFT:
            self._expiries = [entry for entry in self._expiries if entry[2] in self._of(entry[2]).fresh]
            heapq.heapify(self._expiries)

    def next_expiry_ns(self) -> int | None:
        """Return when the time of the next job is over, or None."""
        heap = self._expiries
        while heap and heap[0][2] not in self._of(heap[0][2]).fresh:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def expire(self, at_ns: int) -> list[Job]:
        """Apply the policies to the jobs whose time is over at `at_ns`; remove and return those that are refused."""
        refused = []
        while (next_ns := self.next_expiry_ns()) is not None and next_ns <= at_ns:
            job = heapq.heappop(self._expiries)[2]
            level = self._of(job)
            del level.fresh[job]
            if level.policy.timeout_action == "DELAY":
                level.delayed[job] = None
            else:
                if not self._has_one_order:
                    del self._arrivals[job]
                self.rows -= job.rows
                refused.append(job)
        return refused

    def in_order(self, at_ns: int) -> Iterator[Job]:
        """Yield the jobs that had arrived by `at_ns`, in the order in which they are to be served."""
        for level in self._levels:
            for jobs in (level.fresh, level.delayed):
                for job in jobs:
                    if job.arrived_ns > at_ns:
                        break
                    yield job

    def by_arrival(self) -> Iterator[Job]:
        """Yield all jobs in order of arrival."""
        return iter(self._arrivals)

    def oldest_ns(self) -> int | None:
        """Return the arrival of the oldest job, or None."""
        for job in self._arrivals:
            return job.arrived_ns
        return None
