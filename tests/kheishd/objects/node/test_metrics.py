"""The metrics of the daemon, and their text for Prometheus."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from kheishd.control import DaemonControl, Stopper, Vitals
from kheishd.kernel.state import State
from kheishd.objects.node.metrics import collect_metrics, format_metrics
from kheishd.store.writer import Store
from protocol.objects.daemon import DaemonMetrics, Metric, MetricSample
from tests.kheishd.test_control import FakeReloads
from tests.support.desk import open_desk, working
from tests.support.histories import rich_history
from tests.support.runtimes import make_runtime
from tests.support.services import make_services


def collect(store: Store) -> DaemonMetrics:
    """Return the metrics of a daemon on a store."""
    state = State(store, lambda: 7)
    services = make_services(state, make_runtime())
    vitals = Vitals(version="1", home=Path("/h"), started_at_ms=5)
    control = DaemonControl(services, vitals, Stopper(lambda: 1.0), FakeReloads(None), lambda: None)
    return collect_metrics(services, control.status())


def values(metrics: DaemonMetrics, name: str) -> dict[str, float]:
    """Return the values of a metric by the values of their labels."""
    (metric,) = (metric for metric in metrics.metrics if metric.name == name)
    return {",".join(sample.labels.values()): sample.value for sample in metric.samples}


def test_gauges_are_those_of_the_store(store: Store) -> None:
    """Waits and objects are counted as they are now."""
    rich_history(store)
    metrics = collect(store)
    assert values(metrics, "kheish_waits") == {"approval": 1, "indoubt": 1, "question": 1}
    assert values(metrics, "kheish_objects")["triggers"] > 0
    assert values(metrics, "kheish_sessions") == {"": 11}


async def test_a_turn_is_counted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A turn counts a run, a model call of its route with its tokens, and its events and commits."""
    async with open_desk(tmp_path) as desk, working(desk):
        await desk.ask("hello")
        meter = desk.state.meter
        assert meter.runs == {"completed": 1}
        ((route, outcome),) = meter.model_calls
        assert (route, outcome) == (desk.holder.current().default_route, "answered")
        assert meter.tokens[route, "output"] == 1
        with desk.state.read() as snapshot:
            assert sum(meter.events.values()) == snapshot.last_cursor
        assert 0 < sum(meter.commit_seconds.counts) <= meter.group_updates.sum


def test_the_text_is_read_by_prometheus(store: Store) -> None:
    """Prometheus' own parser reads every metric, each with help, type and at most a few labels."""
    rich_history(store)
    text = format_metrics(collect(store))
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {"kheish_requests", "kheish_waits", "kheish_commit_seconds"} <= set(families)
    assert all(family.documentation and family.type != "unknown" for family in families.values())
    names = {sample.name for sample in families["kheish_commit_seconds"].samples}
    assert names == {f"kheish_commit_seconds_{end}" for end in ("bucket", "sum", "count")}
    assert all(re.fullmatch(r"[a-z_:]+", name) for name in families)


def test_labels_are_escaped() -> None:
    """A label of any text is one value."""
    sample = MetricSample(value=1.5, labels={"route": 'a"b\\c\nd'})
    metric = Metric(name="kheish_x", measure="gauge", help="X.", samples=[sample])
    text = format_metrics(DaemonMetrics(started_at_ms=1, at_ms=2, metrics=[metric]))
    (family,) = text_string_to_metric_families(text)
    assert family.samples[0].labels == {"route": 'a"b\\c\nd'}
    assert family.samples[0].value == 1.5
