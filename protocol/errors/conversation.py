"""Refusals about conversations and senders."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, NotFound, Unprocessable


class SenderForbidden(Forbidden, reason="sender_forbidden"):
    """The caller's token does not cover this sender."""


class SenderInvalid(Unprocessable, reason="sender_invalid"):
    """A sender must be 1-128 bytes of printable UTF-8."""


class ConversationNotFound(NotFound, reason="conversation_not_found"):
    """This agent and sender have no conversation; send a message to start one."""
