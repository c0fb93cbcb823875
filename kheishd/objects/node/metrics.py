"""The metrics of the daemon: the meter's counters, and gauges that are read when someone asks.

Nothing here is read during a turn. A name of a metric, once released, keeps its meaning.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from kheishd.core.run.budget import MICROS
from kheishd.store.tables import (
    AGENTS_LIVE,
    APPROVALS_WAITING,
    CRONS,
    CRONS_FAILING,
    GOALS_OPEN,
    INDOUBTS_OPEN,
    MAILBOXES_DUE,
    NOTES,
    PUBLICATIONS,
    QUESTIONS_WAITING,
    ROUTES,
    SECRETS,
    SHELLS_LIVE,
    TASKS,
    TRIGGERS,
)
from protocol.objects.daemon import Bucket, DaemonMetrics, Metric, MetricSample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kheishd.kernel.meter import Histogram, Meter
    from kheishd.kernel.services import Services
    from kheishd.store.table import Table
    from protocol.objects.daemon import DaemonStatus

OBJECTS: Final[Mapping[str, Table[Any]]] = {
    "agents_live": AGENTS_LIVE,
    "crons": CRONS,
    "crons_failing": CRONS_FAILING,
    "goals_open": GOALS_OPEN,
    "mailboxes_due": MAILBOXES_DUE,
    "notes": NOTES,
    "publications": PUBLICATIONS,
    "secrets": SECRETS,
    "shells_live": SHELLS_LIVE,
    "stored_routes": ROUTES,
    "tasks": TASKS,
    "triggers": TRIGGERS,
}
"""The objects that are counted by the number of rows of a table, which the store knows without reading."""

WAITS: Final[Mapping[str, Table[Any]]] = {
    "approval": APPROVALS_WAITING,
    "question": QUESTIONS_WAITING,
    "indoubt": INDOUBTS_OPEN,
}


def collect_metrics(services: Services, status: DaemonStatus) -> DaemonMetrics:
    """Return all metrics, with the gauges of a status."""
    metrics = [*_count(services.state.meter), *_measure(services, status)]
    return DaemonMetrics(started_at_ms=status.started_at_ms, at_ms=services.state.now_ms(), metrics=metrics)


def _count(meter: Meter) -> Iterator[Metric]:
    """Yield the counters."""
    counter, histogram = _counter, _histogram
    yield counter("requests", "Requests by method.", meter.requests, "method")
    yield counter("refusals", "Requests that were refused, by reason.", meter.refusals, "reason")
    yield counter("runs_ended", "Runs that ended, by outcome.", meter.runs, "outcome")
    yield counter(
        "model_calls", "Model calls of runs by route and outcome.", meter.model_calls, "route", "outcome"
    )
    yield counter("tokens", "Tokens of runs by route and kind.", meter.tokens, "route", "kind")
    costs = {labels: micros / MICROS for labels, micros in dict(meter.cost_micros).items()}
    yield counter("cost", "Cost of runs by route and currency.", costs, "route", "currency")
    yield counter("tool_calls", "Tool calls by tool and outcome.", meter.tool_calls, "tool", "outcome")
    types = {str(kind.__struct_config__.tag): count for kind, count in dict(meter.events).items()}
    yield counter("events", "Events committed to the journal, by type.", types, "type")
    yield counter("journal_bytes", "Bytes of journal lines committed.", {(): meter.journal_bytes})
    yield counter(
        "loop_slow_rounds", "Commits that waited above 50 ms for the event loop.", {(): meter.slow_rounds}
    )
    yield histogram("tool_seconds", "Time of tool calls.", meter.tool_seconds)
    yield histogram("commit_seconds", "Time of commits.", meter.commit_seconds)
    yield histogram("commit_updates", "Updates in one commit.", meter.group_updates)


def _measure(services: Services, status: DaemonStatus) -> Iterator[Metric]:
    """Yield the gauges."""
    gauge, counts, disk = _gauge, status.counts, status.disk
    yield gauge("uptime_seconds", "Time since the start.", {(): status.uptime_s})
    yield gauge("memory_bytes", "Memory of the daemon alone.", {(): status.memory_bytes})
    yield gauge("generation", "Generation of the configuration.", {(): status.generation})
    yield gauge("connections", "Open connections.", {(): counts.connections})
    yield gauge("subscriptions", "Open subscriptions.", {(): counts.subscriptions})
    states = {"active": counts.runs_active, "ready": counts.runs_ready}
    yield gauge("runs", "Runs that execute, and that are executing or could.", states, "state")
    yield gauge("sessions", "Sessions.", {(): counts.sessions})
    with services.state.read() as store:
        waits = {name: store.count(table) for name, table in WAITS.items()}
        objects = {name: store.count(table) for name, table in OBJECTS.items()}
    yield gauge("waits", "Requests that wait for a person, by kind.", waits, "kind")
    yield gauge("objects", "Objects by kind.", objects, "kind")
    servers = Counter(view.state for view in services.mcp.current.views())
    yield gauge("mcp_servers", "MCP servers by state.", servers, "state")
    sizes = {"used": disk.used_bytes, "file": disk.file_bytes, "free": disk.free_bytes}
    yield gauge("store_bytes", "Data, file size and free disk of the store.", sizes, "kind")
    yield gauge("journal_cursor", "Newest cursor of the journal.", {(): status.cursor})
    lag_s = services.state.meter.loop_lag_s(60.0)
    yield gauge(
        "loop_lag_seconds", "Longest wait above 50 ms for the event loop, in the last minute.", {(): lag_s}
    )
    yield gauge("writer_queue", "Updates that wait for the writer.", {(): services.state.store.queue_length})
    severities = Counter(warning.severity for warning in (status.health.warnings if status.health else ()))
    yield gauge("warnings", "Health warnings by severity.", severities, "severity")


def _samples(values: Mapping[Any, float], names: tuple[str, ...]) -> list[MetricSample]:
    """Return the samples of a metric, whose keys are the values of its labels."""
    return [
        MetricSample(
            value=value, labels=dict(zip(names, key if isinstance(key, tuple) else (key,), strict=True))
        )
        for key, value in sorted(dict(values).items())
    ]


def _counter(name: str, help_: str, values: Mapping[Any, float], *labels: str) -> Metric:
    return Metric(
        name=f"kheish_{name}_total", measure="counter", help=help_, samples=_samples(values, labels)
    )


def _gauge(name: str, help_: str, values: Mapping[Any, float], *labels: str) -> Metric:
    return Metric(name=f"kheish_{name}", measure="gauge", help=help_, samples=_samples(values, labels))


def _histogram(name: str, help_: str, values: Histogram) -> Metric:
    totals = list(accumulate(values.counts))
    buckets = [Bucket(bound, count) for bound, count in zip(values.bounds, totals, strict=False)]
    sample = MetricSample(value=totals[-1], sum=round(values.sum, 6), buckets=buckets)
    return Metric(name=f"kheish_{name}", measure="histogram", help=help_, samples=[sample])


def format_metrics(metrics: DaemonMetrics) -> str:
    """Return metrics in the text format of Prometheus, version 0.0.4.

    Written here, as it is three kinds of lines: its library would cost each start of a listener 40 ms.
    """
    lines = []
    for metric in metrics.metrics:
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.measure}"]
        for sample in metric.samples:
            if metric.measure != "histogram":
                lines.append(_format_sample(metric.name, sample.labels, sample.value))
                continue
            for bucket in sample.buckets:
                labels = sample.labels | {"le": _format_value(bucket.le)}
                lines.append(_format_sample(f"{metric.name}_bucket", labels, bucket.count))
            labels = sample.labels | {"le": "+Inf"}
            lines.append(_format_sample(f"{metric.name}_bucket", labels, sample.value))
            lines.append(_format_sample(f"{metric.name}_sum", sample.labels, sample.sum or 0))
            lines.append(_format_sample(f"{metric.name}_count", sample.labels, sample.value))
    return "\n".join(lines) + "\n"


def _format_sample(name: str, labels: Mapping[str, str], value: float) -> str:
    escaped = (
        f'{key}="' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        for key, text in labels.items()
    )
    return (
        f"{name}{{{','.join(escaped)}}} {_format_value(value)}"
        if labels
        else f"{name} {_format_value(value)}"
    )


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
