"""Refusals about routes."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, NotFound, Unavailable


class RouteNotFound(NotFound, reason="route_not_found"):
    """No route has that id; route.list shows all routes."""


class RouteNotReady(Unavailable, reason="route_not_ready"):
    """The route cannot be used now: its credential or part of its configuration is missing."""


class RouteForbidden(Forbidden, reason="route_forbidden"):
    """The session's credential scope does not include that route; name one that it includes."""
