"""Records folded from events, without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from protocol.journal.envelope import Envelope

if TYPE_CHECKING:
    from kheishd.records.projection import Projection
    from protocol.journal.line import JournalEvent

R = TypeVar("R")


def fold_record(projection: Projection[R], *events: JournalEvent) -> R:
    """Return the record folded from events, with the cursors 1, 2, 3 in session ``s`` and run ``r``."""
    record: R | None = None
    for cursor, event in enumerate(events, 1):
        envelope = Envelope(cursor=cursor, at_ms=1000 * cursor, session_id="s", run_id="r")
        record = projection.evolve(record, envelope, event)
    assert record is not None
    return record


def index_rows(projection: Projection[R], *events: JournalEvent) -> dict[str, list[tuple[object, ...]]]:
    """Return the index rows of the record folded from events: the keys, by the name of their table."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    for row in projection.rows(fold_record(projection, *events)):
        assert row.table in projection.indexes
        rows.setdefault(row.table.name, []).append(row.key)
    return {name: sorted(keys) for name, keys in sorted(rows.items())}
