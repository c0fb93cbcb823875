"""Records of the failures of lifecycle hooks."""

from __future__ import annotations

from typing import Final

from kheishd.core.hook import evolve
from kheishd.records.projection import IndexRow, Projection, key_in
from kheishd.store.tables import HOOK_DEAD_LETTERS, HOOK_DEAD_LETTERS_BY_AGE
from protocol.events.hook import HookFailed, HookFailureResolved
from protocol.journal.envelope import DAEMON_STREAM

HOOK_RECORDS: Final = Projection(
    kind="hook failure",
    table=HOOK_DEAD_LETTERS,
    begins=HookFailed,
    events=(HookFailed, HookFailureResolved),
    key=key_in("dead_letter_id"),
    keys=lambda envelope, event: [
        (dead_letter_id,) for dead_letter_id in (event.dead_letter_id, *getattr(event, "dropped", ()))
    ],
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    rows=lambda record: frozenset(
        (IndexRow(HOOK_DEAD_LETTERS_BY_AGE, (record.created_cursor,), record.dead_letter_id),)
    ),
    indexes=(HOOK_DEAD_LETTERS_BY_AGE,),
    constant_rows=True,
    bounded=True,
)
