"""The rebuild of all records from the journal, after an upgrade dropped them.

It folds the journal in the order of cursors, as the writer did when the events happened. Unlike a repair, it
needs no records to begin with.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from kheishd.records.registry import REGISTRY
from kheishd.records.writer import Changes
from protocol.journal.line import Unknown, decode_envelope, decode_event

if TYPE_CHECKING:
    from kheishd.store.environment import Transaction

log = logging.getLogger("kheishd.store")

# One transaction: at some 50 µs an event, 50 ms of work for each commit; and with at most three records of
# 48 KiB to an event, at most 150 MiB in memory, typically less than one.
EVENTS_PER_TRANSACTION: Final = 1_000


def rebuild_some(tx: Transaction, after: int) -> int | None:
    """Fold the next events after a cursor into the records.

    An event that cannot be read, or does not follow from those before it, is left out: the doctor reports the
    damage. Returns the cursor of the last event; None if that is the newest one.
    """
    changes = Changes(tx)
    cursor = after
    count = 0
    for cursor, stream in tx.feed(after):
        entry = tx.entry(stream, cursor)
        if entry is not None:
            try:
                event = decode_event(entry[1])
                if not isinstance(event, Unknown):
                    changes.fold(REGISTRY.find(stream, event), decode_envelope(entry[1]), event)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AssertionError) as error:
                log.warning("the event %d of %s is left out of the records: %s", cursor, stream, error)
        count += 1
        if count == EVENTS_PER_TRANSACTION:
            break
    changes.write()
    return cursor if count == EVENTS_PER_TRANSACTION else None
