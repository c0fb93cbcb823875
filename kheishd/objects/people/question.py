"""Questions that agents ask people: answered, declined, or cancelled together with their run.

Only the audience of a question answers or cancels it. Where several people must agree, the question is
answered once enough of them have given the same answer, and declined as soon as that has become impossible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from kheishd.core import question as rules
from kheishd.core.audience import count_votes
from kheishd.core.run.commands import AbandonQuestion, AnswerQuestion
from kheishd.core.trust import frame_text
from kheishd.kernel.call import Call, mutation, query
from kheishd.objects.people.audience import require_person
from kheishd.objects.people.listing import PendingIndex, find_record, list_records, writer_of
from kheishd.records.question import QUESTION_RECORDS
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import QUESTIONS, QUESTIONS_WAITING, RUNS, SESSIONS
from protocol.errors.approval import AlreadyVoted
from protocol.errors.question import QuestionClosed, QuestionExpired, QuestionNotFound
from protocol.events.question import QuestionVoted
from protocol.objects import question as rows
from protocol.objects.question import (
    QuestionAnswer,
    QuestionCancel,
    QuestionList,
    QuestionListParams,
    QuestionRef,
    QuestionRequest,
)

if TYPE_CHECKING:
    from kheishd.store.environment import Snapshot, Transaction

DISAGREED: Final = "The people who were asked did not agree."
PENDING: Final = PendingIndex("pending", QUESTIONS_WAITING, in_slot=True)


def find_question(store: Snapshot, call: Call, question_id: str) -> QuestionRequest:
    """Return the questions of one call, if the caller may read them. Errors: QuestionNotFound."""
    request = find_record(store, call, QUESTION_RECORDS, question_id)
    if request is None:
        raise QuestionNotFound(f"there is no question '{question_id}'", field="$.params.question_id")
    return request


# Show.


@query(rows.GET)
def get(call: Call, params: QuestionRef) -> QuestionRequest:
    """Show the questions of one call."""
    with call.state.read() as store:
        return find_question(store, call, params.question_id)


@query(rows.LIST)
def list_(call: Call, params: QuestionListParams) -> QuestionList:
    """List questions, oldest first."""
    with call.state.read() as store:
        page, following = list_records(
            store, call, QUESTION_RECORDS, params, pending=PENDING, view_of=lambda request: request
        )
    return QuestionList(page, following)


# Answer.


@mutation(rows.ANSWER)
def answer(tx: Transaction, call: Call, params: QuestionAnswer) -> QuestionRequest:
    """Answer every question of a call, or decline. The answer is the call's result, and the run resumes.

    Errors: as ``_find_pending``; AnswerInvalid, AlreadyVoted.
    """
    request = _find_pending(tx, call, params.question_id)
    sender = require_person(call, request.audience, params.sender, "$.params.question_id")
    rules.require_valid_answers(request.questions, params.answers, declined=params.declined)
    writer = writer_of(tx, call, tx.need(RUNS, request.run_id), sender)
    answers, declined, justification = params.answers, params.declined, params.justification
    is_decided = True
    if request.audience is not None and request.audience.votes > 1:
        winner = _vote(writer, request, params, sender or call.caller.principal)
        is_decided = winner is not None
        if winner == "":
            answers, declined, justification = [], True, DISAGREED
    if is_decided:
        reply = rules.format_reply(request.questions, answers, declined=declined, justification=justification)
        origin = call.caller.origin or "person"
        # An answer of a connector is data, like its inputs.
        reply = frame_text(reply, origin, sender or "")
        origins = () if origin == "person" else (origin,)
        writer.carry_out(AnswerQuestion(request.call_id, answers, declined, justification, reply, origins))
    writer.write()
    return find_question(tx, call, request.question_id)


def _vote(writer: SessionWriter, request: QuestionRequest, params: QuestionAnswer, person: str) -> str | None:
    """Record an answer where several people must agree, and count. Errors: AlreadyVoted."""
    assert request.audience is not None
    if any(vote.person == person for vote in request.votes):
        text = f"'{person}' has answered {request.question_id} already; the first answer of a person counts"
        raise AlreadyVoted(text, field="$.params.question_id")
    voted = QuestionVoted(
        question_id=request.question_id,
        call_id=request.call_id,
        person=person,
        choice=rules.digest_of(params.answers, declined=params.declined),
        answers=params.answers,
        declined=params.declined,
        justification=params.justification,
    )
    writer.append(voted)
    return count_votes(request.audience, writer.need(QUESTIONS, request.question_id).votes)


@mutation(rows.CANCEL)
def cancel(tx: Transaction, call: Call, params: QuestionCancel) -> QuestionRequest:
    """Cancel a question, and its run with it. One to an agent is declined: the agent that asked goes on."""
    request = _find_pending(tx, call, params.question_id)
    sender = require_person(call, request.audience, params.sender, "$.params.question_id")
    writer = writer_of(tx, call, tx.need(RUNS, request.run_id), sender)
    if request.to_agent is not None:
        decline(writer, request, params.justification)
        return find_question(tx, call, request.question_id)
    note = f"the question {request.question_id} was cancelled"
    _abandon(writer, request, "cancelled", note, params.justification)
    return find_question(tx, call, request.question_id)


def _find_pending(tx: Transaction, call: Call, question_id: str) -> QuestionRequest:
    """Return a pending question. Errors: QuestionNotFound, QuestionClosed, QuestionExpired."""
    request = find_question(tx, call, question_id)
    if request.status == "expired" or (request.status == "pending" and _has_expired(tx, request)):
        raise QuestionExpired(field="$.params.question_id")
    if request.status != "pending":
        cause = f"by {request.resolved_by}" if request.resolved_by else "because its run has ended"
        text = f"{question_id} was {request.status} {cause}"
        raise QuestionClosed(text, field="$.params.question_id")
    return request


def _has_expired(tx: Transaction, request: QuestionRequest) -> bool:
    return request.expires_at_ms is not None and tx.now_ms >= request.expires_at_ms


def _abandon(
    writer: SessionWriter,
    request: QuestionRequest,
    how: Literal["cancelled", "expired"],
    note: str,
    justification: str = "",
) -> None:
    writer.carry_out(AbandonQuestion(request.call_id, how, note, justification))
    writer.write()


def decline(writer: SessionWriter, request: QuestionRequest, justification: str) -> None:
    """Decline a question of one agent to another one: its run continues without an answer."""
    reply = rules.format_reply(
        request.questions, [], declined=True, justification=justification, message=rules.DECLINED_BY_AGENT
    )
    writer.carry_out(AnswerQuestion(request.call_id, [], True, justification, reply))
    writer.write()


# Expire.


def expire(tx: Transaction, question_id: str) -> None:
    """Cancel a question whose time is over, and its run; decline one to an agent. Leave others alone."""
    request = tx.get(QUESTIONS, question_id)
    if request is None or request.status != "pending" or not _has_expired(tx, request):
        return
    run = tx.need(RUNS, request.run_id)
    writer = SessionWriter(tx, run.session_id, session=tx.need(SESSIONS, run.session_id), run=run)
    if request.to_agent is not None:
        decline(writer, request, "no answer came in time")
    else:
        _abandon(writer, request, "expired", f"nobody answered the question {question_id} in time")


HANDLERS = (get, list_, answer, cancel)
