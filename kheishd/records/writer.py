"""Writers: append events to a stream and write the records and index rows that follow from them.

Nothing else writes these tables, so a record always equals the fold of its events, which the doctor proves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from msgspec import Struct
from msgspec.structs import replace

from kheishd.core.account import state_work, use_of
from kheishd.core.event import done_source
from kheishd.core.run import machine
from kheishd.core.run.commands import BeginModelCall, EndRestored
from kheishd.core.run.due import AskModel, due
from kheishd.core.trust import join_origins
from kheishd.records.event import has_listener, is_followed
from kheishd.records.registry import REGISTRY
from kheishd.records.run import read_pinned
from kheishd.store.tables import BUS_LISTENERS, PUBLICATIONS, RUNS, SESSIONS
from protocol.events.event import EventPublished
from protocol.events.output import OutputEmitted
from protocol.events.run import MessageAppended, RunAccepted
from protocol.ids import EVENT
from protocol.journal.envelope import BUS_STREAM
from protocol.journal.line import decode_event
from protocol.limits.event import MAX_EVENT_OUTPUT_BYTES, MAX_RUN_END_BYTES, MAX_TRIGGER_NOTE_BYTES
from protocol.limits.store import MAX_BEGIN_BYTES
from protocol.structs import Value
from protocol.text import truncate, truncate_json
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kheishd.core.run.commands import Command
    from kheishd.core.run.record import RunRecord
    from kheishd.records.projection import IndexRow, Projection
    from kheishd.records.registry import Registry
    from kheishd.store.environment import Transaction
    from kheishd.store.table import Key, KeyPart, Table
    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent
    from protocol.objects.event import Publication
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session

V = TypeVar("V")
NO_ROWS: Final[frozenset[IndexRow]] = frozenset()


class _Change(Struct, Generic[V]):
    """A record as stored and as the events so far leave it; one object while it is unchanged."""

    stored: V | None
    current: V | None


class Changes:
    """The records that one transaction changes: fold events in, then write the differences once."""

    def __init__(self, tx: Transaction, registry: Registry = REGISTRY) -> None:
        self._tx = tx
        self._registry = registry
        self._changes: dict[tuple[Table[Any], Key], _Change[Any]] = {}

    def load(self, table: Table[V], *key: KeyPart, record: V | None) -> None:
        """Use a record that the caller has read in this transaction instead of reading it again."""
        self._changes[table, key] = _Change(record, record)

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return a record as the events so far leave it."""
        return self._change(table, key).current

    def fold(self, projections: Iterable[Projection[Any]], envelope: Envelope, event: JournalEvent) -> None:
        """Fold an event, as it was stored, into the records of these projections, those of its stream.

        Errors: AssertionError if it does not follow from the events before it: the journal is damaged.
        """
        for projection in projections:
            if projection.keys is None:
                key = projection.key(envelope, event)
                keys: Sequence[Key] = () if key is None else (key,)
            else:
                keys = projection.keys(envelope, event)
            for key in keys:
                change = self._changes.get((projection.table, key)) or self._read(projection.table, key)
                if change.current is None and projection.strays and not isinstance(event, projection.begins):
                    continue
                change.current = projection.evolve(change.current, envelope, event)

    def write(self) -> None:
        """Write the changed records and the differences of their index rows."""
        changed = [
            (table, key, change)
            for (table, key), change in self._changes.items()
            if change.current is not change.stored
        ]
        if not changed:
            return
        # Derived rows are worked out of the stored records, so before anything is written.
        differences = [*self._derived_differences(changed)]
        for table, key, change in changed:
            stored, current = change.stored, change.current
            if current is None:
                self._tx.delete(table, *key)
            else:
                self._tx.put(table, *key, value=current)
            projection = self._registry.by_table[table]
            if stored is None or current is None or not projection.constant_rows:
                self._write_rows(
                    NO_ROWS if stored is None else projection.rows(stored),
                    NO_ROWS if current is None else projection.rows(current),
                )
            # Callers read the written records once more.
            change.stored = current
        for previous, rows in differences:
            self._write_rows(previous, rows)

    def _change(self, table: Table[V], key: Key) -> _Change[V]:
        return self._changes.get((table, key)) or self._read(table, key)

    def _read(self, table: Table[V], key: Key) -> _Change[V]:
        record = self._tx.get(table, *key)
        change = self._changes[table, key] = _Change(record, record)
        return change

    def _derived_differences(
        self, changed: list[tuple[Table[Any], Key, _Change[Any]]]
    ) -> Iterator[tuple[frozenset[IndexRow], frozenset[IndexRow]]]:
        for index in self._registry.derived:
            owner_table, source_table = index.owner.table, index.source.table
            owners: dict[Key, None] = {}
            changed_sources: set[Key | None] = set()
            for table, key, change in changed:
                if table is owner_table:
                    owners[key] = None
                elif table is source_table:
                    owners[index.owner_key(change.stored if change.current is None else change.current)] = (
                        None
                    )
                    changed_sources.add(key)
            for key in owners:
                owner = self._change(owner_table, key)
                if owner.stored is not None and owner.current is not None:
                    decisive = index.decisive(owner.current)
                    if decisive not in changed_sources and decisive == index.decisive(owner.stored):
                        continue
                yield (
                    NO_ROWS if owner.stored is None else index.rows(_Stored(self), owner.stored),
                    NO_ROWS if owner.current is None else index.rows(self, owner.current),
                )

    def _write_rows(self, previous: frozenset[IndexRow], current: frozenset[IndexRow]) -> None:
        # Most records are new or keep their rows.
        if previous == current:
            return
        for row in previous - current if previous else ():
            self._tx.delete(row.table, *row.key)
        for row in current - previous if previous else current:
            self._tx.put(row.table, *row.key, value=row.value)


class _Stored:
    """The records as they were before a transaction."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return a record as it is stored."""
        return self._changes._change(table, key).stored


class Origin(Value, frozen=True):
    """The cause of an event: the daemon itself, or a caller with a request."""

    actor: str = "daemon"
    on_behalf_of: str | None = None
    request_id: str | int | None = None


BY_DAEMON = Origin()


class StreamWriter:
    """A stream and the transaction that changes it: ``append`` as often as needed, then ``write`` once."""

    def __init__(
        self, tx: Transaction, stream: str, *, session_id: str | None = None, origin: Origin = BY_DAEMON
    ) -> None:
        self.tx = tx
        self.stream = stream
        self.origin = origin
        self._session_id = session_id
        self._run_id: str | None = None
        self._changes = Changes(tx)
        self._projections = REGISTRY.of_stream(stream)

    def append(self, event: JournalEvent, *, run_id: str | None = None) -> Envelope:
        """Append one event, of the run if there is one, and fold it into the records that it changes."""
        run_id = run_id if run_id is not None else self._run_id
        origin = self.origin
        envelope, stored = self.tx.append(
            self.stream,
            event,
            session_id=self._session_id,
            run_id=run_id,
            actor=origin.actor,
            on_behalf_of=origin.on_behalf_of,
            request_id=origin.request_id,
        )
        self._changes.fold(self._projections.get(type(stored), ()), envelope, stored)
        if isinstance(stored, RunAccepted):
            self._run_id = run_id
        return envelope

    def append_all(self, events: Iterable[JournalEvent]) -> None:
        """Append events in order."""
        for event in events:
            self.append(event)

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return a record as the events so far leave it."""
        return self._changes.get(table, *key)

    def need(self, table: Table[V], *key: KeyPart) -> V:
        """Return a record, which must exist, as the events so far leave it."""
        record = self._changes.get(table, *key)
        assert record is not None, f"{table.name} {' '.join(map(str, key))} does not exist"
        return record

    def write(self) -> None:
        """Write the changed records and index rows."""
        self._changes.write()


class SessionWriter(StreamWriter):
    """A session, perhaps one of its runs, and the transaction that changes them.

    Between ``append`` and ``write``, ``session`` and ``run`` are as the events so far leave them. Records of
    other types change along with them. ``has_progressed``: the run made progress by one of the commands, even
    if a later one of the same transaction starts its next effect.
    """

    def __init__(
        self,
        tx: Transaction,
        session_id: str,
        *,
        session: Session | None,
        run: RunRecord | None = None,
        pinned: Pinned | None = None,
        origin: Origin = BY_DAEMON,
    ) -> None:
        super().__init__(tx, session_id, session_id=session_id, origin=origin)
        self.session_id = session_id
        self._pinned = pinned
        self.has_progressed = False
        self._changes.load(SESSIONS, session_id, record=session)
        if run is not None:
            self.continue_run(run)
            self._pinned = pinned

    @property
    def session(self) -> Session:
        """The session. Errors: AssertionError before its first event."""
        return self.need(SESSIONS, self.session_id)

    @property
    def run(self) -> RunRecord:
        """The run. Errors: AssertionError if there is none."""
        return self.need(RUNS, cast("str", self._run_id))

    @property
    def pinned(self) -> Pinned:
        """The values that the run pinned when it was accepted."""
        if self._pinned is None:
            self._pinned = read_pinned(self.tx, self.run)
        return self._pinned

    def begin_run(self, run_id: str, pinned: Pinned | None = None) -> None:
        """Let the next events be those of a new run, whose id no record has."""
        self._run_id = run_id
        self._pinned = pinned
        self._changes.load(RUNS, run_id, record=None)

    def continue_run(self, run: RunRecord) -> None:
        """Let the next events be those of a run that was accepted before."""
        self._run_id = run.run_id
        self._pinned = None
        self._changes.load(RUNS, run.run_id, record=run)

    def begin_model_call(self, item_id: str) -> bool:
        """Append the begin of a started run's model call if it is due and fits; return whether it was."""
        if self.tx.free_bytes < MAX_BEGIN_BYTES:
            return False
        if not isinstance(due(self.run, self.pinned, self.tx.now_ms, owned=True), AskModel):
            return False
        self.carry_out(BeginModelCall(item_id))
        return self.run.ended_at_ms is None

    def carry_out(self, command: Command) -> None:
        """Append the events by which the run carries out a command.

        Errors: RunAlreadyEnded; AssertionError for a command that the run's state does not accept.
        """
        session, run, left = self.session, self.run, None
        self.tx.route = self.pinned.route
        if session.budget is not None:
            left = use_of(session, run, self.tx.now_ms).left
        events = machine.decide(run, self.pinned, command, left)
        if session.account is not None:
            events = state_work(events, run, self.tx.now_ms)
        self.append_all(events)
        run = self.run
        self.has_progressed |= run.starts_without_progress == 0
        if run.ended_at_ms is not None and not isinstance(command, EndRestored):
            publish_end(self.tx, run)


# The event bus.


def publish(tx: Transaction, event: EventPublished, origin: Origin = BY_DAEMON) -> Publication:
    """Publish an event on the bus; note whether any trigger or waiting run may want it."""
    writer = StreamWriter(tx, BUS_STREAM, origin=origin)
    writer.append(replace(event, matched=has_listener(tx, event.source)))
    publication = writer.need(PUBLICATIONS, event.event_id)
    writer.write()
    return publication


def publish_end(tx: Transaction, run: RunRecord) -> None:
    """Publish that a run has ended, if a trigger, a waiting run or a connection wants to know.

    The run of a guest, and one that only summarizes, are no work of the agent. The id of the event follows
    from that of the run, so that the end is published once.
    """
    if not (tx.count(BUS_LISTENERS) or tx.followed) or run.guest is not None or run.kind == "compaction":
        return
    source = done_source(run.agent)
    if not (has_listener(tx, source) or is_followed(tx, source)):
        return
    cursor = run.output_cursors[-1] if run.output_cursors else run.output_cursor
    entry = tx.entry(run.session_id, cursor) if cursor is not None else None
    match decode_event(entry[1]) if entry is not None else None:
        case MessageAppended(message=message):
            output = text_of(message.items)
        case OutputEmitted(text=text):
            output = text
        case _:
            output = ""
    payload: dict[str, Any] = {
        "status": run.status,
        "session_id": run.session_id,
        "run_id": run.run_id,
        "sender": run.sender,
        "output": truncate_json(
            output, max(min(MAX_EVENT_OUTPUT_BYTES, tx.free_bytes - MAX_RUN_END_BYTES), 0)
        ),
    }
    if run.error is not None:
        payload["error"] = {
            "reason": run.error.reason,
            "message": truncate(run.error.message, MAX_TRIGGER_NOTE_BYTES),
        }
    event = EventPublished(
        event_id=f"{EVENT}_{run.run_id.removeprefix('run_')}",
        source=source,
        publisher=run.session_id,
        payload=payload,
        hops=run.hops,
        by_run=run.run_id,
        origins=join_origins(run.origins, ["agent"]),
    )
    publish(tx, event)
