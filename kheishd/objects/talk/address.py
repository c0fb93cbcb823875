"""Resolution of the names in a request: agents, senders, routes, sessions, conversations and runs.

Every lookup applies the caller's token. A session or run that the token does not cover is refused in the
same words as one that does not exist.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kheishd.store.tables import CONVERSATIONS, RUNS, SESSIONS
from protocol.errors.conversation import ConversationNotFound, SenderInvalid
from protocol.errors.definition import AgentNotFound
from protocol.errors.route import RouteNotFound
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.ids import ID_PATTERN
from protocol.limits.names import MAX_SENDER_BYTES
from protocol.objects.conversation import (
    ConversationCancel,
    ConversationCompact,
    ConversationHistoryParams,
    ConversationSteer,
)

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.call import Call
    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.store.environment import Snapshot
    from kheishd.store.records import Binding
    from protocol.objects.definition import Definition
    from protocol.objects.session import (
        Session,
        SessionCompact,
        SessionHistoryParams,
        SessionInterrupt,
        SessionSteer,
    )

    Addressed = (
        ConversationCancel
        | ConversationCompact
        | ConversationHistoryParams
        | ConversationSteer
        | SessionCompact
        | SessionHistoryParams
        | SessionInterrupt
        | SessionSteer
    )
    """Params that address a session: by its id, or by the agent and sender of a conversation."""

_CONVERSATIONS = (ConversationCancel, ConversationCompact, ConversationHistoryParams, ConversationSteer)


def find_addressed(store: Snapshot, call: Call, params: Addressed) -> Session:
    """Return the session that params address.

    Errors: SessionNotFound; for a conversation AgentForbidden, SenderForbidden, SenderInvalid,
    ConversationNotFound.
    """
    if isinstance(params, _CONVERSATIONS):
        _, binding = find_binding(store, call, params.agent, params.sender)
        return store.need(SESSIONS, binding.session_id)
    return find_session(store, call, params.session_id)


def find_session(store: Snapshot, call: Call, session_id: str, field: str = "$.params.session_id") -> Session:
    """Return a session that the caller may read. Errors: SessionNotFound."""
    session = store.get(SESSIONS, session_id)
    if session is None or not call.caller.may_read(session.agent, session.sender):
        raise SessionNotFound(f"there is no session '{session_id}'", field=field)
    return session


def find_run(store: Snapshot, call: Call, run_id: str, field: str = "$.params.run_id") -> RunRecord:
    """Return a run that the caller may read. Errors: RunNotFound."""
    run = store.get(RUNS, run_id)
    if run is None or not may_read_run(store, call, run):
        raise RunNotFound(f"there is no run '{run_id}'", field=field)
    return run


def may_read_run(store: Snapshot, call: Call, run: RunRecord) -> bool:
    """Whether the caller may read a run: its token covers the run's agent and sender and the session's."""
    caller = call.caller
    if caller.is_unrestricted:
        return True
    session = store.get(SESSIONS, run.session_id)
    return (
        session is not None
        and caller.may_read(run.agent, run.sender)
        and caller.may_read(session.agent, session.sender)
    )


def find_binding(store: Snapshot, call: Call, agent: str | None, sender: str) -> tuple[str, Binding]:
    """Return the agent, by default the configured one, and the session bound to it and the sender.

    Errors: AgentForbidden, SenderForbidden, SenderInvalid, ConversationNotFound.
    """
    agent = agent if agent is not None else call.runtime.config.default_agent
    require_valid_sender(sender)
    call.caller.require_agent(agent)
    call.caller.require_sender(sender)
    # The store cannot look up a name that no agent can have: a zero byte separates the parts of a key.
    possible = re.fullmatch(ID_PATTERN, agent) is not None
    binding = store.get(CONVERSATIONS, agent, sender) if possible else None
    if binding is None and agent not in call.runtime.definitions:
        raise ConversationNotFound(f"there is no agent '{agent}'; definition.list names the agents")
    if binding is None:
        raise ConversationNotFound(f"'{agent}' and '{sender}' have no conversation; send something first")
    return agent, binding


def require_valid_sender(sender: str, field: str = "$.params.sender") -> None:
    """Reject a sender that is not 1-128 bytes of printable text. Errors: SenderInvalid."""
    if not 1 <= len(sender.encode()) <= MAX_SENDER_BYTES or not sender.isprintable():
        raise SenderInvalid(field=field)


def find_definition(call: Call, name: str | None, field: str = "$.params.agent") -> Definition:
    """Return the agent of this name, by default the configured one. Errors: AgentForbidden, AgentNotFound."""
    name = name if name is not None else call.runtime.config.default_agent
    call.caller.require_agent(name, field)
    definition = call.runtime.definitions.get(name)
    if definition is None:
        readable = filter(call.caller.may_read_agent, call.runtime.definitions)
        names = ", ".join(sorted(readable)[:8]) or "none"
        raise AgentNotFound(f"there is no agent '{name}'; the agents are: {names}", field=field)
    return definition


def definition_of(runtime: Runtime, session: Session) -> Definition:
    """Return the agent of a session. Errors: AgentNotFound if it is no longer defined."""
    definition = runtime.definitions.get(session.agent)
    if definition is None:
        raise AgentNotFound(f"the session's agent '{session.agent}' is no longer defined")
    return definition


def find_route(runtime: Runtime, requested: str | None, *defaults: str | None) -> RouteSpec:
    """Return the requested route, else the first default, else the configured one. Errors: RouteNotFound."""
    name = next((name for name in (requested, *defaults) if name is not None), runtime.default_route)
    route = runtime.routes.get(name)
    if route is None:
        names = ", ".join(sorted(runtime.routes))
        field = "$.params.route" if requested is not None else None
        raise RouteNotFound(f"there is no route '{name}'; the routes are: {names}", field=field)
    return route
