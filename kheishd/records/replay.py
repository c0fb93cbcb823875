"""The replay of one stream of the journal: verify its hash chain and fold its records anew.

The records and index rows that the events give must equal those in the tables. Where they differ, the journal
is right, because it is chained; the difference is also the instruction that mends the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec

from kheishd.records.registry import REGISTRY
from kheishd.store.journal import HASH_BYTES, NO_HASH, link
from kheishd.store.tables import CURSORS
from protocol.errors.store import StoreDamaged
from protocol.journal.line import JournalEvent, Unknown, decode_envelope, decode_event
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.records.projection import Projection
    from kheishd.records.registry import Registry
    from kheishd.store.environment import Snapshot
    from kheishd.store.table import Key, KeyPart, Table
    from protocol.journal.envelope import Envelope

V = TypeVar("V")

# The records that may still change, of types that the daemon does not bound: a replay holds so many. It puts
# the oldest aside beyond them; if a later event changes one of those, its whole fold is made alone, from the
# beginning of the stream.
MAX_KEPT: Final = 1_000


class Damage(Value, frozen=True):
    """A part of the store that is not what was written, such as a journal entry; only a backup mends it."""

    message: str
    stream: str | None = None
    cursor: int | None = None


class Loss(Value, frozen=True):
    """Something that no event contains and that is gone, and what makes up for it."""

    message: str
    remedy: str


class Difference(Value, frozen=True):
    """A row that differs from the journal. ``expected`` is the value to write; None: delete the row."""

    table: Table[Any]
    key: Key
    expected: Any
    stream: str

    def __str__(self) -> str:
        name = " ".join(str(part) for part in self.key)
        problem = "has no reason in the journal" if self.expected is None else "differs from the journal"
        return f"{self.table.name} {name} {problem}"


Complaint = Damage | Difference | Loss


class ExpectedRow(NamedTuple):
    """A row as the journal requires it: a record, or an index row (without a projection)."""

    table: Table[Any]
    key: Key
    value: Any
    projection: Projection[Any] | None = None


class RecordReplay:
    """The records of one stream during a replay: only those that may still change."""

    def __init__(self, stream: str, registry: Registry = REGISTRY) -> None:
        self.stream = stream
        self._registry = registry
        self._bounded: dict[tuple[Table[Any], Key], Any] = {}
        self._kept: dict[tuple[Table[Any], Key], Any] = {}

    def held_keys(self, table: Table[Any]) -> list[Key]:
        """Return the keys of one table's records that the replay holds."""
        return sorted(key for owner, key in (*self._bounded, *self._kept) if owner is table)

    def fold(self, store: Snapshot, envelope: Envelope, event: JournalEvent) -> Iterator[ExpectedRow]:
        """Fold in an event; yield the rows that no later event changes, and those put aside.

        Errors: AssertionError if the event does not follow from those before it.
        """
        for projection in self._registry.find(self.stream, event):
            for key in projection.keys_of(envelope, event):
                yield from self._fold_record(store, projection, key, envelope, event)

    def rest(self, store: Snapshot) -> Iterator[ExpectedRow]:
        """Yield the rows of the records that the replay holds, after the newest event."""
        for (table, key), record in (*self._bounded.items(), *self._kept.items()):
            yield from _rows(self._registry.by_table[table], key, record)
        view = _Replayed(store, self._bounded)
        for index in self._registry.derived:
            for (table, _), record in self._bounded.items():
                if table is index.owner.table:
                    for row in index.rows(view, record):
                        yield ExpectedRow(row.table, row.key, row.value)

    def _fold_record(
        self,
        store: Snapshot,
        projection: Projection[Any],
        key: Key,
        envelope: Envelope,
        event: JournalEvent,
    ) -> Iterator[ExpectedRow]:
        place = projection.table, key
        records = self._bounded if projection.bounded else self._kept
        begins = isinstance(event, projection.begins)
        if place not in records and not begins and (projection.strays or not projection.bounded):
            if not projection.strays:
                yield from self._alone(store, projection, key)
            return
        record = projection.evolve(records.pop(place, None), envelope, event)
        if (record is None and not projection.bounded) or (record is not None and projection.final(record)):
            yield from _rows(projection, key, record)
            return
        records[place] = record
        if len(self._kept) > MAX_KEPT:
            table, oldest = next(iter(self._kept))
            del self._kept[table, oldest]
            yield from self._alone(store, self._registry.by_table[table], oldest)

    def _alone(self, store: Snapshot, projection: Projection[Any], key: Key) -> Iterator[ExpectedRow]:
        """Fold one record by itself, from the beginning of the stream to its end."""
        record, needle = None, str(key[-1]).encode()
        for _, line in store.entries(self.stream):
            event = _decode(line) if needle in line else None
            if event is None or isinstance(event, Unknown):
                continue
            envelope = decode_envelope(line)
            if projection in self._registry.find(self.stream, event) and key in projection.keys_of(
                envelope, event
            ):
                record = projection.evolve(record, envelope, event)
        assert record is not None, f"no event began the {projection.kind} {key[-1]}"
        yield from _rows(projection, key, record)


class _Replayed:
    """The replayed records, and the stored ones where the replay holds none."""

    def __init__(self, store: Snapshot, records: dict[tuple[Table[Any], Key], Any]) -> None:
        self._store = store
        self._records = records

    def get(self, table: Table[V], *key: KeyPart) -> V | None:
        """Return a record."""
        record: V | None = self._records.get((table, key))
        return record if record is not None else self._store.get(table, *key)


def _decode(line: bytes) -> JournalEvent | Unknown:
    try:
        return decode_event(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AssertionError(f"a later line of the record cannot be read: {error}") from error


def _rows(projection: Projection[Any], key: Key, record: Any) -> Iterator[ExpectedRow]:
    yield ExpectedRow(projection.table, key, record, projection)
    for row in projection.rows(record) if record is not None else ():
        yield ExpectedRow(row.table, row.key, row.value)


class Replay:
    """A replay of one stream, entry by entry; ``cursor`` is the position that it has reached.

    With ``chain_only`` it leaves the records alone, because it began in the middle of the stream.
    ``compared_rows`` counts the rows of records and indexes that were compared.
    """

    def __init__(
        self, stream: str, cursor: int = 0, head: bytes = NO_HASH, *, chain_only: bool = False
    ) -> None:
        self.stream = stream
        self.cursor = cursor
        self.head = head
        self.chain_only = chain_only
        self.damaged = False
        self.compared_rows = 0
        self.records = RecordReplay(stream)

    def entry(self, store: Snapshot, cursor: int, stored: bytes) -> Iterator[Complaint]:
        """Take the next entry: its hash and line, as stored."""
        line = stored[HASH_BYTES:]
        if link(self.head, line) != stored[:HASH_BYTES]:
            yield self._damage(cursor, "the hash chain is broken: this line or its hash was changed")
        # Continue from the hash as stored, so that one change is one finding.
        self.head, self.cursor = stored[:HASH_BYTES], cursor
        if store.get(CURSORS, cursor) != self.stream:
            yield Difference(CURSORS, (cursor,), self.stream, self.stream)
        try:
            envelope, event = decode_envelope(line), decode_event(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield self._damage(cursor, f"the line cannot be read: {error}")
            return
        if envelope.cursor != cursor:
            yield self._damage(cursor, f"the line says it is number {envelope.cursor}")
        if self.chain_only or self.damaged or isinstance(event, Unknown):
            return
        try:
            for row in self.records.fold(store, envelope, event):
                yield from self._compare(store, row)
        except AssertionError as error:
            yield self._damage(cursor, f"the event does not follow from those before it: {error}")

    def finish(self, store: Snapshot) -> Iterator[Complaint]:
        """Compare the remaining records, once ``cursor`` is the newest entry of this snapshot."""
        if self.chain_only or self.damaged:
            return
        for row in self.records.rest(store):
            yield from self._compare(store, row)

    def _damage(self, cursor: int, message: str) -> Damage:
        self.damaged = True
        return Damage(message, self.stream, cursor)

    def _compare(self, store: Snapshot, row: ExpectedRow) -> Iterator[Difference]:
        self.compared_rows += 1
        try:
            stored = store.get(row.table, *row.key)
        except (msgspec.DecodeError, UnicodeDecodeError, StoreDamaged):
            stored = NotImplemented
        if stored == row.value:
            return
        superseded = row.projection.superseded if row.projection is not None else None
        if (
            superseded is not None
            and stored is not NotImplemented
            and superseded(store, self.stream, stored, row.value)
        ):
            return
        yield Difference(row.table, row.key, row.value, self.stream)
