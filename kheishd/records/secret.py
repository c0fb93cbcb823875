"""Records of secret slots, without their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection, key_in
from kheishd.store.records import SecretRecord
from kheishd.store.tables import SECRETS
from protocol.events.secret import SecretDeleted, SecretStored
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(
    record: SecretRecord | None, envelope: Envelope, event: SecretStored | SecretDeleted
) -> SecretRecord | None:
    """Return the record of a slot after an event; None for a slot that was deleted."""
    if isinstance(event, SecretDeleted):
        return None
    return SecretRecord(
        slot_id=event.slot_id,
        kind=event.kind,
        revision=1 if record is None else record.revision + 1,
        created_at_ms=envelope.at_ms if record is None else record.created_at_ms,
        created_cursor=envelope.cursor if record is None else record.created_cursor,
        updated_at_ms=envelope.at_ms,
        updated_cursor=envelope.cursor,
        updated_by=envelope.actor,
    )


SECRET_RECORDS: Final = Projection(
    kind="secret",
    table=SECRETS,
    begins=SecretStored,
    events=(SecretStored, SecretDeleted),
    key=key_in("slot_id"),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
