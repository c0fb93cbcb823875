"""Refusals about in-doubt calls."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class IndoubtNotFound(NotFound, reason="indoubt_not_found"):
    """No in-doubt call has that id; indoubt.list shows the open ones."""


class IndoubtAlreadyResolved(Conflict, reason="indoubt_already_resolved"):
    """The in-doubt call was already resolved."""
