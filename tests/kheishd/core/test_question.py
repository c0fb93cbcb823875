"""Questions: the record, the answers that are valid, and the reply that the model reads."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.question import DECLINED, evolve, format_reply, require_valid_answers
from protocol.errors.question import AnswerInvalid
from protocol.events.question import QuestionAnswered, QuestionAsked, QuestionLapsed
from protocol.journal.envelope import Envelope
from protocol.limits.call import MAX_TOOL_TEXT_BYTES
from protocol.limits.question import MAX_ANSWER_TEXT_BYTES
from protocol.objects.question import Answer, Option, Question, QuestionRequest

COLORS = [
    Option(option_id="o1", label="Red"),
    Option(option_id="o2", label="Blue", description="like the sky"),
]
QUESTIONS = [
    Question(question="Which color?", key="q1", header="Color", options=COLORS),
    Question(question="Which ones then?", key="q2", options=COLORS, multi_select=True),
    Question(question="Why?", key="q3"),
]
ANSWERS = [
    Answer(key="q3", text="because"),
    Answer(key="q1", selected=["o2"], text="a dark one"),
    Answer(key="q2", selected=["o1", "o2"]),
]


def envelope(cursor: int, actor: str = "daemon") -> Envelope:
    """Make the envelope of an event."""
    return Envelope(cursor=cursor, at_ms=cursor * 10, session_id="ses_1", run_id="run_1", actor=actor)


def pending_request() -> QuestionRequest:
    """Return a pending request."""
    event = QuestionAsked(
        question_id="qst_1", call_id="c1", questions=QUESTIONS, expires_at_ms=99, agent="a", sender="ann"
    )
    return evolve(None, envelope(1), event)


def answer_event(**changes: Any) -> QuestionAnswered:
    """Make an answer to all questions."""
    return QuestionAnswered(**({"question_id": "qst_1", "call_id": "c1", "answers": ANSWERS} | changes))


def lapse_event(how: Any) -> QuestionLapsed:
    """Make the event that ends a request without an answer."""
    return QuestionLapsed(question_id="qst_1", call_id="c1", how=how, justification="no time")


def test_a_request() -> None:
    """A request is pending and keeps its questions and origin."""
    request = pending_request()
    assert (request.status, request.created_cursor, request.asked_at_ms) == ("pending", 1, 10)
    assert (request.session_id, request.run_id, request.agent, request.sender) == (
        "ses_1",
        "run_1",
        "a",
        "ann",
    )
    assert (request.questions, request.expires_at_ms) == (QUESTIONS, 99)


@pytest.mark.parametrize(
    ("event", "status", "resolved_by"),
    [
        (answer_event(), "answered", "uid:7"),
        (answer_event(answers=[], declined=True), "declined", "uid:7"),
        (lapse_event("cancelled"), "cancelled", "uid:7"),
        (lapse_event("expired"), "expired", None),
        (lapse_event("withdrawn"), "withdrawn", None),
    ],
)
def test_resolutions(event: QuestionAnswered | QuestionLapsed, status: str, resolved_by: str | None) -> None:
    """A request is resolved once, with its resolver and time."""
    request = evolve(pending_request(), envelope(5, "uid:7"), event)
    assert (request.status, request.resolved_by, request.resolved_at_ms) == (status, resolved_by, 50)
    assert request.answers == (ANSWERS if status == "answered" else [])
    assert evolve(request, envelope(6, "uid:8"), answer_event()) is request
    assert evolve(request, envelope(6), lapse_event("expired")) is request


@pytest.mark.parametrize("event", [answer_event(), lapse_event("expired")])
def test_an_answer_without_a_request_is_damage(event: QuestionAnswered | QuestionLapsed) -> None:
    """A journal with an answer before the request is damaged."""
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, envelope(1), event)


# Answers.


def refuse(answers: list[Answer], *, declined: bool = False) -> tuple[str | None, str]:
    """Return the field and the message of a refusal."""
    with pytest.raises(AnswerInvalid) as caught:
        require_valid_answers(QUESTIONS, answers, declined=declined)
    return caught.value.field, caught.value.message


def answers_with_first(**changes: Any) -> list[Answer]:
    """Return answers of which only the first can be invalid."""
    first = Answer(**({"key": "q1", "selected": ["o1"]} | changes))
    return [first, Answer(key="q2", text="x"), Answer(key="q3", text="x")]


def test_valid_answers() -> None:
    """Answers come in any order, by option, by text or both; or all are declined."""
    require_valid_answers(QUESTIONS, ANSWERS, declined=False)
    require_valid_answers(QUESTIONS, answers_with_first(selected=[], text="green"), declined=False)
    require_valid_answers(QUESTIONS, [], declined=True)


@pytest.mark.parametrize(
    ("answers", "field", "words"),
    [
        (answers_with_first(key="q9"), "$.params.answers[0].key", "q9"),
        ([*ANSWERS, Answer(key="q3", text="again")], "$.params.answers[3].key", "twice"),
        (ANSWERS[:2], "$.params.answers", "q2"),
        ([], "$.params.answers", "q1, q2, q3"),
        (answers_with_first(selected=["o1", "o9"]), "$.params.answers[0].selected[1]", "o9"),
        (answers_with_first(selected=["Red"]), "$.params.answers[0].selected[0]", "o1, o2"),
        (answers_with_first(selected=["o1", "o2"]), "$.params.answers[0].selected", "only one"),
        (answers_with_first(selected=["o1", "o1"]), "$.params.answers[0].selected", "twice"),
        (answers_with_first(selected=[]), "$.params.answers[0]", "empty"),
        (answers_with_first(selected=[], text=" \n"), "$.params.answers[0]", "empty"),
        (answers_with_first(text='"' * MAX_ANSWER_TEXT_BYTES), "$.params.answers", "limit"),
    ],
)
def test_invalid_answers(answers: list[Answer], field: str, words: str) -> None:
    """Each invalid answer is refused by its field, with a correction."""
    actual, message = refuse(answers)
    assert actual == field
    assert words in message


def test_a_declined_request_has_no_answers() -> None:
    """A declined request with answers is refused."""
    assert refuse(ANSWERS, declined=True)[0] == "$.params.answers"


# The reply.


def test_format_reply() -> None:
    """The reply follows the questions' order and has labels, not ids."""
    reply = format_reply(QUESTIONS, ANSWERS, declined=False, justification="as agreed")
    assert json.loads(reply) == {
        "answers": [
            {"question": "Which color?", "chosen": ["Blue"], "text": "a dark one"},
            {"question": "Which ones then?", "chosen": ["Red", "Blue"]},
            {"question": "Why?", "text": "because"},
        ],
        "justification": "as agreed",
    }


def test_format_reply_declined() -> None:
    """The model is told that the person declined."""
    reply = format_reply(QUESTIONS, [], declined=True)
    assert json.loads(reply) == {"declined": True, "message": DECLINED}


@given(st.lists(st.text(max_size=2_000), min_size=3, max_size=3))
def test_valid_answers_make_a_short_reply(texts: list[str]) -> None:
    """Valid answers never make a result that is too long to be shown whole."""
    answers = [Answer(key=f"q{number}", text=f"x{text}") for number, text in enumerate(texts, 1)]
    require_valid_answers(QUESTIONS, answers, declined=False)
    assert len(format_reply(QUESTIONS, answers, declined=False).encode()) <= MAX_TOOL_TEXT_BYTES
