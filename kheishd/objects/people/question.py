"""Questions that agents ask people: answered, declined, or given up with their run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from kheishd.core import question as rules
from kheishd.core.run.calls import place_of
from kheishd.core.run.commands import Abandon, Reply
from kheishd.kernel.call import Call, mutation, query
from kheishd.objects.people.listing import Waiting, find, fold_of, page
from kheishd.records.question import QUESTION_RECORDS
from kheishd.records.writer import SessionWriter
from kheishd.store.tables import QUESTIONS, QUESTIONS_WAITING, RUNS, SESSIONS
from protocol.errors.question import QuestionClosed, QuestionExpired, QuestionNotFound
from protocol.events.question import QuestionAnswered, QuestionLapsed
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
    from kheishd.core.run.record import RunRecord
    from kheishd.store.environment import Snapshot, Transaction


def find_question(store: Snapshot, call: Call, question_id: str) -> QuestionRequest:
    """The questions of one call, if the caller may read them.

    Errors: QuestionNotFound, also for those whose agent or sender the caller's token does not cover.
    """
    request = find(store, call, QUESTION_RECORDS, question_id)
    if request is None:
        raise QuestionNotFound(f"there is no question '{question_id}'", field="$.params.question_id")
    return request


# Showing.

WAITING: Final = Waiting("pending", QUESTIONS_WAITING, in_slot=True)


@query(rows.GET)
def get(call: Call, params: QuestionRef) -> QuestionRequest:
    """Show the questions of one call."""
    with call.state.read() as store:
        return find_question(store, call, params.question_id)


@query(rows.LIST)
def list_(call: Call, params: QuestionListParams) -> QuestionList:
    """List questions, oldest first."""
    with call.state.read() as store:
        found, following = page(
            store, call, QUESTION_RECORDS, params, waiting=WAITING, show=lambda request: request
        )
    return QuestionList(found, following)


# Answering.


@mutation(rows.ANSWER)
def answer(tx: Transaction, call: Call, params: QuestionAnswer) -> QuestionRequest:
    """Answer all questions of a call, or decline to: that is its result, and the run goes on."""
    request = _waiting(tx, call, params.question_id)
    rules.require_valid_answers(request.questions, params.answers, declined=params.declined)
    run = _run_of(tx, request)
    answered = QuestionAnswered(
        question_id=request.question_id,
        call_id=request.call_id,
        answers=params.answers,
        declined=params.declined,
        justification=params.justification,
    )
    tool = run.calls[place_of(run, request.call_id)].tool
    fold = fold_of(tx, call, run)
    fold.carry_out(Reply(answered, rules.make_reply(request, tool, answered)))
    fold.write()
    return find_question(tx, call, request.question_id)


@mutation(rows.CANCEL)
def cancel(tx: Transaction, call: Call, params: QuestionCancel) -> QuestionRequest:
    """Give a question up, and its run with it."""
    request = _waiting(tx, call, params.question_id)
    fold = fold_of(tx, call, _run_of(tx, request))
    reason = f"the question {request.question_id} was cancelled"
    _abandon(fold, request, "cancelled", reason, params.justification)
    return find_question(tx, call, request.question_id)


def _waiting(tx: Transaction, call: Call, question_id: str) -> QuestionRequest:
    """Errors: QuestionNotFound, QuestionClosed, saying by whom, QuestionExpired."""
    request = find_question(tx, call, question_id)
    if request.status == "expired" or (request.status == "pending" and not _in_time(tx, request)):
        raise QuestionExpired(field="$.params.question_id")
    if request.status != "pending":
        how = (
            f"{request.status} by {request.resolved_by}"
            if request.resolved_by
            else f"{request.status}, as its run has ended"
        )
        raise QuestionClosed(f"{question_id} was {how}", field="$.params.question_id")
    return request


def _in_time(tx: Transaction, request: QuestionRequest) -> bool:
    return request.expires_at_ms is None or tx.now_ms < request.expires_at_ms


def _run_of(tx: Transaction, request: QuestionRequest) -> RunRecord:
    run = tx.need(RUNS, request.run_id)
    return run


def _abandon(
    fold: SessionWriter,
    request: QuestionRequest,
    how: Literal["cancelled", "expired"],
    reason: str,
    justification: str = "",
) -> None:
    lapsed = QuestionLapsed(
        question_id=request.question_id, call_id=request.call_id, how=how, justification=justification
    )
    fold.carry_out(Abandon(lapsed, reason))
    fold.write()


# Expiring.


def lapse(tx: Transaction, question_id: str) -> None:
    """Give up a question that nobody answered in time, and its run. One that was answered is left alone."""
    request = tx.get(QUESTIONS, question_id)
    if request is None or request.status != "pending" or _in_time(tx, request):
        return
    run = _run_of(tx, request)
    fold = SessionWriter(tx, run.session_id, session=tx.get(SESSIONS, run.session_id), run=run)
    _abandon(fold, request, "expired", f"nobody answered the question {question_id} in time")


HANDLERS = (get, list_, answer, cancel)
