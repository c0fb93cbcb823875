"""A question from an agent to a person: one to four questions together, with options or free text.

The run waits without a task until a person answers or declines, or until the question expires. Declining is
an answer; cancelling ends the run.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.audience import Audience, Person, Vote
from protocol.errors.approval import AlreadyVoted, NotInAudience
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.question import AnswerInvalid, QuestionClosed, QuestionExpired, QuestionNotFound
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.question import MAX_ANSWER_TEXT_BYTES, MAX_QUESTIONS
from protocol.rpc.method import Method, Mutation, Page, Params

QuestionStatus = Literal["pending", "answered", "declined", "cancelled", "expired", "withdrawn"]
"""``withdrawn``: the run ended before anyone answered."""


class Option(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One option, selected by its id."""

    option_id: str
    label: str
    description: str = ""


class Question(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question; its answer is a selection of options, free text, or both."""

    question: str
    key: str
    header: str = ""
    options: list[Option] = []
    multi_select: bool = False


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The answer to one question: the ids of the selected options, free text, or both."""

    key: str
    selected: list[str] = []
    text: Annotated[str, Meta(max_length=MAX_ANSWER_TEXT_BYTES)] = ""


class QuestionRequest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The questions of one call as stored, with their answers.

    ``audience`` null: anyone with the right may answer. Where several people must agree, the questions are
    answered once enough ``votes`` are for the same answer, and declined as soon as that is impossible.
    ``to_agent`` is the agent that is asked: the parent of the one that asks.
    """

    question_id: Id
    session_id: Id
    run_id: Id
    call_id: str
    status: QuestionStatus
    questions: list[Question]
    asked_at_ms: int
    created_cursor: Cursor
    agent: str = ""
    sender: str | None = None
    expires_at_ms: int | None = None
    resolved_at_ms: int | None = None
    answers: list[Answer] = []
    resolved_by: str | None = None
    justification: str = ""
    audience: Audience | None = None
    votes: list[Vote] = []
    to_agent: str | None = None


class QuestionList(Struct, frozen=True):
    """A page of questions."""

    questions: list[QuestionRequest]
    next: str | None


class QuestionRef(Params, frozen=True, kw_only=True):
    """Params that name a question request."""

    question_id: Id


class QuestionListParams(Page, frozen=True, kw_only=True):
    """Params of ``question.list``: oldest first. ``status`` defaults to pending questions."""

    session_id: Id | None = None
    run_id: Id | None = None
    status: QuestionStatus | Literal["any"] = "pending"


class QuestionAnswer(Mutation, frozen=True, kw_only=True):
    """Params of ``question.answer``: an answer to every question of the request, or ``declined``.

    ``sender`` is the person for whom a caller answers whose rights name several senders.
    """

    question_id: Id
    answers: Annotated[list[Answer], Meta(max_length=MAX_QUESTIONS)] = []
    declined: bool = False
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    sender: Person | None = None


class QuestionCancel(Mutation, frozen=True, kw_only=True):
    """Params of ``question.cancel``: the questions stay unanswered and the run is cancelled.

    Only the audience may. ``sender`` is the person for whom a caller cancels whose rights name several.
    """

    question_id: Id
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    sender: Person | None = None


_CHANGE = (
    QuestionNotFound,
    QuestionClosed,
    QuestionExpired,
    NotInAudience,
    SenderForbidden,
    SenderInvalid,
    StorageFull,
)

LIST = Method(
    "question.list",
    "query",
    QuestionListParams,
    QuestionList,
    "List questions, oldest first; by default the pending ones.",
    errors=(SessionNotFound, RunNotFound),
)
GET = Method(
    "question.get", "query", QuestionRef, QuestionRequest, "Show a question.", errors=(QuestionNotFound,)
)
ANSWER = Method(
    "question.answer",
    "mutation",
    QuestionAnswer,
    QuestionRequest,
    "Answer or decline a question; the run resumes.",
    scope="converse",
    errors=(*_CHANGE, AlreadyVoted, AnswerInvalid),
    while_draining=True,
)
CANCEL = Method(
    "question.cancel",
    "mutation",
    QuestionCancel,
    QuestionRequest,
    "Cancel a question and its run.",
    scope="converse",
    errors=_CHANGE,
    while_draining=True,
)

METHODS = (LIST, GET, ANSWER, CANCEL)
