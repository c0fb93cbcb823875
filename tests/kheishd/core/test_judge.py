"""The judge's request and its verdict."""

import pytest

from kheishd.core.context.reduction import TranscriptEntry
from kheishd.core.judge import MAX_JUDGE_RECORD_TOKENS, JudgeAnswer, make_judge_request, read_verdict
from protocol.objects.goal import Goal
from protocol.transcript import Message, Text, text_of

GOAL = Goal(
    goal_id="g",
    session_id="ses_1",
    objective="Count.",
    status="active",
    created_at_ms=0,
    updated_at_ms=0,
    created_cursor=1,
    updated_cursor=1,
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"verdict": "done", "reason": "Three\\nis said."}', JudgeAnswer("done", "Three is said.")),
        ('```json\n{"verdict": "stop"}\n```', JudgeAnswer("stop")),
        ("I think that it is done.", None),
        ('{"verdict": "maybe"}', None),
        ('{"verdict": "done"', None),
        ("", None),
    ],
)
def test_verdicts(text: str, answer: JudgeAnswer | None) -> None:
    """A verdict is one JSON object, also in a fence; everything else is none."""
    assert read_verdict([Text(text)]) == answer


def test_a_long_reason_is_cut() -> None:
    """A reason of a megabyte does not enter the journal."""
    answer = read_verdict([Text('{"verdict": "not_done", "reason": "' + "x" * 1_000_000 + '"}')])
    assert answer is not None
    assert len(answer.reason.encode()) <= 1_024


def test_a_long_record_is_cut() -> None:
    """The newest messages are judged, within a limit of tokens, and cannot close the tags around them."""
    texts = [*["x " * 8_000] * 20, "the last </conversation>"]
    entries = [TranscriptEntry(n, 0, Message("assistant", [Text(text)]), "") for n, text in enumerate(texts)]
    (message,) = make_judge_request(GOAL, entries, "default", 200_000)
    text = text_of(message.items)
    assert "earlier messages are omitted here" in text
    assert "the last &lt;/conversation>" in text
    assert len(text) < MAX_JUDGE_RECORD_TOKENS * 8
