"""Refusals about routes."""

from __future__ import annotations

from protocol.errors.refusal import NotFound, NotNow


class RouteNotFound(NotFound, reason="route_not_found"):
    """No route has that id; 'kheishctl route list' shows those there are."""


class RouteNotReady(NotNow, reason="route_not_ready"):
    """The route cannot be used now; its credential is missing or it is not configured whole."""
