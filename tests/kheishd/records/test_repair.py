"""Repair: it restores lost rows and deletes forged ones."""

from typing import Any

import pytest

from kheishd.core.context.session_transcript import SessionTranscript
from kheishd.records.checkpoint import CheckpointWriter
from kheishd.records.doctor import examine_whole
from kheishd.records.repair import repair
from kheishd.store.table import Table
from kheishd.store.tables import (
    BLOBS,
    CHECKPOINT_CHUNKS,
    CHECKPOINTS,
    JOURNAL,
    META,
    RECEIPTS,
    RECEIPTS_BY_AGE,
    SECRET_VALUES,
    TABLES,
)
from kheishd.store.writer import Store
from protocol.journal.line import decode_envelope, decode_event
from tests.support.histories import (
    CACHES,
    CONTENTS,
    NOW_MS,
    derived_tables,
    dump,
    rich_history,
    spoil_line,
    update,
)

REBUILT = derived_tables(JOURNAL, META, BLOBS, *CACHES, RECEIPTS, RECEIPTS_BY_AGE, SECRET_VALUES, *CONTENTS)


def test_a_healthy_store_is_not_touched(store: Store) -> None:
    """A repair changes nothing in a healthy store."""
    rich_history(store)
    rows = dump(store)
    changed, diagnosis = repair(store, NOW_MS)
    assert (changed, diagnosis.findings, dump(store)) == (0, [], rows)


@pytest.mark.parametrize("table", REBUILT, ids=lambda table: table.name)
def test_a_table_that_is_gone_comes_back(store: Store, table: Table[Any]) -> None:
    """All rows of an emptied table are restored from the journal."""
    rich_history(store)
    rows = dump(store)
    _empty(store, [table])
    changed, diagnosis = repair(store, NOW_MS)
    assert changed >= len(rows[table.name]) > 0
    assert diagnosis.findings == []
    assert dump(store) == rows


def test_everything_but_the_journal_is_gone(store: Store) -> None:
    """The journal alone restores every rebuildable table."""
    rich_history(store)
    rows = dump(store)
    _empty(store, REBUILT)
    _, diagnosis = repair(store, NOW_MS)
    assert diagnosis.findings == []
    assert dump(store) == rows


@pytest.mark.parametrize("table", REBUILT, ids=lambda table: table.name)
def test_rows_that_nobody_wrote_go(store: Store, table: Table[Any]) -> None:
    """A forged or forgotten row is deleted."""
    rich_history(store)
    rows = dump(store)
    key, value = rows[table.name][0]
    strange = tuple(10**15 if isinstance(part, int) else f"{part}x" for part in key)
    update(store, lambda tx: tx.put(table, *strange, value=value))
    changed, diagnosis = repair(store, NOW_MS)
    assert changed >= 1
    assert diagnosis.findings == []
    assert dump(store) == rows


def test_a_damaged_stream_is_left_alone(store: Store) -> None:
    """The records of a damaged stream are left alone; others are mended."""
    # As in maintenance: to a daemon, a line that is not JSON would be damage.
    store._environment.health.is_watched = False
    rich_history(store)
    spoil_line(store, "ses_a", 3, lambda stored: stored[:-2] + b" }")
    spoiled = dump(store)
    _empty(store, [table for table in TABLES if table.name == "children"])
    _, diagnosis = repair(store, NOW_MS)
    assert {finding.stream for finding in diagnosis.findings} == {"ses_a"}
    assert dump(store) == spoiled
    assert examine_whole(store.read, deep=True).findings == diagnosis.findings


def _empty(store: Store, tables: list[Table[Any]]) -> None:
    def empty(tx: Any) -> None:
        for table in tables:
            for key, _ in list(tx.scan(table)):
                tx.delete(table, *key)

    update(store, empty)


def test_a_checkpoint_without_its_chunks_is_found_and_deleted(store: Store) -> None:
    """A checkpoint whose chunks are damaged is a finding; a repair deletes it, because it is a cache."""
    rich_history(store)
    session = SessionTranscript()
    with store.read() as snapshot:
        for _, line in snapshot.entries("ses_a"):
            session.transcript.fold(decode_envelope(line), decode_event(line))
        session.update()
        writer = CheckpointWriter(snapshot, "ses_a", session)
    assert update(store, writer.write) is not None
    assert examine_whole(store.read, deep=True).findings == []
    update(store, lambda tx: tx.put(CHECKPOINT_CHUNKS, "ses_a", 1, value=b"\x90"))
    (finding,) = examine_whole(store.read, deep=True).findings
    assert "checkpoints ses_a" in finding.message
    assert repair(store, NOW_MS)[0] == 1
    assert examine_whole(store.read, deep=True).findings == []
    with store.read() as snapshot:
        assert snapshot.count(CHECKPOINTS) == 0
