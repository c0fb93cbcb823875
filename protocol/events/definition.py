"""Events of definitions in the store. They stand in the daemon's stream."""

from protocol.journal.envelope import Event
from protocol.objects.definition import Definition


class DefinitionStored(Event, frozen=True, tag="definition_stored"):
    """A definition was stored, or replaced by another one of the same name."""

    definition: Definition


class DefinitionDeleted(Event, frozen=True, tag="definition_deleted"):
    """A definition was deleted from the store."""

    name: str
