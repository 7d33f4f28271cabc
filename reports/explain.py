"""How the answer was found and how sure it is, in the words that the terminal and every report share."""

from math import floor

from analysis import SLA, Estimate, OperatingPoint, Run
from analysis.judgement import ERROR_BUDGET
from analysis.operating_point import Confirmation, ServerModel
from reports import sizing, text
from reports.words import is_closed, planned_rps, quantile_name

_METHODS = {"twin": "A twin of the server, fitted to what was seen", "counting": "Counted violations, step by step"}
_NOT_IN_TERMINAL = ("Bursts", "Precision", "Closed loop")
_LONGEST = 400  # characters of a note
_NEAR = 0.1  # of the answer: a step that near speaks of it
_LEAST_DELAY = 0.05  # of the service time: a network delay below that explains nothing


def lines(run: Run) -> list[tuple[str, str]]:
    """Return (name, sentences) of everything that is known about the answer, in the order in which it is read."""
    answer = run.answer
    if answer is None:
        return []
    told = {
        "Method": "" if is_closed(run) else method(answer),
        "Server": server(answer.server) if answer.server else "",
        "At the limit": at_the_limit(run, answer.rate_rps.value) if answer.rate_rps else "",
        "Confirmation": confirmation(answer, answer.confirmation) if answer.confirmation else "",
        "SLAs": slas(answer),
        "Bursts": bursts(answer.inflation) if answer.inflation else "",
        "Precision": precision(answer),
        "Rule of thumb": sizing.rule(answer),
        "Closed loop": sizing.closed(answer),
        "Fleet": sizing.fleet(run) if planned_rps(run) else "",
    }
    return [(name, words) for name, words in told.items() if words]


def short_lines(run: Run) -> list[tuple[str, str]]:
    """Return the lines that a terminal has room for; the rest is in the reports."""
    return [(name, words) for name, words in lines(run) if name not in _NOT_IN_TERMINAL]


def notes(run: Run) -> list[str]:
    """Return what a reader must know before the numbers, one sentence each."""
    return [text.sentence(text.clean(note, _LONGEST)) for note in run.answer.notes if note] if run.answer else []


def method(answer: OperatingPoint) -> str:
    """Say which estimator gave the answer, and why that one; nothing where there is no answer to explain."""
    if answer.rate_rps is None and not answer.method_reason:
        return ""
    why = f" {text.sentence(text.clean(answer.method_reason, _LONGEST))}" if answer.method_reason else ""
    return f"{_METHODS[answer.method]}.{why}"


def server(model: ServerModel) -> str:
    """Describe the fitted server: how it serves, how long that takes, and how much of what was seen that explains."""
    instances = "one instance" if model.instances == 1 else f"{model.instances} instances"
    if model.max_batch > 1:
        law = f"{text.latency(model.base_s)} + {text.latency(model.per_item_s)} per item"
        how = f"batches of up to {model.max_batch}, {law}, {instances}"
        how += f", waits up to {text.latency(model.wait_s)}" if model.wait_s >= 1e-4 else ", waits for no fuller batch"
        spread = f", times vary by {text.share(model.cv)}" if model.cv >= 0.02 else ""
    else:
        mean = text.latency(model.base_s + model.per_item_s)
        how = f"one request at a time on {instances}, {mean} on average"
        spread = f", service times vary by {text.share(model.cv)}" if model.cv >= 0.01 else ", always the same"
    service_s = model.base_s + model.per_item_s
    delay = f", plus {text.latency(model.delay_s)} outside the queue" if _matters(model.delay_s, service_s) else ""
    seen = f"explains {floor(100 * max(0.0, model.explained) + 1e-9)} % of what was seen"
    return text.sentence(f"{how}{spread}{delay}; {seen}")


def at_the_limit(run: Run, rate_rps: float) -> str:
    """Say what the server's own counters tell of the sound step nearest a rate; nothing where there is none near."""
    near = [
        record for record in run.steps
        if record.server and not record.reasons and record.step.rate_rps
        and abs(record.step.rate_rps / rate_rps - 1) <= _NEAR
    ]  # fmt: skip
    if not near:
        return ""
    record = min(near, key=lambda record: abs((record.step.rate_rps or 0.0) - rate_rps))
    told = {name: float(value) for name, value in (record.server or {}).items() if isinstance(value, int | float)}
    queue_s, compute_s, batches = (told.get(name, 0.0) for name in ("queue_s", "compute_s", "batches"))
    parts = []
    if queue_s + compute_s > 0:
        parts.append(
            f"a request waited {text.latency(queue_s)} in the server's queue and took {text.latency(compute_s)} to "
            f"compute, on average: {text.share(queue_s / (queue_s + compute_s))} of that is queueing"
        )
    if batches > 0:
        most = run.answer.server.max_batch if run.answer and run.answer.server else 1
        full = f" of {most}" if most > 1 else ""
        parts.append(f"batches averaged {text.number(told.get('rows', told.get('requests', 0.0)) / batches)}{full}")
    if told.get("device_busy", 0.0) > 0:  # none at all says that the device does not know
        which = "the device" if told.get("devices", 1.0) == 1 else "the busiest device"
        parts.append(f"{which} was busy for {text.share(told['device_busy'])} of the time")
    at = f"at {text.number(record.step.rate_rps or 0.0)} req/s"
    return text.sentence(f"{at} {'; '.join(parts)} (the server's own counters)") if parts else ""


def _matters(delay_s: float, service_s: float) -> bool:
    return delay_s >= 1e-4 and delay_s >= _LEAST_DELAY * service_s


def predictions(model: ServerModel) -> list[tuple[str, str, str, str]]:
    """Return (quantile, predicted, observed, how much the prediction is off) of the fitted server."""
    return [
        (quantile_name(quantile), text.latency(predicted), text.latency(observed), _off(predicted, observed))
        for quantile, predicted, observed in model.quantiles
    ]


def _off(predicted: float, observed: float) -> str:
    return f"{100 * (predicted / observed - 1):+.1f} %".replace("-", "\N{MINUS SIGN}") if observed > 0 else text.NONE


def confirmation(answer: OperatingPoint, seen: Confirmation) -> str:
    """Say what fresh arrivals at the safe rate showed, and what that is worth."""
    bound = seen.bound or answer.limited_by
    sla = answer.sla if seen.bound in ("", ERROR_BUDGET) else SLA.parse(seen.bound)
    missed = "failed" if bound == ERROR_BUDGET else f"slower than {text.latency(sla.limit_s)}"
    ends = f"[{text.number(100 * seen.low)}, {text.small_share(seen.high).removesuffix(' %')}]"
    if not seen.passed:
        worth = "it did not hold"
    elif seen.high <= seen.allowed:
        worth = "it holds"
    else:
        worth = "nothing speaks against it"
    return (
        f"At {text.floor_number(seen.rate_rps)} req/s, {text.duration(seen.length_s)} of fresh arrivals: "
        f"{text.small_share(seen.share)} {ends} {missed}, {text.share(seen.allowed)} allowed: {worth}."
    )


def bursts(inflation: float) -> str:
    """Say what the correlation of latencies costs: how many requests tell as much as one independent one."""
    if inflation < 1.5:
        return "Slow requests come one by one: every request is nearly an independent look at the tail."
    times = text.number(text.rough(inflation))
    return (
        f"Slow requests come in bursts: their number varies {times} times as much as that of independent ones, so it "
        f"takes {times} requests to learn what one independent request would tell."
    )


def precision(answer: OperatingPoint) -> str:
    """Say how much load other precisions take on a server like this one."""
    told = [(f"±{text.share(width)}", text.duration(text.rough(load_s))) for width, load_s in answer.needed_s]
    if not told:
        return ""
    (width, length), *others = told
    rest = "".join(f", {width} about {length}" for width, length in others)
    return f"{width} needs about {length} of load on a server like this one{rest}."


def slas(answer: OperatingPoint) -> str:
    """Give in one line where each bound ends, where there are several."""
    rows = sla_rows(answer)
    return "; ".join(f"{name} {rate} {ends}{' binds' if binds else ''}" for name, rate, ends, binds in rows) + (
        "." if rows else ""
    )


def sla_rows(answer: OperatingPoint) -> list[tuple[str, str, str, bool]]:
    """Return (bound, rate up to which it holds, interval, it binds), where there are several."""
    if len(answer.per_sla) < 2:
        return []
    return [(name, *_up_to(rate), name == answer.limited_by) for name, rate in answer.per_sla.items()]


def _up_to(rate: Estimate) -> tuple[str, str]:
    least = "" if rate.high is not None else "≥ "
    return f"{least}{text.rate(rate.value)}", text.ends(rate)
