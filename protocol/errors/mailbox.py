"""Refusals about mailboxes."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, LimitReached, NotFound


class MailNotFound(NotFound, reason="mail_not_found"):
    """The mailbox has no message of that id; mailbox.list shows its messages."""


class MailConflict(Conflict, reason="mail_conflict"):
    """The mailbox has another message of that id; choose a new id for another message."""


class MailboxFull(LimitReached, reason="mailbox_full"):
    """The mailbox has the maximum number of pending messages; wait until its agent has read some."""
