"""Writers: append events to a stream and write the records and index rows that follow from them.

Nothing else writes these tables, so a record always equals the fold of its events, which the doctor proves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from kheishd.core.run import machine
from kheishd.records.registry import REGISTRY
from kheishd.store.tables import PINNED, RUNS, SESSIONS
from protocol.events.run import RunAccepted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kheishd.core.run.commands import Command
    from kheishd.core.run.record import RunRecord
    from kheishd.records.projection import IndexRow
    from kheishd.records.registry import Registry
    from kheishd.store.environment import Transaction
    from kheishd.store.table import Key, KeyPart, Table
    from protocol.journal.envelope import Envelope
    from protocol.journal.line import JournalEvent
    from protocol.objects.run import Pinned
    from protocol.objects.session import Session

V = TypeVar("V")
NO_ROWS: Final[frozenset[IndexRow]] = frozenset()


@dataclass(slots=True)
class _Change(Generic[V]):
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

    def fold(self, stream: str, envelope: Envelope, event: JournalEvent) -> None:
        """Fold in an event as it was stored.

        Errors: AssertionError if it does not follow from the events before it: the journal is damaged.
        """
        for projection in self._registry.find(stream, event):
            key = projection.key(envelope, event)
            if key is None:
                continue
            change = self._change(projection.table, key)
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
        # Derived rows are worked out of the stored records, so before anything is written.
        derived = [*self._derived_differences(changed)] if changed else []
        for table, key, change in changed:
            if change.current is None:
                self._tx.delete(table, *key)
            else:
                self._tx.put(table, *key, value=change.current)
            projection = self._registry.by_table[table]
            if projection.indexes:
                self._write_rows(
                    projection.rows(change.stored) if change.stored is not None else NO_ROWS,
                    projection.rows(change.current) if change.current is not None else NO_ROWS,
                )
        for previous, current in derived:
            self._write_rows(previous, current)
        # Callers read the written records once more.
        for _, _, change in changed:
            change.stored = change.current

    def _change(self, table: Table[V], key: Key) -> _Change[V]:
        change = self._changes.get((table, key))
        if change is None:
            record = self._tx.get(table, *key)
            change = self._changes[table, key] = _Change(record, record)
        return change

    def _derived_differences(
        self, changed: list[tuple[Table[Any], Key, _Change[Any]]]
    ) -> Iterator[tuple[frozenset[IndexRow], frozenset[IndexRow]]]:
        stored = _Stored(self)
        for index in self._registry.derived:
            owners: dict[Key, None] = {}
            sources = {projection.table: owner_of for projection, owner_of in index.sources}
            changed_sources: set[Key | None] = set()
            for table, key, change in changed:
                if table is index.owner.table:
                    owners[key] = None
                elif table in sources:
                    owners[sources[table](change.stored if change.current is None else change.current)] = None
                    changed_sources.add(key)
            for key in owners:
                owner = self._change(index.owner.table, key)
                if owner.stored is not None and owner.current is not None:
                    decisive = index.decisive(owner.current)
                    if decisive == index.decisive(owner.stored) and decisive not in changed_sources:
                        continue
                yield (
                    index.rows(stored, owner.stored) if owner.stored is not None else NO_ROWS,
                    index.rows(self, owner.current) if owner.current is not None else NO_ROWS,
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


@dataclass(frozen=True, slots=True)
class Origin:
    """The cause of an event: the daemon itself, or a caller with a request."""

    actor: str = "daemon"
    on_behalf_of: str | None = None
    request_id: str | int | None = None


BY_DAEMON = Origin()


class StreamWriter:
    """A stream and the transaction that changes it: ``append`` as often as needed, then ``write`` once."""

    def __init__(self, tx: Transaction, stream: str, *, origin: Origin = BY_DAEMON) -> None:
        self.tx = tx
        self.stream = stream
        self.origin = origin
        self._changes = Changes(tx)

    def append(self, event: JournalEvent) -> Envelope:
        """Append one event and fold it into the records that it changes."""
        return self._append(event)[0]

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

    def _append(
        self, event: JournalEvent, *, session_id: str | None = None, run_id: str | None = None
    ) -> tuple[Envelope, JournalEvent]:
        envelope, stored = self.tx.append(
            self.stream,
            event,
            session_id=session_id,
            run_id=run_id,
            actor=self.origin.actor,
            on_behalf_of=self.origin.on_behalf_of,
            request_id=self.origin.request_id,
        )
        self._changes.fold(self.stream, envelope, stored)
        return envelope, stored


class SessionWriter(StreamWriter):
    """A session, perhaps one of its runs, and the transaction that changes them.

    Between ``append`` and ``write``, ``session`` and ``run`` are as the events so far leave them. Records of
    other types change along with them.
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
        super().__init__(tx, session_id, origin=origin)
        self.session_id = session_id
        self._run_id = run.run_id if run is not None else None
        self._changes.load(SESSIONS, session_id, record=session)
        if run is not None:
            self._changes.load(RUNS, run.run_id, record=run)
            if pinned is not None:
                self._changes.load(PINNED, run.run_id, record=pinned)

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
        return self.need(PINNED, cast("str", self._run_id))

    def begin_run(self, run_id: str) -> None:
        """Let the next events be those of a new run, whose id no record has."""
        self._run_id = run_id
        self._changes.load(RUNS, run_id, record=None)
        self._changes.load(PINNED, run_id, record=None)

    def carry_out(self, command: Command) -> None:
        """Append the events by which the run carries out a command.

        Errors: RunAlreadyEnded; AssertionError for a command that the run's state does not accept.
        """
        self.append_all(machine.decide(self.run, self.pinned, command))

    def append(self, event: JournalEvent, *, run_id: str | None = None) -> Envelope:
        """Append one event, of the run if there is one, and fold it into the records that it changes."""
        run_id = run_id if run_id is not None else self._run_id
        envelope, stored = self._append(event, session_id=self.session_id, run_id=run_id)
        if isinstance(stored, RunAccepted):
            self._run_id = run_id
        return envelope
