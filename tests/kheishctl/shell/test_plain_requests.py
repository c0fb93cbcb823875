"""Tests of pending requests on plain lines."""

from typing import Any

import pytest

from kheishctl.contract import Json
from kheishctl.shell.panel import RequestPanel
from kheishctl.shell.pending import (
    GRACE_SECONDS,
    Actions,
    EditInput,
    PendingRequests,
    ResolveApprovals,
    SubmitAnswers,
)
from kheishctl.shell.plain_requests import (
    APPROVAL_WORDS,
    CHOICE_WORDS,
    CHOICES_WORDS,
    FREE_WORDS,
    RequestLines,
)

APPROVAL = {"approval_id": "apr_1", "run_id": "run_1", "tool": "bash", "subject": "make"}
OPTIONS = [{"option_id": "r", "label": "red"}, {"option_id": "b", "label": "blue"}]


def make_question(**question: Any) -> Json:
    """Return the record of a question."""
    return {"question_id": "qst_1", "questions": [{"key": "q", "question": "Which?", **question}]}


class Sheet:
    """The lines of some requests, and the clock of their reader."""

    def __init__(self, *records: Json) -> None:
        self.now_s = 0.0
        self.pending = PendingRequests(lambda: self.now_s)
        self.pending.replace(records)
        self.lines = RequestLines(self.pending, RequestPanel(color=False))

    def take(self) -> str:
        """Return the lines that are due."""
        return self.lines.take(80, 0.0)

    def read(self) -> str:
        """Read the shown request for long enough to answer it; return all its lines."""
        text = self.take()
        self.now_s += GRACE_SECONDS
        return text + self.take()


def test_request_is_printed_once() -> None:
    """A request is printed whole at once, its words after a moment, and nothing again."""
    sheet = Sheet(APPROVAL)
    assert sheet.take() == "? bash needs your approval\n  │ make\n"
    assert sheet.take() == ""
    sheet.now_s += GRACE_SECONDS
    assert sheet.take() == f"{APPROVAL_WORDS}\n"
    assert sheet.take() == ""
    assert Sheet().take() == ""


def test_next_request_follows() -> None:
    """After an answer, the next request is printed, and needs its own time to be read."""
    sheet = Sheet(APPROVAL, APPROVAL | {"approval_id": "apr_2", "subject": "make clean"})
    sheet.read()
    assert sheet.lines.read_answer("allow")
    assert "make clean" in sheet.take()
    assert isinstance(sheet.lines.read_answer("allow"), str)


@pytest.mark.parametrize(
    ("line", "resolution"),
    [
        ("allow", {"decision": "allow"}),
        ("  ALLOW ", {"decision": "allow"}),
        ("allow run", {"decision": "allow", "remember": "run"}),
        ("allow  Session", {"decision": "allow", "remember": "session"}),
        ("deny", {"decision": "deny"}),
        ("deny Too  risky", {"decision": "deny", "note": "Too risky"}),
    ],
)
def test_words_of_an_approval(line: str, resolution: Json) -> None:
    """A word answers an approval; the note of a denial keeps its letters."""
    sheet = Sheet(APPROVAL)
    assert sheet.read().endswith(f"{APPROVAL_WORDS}\n")
    expected: Actions = (ResolveApprovals(({"approval_id": "apr_1", **resolution},)),)
    assert sheet.lines.read_answer(line) == expected


def test_edit() -> None:
    """The word for a change of the input asks for it."""
    sheet = Sheet(APPROVAL)
    sheet.read()
    assert sheet.lines.read_answer("edit") == (EditInput("apr_1"),)


@pytest.mark.parametrize(
    "line", ["", "a", "yes", "allowed", "allow me to explain", "edit the file", "1", "2"]
)
def test_messages_beside_an_approval(line: str) -> None:
    """Any other line is a message, also one that begins like an answer."""
    sheet = Sheet(APPROVAL)
    sheet.read()
    assert sheet.lines.read_answer(line) is None


@pytest.mark.parametrize(
    ("question", "words", "line", "answer"),
    [
        ({"options": OPTIONS}, CHOICE_WORDS, "2", {"key": "q", "selected": ["b"]}),
        ({"options": OPTIONS}, CHOICE_WORDS, "answer Both", {"key": "q", "text": "Both"}),
        ({"options": OPTIONS, "multi_select": True}, CHOICES_WORDS, "2, 1 2", {"selected": ["b", "r"]}),
        ({}, FREE_WORDS, "Answer 7", {"key": "q", "text": "7"}),
    ],
    ids=["number", "text", "numbers", "free"],
)
def test_words_of_a_question(question: Json, words: str, line: str, answer: Json) -> None:
    """Numbers choose options, and a word begins an answer in text."""
    sheet = Sheet(make_question(**question))
    assert sheet.read().endswith(f"{words}\n")
    assert sheet.lines.read_answer(line) == (SubmitAnswers("qst_1", ({"key": "q"} | answer,)),)


def test_decline() -> None:
    """A question is declined by a word."""
    sheet = Sheet(make_question())
    sheet.read()
    assert sheet.lines.read_answer("decline") == (SubmitAnswers("qst_1", declined=True),)


def test_parts_of_a_question() -> None:
    """The next part of a question is printed after the answer to the one before."""
    record = make_question(options=OPTIONS)
    record["questions"].append({"key": "w", "question": "Why?"})
    sheet = Sheet(record)
    assert "Which?" in sheet.read()
    assert sheet.lines.read_answer("1") == ()
    assert "Why?" in sheet.read()
    answers = ({"key": "q", "selected": ["r"]}, {"key": "w", "text": "It is warm"})
    assert sheet.lines.read_answer("answer It is warm") == (SubmitAnswers("qst_1", answers),)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("3", "there are the options 1 to 2"),
        ("0", "there are the options 1 to 2"),
        ("1 2", "the question takes one number"),
        ("answer", "usage: answer TEXT"),
    ],
)
def test_invalid_answer(line: str, problem: str) -> None:
    """An answer that the question does not allow is rejected with the reason, and is no message."""
    sheet = Sheet(make_question(options=OPTIONS))
    sheet.read()
    answer = sheet.lines.read_answer(line)
    assert isinstance(answer, str)
    assert problem in answer


@pytest.mark.parametrize("line", ["", "blue", "2 apples", "decline politely"])
def test_messages_beside_a_question(line: str) -> None:
    """A line without a word is a message: it may have been begun before the question appeared."""
    sheet = Sheet(make_question(options=OPTIONS))
    sheet.read()
    assert sheet.lines.read_answer(line) is None


def test_late_answer() -> None:
    """An answer to a request that was answered meanwhile is rejected once, and then it is a message."""
    sheet = Sheet(APPROVAL)
    sheet.read()
    sheet.pending.remove("apr_1")
    assert sheet.take() == ""
    assert isinstance(sheet.lines.read_answer("deny too risky"), str)
    assert sheet.lines.read_answer("deny too risky") is None
    sheet = Sheet(APPROVAL)
    sheet.read()
    sheet.pending.remove("apr_1")
    assert sheet.lines.read_answer("edit the file") is None


def test_early_answer() -> None:
    """An answer to a request that nobody can have read is rejected; a message is a message."""
    sheet = Sheet(APPROVAL)
    sheet.take()
    assert isinstance(sheet.lines.read_answer("allow"), str)
    assert sheet.lines.read_answer("hello") is None
    assert Sheet().lines.read_answer("allow") is None
