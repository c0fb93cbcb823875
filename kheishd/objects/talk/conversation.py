"""Conversations: the pair (agent, sender) is the whole address; sending to it again resumes."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from kheishd.core.planning import unplanned
from kheishd.core.run.commands import Cancel
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.pages import not_a_mark, page_of
from kheishd.objects.talk.compaction import (
    Wanted,
    accept_compaction,
    compact_waits,
    follow_compaction,
    wanted,
)
from kheishd.objects.talk.history import history_of
from kheishd.objects.talk.run import request_stop, settled
from kheishd.objects.talk.send import (
    Sending,
    accept,
    find_definition,
    follow_send,
    make_ready,
    send_waits,
    valid_sender,
)
from kheishd.objects.talk.session import scope_of
from kheishd.objects.talk.steer import Said, made_ready
from kheishd.objects.talk.steer import steer as steered
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import CONVERSATIONS, RUNS, SESSIONS
from protocol.errors.conversation import ConversationNotFound
from protocol.errors.rpc import NotSupported
from protocol.errors.session import SessionBusy
from protocol.events.conversation import ConversationBound, ConversationUnbound
from protocol.events.session import SessionCreated
from protocol.ids import ID_PATTERN
from protocol.journal.line import decode_event
from protocol.objects import conversation as rows
from protocol.objects.conversation import (
    CancelResult,
    Conversation,
    ConversationCancel,
    ConversationCompact,
    ConversationHistoryParams,
    ConversationList,
    ConversationListParams,
    ConversationRef,
    ConversationReset,
    ConversationResetResult,
    ConversationSend,
    ConversationSteer,
)
from protocol.objects.run import ENDED, CompactResult, SendResult, SteerResult

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction
    from kheishd.store.records import Binding
    from protocol.objects.definition import Definition
    from protocol.objects.session import History, Session

_Address = tuple[str, str]


def find_binding(store: Snapshot, call: Call, agent: str | None, sender: str) -> tuple[str, Binding]:
    """The agent that is meant, and the session bound to it and the sender.

    Errors: AgentForbidden, SenderForbidden, SenderInvalid, ConversationNotFound.
    """
    agent = agent if agent is not None else call.runtime.config.default_agent
    valid_sender(sender)
    call.caller.need_agent(agent)
    call.caller.need_sender(sender)
    # What no agent can be called cannot be looked up either: a zero character ends a part of a key.
    named = re.fullmatch(ID_PATTERN, agent) is not None
    binding = store.get(CONVERSATIONS, agent, sender) if named else None
    if binding is None:
        raise ConversationNotFound(
            f"'{agent}' and '{sender}' have no conversation; 'kheishctl send' starts one"
        )
    return agent, binding


def _prepare(call: Call, params: ConversationSend) -> tuple[Sending, Definition]:
    if params.reply_targets:
        raise NotSupported("this version has no deliveries", field="$.params.reply_targets")
    definition = find_definition(call, params.agent)
    # An agent is no guest in its own conversation.
    guest = params.guest if params.guest != definition.name else None
    ready = make_ready(call, params, sender=params.sender, guest=guest, workspace=params.workspace)
    return ready, definition


@mutation(rows.SEND, prepare=_prepare, follow=follow_send, follows=send_waits)
def send(tx: Transaction, call: Call, plan: tuple[Sending, Definition]) -> SendResult:
    """Resolve the address, accept the input and its run: one transaction."""
    sending, definition = plan
    sender = sending.sender or rows.DEFAULT_SENDER
    fold = _bound(tx, call, sending, definition, sender)
    result = accept(tx, call, sending, fold, definition)
    fold.write()
    return result


def _bound(
    tx: Transaction, call: Call, sending: Sending, definition: Definition, sender: str
) -> SessionWriter:
    """The session the address means; a new one, bound to it, where it means none."""
    origin = origin_of(call, sender)
    binding = tx.get(CONVERSATIONS, definition.name, sender)
    session = tx.get(SESSIONS, binding.session_id) if binding is not None else None
    if session is not None and session.status == "open":
        return SessionWriter(tx, session.session_id, session=session, origin=origin)
    fold = SessionWriter(tx, sending.session_id, session=None, origin=origin)
    fold.append(SessionCreated(agent=definition.name, sender=sender, scope=scope_of(definition)))
    fold.append(ConversationBound(agent=definition.name, sender=sender))
    return fold


def _prepare_steer(call: Call, params: ConversationSteer) -> tuple[ConversationSteer, Said]:
    return params, made_ready(call, params, params.sender)


@mutation(rows.STEER, prepare=_prepare_steer)
def steer(tx: Transaction, call: Call, plan: tuple[ConversationSteer, Said]) -> SteerResult:
    """Say something to the run in flight."""
    params, said = plan
    _, binding = find_binding(tx, call, params.agent, params.sender)
    return steered(tx, call, tx.get(SESSIONS, binding.session_id), said)


@query(rows.GET)
def get(call: Call, params: ConversationRef) -> Conversation:
    """Show what session an address means."""
    with call.state.read() as store:
        agent, binding = find_binding(store, call, params.agent, params.sender)
        return _shown(store, agent, params.sender, binding)


def _shown(store: Snapshot, agent: str, sender: str, binding: Binding) -> Conversation:
    return Conversation(
        agent=agent,
        sender=sender,
        session_id=binding.session_id,
        bound_at_ms=binding.bound_at_ms,
        session=store.get(SESSIONS, binding.session_id),
    )


@query(rows.LIST)
def list_(call: Call, params: ConversationListParams) -> ConversationList:
    """List conversations by agent and sender, those the caller may read."""
    agents = _narrowed(call.caller.agents, params.agent)
    senders = _narrowed(call.caller.senders, params.sender)
    with call.state.read() as store:
        found = (
            (key, _shown(store, key[0], key[1], binding))
            for key, binding in _rows(store, agents, senders, _after(params))
        )
        chosen, following = page_of(found, params.limit, lambda shown: True, "/".join)
    return ConversationList(chosen, following)


def _narrowed(allowed: frozenset[str] | None, asked: str | None) -> list[str] | None:
    """The names to look for, in order; None: all there are."""
    if asked is None:
        return sorted(allowed) if allowed is not None else None
    return [asked] if allowed is None or asked in allowed else []


def _after(params: ConversationListParams) -> _Address | None:
    if params.after is None:
        return None
    # An agent is the name of a file; a sender may hold slashes.
    agent, slash, sender = params.after.partition("/")
    if not slash or not re.fullmatch(ID_PATTERN, agent) or not sender.isprintable():
        raise not_a_mark()
    return (agent, sender)


def _rows(
    store: Snapshot, agents: list[str] | None, senders: list[str] | None, after: _Address | None
) -> Iterator[tuple[_Address, Binding]]:
    """The conversations of some agents and senders, beyond ``after``, in order.

    Others are not even looked at: what a page examines is in its ``next``, and names are nobody's business.
    """
    for agent in agents if agents is not None else _agents(store):
        if re.fullmatch(ID_PATTERN, agent) is None or (after is not None and agent < after[0]):
            continue
        beyond = after if after is not None and agent == after[0] else None
        if senders is None:
            yield from store.scan(CONVERSATIONS, agent, after=beyond)
            continue
        for sender in senders:
            binding = store.get(CONVERSATIONS, agent, sender) if sender > (beyond or ("", ""))[1] else None
            if binding is not None:
                yield (agent, sender), binding


def _agents(store: Snapshot) -> Iterator[str]:
    """The agents that have conversations, each found without walking through those of the one before."""
    after = None
    while (row := next(store.scan(CONVERSATIONS, after=after), None)) is not None:
        yield row[0][0]
        # No sender is printable and sorts behind this.
        after = (row[0][0], chr(sys.maxunicode))


@query(rows.HISTORY)
def history(call: Call, params: ConversationHistoryParams) -> History:
    """Read a conversation's messages."""
    with call.state.read() as store:
        _, binding = find_binding(store, call, params.agent, params.sender)
        return history_of(store, binding.session_id, params.after, params.limit, params.order)


async def _until_stopped(call: Call, params: ConversationCancel, result: CancelResult) -> CancelResult:
    if result.run_id is None:
        return result
    run = await settled(call, result.session_id, result.run_id, None)
    stopped = run.status in ("cancelled", "interrupted")
    return CancelResult(stopped, result.session_id, result.run_id if stopped else None)


@mutation(rows.CANCEL, follow=_until_stopped, follows=lambda params: True)
def cancel(tx: Transaction, call: Call, params: ConversationCancel) -> CancelResult:
    """Stop the run in flight; the conversation stays."""
    _, binding = find_binding(tx, call, params.agent, params.sender)
    session = tx.get(SESSIONS, binding.session_id)
    if session is None or not session.open_runs:
        return CancelResult(cancelled=False, session_id=binding.session_id)
    run = tx.need(RUNS, session.open_runs[0])
    assert run.status not in ENDED
    request_stop(tx, call, run, Cancel("cancelled", params.note))
    return CancelResult(cancelled=True, session_id=run.session_id, run_id=run.run_id)


def _prepare_compact(call: Call, params: ConversationCompact) -> tuple[ConversationCompact, Wanted]:
    return params, wanted(call)


@mutation(rows.COMPACT, prepare=_prepare_compact, follow=follow_compaction, follows=compact_waits)
def compact(tx: Transaction, call: Call, plan: tuple[ConversationCompact, Wanted]) -> CompactResult:
    """Accept a run that sums the conversation up."""
    params, ids_of_it = plan
    _, binding = find_binding(tx, call, params.agent, params.sender)
    session = tx.need(SESSIONS, binding.session_id)
    return accept_compaction(tx, call, session, ids_of_it)


@mutation(rows.RESET)
def reset(tx: Transaction, call: Call, params: ConversationReset) -> ConversationResetResult:
    """Unbind the address: whoever may only converse may not shed what an operator set for its session.

    Errors: SessionBusy while runs are open, as their answers would go unseen; ScopeMissing.
    """
    agent, binding = find_binding(tx, call, params.agent, params.sender)
    session = tx.get(SESSIONS, binding.session_id)
    if session is not None and session.open_runs:
        raise SessionBusy(
            f"the conversation has {len(session.open_runs)} runs that have not ended; "
            "wait for them or cancel them"
        )
    if session is not None and session.status == "open" and _was_bounded(tx, session):
        call.caller.need("operate")
    fold = SessionWriter(tx, binding.session_id, session=session, origin=origin_of(call, params.sender))
    fold.append(ConversationUnbound(agent=agent, sender=params.sender))
    fold.write()
    return ConversationResetResult(agent=agent, sender=params.sender, session_id=binding.session_id)


_BOUNDS = ("scope", "permission_mode", "workspace", "input_contract", "output_contract")


def _was_bounded(tx: Transaction, session: Session) -> bool:
    """Whether somebody set bounds for a session since it began, which a new one would not have."""
    found = tx.entry(session.session_id, session.created_cursor)
    began = decode_event(found[1]) if found is not None else None
    if not isinstance(began, SessionCreated) or any(rule.decision != "allow" for rule in session.rules):
        return True
    now = unplanned(session)
    return any(getattr(now, name) != getattr(began, name) for name in _BOUNDS)


HANDLERS = (send, steer, list_, get, history, cancel, compact, reset)
