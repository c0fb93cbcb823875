"""Conversations: an agent and a sender address a session. A message to the same pair resumes it.

The methods that a conversation shares with its session are in send, steer, stop, compaction and history.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from kheishd.core.session import leave_plan_mode
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import not_a_token, page_of
from kheishd.objects.talk.address import find_binding, find_session, require_valid_sender
from kheishd.objects.talk.persona import is_same_snapshot
from kheishd.objects.talk.workspace import find_workspace_of
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import CONVERSATIONS, GOALS, SESSIONS
from protocol.errors.session import SessionAlreadyEnded, SessionBusy, SessionNotFound
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.goal import GoalUpdated
from protocol.events.session import SessionCreated
from protocol.ids import ID_PATTERN
from protocol.journal.line import decode_event
from protocol.objects import conversation as rows
from protocol.objects.conversation import (
    Conversation,
    ConversationList,
    ConversationListParams,
    ConversationRef,
    ConversationReset,
    ConversationResetResult,
    ConversationResume,
)
from protocol.objects.goal import GOAL_OPEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.records import Binding
    from protocol.objects.session import Session

_Address = tuple[str, str]


@query(rows.GET)
def get(call: Call, params: ConversationRef) -> Conversation:
    """Return the session that an address is bound to."""
    with call.state.read() as store:
        agent, binding = find_binding(store, call, params.agent, params.sender)
        return _view(store, call.runtime, agent, params.sender, binding)


def _view(store: Snapshot, runtime: Runtime, agent: str, sender: str, binding: Binding) -> Conversation:
    session = store.need(SESSIONS, binding.session_id)
    return Conversation(
        agent=agent,
        sender=sender,
        session_id=binding.session_id,
        bound_at_ms=binding.bound_at_ms,
        session=session,
        workspace=find_workspace_of(store, runtime, session),
    )


@query(rows.LIST)
def list_(call: Call, params: ConversationListParams) -> ConversationList:
    """List the conversations that the caller may read, by agent and sender."""
    agents = _filter_names(call.caller.agents, params.agent)
    senders = _filter_names(call.caller.senders, params.sender)
    last = None
    if params.after is not None:
        # An agent is the name of a file; a sender may hold slashes.
        agent, slash, sender = params.after.partition("/")
        if not slash or not re.fullmatch(ID_PATTERN, agent) or not sender.isprintable():
            raise not_a_token()
        last = (agent, sender)
    with call.state.read() as store:
        bindings = _scan(store, agents, senders, last)
        rows = ((address, _view(store, call.runtime, *address, binding)) for address, binding in bindings)
        conversations, following = page_of(rows, params.limit, lambda conversation: True, "/".join)
    return ConversationList(conversations, following)


def _filter_names(allowed: frozenset[str] | None, requested: str | None) -> list[str] | None:
    """Return the names to look up, in order; None for every name."""
    if requested is None:
        return sorted(allowed) if allowed is not None else None
    return [requested] if allowed is None or requested in allowed else []


def _scan(
    store: Snapshot, agents: list[str] | None, senders: list[str] | None, last: _Address | None
) -> Iterator[tuple[_Address, Binding]]:
    """Yield the conversations of some agents and senders after an address, in order.

    Other conversations are not even examined: the page token names the last one examined, and the caller
    may not learn its name.
    """
    for agent in agents if agents is not None else _scan_agents(store):
        if re.fullmatch(ID_PATTERN, agent) is None or (last is not None and agent < last[0]):
            continue
        start = last if last is not None and agent == last[0] else None
        if senders is None:
            yield from store.scan(CONVERSATIONS, agent, after=start)
            continue
        for sender in senders:
            binding = store.get(CONVERSATIONS, agent, sender) if sender > (start or ("", ""))[1] else None
            if binding is not None:
                yield (agent, sender), binding


def _scan_agents(store: Snapshot) -> Iterator[str]:
    """Yield the agents that have conversations, skipping from each to the next."""
    last = None
    while (row := next(store.scan(CONVERSATIONS, after=last), None)) is not None:
        yield row[0][0]
        # No sender is printable and sorts after this character.
        last = (row[0][0], chr(sys.maxunicode))


@mutation(rows.RESET)
def reset(tx: Transaction, call: Call, params: ConversationReset) -> ConversationResetResult:
    """Unbind an address. A caller without ``operate`` may not shed the bounds that an operator set.

    Errors: SessionBusy while runs are open, as their answers would go unseen; ScopeMissing.
    """
    agent, binding = find_binding(tx, call, params.agent, params.sender)
    _unbind(tx, call, agent, params.sender, binding)
    return ConversationResetResult(agent=agent, sender=params.sender, session_id=binding.session_id)


@mutation(rows.RESUME)
def resume(tx: Transaction, call: Call, params: ConversationResume) -> Conversation:
    """Bind an address to an existing session of the same agent and sender.

    Errors: AgentForbidden, SenderForbidden, SenderInvalid, SessionNotFound, SessionAlreadyEnded, SessionBusy
    and ScopeMissing as for ``conversation.reset``.
    """
    agent = params.agent if params.agent is not None else call.runtime.config.default_agent
    require_valid_sender(params.sender)
    call.caller.require_agent(agent)
    call.caller.require_sender(params.sender)
    session = find_session(tx, call, params.session_id)
    if (session.agent, session.sender, session.parent_session_id) != (agent, params.sender, None):
        raise SessionNotFound(
            f"'{agent}' and '{params.sender}' have no session '{params.session_id}'",
            field="$.params.session_id",
        )
    if session.status == "ended":
        raise SessionAlreadyEnded(
            f"{session.session_id} was ended and takes no more input; a fork of it does",
            field="$.params.session_id",
        )
    binding = tx.get(CONVERSATIONS, agent, params.sender)
    if binding is None or binding.session_id != session.session_id:
        if binding is not None:
            _unbind(tx, call, agent, params.sender, binding, moved=True)
        writer = SessionWriter(tx, session.session_id, session=session, origin=origin_of(call, params.sender))
        writer.append(ConversationBound(agent=agent, sender=params.sender))
        writer.write()
        binding = tx.need(CONVERSATIONS, agent, params.sender)
    return _view(tx, call.runtime, agent, params.sender, binding)


def _unbind(
    tx: Transaction, call: Call, agent: str, sender: str, binding: Binding, *, moved: bool = False
) -> None:
    """Unbind an address from its session, and pause the goal of that. Errors: SessionBusy, ScopeMissing."""
    session = tx.need(SESSIONS, binding.session_id)
    if session.open_runs:
        raise SessionBusy(
            f"the conversation has {len(session.open_runs)} runs that have not ended; "
            "wait for them or cancel them"
        )
    if session.status == "open" and _has_new_bounds(tx, session):
        call.caller.require_scope("operate")
    writer = SessionWriter(tx, binding.session_id, session=session, origin=origin_of(call, sender))
    writer.append(ConversationUnbound(agent=agent, sender=sender, moved=moved))
    goal = tx.get(GOALS, session.session_id) if session.goal_id is not None else None
    if goal is not None and goal.status in GOAL_OPEN:
        # Otherwise the daemon would go on in a session that the person has left.
        note = (
            "the conversation continues in another session" if moved else "the conversation was started over"
        )
        writer.append(GoalUpdated(goal_id=goal.goal_id, status="paused", note=note))
    writer.write()


# Not the workspace: each message may name another one.
_BOUNDS = (
    *("scope", "credential_scope", "profile", "blocked_tools"),
    *("permission_mode", "input_contract", "output_contract"),
)


def _has_new_bounds(tx: Transaction, session: Session) -> bool:
    """Whether a session has bounds that were set after its creation, which a new session would lack."""
    entry = tx.entry(session.session_id, session.created_cursor)
    created = decode_event(entry[1]) if entry is not None else None
    if not isinstance(created, SessionCreated) or any(rule.decision != "allow" for rule in session.rules):
        return True
    # The mode that counts is the one outside of plan mode.
    current = leave_plan_mode(session)
    if not is_same_snapshot(current.persona, created.persona):
        return True
    return any(getattr(current, name) != getattr(created, name) for name in _BOUNDS)


HANDLERS = (get, list_, reset, resume)
