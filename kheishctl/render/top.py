"""The live table of ``kheishctl top``: runs, waits, timers, servers and rates, fitted to a terminal."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from kheishctl.contract import Json
from kheishctl.render.daemon import format_health
from kheishctl.render.layout import Display, fit, paint
from kheishctl.render.units import format_duration, format_size
from kheishctl.values import ClientValue
from protocol.text import one_line

SORT_KEYS: Final[Mapping[str, Callable[[Json], Any]]] = {
    "age": lambda run: run["accepted_at_ms"],
    "idle": lambda run: run["updated_at_ms"],
    "tokens": lambda run: -count_tokens(run),
    "agent": lambda run: (run["agent"], run["accepted_at_ms"]),
    "status": lambda run: (run["status"], run["accepted_at_ms"]),
}
"""The orders of the runs; the first letter is the key that chooses one."""

# The rows of waits, timers, servers and warnings; the runs have the rest of the screen.
MAX_ROWS = 4

# The indentation of agents deep in a tree: their names keep a few columns.
MAX_INDENT = 4
DEFAULT_WIDTH = 100


class Sample(ClientValue):
    """The state of a daemon at one time, as its methods answered."""

    status: Json
    metrics: Mapping[str, list[Json]]
    runs: list[Json]
    waits: list[Json]
    crons: list[Json]
    servers: list[Json]
    at_ms: int
    agents: list[Json]


def count_tokens(run: Json) -> int:
    """Return the tokens of a run so far."""
    usage = run.get("usage") or {}
    return int(usage.get("input_tokens", 0)) + int(usage.get("output_tokens", 0))


def total(sample: Sample, name: str) -> float:
    """Return the sum of a metric over its labels; cached tokens are part of the input."""
    rows = sample.metrics.get(name, ())
    return sum(float(row["value"]) for row in rows if row.get("labels", {}).get("kind") != "cached_input")


def tokens_per_minute(sample: Sample, previous: Sample | None) -> float | None:
    """Return the rate between two samples; None without two of the same daemon."""
    if previous is None or previous.status["pid"] != sample.status["pid"] or sample.at_ms <= previous.at_ms:
        return None
    used = total(sample, "kheish_tokens_total") - total(previous, "kheish_tokens_total")
    return max(used, 0.0) * 60_000 / (sample.at_ms - previous.at_ms)


def format_top(sample: Sample, previous: Sample | None, sort: str, display: Display, rows: int) -> str:
    """Return the whole table in at most ``rows`` lines, each as wide as the display allows."""
    width = display.width or DEFAULT_WIDTH
    ends = [
        *_format_waits(sample),
        *_format_timers(sample),
        *_format_servers(sample),
        *format_health(sample.status, Display(None, False, display.now_ms))[: 2 * MAX_ROWS],
    ]
    head = _format_head(sample, previous)
    room = max(rows - len(head) - len(ends) - 1, 1)
    runs = arrange_runs(sample, sort)
    lines = [fit(one_line(line), width) for line in head]
    title = f"{'RUN':30} {'STATUS':15} {'AGENT':11} {'AGE':>6} {'IDLE':>6} {'TOKENS':>7}"
    lines.append(paint(fit(title, width), "bold", display.color))
    shown = runs if len(runs) <= room else runs[: room - 1]
    lines += [fit(one_line(_format_run(run, depth, sample.at_ms)), width) for run, depth in shown]
    if len(shown) < len(runs):
        lines.append(f"… and {len(runs) - len(shown)} more runs")
    return "\n".join([*lines, *(fit(one_line(line), width) for line in ends)][:rows])


def _format_head(sample: Sample, previous: Sample | None) -> list[str]:
    status = sample.status
    counts = status["counts"]
    rate = tokens_per_minute(sample, previous)
    lag_ms = total(sample, "kheish_loop_lag_seconds") * 1000
    return [
        f"kheishd {status['version']} pid {status['pid']}, up {format_duration(status['uptime_s'])}, "
        f"memory {format_size(status['memory_bytes'])}, store {format_size(status['disk']['used_bytes'])}",
        f"runs {counts['runs_active']} active {counts['runs_ready']} ready, "
        f"agents {total_of(sample, 'agents_live'):.0f}, clients {counts['connections']}, "
        f"tokens/min {'-' if rate is None else f'{rate:.0f}'}, "
        f"lag {'below 50' if not lag_ms else f'{lag_ms:.0f}'} ms, "
        f"writer queue {total(sample, 'kheish_writer_queue'):.0f}",
    ]


def total_of(sample: Sample, kind: str) -> float:
    """Return the number of objects of a kind."""
    return sum(
        float(row["value"])
        for row in sample.metrics.get("kheish_objects", ())
        if row["labels"]["kind"] == kind
    )


def arrange_runs(sample: Sample, sort: str) -> list[tuple[Json, int]]:
    """Return the runs in order, each with its depth: those of spawned agents follow the run of their parent.

    A run whose parent has no open run stands by itself.
    """
    runs = sorted(sample.runs, key=SORT_KEYS[sort])
    parents = {agent["agent_id"]: agent.get("parent_id") for agent in sample.agents}
    sessions = {run.get("session_id") for run in runs}
    below: dict[Any, list[Json]] = {}
    for run in runs:
        parent = parents.get(run.get("session_id"))
        below.setdefault(parent if parent in sessions else None, []).append(run)
    arranged: list[tuple[Json, int]] = []
    stack = [(run, 0) for run in reversed(below.pop(None, []))]
    while stack:
        run, depth = stack.pop()
        arranged.append((run, depth))
        # The children of a session follow its first run only.
        stack += [(child, depth + 1) for child in reversed(below.pop(run.get("session_id"), []))]
    return arranged


def _format_run(run: Json, depth: int, now_ms: int) -> str:
    age = format_duration(max(now_ms - run["accepted_at_ms"], 0) / 1000)
    idle = format_duration(max(now_ms - run["updated_at_ms"], 0) / 1000)
    branch = f"{' ' * (min(depth, MAX_INDENT) - 1)}└ " if depth else ""
    retry_ms = run.get("retry_at_ms")
    end = f"  retry in {format_duration(max(retry_ms - now_ms, 0) / 1000)}" if retry_ms else ""
    name = f"{run['run_id']:30} {run['status'][:15]:15} {(branch + run['agent'])[:11]:11}"
    return f"{name} {age:>6} {idle:>6} {count_tokens(run):>7}{end}"


def _format_waits(sample: Sample) -> list[str]:
    lines = []
    for wait in sample.waits[:MAX_ROWS]:
        audience = (wait.get("audience") or {}).get("people") or []
        end_ms = wait.get("end_ms")
        end = f", {format_duration(max(end_ms - sample.at_ms, 0) / 1000)} left" if end_ms else ""
        lines.append(
            f"waits for {', '.join(audience) or 'a person'}: {wait['id']} of {wait.get('agent') or '?'}, "
            f"for {format_duration(max(sample.at_ms - wait['begin_ms'], 0) / 1000)}{end}"
        )
    return _cut(lines, len(sample.waits), "waits")


def _format_timers(sample: Sample) -> list[str]:
    due = sorted(
        (cron for cron in sample.crons if cron.get("next_due_ms") is not None),
        key=lambda cron: int(cron["next_due_ms"]),
    )
    lines = [
        f"timer {cron['cron_id']} in {format_duration(max(cron['next_due_ms'] - sample.at_ms, 0) / 1000)}"
        for cron in due[:MAX_ROWS]
    ]
    return _cut(lines, len(due), "timers")


def _format_servers(sample: Sample) -> list[str]:
    lines = [
        f"mcp {server['name']} {server['state']}, {server.get('tools', 0)} tools"
        for server in sample.servers[:MAX_ROWS]
    ]
    return _cut(lines, len(sample.servers), "servers")


def _cut(lines: list[str], count: int, plural: str) -> list[str]:
    """Return lines, and how many more there are."""
    rest = count - len(lines)
    return (
        [*lines, f"… and {rest} more {plural.removesuffix('s') if rest == 1 else plural}"] if rest else lines
    )
