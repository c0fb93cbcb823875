"""Questions: the shapes of answers."""

import pytest

from protocol.limits.question import MAX_ANSWER_TEXT_BYTES, MAX_QUESTIONS
from protocol.objects.question import Answer, QuestionAnswer, QuestionCancel, QuestionListParams
from tests.support.samples import refuse, take


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (QuestionAnswer, {"answers": []}, "$.params.question_id"),
        (
            QuestionAnswer,
            {"question_id": "q", "answers": [{"key": "k"}] * (MAX_QUESTIONS + 1)},
            "$.params.answers",
        ),
        (QuestionAnswer, {"question_id": "q", "answers": [{"text": "x"}]}, "$.params.answers[0].key"),
        (
            QuestionAnswer,
            {"question_id": "q", "answers": [{"key": "k", "selected": "o1"}]},
            "$.params.answers[0].selected",
        ),
        (
            QuestionAnswer,
            {"question_id": "q", "answers": [{"key": "k", "text": "x" * (MAX_ANSWER_TEXT_BYTES + 1)}]},
            "$.params.answers[0].text",
        ),
        (QuestionAnswer, {"question_id": "q", "declined": "yes"}, "$.params.declined"),
        (QuestionCancel, {"question_id": "a b"}, "$.params.question_id"),
        (QuestionListParams, {"status": "open"}, "$.params.status"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_an_answer_is_options_or_a_text() -> None:
    """An answer may omit its options or its text."""
    answers = [{"key": "q1", "selected": ["o1"]}, {"key": "q2", "text": "x"}]
    taken = take(QuestionAnswer, {"question_id": "q", "answers": answers})
    assert taken.answers == [Answer(key="q1", selected=["o1"]), Answer(key="q2", text="x")]
    assert not taken.declined
    assert take(QuestionListParams, {}).status == "pending"
