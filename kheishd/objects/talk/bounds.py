"""The bounds of a session: its own scope and mode, narrowed by those of every session above it.

A child is checked when it is created and again whenever it is used. So narrowing a parent narrows its
children, and no chain of sessions yields a right that its root lacks. No mode is wider than
``permissions.max_mode`` in the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.session import intersect_scopes, is_wider, narrower_mode
from kheishd.store.tables import SESSIONS
from protocol.errors.token import ScopeWouldWiden
from protocol.structs import Value

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode
    from protocol.objects.session import CapabilityScope, Session


class Bounds(Value, frozen=True):
    """A scope, a permission mode, and the number of sessions above: 0 for a root."""

    scope: CapabilityScope
    mode: PermissionMode
    depth: int = 0


def bounds_of(
    store: Snapshot, runtime: Runtime, session: Session, speaker: Definition | None = None
) -> Bounds:
    """Return the bounds in force in a session, for its own agent or for a guest that speaks in it.

    Source: the records of the session and of those above it, at most MAX_SESSION_DEPTH.
    """
    mode = narrower_mode(mode_of(runtime, session, speaker), runtime.config.permissions.max_mode)
    bounds = Bounds(session.scope, mode)
    for parent in ancestors(store, session):
        bounds = Bounds(
            intersect_scopes(bounds.scope, parent.scope),
            narrower_mode(bounds.mode, mode_of(runtime, parent)),
            bounds.depth + 1,
        )
    return bounds


def ancestors(store: Snapshot, session: Session) -> list[Session]:
    """Return the sessions above a session, its parent first."""
    sessions: list[Session] = []
    parent_id = session.parent_session_id
    while parent_id is not None:
        sessions.append(store.need(SESSIONS, parent_id))
        parent_id = sessions[-1].parent_session_id
    return sessions


def mode_of(runtime: Runtime, session: Session, speaker: Definition | None = None) -> PermissionMode:
    """Return the session's own mode, else its agent's, else the daemon's."""
    return session.permission_mode or default_mode(runtime, speaker or runtime.definitions.get(session.agent))


def default_mode(runtime: Runtime, definition: Definition | None) -> PermissionMode:
    """Return the mode of an agent's sessions that have none of their own."""
    agent_mode = definition.permission_mode if definition is not None else None
    return agent_mode or runtime.config.permissions.mode


def require_mode(call: Call, mode: PermissionMode | None, *current: PermissionMode) -> None:
    """Reject a mode that the caller may not give to a root session.

    A mode wider than each of the ``current`` ones approves in advance what a person would be asked, so it
    requires the right to approve.

    Errors: ScopeWouldWiden beyond ``permissions.max_mode``; ScopeMissing.
    """
    if mode is None:
        return
    max_mode = call.runtime.config.permissions.max_mode
    if is_wider(mode, max_mode):
        raise ScopeWouldWiden(
            f"the permission mode '{mode}' is wider than permissions.max_mode, which is '{max_mode}'",
            field="$.params.permission_mode",
        )
    if all(is_wider(mode, narrower) for narrower in current):
        call.caller.require_scope("approve")
