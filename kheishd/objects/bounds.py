"""What a session may do at most now: its own boundary, within those of all the sessions above it.

A child is checked when it is made and again whenever it is used, so that narrowing a parent narrows what
was made under it, and no chain of sessions yields a right that its root lacks.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheishd.core.session import narrowest, narrowest_mode
from kheishd.store.tables import SESSIONS
from protocol.objects.definition import Definition
from protocol.objects.permission import PermissionMode
from protocol.objects.session import CapabilityScope, Session

if TYPE_CHECKING:
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot


@dataclass(frozen=True, slots=True)
class Bounds:
    """A scope, a permission mode, and how many sessions are above: 0 for one that is nobody's child."""

    scope: CapabilityScope
    mode: PermissionMode
    depth: int = 0


def bounds_of(
    store: "Snapshot", runtime: "Runtime", session: Session, speaker: Definition | None = None
) -> Bounds:
    """The boundary in force in a session, for its own agent or for another one who speaks in it.

    Source: the records of the session and of those above it, SESSION_DEPTH_MAX at most.
    """
    bounds = Bounds(session.scope, _mode(runtime, session, speaker))
    parent_id = session.parent_session_id
    while parent_id is not None:
        parent = store.get(SESSIONS, parent_id)
        assert parent is not None, "a session's record is never deleted"
        bounds = Bounds(
            narrowest(bounds.scope, parent.scope),
            narrowest_mode(bounds.mode, _mode(runtime, parent)),
            bounds.depth + 1,
        )
        parent_id = parent.parent_session_id
    return bounds


def _mode(runtime: "Runtime", session: Session, speaker: Definition | None = None) -> PermissionMode:
    """The session's own mode, else its agent's, else the daemon's."""
    definition = speaker or runtime.definitions.get(session.agent)
    by_agent = definition.permission_mode if definition is not None else None
    return session.permission_mode or by_agent or runtime.permission_mode
