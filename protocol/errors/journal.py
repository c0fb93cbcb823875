"""Refusals about subscriptions and pruned history."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound


class SubscriptionNotFound(NotFound, reason="subscription_not_found"):
    """This connection has no subscription with that id."""


class SubscriptionExists(Conflict, reason="subscription_exists"):
    """This connection already has a subscription with that id; choose another."""


class CursorUnknown(Gone, reason="cursor_unknown"):
    """That cursor is not of this store's history, but perhaps of the one before a backup was restored."""


class CursorPruned(Gone, reason="cursor_pruned"):
    """The history before that cursor was pruned; read from the first available cursor."""
