"""Questions: their record, which answers fit, and what the model reads of one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.question import DECLINED, check, evolve, reply
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
    """Where an event stands."""
    return Envelope(cursor=cursor, at_ms=cursor * 10, session_id="ses_1", run_id="run_1", actor=actor)


def asked() -> QuestionRequest:
    """One that waits."""
    event = QuestionAsked(
        question_id="qst_1", call_id="c1", questions=QUESTIONS, expires_at_ms=99, agent="a", sender="ann"
    )
    return evolve(None, envelope(1), event)


def answered(**changes: Any) -> QuestionAnswered:
    """An answer to all of it."""
    return QuestionAnswered(**({"question_id": "qst_1", "call_id": "c1", "answers": ANSWERS} | changes))


def lapsed(how: Any) -> QuestionLapsed:
    """No answer will come."""
    return QuestionLapsed(question_id="qst_1", call_id="c1", how=how, justification="no time")


def test_a_request() -> None:
    """It waits, with everything that is asked."""
    request = asked()
    assert (request.status, request.created_cursor, request.asked_at_ms) == ("pending", 1, 10)
    assert (request.session_id, request.run_id, request.agent, request.sender) == (
        "ses_1",
        "run_1",
        "a",
        "ann",
    )
    assert (request.questions, request.expires_at_ms) == (QUESTIONS, 99)


@pytest.mark.parametrize(
    ("event", "status", "by"),
    [
        (answered(), "answered", "uid:7"),
        (answered(answers=[], declined=True), "declined", "uid:7"),
        (lapsed("cancelled"), "cancelled", "uid:7"),
        (lapsed("expired"), "expired", None),
        (lapsed("withdrawn"), "withdrawn", None),
    ],
)
def test_how_it_ends(event: QuestionAnswered | QuestionLapsed, status: str, by: str | None) -> None:
    """Answered, declined or given up, by whom and when; what follows changes nothing."""
    request = evolve(asked(), envelope(5, "uid:7"), event)
    assert (request.status, request.resolved_by, request.resolved_at_ms) == (status, by, 50)
    assert request.answers == (ANSWERS if status == "answered" else [])
    assert evolve(request, envelope(6, "uid:8"), answered()) is request
    assert evolve(request, envelope(6), lapsed("expired")) is request


@pytest.mark.parametrize("event", [answered(), lapsed("expired")])
def test_nothing_is_answered_that_was_not_asked(event: QuestionAnswered | QuestionLapsed) -> None:
    """A journal that says so is damaged."""
    with pytest.raises(AssertionError, match="first event"):
        evolve(None, envelope(1), event)


# Which answers fit.


def problem(answers: list[Answer], *, declined: bool = False) -> tuple[str | None, str]:
    """The field and the sentence of a refusal."""
    with pytest.raises(AnswerInvalid) as caught:
        check(QUESTIONS, answers, declined=declined)
    return caught.value.field, caught.value.message


def with_first(**changes: Any) -> list[Answer]:
    """Answers of which only the first can be wrong."""
    first = Answer(**({"key": "q1", "selected": ["o1"]} | changes))
    return [first, Answer(key="q2", text="x"), Answer(key="q3", text="x")]


def test_answers_that_fit() -> None:
    """In any order, by option, by text or both; or declined altogether."""
    check(QUESTIONS, ANSWERS, declined=False)
    check(QUESTIONS, with_first(selected=[], text="green"), declined=False)
    check(QUESTIONS, [], declined=True)


@pytest.mark.parametrize(
    ("answers", "field", "says"),
    [
        (with_first(key="q9"), "$.params.answers[0].key", "q9"),
        ([*ANSWERS, Answer(key="q3", text="again")], "$.params.answers[3].key", "twice"),
        (ANSWERS[:2], "$.params.answers", "q2"),
        ([], "$.params.answers", "q1, q2, q3"),
        (with_first(selected=["o1", "o9"]), "$.params.answers[0].selected[1]", "o9"),
        (with_first(selected=["Red"]), "$.params.answers[0].selected[0]", "o1, o2"),
        (with_first(selected=["o1", "o2"]), "$.params.answers[0].selected", "only one"),
        (with_first(selected=["o1", "o1"]), "$.params.answers[0].selected", "twice"),
        (with_first(selected=[]), "$.params.answers[0]", "empty"),
        (with_first(selected=[], text=" \n"), "$.params.answers[0]", "empty"),
        (with_first(text='"' * MAX_ANSWER_TEXT_BYTES), "$.params.answers", "limit"),
    ],
)
def test_answers_that_do_not_fit(answers: list[Answer], field: str, says: str) -> None:
    """Each is refused by its field, saying what would fit."""
    found, message = problem(answers)
    assert found == field
    assert says in message


def test_who_declines_answers_nothing() -> None:
    """Either the one or the other."""
    assert problem(ANSWERS, declined=True)[0] == "$.params.answers"


# What the model reads.


def test_the_reply_is_in_the_questions_words() -> None:
    """Question by question, in the order they were asked, with labels and not ids."""
    result = reply(asked(), "ask_user_question", answered(justification="as agreed"))
    assert (result.how, result.is_error, result.call_id, result.tool) == (
        "answered",
        False,
        "c1",
        "ask_user_question",
    )
    assert json.loads(result.text) == {
        "answers": [
            {"question": "Which color?", "chosen": ["Blue"], "text": "a dark one"},
            {"question": "Which ones then?", "chosen": ["Red", "Blue"]},
            {"question": "Why?", "text": "because"},
        ],
        "justification": "as agreed",
    }


def test_declining_is_an_answer() -> None:
    """The model is told so, and it is no error."""
    result = reply(asked(), "ask", answered(answers=[], declined=True))
    assert json.loads(result.text) == {"declined": True, "message": DECLINED}
    assert not result.is_error


@given(st.lists(st.text(max_size=2_000), min_size=3, max_size=3))
def test_what_fits_can_be_read_at_once(texts: list[str]) -> None:
    """Answers that are taken never give a result too long for a model to be shown whole."""
    answers = [Answer(key=f"q{number}", text=f"x{text}") for number, text in enumerate(texts, 1)]
    check(QUESTIONS, answers, declined=False)
    assert len(reply(asked(), "ask", answered(answers=answers)).text.encode()) <= MAX_TOOL_TEXT_BYTES
