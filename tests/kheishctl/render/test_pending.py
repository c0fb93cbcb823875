"""Approvals, questions and calls in doubt as text."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render import pending as asking
from kheishctl.render.layout import Display
from protocol.objects.approval import ApprovalStatus, ApprovalView
from protocol.objects.indoubt import IndoubtStatus, IndoubtView
from protocol.objects.question import QuestionRequest, QuestionStatus
from protocol.text import sanitize
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE, WIDE, COLORED = Display(None, False, NOW), Display(100, False, NOW), Display(100, True, NOW)
OPTIONS = [
    {"option_id": "o1", "label": "Red"},
    {"option_id": "o2", "label": "Light  blue", "description": "like the sky"},
]
ASKED: dict[str, Any] = {"key": "q1", "header": "Color", "question": "Which color?", "options": OPTIONS}


def approval(**fields: Any) -> dict[str, Any]:
    """Return an approval as it arrives from the daemon."""
    return {
        "approval_id": "apr_1",
        "run_id": "run_1",
        "session_id": "ses_1",
        "status": "pending",
        "tool": "write_file",
        "subject": "a.txt",
        "agent": "default",
        "sender": "ann",
        "requested_at_ms": NOW - 5000,
        "arguments": {"path": "a.txt"},
        **fields,
    }


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize(
    ("kind", "show"),
    [
        (ApprovalView, asking.format_approval),
        (QuestionRequest, asking.format_question_request),
        (IndoubtView, asking.format_indoubt),
    ],
)
@pytest.mark.parametrize("look", [PIPE, WIDE, COLORED])
def test_every_record_can_be_shown(kind: type, show: Any, look: Display, full: bool) -> None:
    """Every kind of record can be shown, with all its fields or only the required ones."""
    text = show(sample(kind, full=full), look)
    assert "run" in text
    if look is not COLORED:
        assert sanitize(text) == text


@given(st.text(st.characters(exclude_categories=[])))
def test_text_is_sanitized(text: str) -> None:
    """Any text from models and tools is sanitized."""
    preview = {"kind": "diff", "text": text}
    for rendered in (
        asking.format_approval(approval(tool=text, subject=text, preview=preview, note=text), WIDE),
        asking.format_approval(approval(arguments={text: text}), WIDE),
        asking.format_question(
            {"key": "q1", "question": text, "options": [{"option_id": "o", "label": text}]}, WIDE
        ),
    ):
        assert sanitize(rendered) == rendered


def test_a_diff() -> None:
    """Added and removed lines are colored, and a truncated diff says so."""
    preview = {"kind": "diff", "text": "@@ -1 +1 @@\n-old\n+new\n same\n", "truncated": True}
    rendered = asking.format_approval(approval(preview=preview), COLORED)
    assert "\x1b[32m+new\x1b[0m\n same" in rendered
    assert "\x1b[31m-old\x1b[0m" in rendered
    assert rendered.endswith("there is more)\x1b[0m")


def test_a_command() -> None:
    """A command is shown after a prompt."""
    rendered = asking.format_approval(
        approval(preview={"kind": "command", "text": "make\nmake install"}), WIDE
    )
    assert rendered.endswith("$ make\nmake install")


def test_without_a_preview_the_input_is_shown() -> None:
    """Without a preview, the input is shown, and the changed input after it."""
    rendered = asking.format_approval(
        approval(status="allowed", resolved_by="uid:0", updated_input={"path": "b.txt"}), PIPE
    )
    assert 'input:\n{\n  "path": "a.txt"\n}' in rendered
    assert rendered.endswith('changed to:\n{\n  "path": "b.txt"\n}')
    assert "status\tallowed by uid:0" in rendered


def test_an_audience_and_its_votes() -> None:
    """A person sees who may answer, how many must agree, and who has voted."""
    audience = {"people": ["ann", "bea", "carl"], "votes": 2}
    shown = asking.format_approval(
        approval(audience=audience, votes=[{"person": "bea", "choice": "allow"}]), WIDE
    )
    assert "2 of ann, bea, carl (bea: allow)" in shown
    assert "nobody" in asking.format_approval(approval(audience={"people": []}), WIDE)
    assert "asked of" not in asking.format_approval(approval(), WIDE)


def test_a_question_with_its_answer() -> None:
    """Selected options are marked, and text follows."""
    answer = {"key": "q1", "selected": ["o2"], "text": "a dark one"}
    assert asking.format_question(ASKED, WIDE, answer).split("\n") == [
        "q1 Color",
        "Which color?",
        "  1. Red",
        " *2. Light blue: like the sky",
        "> a dark one",
    ]


def test_a_question_with_several_answers() -> None:
    """A question that allows several options says so."""
    rendered = asking.format_question(ASKED | {"multi_select": True}, WIDE)
    assert rendered.startswith("q1 Color (multiple choice)\nWhich color?\n")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2", {"key": "q1", "selected": ["o2"]}),
        ("o1", {"key": "q1", "selected": ["o1"]}),
        (" light BLUE ", {"key": "q1", "selected": ["o2"]}),
        ("3", {"key": "q1", "text": "3"}),
        ("1, 2", {"key": "q1", "text": "1, 2"}),
        ("green, if there is any ", {"key": "q1", "text": "green, if there is any"}),
        ("", {"key": "q1", "text": ""}),
    ],
)
def test_parse_answer(line: str, expected: dict[str, Any]) -> None:
    """A number, an id or a label is an option; anything else is text."""
    assert asking.parse_answer(ASKED, line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1, light blue", {"key": "q1", "selected": ["o1", "o2"]}),
        ("1,1", {"key": "q1", "selected": ["o1"]}),
        ("1, green", {"key": "q1", "text": "1, green"}),
    ],
)
def test_parse_several_options(line: str, expected: dict[str, Any]) -> None:
    """Options are separated by commas; if one is unknown, the whole line is text."""
    assert asking.parse_answer(ASKED | {"multi_select": True}, line) == expected


@pytest.mark.parametrize(
    "status", [*get_args(ApprovalStatus), *get_args(QuestionStatus), *get_args(IndoubtStatus)]
)
def test_status_and_person(status: str) -> None:
    """A status is followed by the person who resolved the record."""
    assert asking.format_status({"status": status}) == status.replace("_", " ")
    assert asking.format_status({"status": status, "resolved_by": "uid:7"}).endswith(" by uid:7")


def test_every_field_has_a_line() -> None:
    """Every field for people has a line."""
    rendered = asking.format_approval(msgspec.to_builtins(sample(ApprovalView, full=True)), PIPE)
    for name in ("approval", "tool", "why", "agent", "run", "expires", "denied as", "justification"):
        assert f"{name}\t" in rendered
