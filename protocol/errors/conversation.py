"""Refusals about conversations and senders."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, NotFound, Refused


class SenderForbidden(Forbidden, reason="sender_forbidden"):
    """The caller's token does not cover this sender."""


class SenderInvalid(Refused, reason="sender_invalid"):
    """A sender is 1-128 bytes of printable UTF-8."""


class ConversationNotFound(NotFound, reason="conversation_not_found"):
    """That agent and sender have no conversation; send something to start one."""
