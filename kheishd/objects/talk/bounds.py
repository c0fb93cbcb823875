"""The bounds of a session: the one place where everything that limits it meets.

These are its agent's definition, its persona, its own scopes, its profile, its active skills, and the same of
every session above it. A child is checked when it is created and again whenever it is used. So narrowing a
parent narrows its children, and no chain of sessions yields a right that its root lacks. No mode is wider
than ``permissions.max_mode`` in the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kheishd.core.profiles import PROFILES
from kheishd.core.scope import EVERYTHING, Bounds, Link, bound_by, is_wider, narrower_mode
from kheishd.core.skill import allowed_names, limiting_skills
from kheishd.store.tables import AGENTS, CHILDREN, SESSIONS
from protocol.errors.agent import AgentAlreadyClosed
from protocol.errors.session import SessionAlreadyEnded
from protocol.errors.token import ScopeWouldWiden
from protocol.objects.session import CapabilityScope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from protocol.objects.definition import Definition
    from protocol.objects.permission import PermissionMode
    from protocol.objects.session import Session


def bounds_of(
    store: Snapshot, runtime: Runtime, session: Session, speaker: Definition | None = None
) -> Bounds:
    """Return the bounds in force in a session, for its own agent or for a guest that speaks in it.

    Source: the records of the session and of those above it, at most MAX_SESSION_DEPTH.
    """
    mode = narrower_mode(mode_of(runtime, session, speaker), runtime.config.permissions.max_mode)
    links = _links_of(runtime, session, speaker)
    parents = ancestors(store, session)
    for parent in parents:
        links += _links_of(runtime, parent)
        mode = narrower_mode(mode, mode_of(runtime, parent))
    return bound_by(tuple(links), mode, len(parents))


def _links_of(runtime: Runtime, session: Session, speaker: Definition | None = None) -> list[Link]:
    """Return the causes that limit a session, without those of the sessions above it."""
    session_id = session.session_id
    links = []
    definition = speaker or runtime.definitions.get(session.agent)
    scope = scope_of(definition) if definition is not None else CapabilityScope()
    blocked = blocked_by_memory(definition) if definition is not None else ()
    if definition is not None and (blocked or scope not in EVERYTHING):
        links.append(
            Link(scope, blocked=blocked, kind="definition", name=definition.name, session_id=session_id)
        )
    persona = session.persona
    if persona is not None:
        links.append(Link(persona.scope, kind="persona", name=persona.persona_id, session_id=session_id))
    links.append(
        Link(
            session.scope,
            session.credential_scope,
            tuple(session.blocked_tools),
            kind="session",
            name=session_id,
            session_id=session_id,
        )
    )
    if session.profile is not None:
        profile = PROFILES.get(session.profile)
        # A profile that this version does not know has no tools.
        tools, blocked = (list(profile.tools), profile.denied) if profile is not None else ([], ())
        scope = CapabilityScope(tools=tools)
        links.append(
            Link(scope, blocked=blocked, kind="profile", name=session.profile, session_id=session_id)
        )
    for skill in limiting_skills(session):
        scope = CapabilityScope(tools=allowed_names(skill))
        blocked = tuple(tool.tool for tool in skill.blocked_tools if tool.subject is None)
        links.append(Link(scope, blocked=blocked, kind="skill", name=skill.name, session_id=session_id))
    return links


def scope_of(definition: Definition) -> CapabilityScope:
    """Return the scope that an agent's definition gives its sessions."""
    return CapabilityScope(
        tools=definition.tools,
        skills=definition.skills,
        mcp=definition.mcp,
        members=definition.members,
    )


def blocked_by_memory(definition: Definition) -> tuple[str, ...]:
    """Return the tools for notes that a definition excludes by the agents whose notes it names."""
    if definition.memory is None or definition.name in definition.memory:
        return ()
    return ("remember", "forget") if definition.memory else ("remember", "forget", "recall")


def ancestors(store: Snapshot, session: Session) -> list[Session]:
    """Return the sessions above a session, its parent first."""
    sessions: list[Session] = []
    parent_id = session.parent_session_id
    while parent_id is not None:
        sessions.append(store.need(SESSIONS, parent_id))
        parent_id = sessions[-1].parent_session_id
    return sessions


def open_children(store: Snapshot, session: Session) -> Iterator[Session]:
    """Yield the children of a session that have not ended."""
    for key, _ in store.scan(CHILDREN, session.session_id):
        child = store.need(SESSIONS, key[1])
        if child.status == "open":
            yield child


def has_work_below(store: Snapshot, session: Session) -> bool:
    """Whether a session below another one has an open run, or a spawned agent that is not closed."""
    return any(
        child.open_runs or store.get(AGENTS, child.session_id) is not None or has_work_below(store, child)
        for child in open_children(store, session)
    )


def find_closed(store: Snapshot, session: Session) -> SessionAlreadyEnded | AgentAlreadyClosed | None:
    """Return why a session takes no work: it, or one above it, has ended or is being closed. None if none."""
    for current in (session, *ancestors(store, session)):
        if current.status == "ended":
            return SessionAlreadyEnded(f"the session {current.session_id} was ended")
        agent = store.get(AGENTS, current.session_id) if current.parent_session_id is not None else None
        if agent is not None and agent.state != "open":
            note = f": {agent.close_note}" if agent.close_note else ""
            return AgentAlreadyClosed(f"the agent {agent.path} is {agent.state}{note}")
    return None


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
