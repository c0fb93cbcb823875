"""Refusals about permission rules and grants."""

from __future__ import annotations

from protocol.errors.refusal import NotFound


class GrantNotFound(NotFound, reason="grant_not_found"):
    """No grant has that id there; permission.list shows the grants."""
