"""Records of the routes in the store, and of the default route that a client has set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.records.projection import Projection
from kheishd.store.records import StoredDefaultRoute, StoredRoute
from kheishd.store.tables import DEFAULT_ROUTE, ROUTES
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.route import MAX_ROUTE_REVISIONS
from protocol.objects.route import RouteRevision

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(
    record: StoredRoute | None, envelope: Envelope, event: RouteStored | RouteDeleted
) -> StoredRoute | None:
    """Return the record after an event; None for a route that was deleted."""
    if isinstance(event, RouteDeleted):
        return None
    current = RouteRevision(
        revision=event.revision,
        settings=event.settings,
        updated_at_ms=envelope.at_ms,
        rollback_of=event.rollback_of,
    )
    return StoredRoute(
        route_id=event.route_id,
        current=current,
        former=[] if record is None else [record.current, *record.former][:MAX_ROUTE_REVISIONS],
        created_cursor=envelope.cursor if record is None else record.created_cursor,
        updated_cursor=envelope.cursor,
    )


ROUTE_RECORDS: Final = Projection(
    kind="route",
    table=ROUTES,
    begins=RouteStored,
    events=(RouteStored, RouteDeleted),
    key=lambda envelope, event: (event.route_id,),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)


def evolve_default(
    record: StoredDefaultRoute | None, envelope: Envelope, event: DefaultRouteChanged
) -> StoredDefaultRoute:
    """Return the default route after a change."""
    return StoredDefaultRoute(route_id=event.route_id, updated_cursor=envelope.cursor)


DEFAULT_ROUTE_RECORDS: Final = Projection(
    kind="default route",
    table=DEFAULT_ROUTE,
    begins=DefaultRouteChanged,
    events=(DefaultRouteChanged,),
    key=lambda envelope, event: (DAEMON_STREAM,),
    evolve=evolve_default,
    source=lambda store, key, record: (DAEMON_STREAM, record.updated_cursor),
    stream=DAEMON_STREAM,
    bounded=True,
)
