"""Orphan rows: rows that no event or record accounts for, found table by table, row by row.

The replay finds rows that the journal requires and a table lacks; this finds rows that a table has and the
journal does not account for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kheishd.core.memory.note import digest_name, names_of
from kheishd.core.memory.terms import fold
from kheishd.records.checkpoint import is_readable
from kheishd.records.projection import IndexRow
from kheishd.records.registry import REGISTRY
from kheishd.records.replay import Difference
from kheishd.store.table import Key, Table
from kheishd.store.tables import (
    CHECKPOINT_CHUNKS,
    CHECKPOINTS,
    CURSORS,
    FILE_CONTENT_TOTALS,
    FILE_CONTENTS,
    MESSAGE_POSTINGS,
    NOTE_POSTINGS,
    NOTES,
    NOTES_BY_KIND,
    NOTES_BY_NAME,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    SEARCH_TOTALS,
    SECRET_VALUES,
    SECRETS,
    WHOLE_INDEX,
)
from protocol.errors.store import StoreDamaged
from protocol.journal.line import decode_envelope, decode_event
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.records.projection import DerivedIndex, Projection
    from kheishd.store.environment import Snapshot
    from kheishd.store.records import SearchTotals

CONTENT_NAME_CHARACTERS: Final = 64
"""The characters of a SHA-256 in hex."""

IsExplained = Callable[["Snapshot", Key, Any], bool]


class OrphanCheck(Value, frozen=True):
    """A table, and the function that returns whether one of its rows has a reason to exist."""

    table: Table[Any]
    is_explained: IsExplained

    def examine(self, store: Snapshot, key: Key, value: Any) -> Difference | None:
        """Return the instruction to delete a row if it is an orphan, else None."""
        try:
            explained = self.is_explained(store, key, value)
        except (msgspec.DecodeError, UnicodeDecodeError, StoreDamaged):
            # The row's reason cannot be read. That is a finding of its own, and no reason to delete the row.
            explained = True
        return None if explained else Difference(self.table, key, None, "")


def _record_check(projection: Projection[Any]) -> OrphanCheck:
    """Return the check of a table of records: the journal has the event that began each of them."""

    def is_explained(store: Snapshot, key: Key, record: Any) -> bool:
        source = projection.source(store, key, record)
        entry = store.entry(*source) if source is not None else None
        if entry is None:
            return False
        event = decode_event(entry[1])
        return (
            isinstance(event, projection.begins) and projection.key(decode_envelope(entry[1]), event) == key
        )

    return OrphanCheck(projection.table, is_explained)


def _record_id(table: Table[Any], key: Key, value: Any) -> Any:
    return key[-1] if table.value is bytes else value


def _index_check(table: Table[Any]) -> OrphanCheck:
    """Return the check of an index: a record of one of its types gives each row."""
    projections = [projection for projection in REGISTRY.projections if table in projection.indexes]

    def is_explained(store: Snapshot, key: Key, value: Any) -> bool:
        record_id = _record_id(table, key, value)
        if not record_id:
            return False
        row = IndexRow(table, key, value)
        records = ((projection, store.get(projection.table, record_id)) for projection in projections)
        return any(record is not None and row in projection.rows(record) for projection, record in records)

    return OrphanCheck(table, is_explained)


def _derived_check(index: DerivedIndex[Any]) -> OrphanCheck:
    """Return the check of a derived index: the owner of the record that a row names gives the row."""

    def is_explained(store: Snapshot, key: Key, value: Any) -> bool:
        record_id = _record_id(index.table, key, value)
        record = store.get(index.source.table, record_id) if record_id else None
        owner = store.get(index.owner.table, *index.owner_key(record)) if record is not None else None
        return owner is not None and IndexRow(index.table, key, value) in index.rows(store, owner)

    return OrphanCheck(index.table, is_explained)


def _is_receipt_age_explained(store: Snapshot, key: Key, value: bytes) -> bool:
    receipt = store.get(RECEIPTS, *key[1:])
    return receipt is not None and receipt.at_ms == key[0]


def _are_totals_explained(store: Snapshot, key: Key, totals: SearchTotals) -> bool:
    """Whether the index has messages of the agent, or the row is that of the whole index."""
    if key == (WHOLE_INDEX,):
        return totals.indexed_cursor <= store.last_cursor
    has_rows = not totals.terms or any(store.scan_packed(MESSAGE_POSTINGS, *key))
    return totals.messages > 0 and has_rows


def _is_note_row_explained(table: Table[Any]) -> IsExplained:
    """Return the check of an index of notes, which does not work out all rows of a note for each of them.

    A note has hundreds of terms. The replay compares their rows; here, the note must only contain the term.
    """

    def is_explained(store: Snapshot, key: Key, value: Any) -> bool:
        note = store.get(NOTES, _record_id(table, key, value))
        if note is None or note.agent != key[0]:
            return False
        if table is NOTES_BY_KIND:
            return bool(key[1] == note.kind)
        if table is NOTES_BY_NAME:
            return key[1] in set(map(digest_name, names_of(note)))
        return key[1] in fold(" ".join((note.name, *note.aliases, note.content)))

    return is_explained


NOTE_INDEXES: Final = (NOTES_BY_KIND, NOTES_BY_NAME, NOTE_POSTINGS)

CHECKS: Final[tuple[OrphanCheck, ...]] = (
    *map(_record_check, REGISTRY.projections),
    *map(
        _index_check,
        dict.fromkeys(
            index
            for projection in REGISTRY.projections
            for index in projection.indexes
            if index not in NOTE_INDEXES
        ),
    ),
    *(OrphanCheck(index, _is_note_row_explained(index)) for index in NOTE_INDEXES),
    *map(_derived_check, REGISTRY.derived),
    OrphanCheck(
        RECEIPTS,
        lambda store, key, receipt: store.get(RECEIPTS_BY_AGE, receipt.at_ms, *key) is not None,
    ),
    OrphanCheck(RECEIPTS_BY_AGE, _is_receipt_age_explained),
    # A content without a use is of a checkpoint that is being saved, or was when the daemon was killed.
    OrphanCheck(FILE_CONTENTS, lambda store, key, _: len(key[0]) == CONTENT_NAME_CHARACTERS),
    OrphanCheck(FILE_CONTENT_TOTALS, lambda store, key, total: key == (WHOLE_INDEX,) and total >= 0),
    OrphanCheck(SECRET_VALUES, lambda store, key, _: store.get(SECRETS, *key) is not None),
    OrphanCheck(
        CHECKPOINTS,
        lambda store, key, head: key[1] <= store.head(key[0])[0] and is_readable(store, key[0], head),
    ),
    # Chunks without a head are of a checkpoint that is being written, or was when the daemon was killed.
    OrphanCheck(CHECKPOINT_CHUNKS, lambda store, key, _: store.head(key[0])[0] > 0),
    # The index of messages lacks the newest ones, and never has a message that the journal lacks.
    OrphanCheck(MESSAGE_POSTINGS, lambda store, key, _: store.get(CURSORS, key[2]) is not None),
    OrphanCheck(SEARCH_TOTALS, _are_totals_explained),
    OrphanCheck(CURSORS, lambda store, key, stream: store.entry(stream, key[0]) is not None),
)
