"""Refusals about lifecycle hooks."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, NotFound, Unprocessable


class HookNotFound(NotFound, reason="hook_not_found"):
    """No hook of the operator has that name; hook.list names them."""


class WorkspaceHooksUnusable(Unprocessable, reason="workspace_hooks_unusable"):
    """The hooks of that workspace take no effect: no trusted root contains it, or its file is invalid."""


class DeadLetterNotFound(NotFound, reason="dead_letter_not_found"):
    """No failure of a hook has that id; hook.dead_letters lists them. Only the newest ones are kept."""


class DeadLetterAlreadyResolved(Conflict, reason="dead_letter_already_resolved"):
    """That failure of a hook is resolved already."""
