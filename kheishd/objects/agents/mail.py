"""Mail between agents, as transaction functions: post, deliver in a run, conclude the run, expire.

A message is in the stream of its recipient's session. One run of that session reads all pending messages, up
to a number. While a run that was accepted before the oldest pending message is in flight, messages wait for
its end: so a parent that waits for a child gets the outcome from its wait, and not once more as mail.

Each function is one transaction: a delivery with the run's acceptance, or the end of a delivery with the
notice to the parent. The next step follows from two tables, MAILBOXES_DUE and RUNS_TO_CONCLUDE, so a daemon
that dies in between neither loses nor repeats anything.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec.structs import replace

from kheishd.core import mailbox as rules
from kheishd.core.trust import join_origins
from kheishd.objects.agents.tree import path_of
from kheishd.objects.people.question import decline
from kheishd.objects.talk.address import definition_of
from kheishd.objects.talk.bounds import find_closed
from kheishd.objects.talk.input import origins_read
from kheishd.objects.talk.output import output_of
from kheishd.objects.talk.pin import pin_run
from kheishd.records.mailbox import mail_key
from kheishd.records.question import QUESTION
from kheishd.records.run import must_be_concluded
from kheishd.records.writer import BY_DAEMON, SessionWriter, StreamWriter
from kheishd.store.tables import (
    AGENTS,
    MAIL,
    MAIL_BY_STATE,
    MAILBOXES,
    QUESTIONS,
    RECORDS_BY_RUN,
    RUNS,
    SESSIONS,
)
from protocol.errors.agent import AgentAlreadyClosed
from protocol.errors.mailbox import MailboxFull, MailConflict
from protocol.events.mailbox import (
    MailAcknowledged,
    MailDeadLettered,
    MailDelivered,
    MailPosted,
    MailRequeued,
)
from protocol.events.run import InputReceived, RunAccepted, RunConcluded
from protocol.journal.line import decode_event
from protocol.limits.mailbox import (
    MAX_CLOSED_MAIL,
    MAX_MAIL_ATTEMPTS,
    MAX_MAIL_ERROR_BYTES,
    MAX_MAIL_INPUT_BYTES,
    MAX_MAIL_NOTE_BYTES,
    MAX_MAIL_OF_RUN,
    MAX_NOTICE_OUTPUT_BYTES,
    MAX_PENDING_MAIL,
)
from protocol.objects.mailbox import PostedMail
from protocol.objects.run import SendParams
from protocol.text import json_length, truncate_json
from protocol.transcript import Text

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.records.writer import Origin
    from kheishd.store.environment import Snapshot, Transaction
    from protocol.journal.line import JournalEvent
    from protocol.objects.mailbox import Mail
    from protocol.objects.question import QuestionRequest
    from protocol.objects.session import Session
    from protocol.transcript import InputItem, InputOrigin

NOTICE: Final = "agent_settled"
"""The type of a message that reports the end of a child's run."""

RESERVED_IDS: Final = ("notice:", "clarification:")
"""How the ids of the daemon's own messages begin."""

CLARIFICATION: Final = "parent_clarification"
"""The type of a message that asks a question of a child."""

MailboxState = Literal["due", "busy", "idle"]
"""``due``: pending messages are to be delivered. ``busy``: another run comes first. ``idle``: no message is
pending, or a run delivers some already."""


# Post.


def post(
    tx: Transaction,
    *,
    message_id: str,
    sender: str,
    recipient: str,
    subject: str,
    payload: Any,
    ttl_ms: int | None = None,
    question_id: str | None = None,
    beyond_limit: bool = False,
    origin: Origin = BY_DAEMON,
    input_origin: InputOrigin | None = None,
) -> PostedMail:
    """Post a message to an agent, once for each id.

    Args:   ``sender`` and ``recipient`` are ids of agents. ``beyond_limit``: the number of pending messages
            does not matter, as the daemon posts one for each run of a child. ``input_origin``: that of the
            client's token.
    Errors: MailConflict for an id that another message has; AgentAlreadyClosed, MailboxFull.
    """
    digest = rules.digest_of(sender, subject, payload)
    mail = tx.get(MAIL, mail_key(recipient, message_id))
    if mail is not None:
        if mail.digest != digest:
            text = f"the mailbox has another message '{message_id}'; choose a new id"
            raise MailConflict(text, field="$.params.message_id")
        return PostedMail(accepted=True, message_id=message_id, duplicate=True)
    session = tx.need(SESSIONS, recipient)
    if not is_open(tx, session):
        text = f"the agent {path_of(tx, session)} is closed and reads no more mail"
        raise AgentAlreadyClosed(text, field="$.params.to")
    mailbox = tx.get(MAILBOXES, recipient)
    if mailbox is not None and mailbox.pending >= MAX_PENDING_MAIL and not beyond_limit:
        text = f"the mailbox of {recipient} has {MAX_PENDING_MAIL} pending messages; try again later"
        raise MailboxFull(text)
    writer = StreamWriter(tx, recipient, session_id=recipient, origin=origin)
    posted = MailPosted(
        message_id=message_id,
        from_agent=sender,
        subject=subject,
        payload=payload,
        digest=digest,
        expires_at_ms=None if ttl_ms is None else tx.now_ms + ttl_ms,
        question_id=question_id,
        origin=input_origin,
    )
    writer.append(posted)
    writer.write()
    return PostedMail(accepted=True, message_id=message_id, duplicate=False)


def is_open(store: Snapshot, session: Session) -> bool:
    """Whether the agent of a session takes mail: nothing has ended or closes it, or an agent above it."""
    return find_closed(store, session) is None


def payload_of(store: Snapshot, mail: Mail) -> Any:
    """Return the payload of a message; None if its event is no longer in the journal."""
    entry = store.entry(mail.agent_id, mail.created_cursor)
    event = decode_event(entry[1]) if entry is not None else None
    return event.payload if isinstance(event, MailPosted) else None


# Deliver.


def state_of(store: Snapshot, session_id: str) -> MailboxState:
    """Return whether the mailbox of a session has messages to be delivered now."""
    mailbox = store.get(MAILBOXES, session_id)
    if mailbox is None or not mailbox.pending or mailbox.delivering:
        return "idle"
    session = store.need(SESSIONS, session_id)
    if session.status == "open" and not is_open(store, session):
        # Its mail is given up once the session has ended.
        return "idle"
    if not session.open_runs:
        return "due"
    oldest = next((cursor for (*_, cursor), _ in store.scan(MAIL_BY_STATE, session_id, "pending")), None)
    assert oldest is not None, "a mailbox counts its pending messages"
    return "busy" if store.need(RUNS, session.open_runs[0]).accepted_cursor < oldest else "due"


def deliver(tx: Transaction, runtime: Runtime, session_id: str, run_id: str, input_id: str) -> None:
    """Accept the run that reads the pending messages of a session, if they are due.

    Messages that expired, or whose recipient is closed, are given up.
    Errors: AgentNotFound, RouteNotFound, RouteNotReady, WorkspaceForbidden: no run can be accepted now.
    """
    if state_of(tx, session_id) != "due":
        return
    session = tx.need(SESSIONS, session_id)
    writer = SessionWriter(tx, session_id, session=session)
    pending = (tx.need(MAIL, key) for _, key in tx.scan(MAIL_BY_STATE, session_id, "pending"))
    if session.status == "ended":
        ids = [mail.message_id for mail in islice(pending, MAX_CLOSED_MAIL)]
        writer.append(MailDeadLettered(message_ids=ids, reason="closed", note="the agent was closed"))
        writer.write()
        return
    blocks: list[str] = []
    mails: list[Mail] = []
    expired: list[str] = []
    answered: list[str] = []
    size = 0
    for mail in pending:
        if has_expired(tx, mail):
            expired.append(mail.message_id)
        elif mail.question_id is not None and tx.need(QUESTIONS, mail.question_id).status != "pending":
            answered.append(mail.message_id)
        else:
            block = rules.format_message(mail, payload_of(tx, mail), len(mails) + 1, _sender_of(tx, mail))
            size += json_length(block)
            if mails and size > MAX_MAIL_INPUT_BYTES:
                break
            blocks.append(block)
            mails.append(mail)
        if len(mails) + len(expired) + len(answered) == MAX_MAIL_OF_RUN:
            break
    if answered:
        writer.append(MailAcknowledged(message_ids=answered, how="answered"))
    if expired:
        writer.append(MailDeadLettered(message_ids=expired, reason="expired"))
    if mails:
        pinned = pin_run(tx, runtime, session, definition_of(runtime, session), SendParams())
        accepted = RunAccepted(
            input_id=input_id,
            agent=session.agent,
            sender=session.sender,
            pinned=pinned,
            kind="mailbox",
            reports=any(mail.from_agent == session.parent_session_id for mail in mails),
            origins=_origins_of(tx, mails),
            hops=max((sender.hops for sender in _senders_of(tx, mails)), default=0),
        )
        writer.begin_run(run_id, pinned)
        items: list[InputItem] = [Text(rules.format_input(blocks))]
        writer.append(InputReceived(input_id=input_id, items=items, origin="mailbox"))
        writer.append(accepted)
        writer.append(MailDelivered(message_ids=[mail.message_id for mail in mails]))
    writer.write()


def _sender_of(store: Snapshot, mail: Mail) -> str:
    """Return the path of a message's sender."""
    session = store.get(SESSIONS, mail.from_agent)
    return mail.from_agent if session is None else path_of(store, session)


def _origins_of(tx: Transaction, mails: list[Mail]) -> list[InputOrigin]:
    """Return the origins of messages: mailbox, clients, and everything that the sending agents have read."""
    clients = [mail.origin for mail in mails if mail.origin is not None]
    return join_origins(
        ["mailbox"], clients, *(origins_read(tx, sender) for sender in _senders_of(tx, mails))
    )


def _senders_of(tx: Transaction, mails: list[Mail]) -> list[Session]:
    """Return the sessions of the agents that sent messages."""
    senders = {mail.from_agent for mail in mails}
    return [session for sender in senders if (session := tx.get(SESSIONS, sender)) is not None]


# Questions to a parent.


def clarification_id(question_id: str) -> str:
    """Return the id of the message that asks a question of a child."""
    return f"clarification:{question_id}"


def must_forward(store: Snapshot, question_id: str) -> bool:
    """Whether a pending question has no message to the agent that is asked, or one that is a dead letter."""
    request = store.need(QUESTIONS, question_id)
    mail = store.get(MAIL, mail_key(request.to_agent or "", clarification_id(question_id)))
    return request.status == "pending" and (mail is None or mail.state == "dead_letter")


def forward_question(tx: Transaction, question_id: str) -> None:
    """Post a child's question to its parent; decline it if the parent is closed or could not read it."""
    if not must_forward(tx, question_id):
        return
    request = tx.need(QUESTIONS, question_id)
    session, parent = tx.need(SESSIONS, request.session_id), tx.get(SESSIONS, request.to_agent or "")
    message_id = clarification_id(question_id)
    if parent is None or tx.get(MAIL, mail_key(parent.session_id, message_id)) is not None:
        problem = "the question could not be delivered to your parent"
    elif not is_open(tx, parent):
        problem = "your parent is closed"
    else:
        payload = {
            "type": CLARIFICATION,
            "question_id": question_id,
            "agent": path_of(tx, session),
            "questions": request.questions,
            "note": "The agent waits until you answer or decline.",
        }
        post(
            tx,
            message_id=message_id,
            sender=session.session_id,
            recipient=parent.session_id,
            subject="a question",
            payload=payload,
            question_id=question_id,
            beyond_limit=True,
        )
        return
    run = tx.need(RUNS, request.run_id)
    decline(SessionWriter(tx, session.session_id, session=session, run=run), request, problem)


def find_question_to_agent(store: Snapshot, session: Session) -> QuestionRequest | None:
    """Return the pending question of an agent to its parent; None if there is none."""
    for run_id in session.open_runs[:1]:
        for _, question_id in store.scan(RECORDS_BY_RUN, run_id, QUESTION):
            request = store.need(QUESTIONS, question_id)
            if request.status == "pending" and request.to_agent is not None:
                return request
    return None


# Conclude.


def conclude(tx: Transaction, run_id: str, *, is_awaited: bool = False, is_restored: bool = False) -> None:
    """Settle the mail of a run that has ended, and report its end to the agent's parent, if that is due.

    Args:   ``is_awaited``: the parent gets the outcome as the result of a wait, in this transaction.
            ``is_restored``: the store was restored from a backup; nothing is repeated that may have happened.
    """
    run = tx.need(RUNS, run_id)
    if not must_be_concluded(run):
        # A wait has taken the report meanwhile.
        return
    session = tx.need(SESSIONS, run.session_id)
    writer = SessionWriter(tx, run.session_id, session=session, run=run)
    if run.mail:
        _settle(writer, run, session, is_restored=is_restored)
    report: Literal["mail", "wait", "dropped"] | None = None
    if run.reports:
        report = "wait" if is_awaited else "dropped" if is_restored else _report(tx, run, session)
    writer.append(RunConcluded(report=report, message_id=notice_id(run_id) if report == "mail" else None))
    writer.write()


def notice_id(run_id: str) -> str:
    """Return the id of the message that reports the end of a run."""
    return f"notice:{run_id}"


def take_report(tx: Transaction, run: RunRecord, waiter: str) -> tuple[JournalEvent, ...]:
    """Take the report of a run's end for an agent that waited for it: no message tells it once more.

    Returns the events by which the waiting agent's session acknowledges a message that has been posted. Only
    the parent has one; a run that has not ended has no report yet.
    """
    session = tx.need(SESSIONS, run.session_id)
    if run.ended_at_ms is None or session.parent_session_id != waiter:
        return ()
    if run.reports:
        conclude(tx, run.run_id, is_awaited=True)
        return ()
    mail = tx.get(MAIL, mail_key(waiter, notice_id(run.run_id)))
    if mail is None or mail.state != "pending":
        return ()
    return (MailAcknowledged(message_ids=[mail.message_id], how="waited"),)


def _settle(writer: SessionWriter, run: RunRecord, session: Session, *, is_restored: bool) -> None:
    """Acknowledge the mail of a run that completed; else deliver it again, or give it up."""
    tx = writer.tx
    mails = [tx.need(MAIL, key) for _, key in tx.scan(MAIL_BY_STATE, session.session_id, "delivering")]
    if run.status == "completed":
        ids = [mail.message_id for mail in mails]
        writer.append(MailAcknowledged(message_ids=ids, how="delivered"))
        return
    note = run.error.message if run.error is not None else f"the run was {run.status}"
    requeued: list[str] = []
    dead: dict[Literal["expired", "attempts", "closed", "restored"], list[str]] = {}
    for mail in mails:
        if is_restored:
            dead.setdefault("restored", []).append(mail.message_id)
        elif session.status == "ended":
            dead.setdefault("closed", []).append(mail.message_id)
        elif has_expired(tx, mail):
            dead.setdefault("expired", []).append(mail.message_id)
        elif mail.delivery_attempts >= MAX_MAIL_ATTEMPTS:
            dead.setdefault("attempts", []).append(mail.message_id)
        else:
            requeued.append(mail.message_id)
    note = truncate_json(note, MAX_MAIL_NOTE_BYTES)
    for reason, ids in dead.items():
        writer.append(MailDeadLettered(message_ids=ids, reason=reason, note=note))
    if requeued:
        writer.append(MailRequeued(message_ids=requeued, note=note))


def _report(tx: Transaction, run: RunRecord, session: Session) -> Literal["mail", "dropped"]:
    """Post the notice of a run's end to the parent's mailbox, unless the parent is closed."""
    parent_id = session.parent_session_id
    if parent_id is None or not is_open(tx, tx.need(SESSIONS, parent_id)):
        return "dropped"
    post(
        tx,
        message_id=notice_id(run.run_id),
        sender=session.session_id,
        recipient=parent_id,
        subject=f"the run has {'been ' if run.status in ('cancelled', 'interrupted') else ''}{run.status}",
        payload=notice_of(tx, run, session),
        beyond_limit=True,
    )
    return "mail"


def notice_of(store: Snapshot, run: RunRecord, session: Session) -> dict[str, Any]:
    """Return the notice of a run's end: its outcome, and its output, the beginning of a long one."""
    agent = store.get(AGENTS, session.session_id)
    notice: dict[str, Any] = {"type": NOTICE, "agent_id": run.session_id, "path": path_of(store, session)}
    if agent is not None:
        notice["nickname"] = agent.nickname
    notice |= {"run_id": run.run_id, "outcome": run.status, "usage": run.usage}
    output = output_of(store, run)
    if output is not None and output.text:
        text = truncate_json(output.text, MAX_NOTICE_OUTPUT_BYTES)
        notice["output"] = text
        if text != output.text:
            notice |= {"output_truncated": True, "output_bytes": len(output.text.encode())}
            notice["output_cursor"] = output.created_cursor
    if run.error is not None:
        message = truncate_json(run.error.message, MAX_MAIL_ERROR_BYTES)
        notice["error"] = replace(run.error, message=message)
    if run.cost is not None:
        notice["cost"] = run.cost
    return notice


# Expire.


def has_expired(tx: Transaction, mail: Mail) -> bool:
    """Whether the time of a message is over."""
    return mail.expires_at_ms is not None and tx.now_ms >= mail.expires_at_ms


def expire(tx: Transaction, key: str) -> None:
    """Give up a pending message whose time is over. Leave one that a run reads, or that is done, alone."""
    mail = tx.get(MAIL, key)
    if mail is None or mail.state != "pending" or not has_expired(tx, mail):
        return
    writer = StreamWriter(tx, mail.agent_id, session_id=mail.agent_id)
    writer.append(MailDeadLettered(message_ids=[mail.message_id], reason="expired"))
    writer.write()


# Restore.


def withdraw_restored(tx: Transaction, session_id: str) -> bool:
    """Give up pending messages of a restored store, which may have been delivered since the backup was made.

    Returns whether there may be more in the mailbox.
    """
    pending = (tx.need(MAIL, key) for _, key in tx.scan(MAIL_BY_STATE, session_id, "pending"))
    ids = [mail.message_id for mail in islice(pending, MAX_CLOSED_MAIL)]
    if ids:
        writer = StreamWriter(tx, session_id, session_id=session_id)
        writer.append(MailDeadLettered(message_ids=ids, reason="restored", note="the store was restored"))
        writer.write()
    return len(ids) == MAX_CLOSED_MAIL
