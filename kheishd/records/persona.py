"""Records of personas."""

from __future__ import annotations

from typing import Final

from kheishd.core.persona import evolve
from kheishd.records.projection import Projection, key_in
from kheishd.store.tables import PERSONAS
from protocol.events.persona import PersonaCreated, PersonaDeleted, PersonaUpdated
from protocol.journal.envelope import DAEMON_STREAM

PERSONA_RECORDS: Final = Projection(
    kind="persona",
    table=PERSONAS,
    begins=PersonaCreated,
    events=(PersonaCreated, PersonaUpdated, PersonaDeleted),
    key=key_in("persona_id"),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
