"""Refusals about routes."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Forbidden, LimitReached, NotFound, Unavailable, Unprocessable


class RouteNotFound(NotFound, reason="route_not_found"):
    """No route has that id; route.list shows all routes."""


class RouteNotReady(Unavailable, reason="route_not_ready"):
    """The route cannot be used now: its credential or part of its configuration is missing."""


class RouteForbidden(Forbidden, reason="route_forbidden"):
    """The session's credential scope does not include that route; name one that it includes."""


class RouteDefinedInFile(Conflict, reason="route_defined_in_file"):
    """The route is in the configuration file or built in; edit the file and reload, or choose another id."""


class RouteInvalid(Unprocessable, reason="route_invalid"):
    """The settings of the route are invalid; the message names every problem."""


class RouteLimit(LimitReached, reason="route_limit"):
    """The store has the maximum number of routes; delete some, or use the configuration file."""

    retryable = False


class RouteInUse(Conflict, reason="route_in_use"):
    """The route is named elsewhere; the message says where."""


class RouteRevisionConflict(Conflict, reason="route_revision_conflict"):
    """Somebody else has changed the route; read it again, and repeat the change."""


class RouteRevisionNotFound(NotFound, reason="route_revision_not_found"):
    """The route has no such revision; route.get lists those that are kept."""
