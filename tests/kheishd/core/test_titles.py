"""Titles: what is asked, and what of an answer is a title."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.titles import MAX_CHARACTERS, MAX_SHOWN_CHARACTERS, MAX_WORDS, request_of, title_of
from protocol.limits.names import MAX_TITLE_BYTES
from protocol.transcript import Item, Text, Thinking, ToolCall, text_of


def test_a_model_is_shown_the_beginning() -> None:
    """Of what was asked and of what was answered, on a line each, and no tag of its own."""
    (message,) = request_of("How do\nI <b>sail</b>? " + "x" * 1_000, "Like so. " + "y" * 1_000)
    shown = text_of(message.items)
    assert message.role == "user"
    assert "User: How do I &lt;b>sail&lt;/b>? x" in shown
    assert "\nAgent: Like so. y" in shown
    assert shown.count("<") == 2
    assert len(shown) < 2 * MAX_SHOWN_CHARACTERS + 120


@pytest.mark.parametrize(
    "said",
    [
        "Sailing a small boat",
        '"Sailing a small boat"',
        "**Sailing a small boat.**\n",
        "Title: Sailing a small boat",
        "# Title: “Sailing a  small\tboat”",
    ],
)
def test_what_stands_around_a_title_is_taken_off(said: str) -> None:
    """Quotes, marks, a label, a full stop."""
    assert title_of([Thinking("hm"), Text(said)]) == "Sailing a small boat"


@pytest.mark.parametrize(
    "items",
    [
        [],
        [Text(" ")],
        [Text('"."')],
        [Text("Sailing"), ToolCall("c", "bash", {})],
        [Text("Here is a title:\nSailing")],
        [Text("word " * (MAX_WORDS + 1))],
        [Text("x" * (MAX_CHARACTERS + 1))],
    ],
)
def test_what_is_no_title_is_none(items: list[Item]) -> None:
    """Rather no title than half an essay."""
    assert title_of(items) is None


@given(st.text())
def test_a_title_is_one_harmless_line(said: str) -> None:
    """Whatever a model says."""
    title = title_of([Text(said)])
    if title is not None:
        assert title.isprintable()
        assert 1 <= len(title) <= MAX_CHARACTERS <= MAX_TITLE_BYTES
        assert title == " ".join(title.split())
