"""The registry: complete projections, and the projections that an event concerns."""

from kheishd.records.orphans import CHECKS
from kheishd.records.registry import DERIVED, PROJECTIONS, REGISTRY
from kheishd.store.tables import APPROVALS, PERMISSIONS, RUNS, SESSIONS, TABLES, TOKENS
from protocol.events.permission import PermissionsChanged
from protocol.events.run import RunStarted
from protocol.events.token import TokenRevoked
from protocol.journal.envelope import DAEMON_STREAM
from tests.support.histories import approval_requested
from tests.support.machine import acceptance


def test_each_projection_is_complete() -> None:
    """A projection's first event is one of its events; its tables are declared and checked for orphans."""
    checked = {check.table for check in CHECKS}
    for projection in PROJECTIONS:
        begins = projection.begins if isinstance(projection.begins, tuple) else (projection.begins,)
        assert projection.events is None or set(begins) <= set(projection.events)
        assert {projection.table, *projection.indexes} <= checked & set(TABLES)
    assert len({projection.kind for projection in PROJECTIONS}) == len(PROJECTIONS)
    assert len({projection.table for projection in PROJECTIONS}) == len(PROJECTIONS)
    assert {index.table for index in DERIVED} <= checked


def test_an_event_concerns_the_projections_that_fold_it() -> None:
    """An event changes its run, perhaps the session, and the record that it names."""

    def tables(stream: str, event: object) -> list[object]:
        return [projection.table for projection in REGISTRY.find(stream, event)]  # type: ignore[arg-type]

    assert tables("s", RunStarted(starts=1)) == [RUNS]
    assert tables("s", acceptance()) == [SESSIONS, RUNS]
    assert tables("s", approval_requested("apr_1")) == [RUNS, APPROVALS]
    assert tables("s", PermissionsChanged()) == [SESSIONS, RUNS]
    assert tables(DAEMON_STREAM, PermissionsChanged()) == [PERMISSIONS]
    assert tables(DAEMON_STREAM, TokenRevoked(token_id="t")) == [TOKENS]
    assert tables("channel/c", RunStarted(starts=1)) == []
