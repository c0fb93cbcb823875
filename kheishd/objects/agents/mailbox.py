"""Mailboxes of agents: post, list, show and remove messages."""

from __future__ import annotations

import heapq
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from kheishd.core import mailbox as rules
from kheishd.kernel.call import Call, mutation, origin_of, query
from kheishd.objects.agents.mail import RESERVED_IDS, payload_of, post
from kheishd.objects.agents.tree import find_agent
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.storable import require_storable
from kheishd.records.mailbox import mail_key
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import MAIL, MAIL_BY_STATE, QUESTIONS
from protocol import ids
from protocol.errors.mailbox import MailNotFound
from protocol.errors.rpc import InvalidParams
from protocol.events.mailbox import MailAcknowledged
from protocol.limits.mailbox import MAX_MAIL_PAYLOAD_BYTES
from protocol.objects import mailbox as rows
from protocol.objects.mailbox import (
    DeadLetterParams,
    Mail,
    MailboxAck,
    MailboxListParams,
    MailboxPost,
    MailPage,
    MailRef,
    MailView,
    PostedMail,
    RemovedMail,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kheishd.store.environment import Snapshot, Transaction


def prepare_post(call: Call, params: MailboxPost) -> MailboxPost:
    """Validate a message and give it an id. Errors: InputTooLarge, InvalidParams."""
    if params.message_id is not None and params.message_id.startswith(RESERVED_IDS):
        text = f"ids that begin with {' or '.join(RESERVED_IDS)} are the daemon's own; choose another one"
        raise InvalidParams(text, field="$.params.message_id")
    require_storable(params.payload, MAX_MAIL_PAYLOAD_BYTES, "payload", "$.params.payload")
    if params.message_id is not None:
        return params
    return msgspec.structs.replace(params, message_id=call.state.new_id(ids.MESSAGE))


@mutation(rows.POST, prepare=prepare_post)
def post_mail(tx: Transaction, call: Call, params: MailboxPost) -> PostedMail:
    """Post a message. Errors: NoSuchAgent, AgentAlreadyClosed, MailConflict, MailboxFull."""
    sender = find_agent(tx, call, params.from_agent, "$.params.from")
    recipient = find_agent(tx, call, params.to_agent, "$.params.to")
    assert params.message_id is not None
    return post(
        tx,
        message_id=params.message_id,
        sender=sender.session_id,
        recipient=recipient.session_id,
        subject=params.subject,
        payload=params.payload,
        ttl_ms=params.ttl_ms,
        origin=origin_of(call),
        input_origin=call.caller.origin,
    )


@query(rows.LIST)
def list_(call: Call, params: MailboxListParams) -> MailPage:
    """List the messages to an agent, oldest first. Errors: NoSuchAgent."""
    states = {"open": ("pending", "delivering"), "any": ("pending", "delivering", "done", "dead_letter")}
    return _list(call, params.agent, states.get(params.state, (params.state,)), params.limit, params.after)


@query(rows.DEAD_LETTERS)
def list_dead_letters(call: Call, params: DeadLetterParams) -> MailPage:
    """List the messages to an agent that could not be delivered. Errors: NoSuchAgent."""
    return _list(call, params.agent, ("dead_letter",), params.limit, params.after)


def _list(call: Call, agent: str, states: tuple[str, ...], limit: int, after: str | None) -> MailPage:
    """Return a page of messages in these states, in the order of their posting."""
    position = cursor_after(after)

    def scan(state: str) -> Iterator[tuple[tuple[int], MailView | None]]:
        start = None if position is None else (agent_id, state, position)
        for key, mail_id in store.scan(MAIL_BY_STATE, agent_id, state, after=start):
            yield (key[-1],), _show(store, store.get(MAIL, mail_id))

    with call.state.read() as store:
        agent_id = find_agent(store, call, agent).session_id
        merged = heapq.merge(*map(scan, states), key=itemgetter(0))
        page, following = page_of(merged, limit, lambda view: True)
    return MailPage(page, following)


def _show(store: Snapshot, mail: Mail | None) -> MailView | None:
    return None if mail is None else rules.view_of(mail, payload_of(store, mail))


@query(rows.GET)
def get(call: Call, params: MailRef) -> MailView:
    """Show a message. Errors: NoSuchAgent, MailNotFound."""
    with call.state.read() as store:
        mail = _find(store, call, params)
        return rules.view_of(mail, payload_of(store, mail))


def _find(store: Snapshot, call: Call, params: MailRef | MailboxAck) -> Mail:
    """Return a message of an agent that the caller may read. Errors: NoSuchAgent, MailNotFound."""
    agent = find_agent(store, call, params.agent)
    mail = store.get(MAIL, mail_key(agent.session_id, params.message_id))
    if mail is None:
        text = f"the mailbox of {agent.session_id} has no message '{params.message_id}'"
        raise MailNotFound(text, field="$.params.message_id")
    return mail


@mutation(rows.ACK)
def ack(tx: Transaction, call: Call, params: MailboxAck) -> RemovedMail:
    """Remove a pending message. One that asks a question stays: an agent waits for the answer.

    The daemon's own messages, such as a child's report, belong to the operator.
    Errors: NoSuchAgent, MailNotFound, InvalidParams, ScopeMissing.
    """
    mail = _find(tx, call, params)
    if mail.message_id.startswith(RESERVED_IDS):
        call.caller.require_scope("operate")
    if mail.state == "pending" and mail.question_id is not None:
        question = tx.need(QUESTIONS, mail.question_id)
        if question.status == "pending":
            text = f"an agent waits for the answer to {mail.question_id}; answer or cancel the question"
            raise InvalidParams(text, field="$.params.message_id")
    if mail.state == "pending":
        writer = StreamWriter(tx, mail.agent_id, session_id=mail.agent_id, origin=origin_of(call))
        writer.append(MailAcknowledged(message_ids=[mail.message_id], how="removed"))
        writer.write()
    return RemovedMail(message_id=mail.message_id, acknowledged=mail.state == "pending")


HANDLERS = (post_mail, list_, list_dead_letters, get, ack)
