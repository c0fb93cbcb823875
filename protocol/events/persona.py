"""Events of personas, in the daemon's stream; a session's binding, in the session's stream."""

from protocol.journal.envelope import Event
from protocol.objects.persona import PersonaProperties
from protocol.objects.session import PersonaBinding


class PersonaCreated(PersonaProperties, Event, frozen=True, tag="persona_created"):
    """A persona was created, as version 1."""

    persona_id: str


class PersonaUpdated(PersonaProperties, Event, frozen=True, tag="persona_updated"):
    """A persona has a new version, with these properties."""

    persona_id: str


class PersonaDeleted(Event, frozen=True, tag="persona_deleted"):
    """A persona was deleted. Sessions keep the snapshots that are bound to them."""

    persona_id: str


class PersonaBound(Event, frozen=True, tag="persona_bound"):
    """A snapshot of a persona was bound to the session; null: the session has no persona any more."""

    binding: PersonaBinding | None
