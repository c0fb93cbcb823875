"""Events of routes in the store. They stand in the daemon's stream."""

from protocol.journal.envelope import Event
from protocol.objects.route import RouteSettings


class RouteStored(Event, frozen=True, tag="route_stored"):
    """A route was stored, or its settings were replaced. ``revision`` counts its changes from 1.

    ``rollback_of`` is the revision whose settings it has again.
    """

    route_id: str
    revision: int
    settings: RouteSettings
    rollback_of: int | None = None


class RouteDeleted(Event, frozen=True, tag="route_deleted"):
    """A route was deleted from the store, with all of its revisions."""

    route_id: str


class DefaultRouteChanged(Event, frozen=True, tag="default_route_changed"):
    """Another route is the default one; null: that of the configuration."""

    route_id: str | None
