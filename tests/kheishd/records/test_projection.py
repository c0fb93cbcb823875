"""Projections of any stream: an object of the daemon's stream, and one with streams of its own."""

from typing import Any

import pytest
from msgspec import Struct

from kheishd.records.projection import IndexRow, Projection, key_in, stream_kind
from kheishd.records.registry import Registry
from kheishd.records.replay import RecordReplay
from kheishd.records.writer import Changes
from kheishd.store.environment import Transaction
from kheishd.store.table import Table
from kheishd.store.tables import CHILDREN
from kheishd.store.writer import Store
from protocol.events.daemon import DaemonStarted
from protocol.events.task import TaskCreated, TaskDeleted
from protocol.journal.envelope import DAEMON_STREAM, Envelope
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from tests.support.histories import task_created
from tests.support.stores import update


class Project(Struct, frozen=True):
    """A made-up record, which counts its events."""

    events: int
    at_cursor: int


def _evolve(project: Project | None, envelope: Envelope, event: Any) -> Project | None:
    if isinstance(event, TaskDeleted):
        return None
    return Project((project.events if project is not None else 0) + 1, envelope.cursor)


def made_up(store: Store, stream: str) -> Projection[Project]:
    """Return a projection whose table uses the handle of an existing one."""
    table = Table(CHILDREN.name, CHILDREN.key, Project)
    handles = store._environment.handles
    handles[table] = handles[CHILDREN]
    return Projection(
        kind="project",
        table=table,
        begins=TaskCreated,
        events=(TaskCreated, TaskDeleted),
        key=lambda envelope, event: ("p", event.task_id),
        evolve=_evolve,
        source=lambda store, key, record: (stream, record.at_cursor),
        stream=stream_kind(stream),
        bounded=True,
    )


def apply(tx: Transaction, registry: Registry, stream: str, *events: JournalEvent) -> None:
    """Append events to a stream and write their records."""
    changes = Changes(tx, registry)
    for event in events:
        envelope, stored = tx.append(stream, event)
        changes.fold(registry.find(stream, stored), envelope, stored)
    changes.write()


@pytest.mark.parametrize("stream", [DAEMON_STREAM, "project/p1"])
def test_a_record_may_live_in_any_stream(store: Store, stream: str) -> None:
    """The writer folds its events, a replay expects the same record, and a last event deletes it."""
    projection = made_up(store, stream)
    registry = Registry([projection])
    update(store, lambda tx: apply(tx, registry, stream, task_created("t1"), task_created("t1")))
    update(store, lambda tx: apply(tx, registry, "ses_x", task_created("t1")))
    with store.read() as snapshot:
        assert snapshot.get(projection.table, "p", "t1") == Project(2, 2)
        replay = RecordReplay(stream, registry)
        for _, line in snapshot.entries(stream):
            event = decode_event(line)
            assert not isinstance(event, Unknown)
            assert list(replay.fold(snapshot, decode_envelope(line), event)) == []
        (row,) = replay.rest(snapshot)
        assert row == (projection.table, ("p", "t1"), Project(2, 2), projection)
    update(store, lambda tx: apply(tx, registry, stream, TaskDeleted(task_id="t1")))
    with store.read() as snapshot:
        assert snapshot.get(projection.table, "p", "t1") is None


def test_streams_have_kinds() -> None:
    """A session id has no slash, so a name with one is that of another kind of stream."""
    assert stream_kind(DAEMON_STREAM) == "daemon"
    assert stream_kind("ses_1") == stream_kind("channel") == "session"
    assert stream_kind("channel/chn_1") == "channel"


def test_an_event_names_its_record() -> None:
    """The key is a field of the event."""
    assert key_in("task_id")(Envelope(cursor=1, at_ms=1), task_created("t1")) == ("t1",)


def test_an_event_of_no_projection_changes_nothing(store: Store) -> None:
    """An event that no projection lists concerns none."""
    registry = Registry([made_up(store, DAEMON_STREAM)])
    assert registry.find(DAEMON_STREAM, DaemonStarted(version="1", pid=1, schema=1)) == ()


def test_an_index_row_may_have_no_value() -> None:
    """Without a value, the last part of the key is the record's id."""
    assert IndexRow(CHILDREN, ("a", "b")).value == b""
