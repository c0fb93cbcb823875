"""Records of the event bus: events, triggers, and the index by which a source finds its listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import event as event_rules
from kheishd.core import trigger as trigger_rules
from kheishd.core.event import listener_key, matches
from kheishd.records.projection import IndexRow, Projection, key_in, source_in_session, stream_kind
from kheishd.store.tables import (
    BUS_FANOUT,
    BUS_LISTENERS,
    DEADLINES,
    EVENT_WAITS,
    PUBLICATIONS,
    RECORDS_BY_SESSION,
    TRIGGERS,
    TRIGGERS_DUE,
    TRIGGERS_OF_FILE,
    TRIGGERS_TROUBLED,
)
from protocol.events.event import EventAwaited, EventDelivered, EventPublished, EventWaitEnded
from protocol.events.trigger import TriggerChanged, TriggerCreated, TriggerDeleted, TriggerFired
from protocol.journal.envelope import BUS_STREAM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.store.environment import Snapshot
    from protocol.objects.event import EventWait, Publication
    from protocol.objects.trigger import Trigger

TRIGGER: Final = "trigger"
WAIT: Final = "event_wait"
LAST: Final = "\x7f"
"""A character beyond those of sources and ids."""


def publication_rows(publication: Publication) -> frozenset[IndexRow]:
    """Return the index row of an event that is not delivered to all its triggers yet."""
    if publication.status == "done":
        return frozenset()
    return frozenset((IndexRow(BUS_FANOUT, (publication.created_cursor,), publication.event_id),))


def trigger_rows(trigger: Trigger) -> frozenset[IndexRow]:
    """Return the index rows of a trigger: by its pattern, its agent's session, its due time, its problem."""
    trigger_id = trigger.trigger_id
    rows = []
    if trigger.status == "active":
        rows.append(IndexRow(BUS_LISTENERS, (*listener_key(trigger.source), trigger_id)))
    if trigger.owner_session is not None:
        key = (trigger.owner_session, TRIGGER, trigger.created_cursor)
        rows.append(IndexRow(RECORDS_BY_SESSION, key, trigger_id))
    if trigger.author == "file":
        rows.append(IndexRow(TRIGGERS_OF_FILE, (trigger_id,)))
    if trigger.held is not None:
        rows.append(IndexRow(TRIGGERS_DUE, (trigger.held.due_at_ms, trigger_id)))
    if trigger.problem:
        rows.append(IndexRow(TRIGGERS_TROUBLED, (trigger_id,)))
    return frozenset(rows)


PUBLICATION_RECORDS: Final = Projection(
    kind="event",
    table=PUBLICATIONS,
    begins=EventPublished,
    events=(EventPublished, EventDelivered),
    key=key_in("event_id"),
    evolve=event_rules.evolve,
    source=lambda store, key, publication: (BUS_STREAM, publication.created_cursor),
    stream=stream_kind(BUS_STREAM),
    final=lambda publication: publication.status == "done",
    rows=publication_rows,
    indexes=(BUS_FANOUT,),
)

TRIGGER_RECORDS: Final = Projection(
    kind=TRIGGER,
    table=TRIGGERS,
    begins=TriggerCreated,
    events=(TriggerCreated, TriggerChanged, TriggerFired, TriggerDeleted),
    key=key_in("trigger_id"),
    evolve=trigger_rules.evolve,
    source=lambda store, key, trigger: (BUS_STREAM, trigger.created_cursor),
    stream=stream_kind(BUS_STREAM),
    rows=trigger_rows,
    indexes=(BUS_LISTENERS, RECORDS_BY_SESSION, TRIGGERS_OF_FILE, TRIGGERS_DUE, TRIGGERS_TROUBLED),
    bounded=True,
)


def wait_rows(wait: EventWait) -> frozenset[IndexRow]:
    """Return the index rows of a call that waits for an event: by its pattern, and its deadline."""
    if not wait.is_pending:
        return frozenset()
    return frozenset(
        (
            IndexRow(BUS_LISTENERS, (*listener_key(wait.source), wait.wait_id)),
            IndexRow(DEADLINES, (wait.expires_at_ms, WAIT, wait.wait_id)),
        )
    )


EVENT_WAIT_RECORDS: Final = Projection(
    kind=WAIT,
    table=EVENT_WAITS,
    begins=EventAwaited,
    events=(EventAwaited, EventWaitEnded),
    key=key_in("wait_id"),
    evolve=event_rules.evolve_wait,
    source=source_in_session,
    final=lambda wait: not wait.is_pending,
    rows=wait_rows,
    indexes=(BUS_LISTENERS, DEADLINES),
)


# Listeners.


def find_patterns(store: Snapshot, source: str) -> Iterator[tuple[str, str]]:
    """Yield the patterns with listeners that match a source, as keys: itself, then longer prefixes first.

    Only patterns that exist are looked at: at most one lookup for each character of the source.
    """
    if not store.count(BUS_LISTENERS):
        return
    for _ in store.scan(BUS_LISTENERS, "exact", source):
        yield "exact", source
        break
    bound: str | None = source
    while bound is not None:
        rows = store.scan(BUS_LISTENERS, "prefix", after=("prefix", bound, LAST), reverse=True)
        stem = next((key[1] for key, _ in rows), None)
        if stem is None:
            return
        if source.startswith(stem):
            yield "prefix", stem
            bound = stem[:-1] if stem else None
        else:
            # A prefix of the source that is longer than the common one would have been found before this.
            length = next(
                index for index, pair in enumerate(zip(source, stem, strict=False)) if pair[0] != pair[1]
            )
            bound = source[:length]


def find_listeners(store: Snapshot, source: str, position: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the keys of the listeners that match a source, in a fixed order, after a position."""
    is_behind = bool(position)
    for kind, stem in find_patterns(store, source):
        after = None
        if is_behind:
            # A pattern that has lost its listeners is not found any more: the next ones are shorter.
            if (kind, -len(stem)) < (position[0], -len(position[1])):
                continue
            is_behind = False
            after = tuple(position) if [kind, stem] == list(position[:2]) else None
        for key, _ in store.scan(BUS_LISTENERS, kind, stem, after=after):
            yield key[0], key[1], key[2]


def has_listener(store: Snapshot, source: str) -> bool:
    """Whether a trigger or a waiting run may want the events of a source."""
    return next(find_patterns(store, source), None) is not None


def is_followed(store: Snapshot, source: str) -> bool:
    """Whether a connection follows the events of a source."""
    return any(matches(pattern, source) for pattern in store.followed)
