"""Refusals about subscriptions and pruned history."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound


class SubscriptionNotFound(NotFound, reason="subscription_not_found"):
    """This connection has no subscription of that id."""


class SubscriptionExists(Conflict, reason="subscription_exists"):
    """This connection has a subscription of that id already; choose another."""


class CursorPruned(Gone, reason="cursor_pruned"):
    """The history before that cursor was pruned; read from the first cursor that is kept."""
