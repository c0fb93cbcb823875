"""The meter: what the daemon has done since its start, counted in memory.

Each commit hands over its events and is counted as a whole, on the writer thread; requests and rounds of the
event loop are counted where they happen. Labels come from small sets: methods, types of events, routes, and
tools that exist, so that a count never contains a name of a person, or content.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final

from protocol.events.call import ToolCalled, ToolReturned
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.events.run import MessageAppended, ModelFailed, RunEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.store.writer import Group
    from protocol.budget import Cost
    from protocol.journal.envelope import Event
    from protocol.transcript import Usage

SLOW_ROUND_SECONDS = 0.05
"""A shorter round of the event loop is not noticed by a person, and is not kept."""

LAG_WINDOW_SECONDS = 600.0
"""How long a slow round of the event loop is reported."""

# The slow rounds that are kept; the gauge is the longest of them.
MAX_SLOW_ROUNDS = 64

# The values of one label. Tools of servers count as their server, so a daemon with all that it can have (the
# built-in tools, 64 servers) stays below; further values are counted together.
MAX_LABELS = 200
OTHER: Final = "other"

SECONDS_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
TOOL_SECONDS_BOUNDS: Final = (0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0)
GROUP_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

MCP_PREFIX: Final = "mcp__"


class Histogram:
    """Counts of values up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Meter:
    """The counts of one daemon. Each is written by one thread, and copied as a whole by its reader.

    ``log_messages`` and ``refusals`` are shared with the logs and the dispatcher, which write them.
    """

    def __init__(self) -> None:
        self.events: Counter[type[Event]] = Counter()
        self.runs: Counter[str] = Counter()
        self.model_calls: Counter[tuple[str, str]] = Counter()
        self.tokens: Counter[tuple[str, str]] = Counter()
        self.cost_micros: Counter[tuple[str, str]] = Counter()
        self.tool_calls: Counter[tuple[str, str]] = Counter()
        self.tool_seconds = Histogram(TOOL_SECONDS_BOUNDS)
        self.commit_seconds = Histogram(SECONDS_BOUNDS)
        self.group_updates = Histogram(GROUP_BOUNDS)
        self.requests: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.journal_bytes = 0
        self.slow_rounds = 0
        self.failed_backup: str | None = None
        self._recent_rounds: deque[tuple[float, float]] = deque(maxlen=MAX_SLOW_ROUNDS)
        self._tools: set[str] = set()
        self._routes: set[str] = set()
        self._counters: dict[type, Callable[[Any, str], None]] = {
            MessageAppended: self._count_message,
            ModelFailed: self._count_failure,
            ContextCompacted: self._count_compaction,
            CompactionFailed: self._count_compaction,
            ToolCalled: self._count_tool,
            ToolReturned: self._count_result,
            RunEnded: self._count_end,
        }

    # Commits.

    def count_group(self, group: Group) -> None:
        """Count a group that was flushed, and the events that it committed. Runs on the writer thread."""
        self.commit_seconds.add(group.took_s)
        self.group_updates.add(len(group.jobs))
        self.journal_bytes += group.journal_bytes
        events, counters = self.events, self._counters
        for event, route in group.events:
            kind = type(event)
            events[kind] += 1
            if kind in counters:
                counters[kind](event, route)

    def _count_message(self, event: MessageAppended, route: str) -> None:
        if event.message.role != "assistant":
            return
        route = self._count_use(event.route or route, event.usage, event.cost)
        outcome = "cancelled" if event.stop_reason == "cancelled" else "answered"
        self.model_calls[route, outcome] += 1

    def _count_failure(self, event: ModelFailed, route: str) -> None:
        route = self._count_use(event.route or route, event.usage, event.cost)
        self.model_calls[route, "failed" if event.retry_at_ms is None else "retried"] += 1

    def _count_compaction(self, event: ContextCompacted | CompactionFailed, route: str) -> None:
        if event.usage.input_tokens or event.usage.output_tokens:
            self._count_use(route, event.usage, event.cost)

    def _count_use(self, route: str, usage: Usage, cost: Cost | None) -> str:
        """Count tokens and cost; return the label of the route."""
        route = fold_label(route, self._routes)
        tokens = self.tokens
        tokens[route, "input"] += usage.input_tokens
        tokens[route, "output"] += usage.output_tokens
        if usage.cached_input_tokens:
            tokens[route, "cached_input"] += usage.cached_input_tokens
        if cost is not None:
            self.cost_micros[route, cost.currency] += cost.micros
        return route

    def _count_tool(self, event: ToolCalled, route: str) -> None:
        # Only a tool that exists is called; a name that only a model wrote never gets here.
        fold_label(label_tool(event.tool), self._tools)

    def _count_result(self, event: ToolReturned, route: str) -> None:
        name = label_tool(event.tool)
        self.tool_calls[name if name in self._tools else OTHER, event.how] += 1
        if event.took_ms is not None:
            self.tool_seconds.add(event.took_ms / 1000)

    def _count_end(self, event: RunEnded, route: str) -> None:
        self.runs[event.outcome] += 1

    # The event loop.

    def count_slow_round(self, seconds: float) -> None:
        """Count a round of the event loop for which a commit waited long, as all tasks did."""
        self.slow_rounds += 1
        self._recent_rounds.append((time.monotonic(), seconds))

    def loop_lag_s(self, window_s: float = LAG_WINDOW_SECONDS) -> float:
        """Return the longest slow round of the newest seconds; 0 if there was none."""
        since = time.monotonic() - window_s
        return max((seconds for at, seconds in self._recent_rounds if at >= since), default=0.0)


def label_tool(tool: str) -> str:
    """Return the label of a tool: its name, or for a tool of an MCP server its server."""
    if not tool.startswith(MCP_PREFIX):
        return tool
    return MCP_PREFIX + tool.removeprefix(MCP_PREFIX).partition("__")[0]


def fold_label(value: str, values: set[str]) -> str:
    """Return a label's value, which becomes one of ``values``; the common one once there are too many."""
    if value not in values:
        if len(values) >= MAX_LABELS:
            return OTHER
        values.add(value)
    return value


class BootClock:
    """The wall clock against the time since the boot, which counts while the machine sleeps.

    Their difference changes only if the wall clock is set.
    """

    def __init__(self, read: Callable[[], float] = lambda: time.time() - _boot_seconds()) -> None:
        self._read = read
        self._start = read()

    def jump_s(self) -> float:
        """Return by how many seconds the clock was set since the start; negative: back."""
        return self._read() - self._start


def _boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
