"""Messages as text."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishctl.render.layout import Display
from kheishctl.render.messages import (
    format_history,
    format_item,
    format_message,
    format_transcript,
    join_answer_text,
    name_author,
)
from protocol.transcript import Item, Text, text_of
from tests.support.samples import sample

NOW = 1_795_000_000_000
PIPE = Display(None, False, NOW)
WIDE = Display(100, False, NOW)


@pytest.mark.parametrize("variant", get_args(Item), ids=lambda variant: variant.__name__)
def test_every_item_has_a_text(variant: type) -> None:
    """Every kind of item has a text, except reasoning."""
    item = sample(variant, full=True)
    assert bool(format_item(item)) is (item["kind"] != "thinking")


def test_unknown_items() -> None:
    """An unknown kind of item is shown by its name."""
    assert format_item({"kind": "video"}) == "[video]"


@given(st.lists(st.text()))
def test_answer_text_is_what_was_streamed(texts: list[str]) -> None:
    """The text of an answer equals the streamed text."""
    items: list[Any] = [Text(text) for text in texts]
    assert join_answer_text({"items": msgspec.to_builtins(items)}) == text_of(items)


def test_message_text() -> None:
    """The items of a message are shown one after the other."""
    items = [{"kind": "text", "text": "a"}, {"kind": "tool_call", "name": "bash", "arguments": {"x": 1}}]
    assert format_message({"items": items}) == 'a\n[calls bash {"x": 1}]'


def test_history() -> None:
    """A terminal shows speaker, time and text; a pipe receives time, role and text."""
    messages = [
        {
            "at_ms": NOW,
            "sender": "ada",
            "message": {"role": "user", "items": [{"kind": "text", "text": "hi\x1b"}]},
        },
        {
            "at_ms": NOW,
            "stop_reason": "cancelled",
            "message": {"role": "assistant", "items": [{"kind": "text", "text": "he"}]},
        },
        {
            "at_ms": NOW,
            "unread": True,
            "message": {"role": "user", "items": [{"kind": "text", "text": "next"}]},
        },
    ]
    rendered = format_history(messages, WIDE)
    assert rendered.startswith("ada ")
    assert "hi␛" in rendered
    assert "(stopped)" in rendered
    assert "(unread)\nnext" in rendered
    assert [line.split("\t")[1:] for line in format_history(messages, PIPE).splitlines()] == [
        ["user", "hi␛"],
        ["assistant", "he"],
        ["user", "next"],
    ]


def test_an_input_that_no_person_wrote_is_marked() -> None:
    """The mark has the origin and the source; a person's input has none."""
    assert name_author("ada", {}) == "ada"
    assert name_author("ada", {"origin": "tool_output"}) == "ada [tool output]"
    assert name_author("", {"origin": "connector", "source": "mail:bob"}) == "[connector mail:bob]"
    message = {"role": "user", "items": [{"kind": "text", "text": "hi"}], "origin": "event"}
    rendered = format_history([{"at_ms": 0, "sender": "ada", "message": message}], PIPE)
    assert rendered.split("\t")[1:] == ["user [event]", "hi"]


def test_transcript() -> None:
    """A transcript has every message, call and result in full, wrapped at words."""
    call = {"kind": "tool_call", "name": "bash", "arguments": {"command": "make tests"}}
    output = '{"exit_code": 2, "stdout": "' + "word " * 8 + '", "stderr": ""}'
    results = [
        {"kind": "tool_result", "name": "bash", "text": output},
        {"kind": "tool_result", "name": "read_file", "text": "missing", "is_error": True},
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "items": [{"kind": "text", "text": "run \x1b[2J the tests"}]},
        {"role": "assistant", "items": [{"kind": "text", "text": "Yes."}, call]},
        {"role": "tool", "items": results},
    ]
    entries = [{"message": message, "at_ms": NOW, "sender": "ada"} for message in messages]
    lines = format_transcript(entries, 30).split("\n")
    times = [line for line in lines if line.startswith("ada · ")]
    assert [line for line in lines if line and line not in times] == [
        "run ␛[2J the tests",
        "Yes.",
        "→ bash make tests",
        "← bash exit 2",
        "  word word word word word",
        "  word word word",
        "← read_file failed",
        "  missing",
    ]
    assert len(times) == 2
