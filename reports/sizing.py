"""What the answer means for sizing, in words: the knee and shares of the capacity, closed-loop tests, replicas."""

from typing import Any

from analysis import Estimate, OperatingPoint, Run
from analysis.fleet_plan import FleetPlan, fleet_plan
from analysis.utilisation import RULE, marks, rule_of_thumb
from reports import text
from reports.words import INTERRUPTED, is_closed, planned_rps, quantile_name

_HOLDS = {True: "holds", False: "broken", None: "too close to call"}
_TIMES = (1, 10)  # the safe rate, where nobody asked for a rate


def rule(answer: OperatingPoint) -> str:
    """Say in one sentence whether to run this server at 70 to 80 % of its capacity would have been right."""
    said, rate, capacity = rule_of_thumb(answer), answer.rate_rps, answer.capacity_rps
    if said is None or rate is None or capacity is None:
        return ""
    low, high = (f"{100 * share:.0f}" for share in RULE)
    opening = f"Running it at {low} to {high} % of its capacity would have"
    end = f"ends at {text.share(rate.value / capacity.value)} of the capacity"
    if said == "right":
        return f"{opening} been about right: the SLA {end}."
    if said == "unsafe":
        return f"{opening} broken the SLA, which {end}."
    least, most = (100 * (1 - share * capacity.value / rate.value) for share in reversed(RULE))
    return f"{opening} wasted {least:.0f} to {most:.0f} % of what this server carries within the SLA."


def mark_rows(run: Run) -> list[tuple[str, str, str, str]]:
    """Return (mark, rate, latency there, do the SLAs hold) of the utilisation marks and the knee, by rate."""
    answer = run.answer
    if answer is None or answer.capacity_rps is None or answer.verdict == "unmet" or not _is_open(run):
        return []
    rows = [
        (mark.rate_rps, f"{100 * mark.share:.0f} % of capacity", text.rate(mark.rate_rps),
         text.latency(mark.quantile_s), _HOLDS[mark.holds])
        for mark in marks(answer, run.steps)
    ]  # fmt: skip
    if knee := answer.knee_rps:
        share = text.share(knee.value / answer.capacity_rps.value)
        rows.append((knee.value, f"knee, {share}", f"{text.rate(knee.value)} {text.ends(knee)}", "", ""))
    if rate := answer.rate_rps:
        name = f"operating point, {text.share(rate.value / answer.capacity_rps.value)}"
        there = {0.5: answer.p50, 0.95: answer.p95, 0.99: answer.p99}.get(answer.sla.quantile)
        at = bracket(answer) or f"{text.rate(rate.value)} {text.ends(rate)}"
        rows.append((rate.value, name, at, _value(there), ""))
    return [(name, at, seen, holds) for _, name, at, seen, holds in sorted(rows, key=lambda row: row[0])]


def _is_open(run: Run) -> bool:
    return bool(run.steps) and not is_closed(run)


def bracket(answer: OperatingPoint) -> str | None:
    """Return between which rates the latency jumps, or None where there is no cliff."""
    rate = answer.rate_rps
    if not answer.cliff or rate is None or rate.high is None:
        return None
    return f"{text.number(rate.low)} to {text.number(rate.high)} req/s"


def _value(estimate: Estimate | None) -> str:
    return text.latency(estimate.value) if estimate else text.NONE


def closed(answer: OperatingPoint) -> str:
    """Say what a closed-loop test would have reported, and what its rate does to requests that arrive by themselves."""
    seen = answer.closed
    if seen is None:
        return ""
    users = f"{seen.users:,} user{'' if seen.users == 1 else 's'}"
    opening = f"A closed-loop test ({users}) would have reported {text.rate(seen.throughput_rps)}"
    point = f", {_beside(seen.throughput_rps, answer.rate_rps)}" if answer.rate_rps else ""
    if seen.quantile_s is None:
        then = "at that rate the queue would grow without end"
    else:
        then = f"at that rate the {quantile_name(answer.sla.quantile)} would be {text.latency(seen.quantile_s)}"
    return f"{opening}{point}; {then}."


def _beside(rate_rps: float, point: Estimate) -> str:
    off = rate_rps / point.value - 1
    if abs(off) < 0.001:
        return "just the highest rate that holds the SLA"
    return f"{text.share(text.rough(abs(off)))} {'above' if off > 0 else 'below'} the highest rate that holds the SLA"


def fleet(run: Run) -> str:
    """Say how many replicas carry the rate that was asked about; why none is known to, where none is."""
    answer, target = run.answer, planned_rps(run)
    if answer is None or target is None:
        return ""
    plan = fleet_plan(answer, target)
    if plan is None:
        return no_plan(answer, text.rate(target))
    (up, use), (down, strained) = _load(plan, plan.all_up_rps), _load(plan, plan.one_down_rps)
    needed = f"{plan.needed:,} at {text.floor_number(plan.safe_rps)} req/s at most, and one to spare"
    return (
        f"{plan.replicas:,} replicas carry {text.rate(target)}, split evenly ({needed}): {up} each, {use}; "
        f"with one down {down}, {strained}.{caveat(run)}"
    )


def no_plan(answer: OperatingPoint, target: str) -> str:
    """Say why no number of replicas can be given."""
    if answer.verdict == "unmet":
        return f"No number of replicas carries {target}: one alone misses the SLA at every rate."
    return f"No plan for {target}: no rate of one server is known to be safe."


def caveat(run: Run) -> str:
    """Say what makes a plan provisional, after a space; nothing where the answer stands."""
    answer = run.answer
    if answer is None or (answer.verdict == "found" and run.exit_code not in INTERRUPTED):
        return ""
    if answer.verdict == "client_limited" and run.exit_code not in INTERRUPTED:
        return " The safe rate is only a lower bound, so fewer may do."
    return " Provisional: the search did not end, so the safe rate is only what it knew by then."


def fleet_rows(run: Run) -> list[dict[str, Any]]:
    """Return what 1 and 10 times the safe rate take, where nobody asked about a rate: `fleet` answers that."""
    answer = run.answer
    if answer is None or answer.safe_rps is None or answer.safe_rps <= 0 or planned_rps(run):
        return []
    plans = {
        f"{times} \N{MULTIPLICATION SIGN} the safe rate": fleet_plan(answer, times * answer.safe_rps)
        for times in _TIMES
    }
    return [
        {
            "target": target,
            "replicas": f"{plan.replicas:,}",
            "up": _load(plan, plan.all_up_rps),
            "down": _load(plan, plan.one_down_rps),
        }
        for target, plan in plans.items()
        if plan
    ]


def _load(plan: FleetPlan, rate_rps: float) -> tuple[str, str]:
    """Return what a replica carries, and which share of the safe rate and of the capacity that is."""
    safe = f"{100 * rate_rps / plan.safe_rps:.0f} % of the safe rate"
    use = safe + (f", {100 * rate_rps / plan.capacity_rps:.0f} % of capacity" if plan.capacity_rps else "")
    return f"{text.floor_number(rate_rps)} req/s", use
