"""Records of the definitions in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection
from kheishd.store.records import StoredDefinition
from kheishd.store.tables import DEFINITIONS
from protocol.events.definition import DefinitionDeleted, DefinitionStored
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(
    record: StoredDefinition | None, envelope: Envelope, event: DefinitionStored | DefinitionDeleted
) -> StoredDefinition | None:
    """Return the record after an event; None for a definition that was deleted."""
    if isinstance(event, DefinitionDeleted):
        return None
    return StoredDefinition(
        definition=event.definition,
        created_cursor=record.created_cursor if record is not None else envelope.cursor,
        updated_cursor=envelope.cursor,
    )


DEFINITION_RECORDS: Final = Projection(
    kind="definition",
    table=DEFINITIONS,
    begins=DefinitionStored,
    events=(DefinitionStored, DefinitionDeleted),
    key=lambda envelope, event: (
        event.definition.name if isinstance(event, DefinitionStored) else event.name,
    ),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
