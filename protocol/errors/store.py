"""Refusals about the store."""

from __future__ import annotations

from protocol.errors.refusal import NotNow, TooLarge


class UpdateTooLarge(TooLarge, reason="update_too_large"):
    """The change is over what one transaction may write (256 KiB); split it."""


class StorageFull(NotNow, reason="storage_full"):
    """The disk is full; nothing was changed. Reading works; writing resumes when there is room."""

    number = 1507


class StorageFailed(NotNow, reason="storage_failed"):
    """The disk refused a write that could not be taken back; the daemon stops. Its log says more."""

    number = 1507
    retryable = False
