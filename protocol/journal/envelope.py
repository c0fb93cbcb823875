"""The envelope and the base class of every journal event."""

from msgspec import Struct

from protocol.ids import Cursor


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields that every event has.

    ``actor`` is the cause: ``daemon``, ``uid:<n>`` or ``token:<id>``. ``on_behalf_of`` is the sender for whom
    the actor acted. ``request_id`` is the JSON-RPC id of the request. ``cause`` is the cursor of the event
    that led to this one.
    """

    cursor: Cursor
    at_ms: int
    session_id: str | None = None
    run_id: str | None = None
    actor: str = "daemon"
    on_behalf_of: str | None = None
    request_id: str | int | None = None
    cause: Cursor | None = None


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """The base class of every event."""


BUS_STREAM = "bus/events"
"""The stream of the event bus: its events, their deliveries, and the changes of triggers."""

DAEMON_STREAM = "daemon"
"""The stream of events that belong to no session. No session may have this id."""
