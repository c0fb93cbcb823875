"""Refusals about the store."""

from __future__ import annotations

from protocol.errors.refusal import TooLarge, Unavailable


class UpdateTooLarge(TooLarge, reason="update_too_large"):
    """The change exceeds the limit of one transaction (256 KiB); split it."""


class StorageFull(Unavailable, reason="storage_full"):
    """The disk is full; nothing was changed. Reads work; writes resume when there is space."""

    code = 1507


class StorageFailed(Unavailable, reason="storage_failed"):
    """The disk failed a write that could not be rolled back; the daemon stops. See its log."""

    code = 1507
    retryable = False


class StoreDamaged(StorageFailed, reason="store_damaged"):
    """The store is damaged, and nothing is written any more. Reads go on."""
