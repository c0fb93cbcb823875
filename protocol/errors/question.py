"""Refusals about questions."""

from __future__ import annotations

from protocol.errors.refusal import Conflict, Gone, NotFound, Unprocessable


class QuestionNotFound(NotFound, reason="question_not_found"):
    """No question has that id; question.list shows the pending ones."""


class QuestionClosed(Conflict, reason="question_closed"):
    """The question was already answered or cancelled."""


class QuestionExpired(Gone, reason="question_expired"):
    """Nobody answered in time and the run was cancelled."""


class AnswerInvalid(Unprocessable, reason="answer_invalid"):
    """The answers do not match the questions; question.get shows their keys and options."""
