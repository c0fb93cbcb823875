"""Refusals about questions."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Refused


class QuestionNotFound(NotFound, reason="question_not_found"):
    """No question has that id; 'kheishctl question list' shows those that wait."""


class QuestionClosed(Conflict, reason="question_closed"):
    """The question was answered or taken back already."""


class QuestionExpired(Gone, reason="question_expired"):
    """Nobody answered in time and the run was cancelled."""


class AnswerInvalid(Refused, reason="answer_invalid"):
    """The answers do not fit the questions; 'kheishctl question show' lists keys and options."""
