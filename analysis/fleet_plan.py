"""How many replicas of the measured server carry a rate."""

from dataclasses import dataclass
from math import ceil

from analysis.operating_point import OperatingPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """Size a fleet of equal servers behind a balancer that splits requests evenly, with one to spare (N+1).

    Attributes:
        target_rps: Arrival rate of the whole fleet.
        safe_rps: Rate that each server may be given.
        capacity_rps: Rate at which a server's queue grows without end, or None where unknown.
        needed: Replicas that carry the target, each at the safe rate at most.
    """

    target_rps: float
    safe_rps: float
    capacity_rps: float | None
    needed: int

    @property
    def replicas(self) -> int:
        """Return how many to run: one may be down."""
        return self.needed + 1

    @property
    def all_up_rps(self) -> float:
        """Return the arrival rate of each when all are up."""
        return self.target_rps / self.replicas

    @property
    def one_down_rps(self) -> float:
        """Return the arrival rate of each when one is down."""
        return self.target_rps / self.needed


def fleet_plan(answer: OperatingPoint, target_rps: float) -> FleetPlan | None:
    """Return the replicas that carry `target_rps`; None where no rate of one server is known to be safe.

    Raises:
        ValueError: `target_rps` is not above zero.
    """
    if not target_rps > 0:
        raise ValueError(f"fleet_plan target_rps {target_rps}: must be above zero")
    safe = answer.safe_rps
    if safe is None or safe <= 0 or answer.verdict == "unmet":
        return None
    needed = max(1, ceil(target_rps / safe - 1e-9))  # 10 times the safe rate is 10 servers, whatever the rounding
    capacity = answer.capacity_rps.value if answer.capacity_rps else None
    return FleetPlan(target_rps=target_rps, safe_rps=safe, capacity_rps=capacity, needed=needed)
