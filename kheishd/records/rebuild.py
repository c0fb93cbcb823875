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
from kheishd.store.journal import HASH_BYTES, verify_chain
from kheishd.store.tables import JOURNAL
from kheishd.store.upgrades import UnreadableEvent
from protocol.journal.line import Unknown, decode_envelope, decode_event

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction

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


def find_unreadable(snapshot: Snapshot) -> UnreadableEvent | None:
    """Return the first event that a rebuild would leave out, or that was changed; None if there is none.

    Every line is decoded and folded as the rebuild does it, and nothing is written.
    """
    for damage in verify_chain(snapshot):
        return UnreadableEvent(damage.stream or "the journal", damage.cursor, damage.message)
    # Imported here, because only an upgrade reads the journal.
    from kheishd.records.replay import RecordReplay

    replay: RecordReplay | None = None
    for (stream, cursor), stored in snapshot.scan(JOURNAL):
        if replay is None or replay.stream != stream:
            replay = RecordReplay(stream)
        line = stored[HASH_BYTES:]
        try:
            envelope, event = decode_envelope(line), decode_event(line)
            if isinstance(event, Unknown):
                return UnreadableEvent(stream, cursor, f"its type '{event.type}' is unknown to this version")
            for _ in replay.fold(snapshot, envelope, event):
                pass
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return UnreadableEvent(stream, cursor, f"its line cannot be read: {error}")
        except AssertionError as error:
            return UnreadableEvent(stream, cursor, f"it does not follow from those before it: {error}")
    return None
