"""What a session may do at most now: its own boundary, within those of all the sessions above it.

A child is checked when it is made and again whenever it is used, so that narrowing a parent narrows what
was made under it, and no chain of sessions yields a right that its root lacks. No mode is wider than what
the configuration lets be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheishd.core.session import narrowest, narrowest_mode, wider
from kheishd.store.tables import SESSIONS
from protocol.errors.token import ScopeWouldWiden

if TYPE_CHECKING:
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode
    from protocol.objects.session import CapabilityScope, Session


@dataclass(frozen=True, slots=True)
class Bounds:
    """A scope, a permission mode, and how many sessions are above: 0 for one that is nobody's child."""

    scope: CapabilityScope
    mode: PermissionMode
    depth: int = 0


def bounds_of(
    store: Snapshot, runtime: Runtime, session: Session, speaker: Definition | None = None
) -> Bounds:
    """The boundary in force in a session, for its own agent or for another one who speaks in it.

    Source: the records of the session and of those above it, MAX_SESSION_DEPTH at most.
    """
    mode = narrowest_mode(mode_of(runtime, session, speaker), runtime.max_mode)
    bounds = Bounds(session.scope, mode)
    for parent in above(store, session):
        bounds = Bounds(
            narrowest(bounds.scope, parent.scope),
            narrowest_mode(bounds.mode, mode_of(runtime, parent)),
            bounds.depth + 1,
        )
    return bounds


def above(store: Snapshot, session: Session) -> list[Session]:
    """The sessions above one, the nearest first."""
    found: list[Session] = []
    parent_id = session.parent_session_id
    while parent_id is not None:
        parent = store.need(SESSIONS, parent_id)
        found.append(parent)
        parent_id = parent.parent_session_id
    return found


def mode_of(runtime: Runtime, session: Session, speaker: Definition | None = None) -> PermissionMode:
    """The session's own mode, else its agent's, else the daemon's."""
    return session.permission_mode or usual_mode(runtime, speaker or runtime.definitions.get(session.agent))


def usual_mode(runtime: Runtime, definition: Definition | None) -> PermissionMode:
    """The mode of an agent's sessions that have none of their own."""
    by_agent = definition.permission_mode if definition is not None else None
    return by_agent or runtime.permission_mode


def may_have(call: Call, mode: PermissionMode | None, *others: PermissionMode) -> None:
    """See that the caller may give a session that is nobody's child a mode. ``others`` it has anyhow.

    A mode that is wider than those approves in advance what a person would be asked, so it takes the right
    to approve.

    Errors: ScopeWouldWiden beyond what the configuration lets be; ScopeMissing.
    """
    if mode is None:
        return
    if wider(mode, call.runtime.max_mode):
        raise ScopeWouldWiden(
            f"the permission mode '{mode}' is wider than the configuration lets be: "
            f"permissions.max_mode is '{call.runtime.max_mode}'",
            field="$.params.permission_mode",
        )
    if all(wider(mode, other) for other in others):
        call.caller.need("approve")
