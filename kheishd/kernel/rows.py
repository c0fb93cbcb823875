"""Rows that nothing explains: each table's own reason for a row to be there, checked row by row.

A replay finds what the journal says and a table lacks; this finds what a table says and the journal lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from kheishd.kernel.projections import PROJECTIONS, IndexRow, Projection
from kheishd.kernel.replay import Difference
from kheishd.store.tables import (
    CHECKPOINTS,
    CHILDREN,
    CONVERSATIONS,
    CURSORS,
    PERMISSIONS,
    PINNED,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    RUNS,
    RUNS_BY_SESSION,
    RUNS_CANCELLED,
    RUNS_READY,
    SESSIONS,
    TOKENS,
    TOKENS_BY_DIGEST,
    Key,
    Table,
)
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import decode_envelope, decode_event
from protocol.objects.run import ENDED, SETTLED

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot
    from kheishd.store.records import Binding, DaemonRules, Receipt, TokenRecord
    from protocol.objects.session import Session

Explained = Callable[["Snapshot", Key, Any], bool]


@dataclass(frozen=True, slots=True)
class Check:
    """A table and what explains one of its rows."""

    table: Table[Any]
    explained: Explained

    def examine(self, store: Snapshot, key: Key, value: Any) -> Difference | None:
        """The instruction to delete a row that nothing explains, or None."""
        try:
            explained = self.explained(store, key, value)
        except (msgspec.DecodeError, UnicodeDecodeError):
            # What would explain it cannot be read. That is a finding of its own, and no reason to delete.
            explained = True
        return None if explained else Difference(self.table, key, None, "")


def _session(store: Snapshot, key: Key, value: Session) -> bool:
    return value.session_id == key[0] and store.head(key[0])[0] > 0


def _run(store: Snapshot, key: Key, run: RunRecord) -> bool:
    """The journal has its acceptance."""
    entry = store.entry(run.session_id, run.accepted_cursor)
    return entry is not None and decode_envelope(entry[1]).run_id == key[0] == run.run_id


def _run_of_session(store: Snapshot, key: Key, run_id: str) -> bool:
    run = store.get(RUNS, run_id)
    return run is not None and key == (run.session_id, run.accepted_cursor)


def _ready(store: Snapshot, key: Key, run_id: str) -> bool:
    run = store.get(RUNS, run_id)
    if run is None or run.accepted_cursor != key[0] or run.status in SETTLED:
        return False
    session = store.get(SESSIONS, run.session_id)
    return session is not None and session.open_runs[:1] == [run_id]


def _cancelled(store: Snapshot, key: Key, run_id: str) -> bool:
    run = store.get(RUNS, run_id)
    return (
        run is not None
        and run.accepted_cursor == key[0]
        and run.cancel is not None
        and run.status not in ENDED
    )


def _child(store: Snapshot, key: Key, value: bytes) -> bool:
    session = store.get(SESSIONS, key[1])
    return session is not None and session.parent_session_id == key[0]


def _conversation(store: Snapshot, key: Key, binding: Binding) -> bool:
    session = store.get(SESSIONS, binding.session_id)
    return session is not None and (session.agent, session.sender) == key


def _token(store: Snapshot, key: Key, record: TokenRecord) -> bool:
    token_id: str = key[0]
    leads_to = store.get(TOKENS_BY_DIGEST, record.digest)
    return token_id == record.token.token_id and leads_to == (
        token_id if record.token.revoked_at_ms is None else None
    )


def _digest(store: Snapshot, key: Key, token_id: str) -> bool:
    record = store.get(TOKENS, token_id)
    return record is not None and record.digest == key[0] and record.token.revoked_at_ms is None


def _daemon_rules(store: Snapshot, key: Key, record: DaemonRules) -> bool:
    return key == (DAEMON_STREAM,) and store.entry(DAEMON_STREAM, record.updated_cursor) is not None


def _receipt(store: Snapshot, key: Key, receipt: Receipt) -> bool:
    return store.get(RECEIPTS_BY_AGE, receipt.at_ms, *key) is not None


def _receipt_age(store: Snapshot, key: Key, value: bytes) -> bool:
    receipt = store.get(RECEIPTS, *key[1:])
    return receipt is not None and receipt.at_ms == key[0]


def _checkpoint(store: Snapshot, key: Key, value: bytes) -> bool:
    return bool(key[1] <= store.head(key[0])[0])


def _cursor(store: Snapshot, key: Key, stream: str) -> bool:
    return store.entry(stream, key[0]) is not None


def _record(projection: Projection[Any]) -> Explained:
    """The journal has the event that began it."""

    def explained(store: Snapshot, key: Key, record: Any) -> bool:
        entry = store.entry(record.session_id, record.created_cursor)
        event = decode_event(entry[1]) if entry is not None else None
        return isinstance(event, projection.begins) and projection.id_of(event) == key[0]

    return explained


def _of_record(table: Table[Any]) -> Explained:
    """A record of one of the types that have rows here gives rise to it."""
    types = [projection for projection in PROJECTIONS if table in projection.indexes]

    def explained(store: Snapshot, key: Key, value: Any) -> bool:
        record_id = key[-1] if table.value is bytes else value
        if not record_id:
            return False
        records = ((projection, store.get(projection.table, record_id)) for projection in types)
        row = IndexRow(table, key, value)
        return any(record is not None and row in each.rows(record) for each, record in records)

    return explained


def _projected() -> Iterator[Check]:
    """The tables of all projected types, and their indexes, which some share."""
    for projection in PROJECTIONS:
        yield Check(projection.table, _record(projection))
    for index in dict.fromkeys(index for projection in PROJECTIONS for index in projection.indexes):
        yield Check(index, _of_record(index))


CHECKS: tuple[Check, ...] = (
    Check(SESSIONS, _session),
    Check(RUNS, _run),
    Check(PINNED, lambda store, key, _: store.get(RUNS, *key) is not None),
    Check(RUNS_BY_SESSION, _run_of_session),
    Check(RUNS_READY, _ready),
    Check(RUNS_CANCELLED, _cancelled),
    Check(CHILDREN, _child),
    Check(CONVERSATIONS, _conversation),
    Check(TOKENS, _token),
    Check(TOKENS_BY_DIGEST, _digest),
    Check(PERMISSIONS, _daemon_rules),
    Check(RECEIPTS, _receipt),
    Check(RECEIPTS_BY_AGE, _receipt_age),
    Check(CHECKPOINTS, _checkpoint),
    Check(CURSORS, _cursor),
    *_projected(),
)
"""Every table whose rows need a reason outside themselves. JOURNAL is the reason; BLOBS name their own."""
