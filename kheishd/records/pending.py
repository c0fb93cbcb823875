"""Index rows that approvals, questions and calls in doubt share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.records.projection import IndexRow
from kheishd.store.tables import DEADLINES, RECORDS_BY_RUN, RECORDS_BY_SESSION

if TYPE_CHECKING:
    from kheishd.store.table import Table
    from protocol.objects.approval import Approval
    from protocol.objects.indoubt import Indoubt
    from protocol.objects.question import QuestionRequest


def pending_rows(
    kind: str,
    record_id: str,
    record: Approval | QuestionRequest | Indoubt,
    pending: Table[str] | None,
    expires_at_ms: int | None = None,
) -> frozenset[IndexRow]:
    """Return the index rows of a record of a run; ``pending`` is the table that lists it while it is open."""
    rows = [
        IndexRow(RECORDS_BY_SESSION, (record.session_id, kind, record.created_cursor), record_id),
        IndexRow(RECORDS_BY_RUN, (record.run_id, kind, record.created_cursor), record_id),
    ]
    if pending is not None:
        rows.append(IndexRow(pending, (record.created_cursor,), record_id))
        if expires_at_ms is not None:
            rows.append(IndexRow(DEADLINES, (expires_at_ms, kind, record_id)))
    return frozenset(rows)
