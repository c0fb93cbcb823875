"""Records of cron entries, and their indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core.cron import entry
from kheishd.records.projection import IndexRow, Projection, key_in
from kheishd.store.tables import CRONS, CRONS_BY_AUTHOR, CRONS_DUE, CRONS_FAILING, CRONS_LIVE
from protocol.events.cron import CronCreated, CronEvent

if TYPE_CHECKING:
    from protocol.objects.cron import Cron

CRON_STREAMS: Final = "cron"
"""The kind of the streams of cron entries."""

FILE_AUTHOR: Final = "file/"
"""The author of the entries of the file: no session has such an id."""


def stream_of(cron_id: str) -> str:
    """Return the stream of a cron entry."""
    return f"{CRON_STREAMS}/{cron_id}"


def index_rows(record: Cron) -> frozenset[IndexRow]:
    """Return the index rows of an entry."""
    rows = [
        IndexRow(CRONS_LIVE, (row.run_id, record.cron_id))
        for row in entry.live_rows(record)
        if row.run_id is not None
    ]
    at_ms = entry.wake_ms(record)
    if at_ms is not None:
        rows.append(IndexRow(CRONS_DUE, (at_ms, record.cron_id)))
    if entry.is_failing(record):
        rows.append(IndexRow(CRONS_FAILING, (record.cron_id,)))
    author = FILE_AUTHOR if record.source == "file" else record.root_session_id
    if author is not None:
        rows.append(IndexRow(CRONS_BY_AUTHOR, (author, record.cron_id)))
    return frozenset(rows)


CRON_RECORDS: Final = Projection(
    kind="cron",
    table=CRONS,
    begins=CronCreated,
    events=CronEvent.__args__,
    key=key_in("cron_id"),
    evolve=entry.evolve,
    source=lambda store, key, record: (stream_of(record.cron_id), record.created_cursor),
    stream=CRON_STREAMS,
    rows=index_rows,
    indexes=(CRONS_DUE, CRONS_LIVE, CRONS_FAILING, CRONS_BY_AUTHOR),
    bounded=True,
)
