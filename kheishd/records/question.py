"""Records of questions to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import question
from kheishd.records.pending import pending_rows
from kheishd.records.projection import IndexRow, Projection, key_in, source_in_session
from kheishd.store.tables import (
    DEADLINES,
    QUESTIONS,
    QUESTIONS_TO_AGENTS,
    QUESTIONS_WAITING,
    RECORDS_BY_RUN,
    RECORDS_BY_SESSION,
)
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed, QuestionVoted

if TYPE_CHECKING:
    from protocol.objects.question import QuestionRequest

QUESTION: Final = "question"


def is_final(record: QuestionRequest) -> bool:
    """Whether no event changes the question any more."""
    return record.status != "pending"


def index_rows(record: QuestionRequest) -> frozenset[IndexRow]:
    """Return the index rows of a question."""
    pending = None if is_final(record) else QUESTIONS_WAITING
    rows = pending_rows(QUESTION, record.question_id, record, pending, record.expires_at_ms)
    if pending is None or record.to_agent is None:
        return rows
    return rows | {IndexRow(QUESTIONS_TO_AGENTS, (record.created_cursor,), record.question_id)}


QUESTION_RECORDS: Final = Projection(
    kind=QUESTION,
    table=QUESTIONS,
    begins=QuestionAsked,
    events=(QuestionAsked, QuestionVoted, QuestionAnswered, QuestionLapsed),
    key=key_in("question_id"),
    evolve=question.evolve,
    source=source_in_session,
    final=is_final,
    rows=index_rows,
    indexes=(RECORDS_BY_SESSION, RECORDS_BY_RUN, QUESTIONS_WAITING, QUESTIONS_TO_AGENTS, DEADLINES),
)
