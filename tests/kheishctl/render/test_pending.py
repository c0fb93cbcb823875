"""What waits for a person, as text: whole for a person, harmless whoever wrote it."""

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
from protocol.text import sanitise
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE, WIDE, COLORED = Display(None, False, NOW), Display(100, False, NOW), Display(100, True, NOW)
OPTIONS = [
    {"option_id": "o1", "label": "Red"},
    {"option_id": "o2", "label": "Light  blue", "description": "like the sky"},
]
ASKED: dict[str, Any] = {"key": "q1", "header": "Color", "question": "Which color?", "options": OPTIONS}


def approval(**fields: Any) -> dict[str, Any]:
    """An approval as the wire brings it."""
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
def test_each_can_be_shown(kind: type, show: Any, look: Display, full: bool) -> None:
    """With all its fields, or only those that every one has."""
    text = show(sample(kind, full=full), look)
    assert "run" in text
    if look is not COLORED:
        assert sanitise(text) == text


@given(st.text(st.characters(exclude_categories=[])))
def test_nothing_in_it_acts(text: str) -> None:
    """Whatever a model wrote, it is only seen."""
    preview = {"kind": "diff", "text": text}
    for shown in (
        asking.format_approval(approval(tool=text, subject=text, preview=preview, note=text), WIDE),
        asking.format_approval(approval(arguments={text: text}), WIDE),
        asking.format_question(
            {"key": "q1", "question": text, "options": [{"option_id": "o", "label": text}]}, WIDE
        ),
    ):
        assert sanitise(shown) == shown


def test_a_diff() -> None:
    """What is added and taken away is colored, and what was cut says so."""
    preview = {"kind": "diff", "text": "@@ -1 +1 @@\n-old\n+new\n same\n", "truncated": True}
    shown = asking.format_approval(approval(preview=preview), COLORED)
    assert "\x1b[32m+new\x1b[0m\n same" in shown
    assert "\x1b[31m-old\x1b[0m" in shown
    assert shown.endswith("there is more)\x1b[0m")


def test_a_command() -> None:
    """It is shown as it is typed."""
    shown = asking.format_approval(approval(preview={"kind": "command", "text": "make\nmake install"}), WIDE)
    assert shown.endswith("$ make\nmake install")


def test_without_a_preview_the_input_is_shown() -> None:
    """And what a person changed it to."""
    shown = asking.format_approval(
        approval(status="allowed", resolved_by="uid:0", updated_input={"path": "b.txt"}), PIPE
    )
    assert 'input:\n{\n  "path": "a.txt"\n}' in shown
    assert shown.endswith('changed to:\n{\n  "path": "b.txt"\n}')
    assert "status\tallowed by uid:0" in shown


def test_a_question_with_its_answer() -> None:
    """What was chosen is marked, what was written follows."""
    answer = {"key": "q1", "selected": ["o2"], "text": "a dark one"}
    assert asking.format_question(ASKED, WIDE, answer).split("\n") == [
        "q1 Color",
        "Which color?",
        "  1. Red",
        " *2. Light blue: like the sky",
        "> a dark one",
    ]


def test_a_question_with_several_answers() -> None:
    """That more than one option may be chosen is said before any is."""
    shown = asking.format_question(ASKED | {"multi_select": True}, WIDE)
    assert shown.startswith("q1 Color (several may be chosen)\nWhich color?\n")


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
def test_an_answer_as_it_is_typed(line: str, expected: dict[str, Any]) -> None:
    """A number, an id or a label is an option; anything else is a text."""
    assert asking.parse_answer(ASKED, line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1, light blue", {"key": "q1", "selected": ["o1", "o2"]}),
        ("1,1", {"key": "q1", "selected": ["o1"]}),
        ("1, green", {"key": "q1", "text": "1, green"}),
    ],
)
def test_several_options_as_they_are_typed(line: str, expected: dict[str, Any]) -> None:
    """With commas between them, where several may be chosen; if one is none, all of it is a text."""
    assert asking.parse_answer(ASKED | {"multi_select": True}, line) == expected


@pytest.mark.parametrize(
    "status", [*get_args(ApprovalStatus), *get_args(QuestionStatus), *get_args(IndoubtStatus)]
)
def test_every_status_has_a_word(status: str) -> None:
    """And who made it so, where somebody did."""
    assert asking.format_status({"status": status}) == status.replace("_", " ")
    assert asking.format_status({"status": status, "resolved_by": "uid:7"}).endswith(" by uid:7")


def test_what_is_shown_is_what_is_kept() -> None:
    """Every field that a person is to see has its line."""
    shown = asking.format_approval(msgspec.to_builtins(sample(ApprovalView, full=True)), PIPE)
    for name in ("approval", "tool", "why", "agent", "run", "expires", "denied as", "justification"):
        assert f"{name}\t" in shown
