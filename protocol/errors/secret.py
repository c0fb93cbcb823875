"""Refusals about secrets."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, LimitReached, NotFound, Unprocessable


class SecretNotFound(NotFound, reason="secret_not_found"):
    """No slot has that id; secret.list shows all slots."""


class SecretInUse(Conflict, reason="secret_in_use"):
    """The slot is in use; change what refers to it first."""


class SecretUnreadable(Conflict, reason="secret_unreadable"):
    """A slot cannot be read with the current master key; restore the key, or set 'replace_unreadable'."""


class SecretUnusable(Unprocessable, reason="secret_unusable"):
    """The value cannot be redacted, because the daemon's own data contains it."""


class SecretLimit(LimitReached, reason="secret_limit"):
    """The store has the maximum number of slots; delete some first."""

    retryable = False


class MasterKeyUnusable(Conflict, reason="master_key_unusable"):
    """The master key of the slots cannot be used; the message says why."""
