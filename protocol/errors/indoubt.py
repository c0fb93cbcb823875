"""Refusals about in-doubt calls."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class IndoubtNotFound(NotFound, reason="indoubt_not_found"):
    """No call in doubt has that id; 'kheishctl indoubt list' shows those that are open."""


class IndoubtAlreadyResolved(Conflict, reason="indoubt_already_resolved"):
    """Somebody has settled it already."""
