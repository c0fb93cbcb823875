"""Refusals about lifecycle hooks."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound


class HookNotFound(NotFound, reason="hook_not_found"):
    """No hook of the operator has that name; hook.list names them."""


class DeadLetterNotFound(NotFound, reason="dead_letter_not_found"):
    """No failure of a hook has that id; hook.dead_letters lists them. Only the newest ones are kept."""


class DeadLetterAlreadyResolved(Conflict, reason="dead_letter_already_resolved"):
    """That failure of a hook is resolved already."""
