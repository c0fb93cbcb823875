"""Questions to a person: a record as the projection of its events, valid answers, and the reply. Pure.

All questions of a request are answered together. Declining is an answer, too. Cancelling or expiry of the
request is not: it ends the run.
"""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from protocol.audience import Vote
from protocol.errors.question import AnswerInvalid
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed, QuestionVoted
from protocol.journal.envelope import Envelope
from protocol.limits.question import MAX_ANSWERS_BYTES
from protocol.objects.question import Answer, Question, QuestionRequest, QuestionStatus

QuestionEvent = QuestionAsked | QuestionVoted | QuestionAnswered | QuestionLapsed

DECLINED: Final = "The person declined to answer. Continue without it."
DECLINED_BY_AGENT: Final = "Your question got no answer. Continue without it."


def evolve(request: QuestionRequest | None, envelope: Envelope, event: QuestionEvent) -> QuestionRequest:
    """Return the request after one of its events; the first that resolves it counts.

    Errors: AssertionError for a first event that is not ``QuestionAsked``: the journal is damaged.
    """
    if isinstance(event, QuestionAsked):
        if request is not None:
            return request
        assert envelope.session_id is not None
        assert envelope.run_id is not None
        return QuestionRequest(
            question_id=event.question_id,
            session_id=envelope.session_id,
            run_id=envelope.run_id,
            call_id=event.call_id,
            status="pending",
            questions=event.questions,
            asked_at_ms=envelope.at_ms,
            created_cursor=envelope.cursor,
            agent=event.agent,
            sender=event.sender,
            expires_at_ms=event.expires_at_ms,
            audience=event.audience,
            to_agent=event.to_agent,
        )
    assert request is not None, "a question's first event is its request"
    if request.status != "pending":
        return request
    if isinstance(event, QuestionVoted):
        return replace(request, votes=[*request.votes, Vote(person=event.person, choice=event.choice)])
    resolved = replace(request, resolved_at_ms=envelope.at_ms, justification=event.justification)
    if isinstance(event, QuestionLapsed):
        person = envelope.on_behalf_of or envelope.actor
        return replace(resolved, status=event.how, resolved_by=person if event.how == "cancelled" else None)
    # Votes that disagree decline a question together.
    choice = digest_of(event.answers, declined=event.declined)
    agreeing = [vote for vote in request.votes if vote.choice == choice]
    if request.audience is not None and len(agreeing) < request.audience.votes:
        agreeing = request.votes
    voters = ", ".join(vote.person for vote in agreeing)
    status: QuestionStatus = "declined" if event.declined else "answered"
    return replace(
        resolved,
        status=status,
        resolved_by=voters or envelope.on_behalf_of or envelope.actor,
        answers=event.answers,
    )


# Answers.


def digest_of(answers: Sequence[Answer], *, declined: bool) -> str:
    """Return the digest by which votes for the same answer agree; the order of answers does not matter."""
    if declined:
        return "declined"
    content = sorted([answer.key, sorted(answer.selected), answer.text.strip()] for answer in answers)
    return sha256(msgspec.json.encode(content)).hexdigest()[:16]


def require_valid_answers(
    questions: Sequence[Question], answers: Sequence[Answer], *, declined: bool
) -> None:
    """Require that answers match the questions.

    Errors: AnswerInvalid, naming the field, and a question without an answer.
    """
    if declined:
        if answers:
            raise AnswerInvalid("a declined request has no answers", field="$.params.answers")
        return
    by_key = {question.key: question for question in questions}
    answered: set[str] = set()
    for index, answer in enumerate(answers):
        field = f"$.params.answers[{index}]"
        question = by_key.get(answer.key)
        if question is None:
            raise AnswerInvalid(
                f"there is no question '{answer.key}'; the questions are: {', '.join(by_key)}",
                field=f"{field}.key",
            )
        if answer.key in answered:
            raise AnswerInvalid(f"the question '{answer.key}' is answered twice", field=f"{field}.key")
        answered.add(answer.key)
        _require_valid_answer(question, answer, field)
    missing = [key for key in by_key if key not in answered]
    if missing:
        raise AnswerInvalid(f"the questions {', '.join(missing)} have no answer", field="$.params.answers")
    size = len(msgspec.json.encode(answers))
    if size > MAX_ANSWERS_BYTES:
        raise AnswerInvalid(
            f"the answers take {size} bytes as JSON; the limit is {MAX_ANSWERS_BYTES}",
            field="$.params.answers",
        )


def _require_valid_answer(question: Question, answer: Answer, field: str) -> None:
    options = [option.option_id for option in question.options]
    for index, option_id in enumerate(answer.selected):
        if option_id not in options:
            raise AnswerInvalid(
                f"the question '{question.key}' has no option '{option_id}'; "
                f"its options are: {', '.join(options) or 'none'}",
                field=f"{field}.selected[{index}]",
            )
    if len(set(answer.selected)) < len(answer.selected):
        raise AnswerInvalid(f"the answer to '{question.key}' has an option twice", field=f"{field}.selected")
    if len(answer.selected) > 1 and not question.multi_select:
        raise AnswerInvalid(f"the question '{question.key}' takes only one option", field=f"{field}.selected")
    if not answer.selected and not answer.text.strip():
        raise AnswerInvalid(
            f"the answer to '{question.key}' is empty: choose an option, write a text, or decline",
            field=field,
        )


def format_reply(
    questions: Sequence[Question],
    answers: Sequence[Answer],
    *,
    declined: bool,
    justification: str = "",
    message: str = DECLINED,
) -> str:
    """Format the result of the call that asked: the answers as JSON, in the words of the questions.

    Args:   ``message`` tells that there is no answer.
    """
    reply: dict[str, Any] = {}
    if declined:
        reply = {"declined": True, "message": message}
    else:
        by_key = {answer.key: answer for answer in answers}
        reply["answers"] = [_format_answer(question, by_key[question.key]) for question in questions]
    if justification:
        reply["justification"] = justification
    return msgspec.json.encode(reply).decode()


def _format_answer(question: Question, answer: Answer) -> dict[str, Any]:
    labels = {option.option_id: option.label for option in question.options}
    formatted: dict[str, Any] = {"question": question.question}
    if answer.selected:
        formatted["chosen"] = [labels[option_id] for option_id in answer.selected]
    if answer.text.strip():
        formatted["text"] = answer.text
    return formatted
