"""Records of questions and their index rows."""

from kheishd.records.question import QUESTION_RECORDS
from protocol.events.question import QuestionAnswered, QuestionLapsed
from tests.support.histories import question_asked
from tests.support.records import fold_record, index_rows

ASKED = question_asked("qst_1", expires_at_ms=99)


def test_it_waits_until_it_is_answered_or_lapses() -> None:
    """An answered or lapsed question is final: only the lists of its session and run keep it."""
    lasting = {"records_by_run": [("r", "question", 1)], "records_by_session": [("s", "question", 1)]}
    waiting = {"deadlines": [(99, "question", "qst_1")], "questions_waiting": [(1,)]}
    assert index_rows(QUESTION_RECORDS, ASKED) == lasting | waiting
    for end in (
        QuestionAnswered(question_id="qst_1", call_id="c1", declined=True),
        QuestionLapsed(question_id="qst_1", call_id="c1", how="expired"),
    ):
        assert index_rows(QUESTION_RECORDS, ASKED, end) == lasting
        assert QUESTION_RECORDS.final(fold_record(QUESTION_RECORDS, ASKED, end))
    assert not QUESTION_RECORDS.final(fold_record(QUESTION_RECORDS, ASKED))
