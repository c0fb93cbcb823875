"""Questions to a person: a record as the fold of its events, what answers fit, what the model reads. Pure.

All questions of a request are answered together. Declining is an answer, too; that the request is cancelled
or expires is none, and ends the run.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from protocol.errors.question import AnswerInvalid
from protocol.events.call import ToolReturned
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.journal.envelope import Envelope
from protocol.limits.question import MAX_ANSWERS_BYTES
from protocol.objects.question import Answer, Question, QuestionRequest, QuestionStatus

QuestionEvent = QuestionAsked | QuestionAnswered | QuestionLapsed

DECLINED: Final = "The person declined to answer. Go on without it."


def evolve(request: QuestionRequest | None, envelope: Envelope, event: QuestionEvent) -> QuestionRequest:
    """The request after an event about it; the first that closes it counts.

    Errors: AssertionError for a first event that is not ``QuestionAsked``: the journal is damaged.
    """
    if isinstance(event, QuestionAsked):
        return request or _asked(envelope, event)
    assert request is not None, "a question's first event is that it is asked"
    if request.status != "pending":
        return request
    closed = replace(request, resolved_at_ms=envelope.at_ms, justification=event.justification)
    if isinstance(event, QuestionLapsed):
        return replace(
            closed, status=event.how, resolved_by=envelope.actor if event.how == "cancelled" else None
        )
    status: QuestionStatus = "declined" if event.declined else "answered"
    return replace(closed, status=status, resolved_by=envelope.actor, answers=event.answers)


def _asked(envelope: Envelope, event: QuestionAsked) -> QuestionRequest:
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
    )


# Answering.


def check(questions: Sequence[Question], answers: Sequence[Answer], *, declined: bool) -> None:
    """See that answers fit the questions.

    Errors: AnswerInvalid, naming the field, and the question where one is left out.
    """
    if declined:
        if answers:
            raise AnswerInvalid("who declines gives no answers", field="$.params.answers")
        return
    by_key = {question.key: question for question in questions}
    given: set[str] = set()
    for number, answer in enumerate(answers):
        field = f"$.params.answers[{number}]"
        question = by_key.get(answer.key)
        if question is None:
            known = ", ".join(by_key)
            raise AnswerInvalid(
                f"there is no question '{answer.key}'; those there are: {known}", field=f"{field}.key"
            )
        if answer.key in given:
            raise AnswerInvalid(f"the question '{answer.key}' is answered twice", field=f"{field}.key")
        given.add(answer.key)
        _check_answer(question, answer, field)
    missing = [key for key in by_key if key not in given]
    if missing:
        raise AnswerInvalid(f"there is no answer to {', '.join(missing)}", field="$.params.answers")
    size = len(msgspec.json.encode(answers))
    if size > MAX_ANSWERS_BYTES:
        raise AnswerInvalid(
            f"the answers take {size} bytes as JSON; the limit is {MAX_ANSWERS_BYTES}",
            field="$.params.answers",
        )


def _check_answer(question: Question, answer: Answer, field: str) -> None:
    options = {option.option_id for option in question.options}
    for place, chosen in enumerate(answer.selected):
        if chosen not in options:
            known = ", ".join(option.option_id for option in question.options) or "none"
            raise AnswerInvalid(
                f"the question '{question.key}' has no option '{chosen}'; its options are: {known}",
                field=f"{field}.selected[{place}]",
            )
    if len(set(answer.selected)) < len(answer.selected):
        raise AnswerInvalid(f"'{question.key}' is answered with one option twice", field=f"{field}.selected")
    if len(answer.selected) > 1 and not question.multi_select:
        raise AnswerInvalid(f"only one option can be chosen for '{question.key}'", field=f"{field}.selected")
    if not answer.selected and not answer.text.strip():
        text = f"the answer to '{question.key}' is empty: choose an option, write a text, or decline"
        raise AnswerInvalid(text, field=field)


def reply(request: QuestionRequest, tool: str, event: QuestionAnswered) -> ToolReturned:
    """The result of the call that asked: what was chosen, in the questions' own words, as JSON."""
    by_key = {answer.key: answer for answer in event.answers}
    said: dict[str, Any] = {"declined": True, "message": DECLINED} if event.declined else {}
    if not event.declined:
        said["answers"] = [_said(question, by_key[question.key]) for question in request.questions]
    if event.justification:
        said["justification"] = event.justification
    return ToolReturned(
        call_id=request.call_id,
        tool=tool,
        how="answered",
        text=msgspec.json.encode(said).decode(),
    )


def _said(question: Question, answer: Answer) -> dict[str, Any]:
    labels = {option.option_id: option.label for option in question.options}
    said: dict[str, Any] = {"question": question.question}
    if answer.selected:
        said["chosen"] = [labels[chosen] for chosen in answer.selected]
    if answer.text.strip():
        said["text"] = answer.text
    return said
