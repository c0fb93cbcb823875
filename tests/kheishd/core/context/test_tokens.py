"""Estimates of tokens: rather too many than too few, and exact arithmetic."""

import math
from fractions import Fraction
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.tokens import ASSET_TOKENS, of_bytes, of_message, of_messages, of_text
from protocol.transcript import AssetReference, Item, Message, Text, Thinking, ToolCall, ToolResult
from tests.support.samples import sample


@given(st.integers(0, 10**9))
def test_bytes_are_tokens_by_the_rule(count: int) -> None:
    """0.285 tokens a byte, rounded up, and a third more, rounded up."""
    assert of_bytes(count) == math.ceil(math.ceil(count * Fraction(285, 1000)) * Fraction(4, 3))


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_is_never_fewer_tokens(one: str, other: str) -> None:
    """And it is bytes that count, not characters."""
    assert of_text(one) <= of_text(one + other) <= of_text(one) + of_text(other)
    assert of_text("ä" * 100) == of_text("x" * 200)


@pytest.mark.parametrize("variant", get_args(Item), ids=lambda variant: variant.__name__)
def test_every_kind_of_item_counts(variant: type) -> None:
    """Each kind takes something beside its message."""
    item: Any = msgspec.convert(sample(variant, full=True), variant)
    assert of_message(Message("user", [item] * 9)) > of_message(Message("user", [item]))


def test_everything_that_is_sent_counts() -> None:
    """Arguments, results, signatures, and a file for what one usually takes."""
    bare = of_message(Message("assistant", []))
    long = "x" * 3_000
    items: list[Item] = [
        Text(long),
        Thinking("", signature=long),
        ToolCall("c", "t", {"text": long}),
        ToolResult("c", "t", long),
    ]
    for item in items:
        assert of_message(Message("assistant", [item])) >= bare + of_bytes(2_900)
    assert of_message(Message("user", [AssetReference("a")])) == bare + ASSET_TOKENS


def test_messages_take_what_each_takes() -> None:
    """Together."""
    one, other = Message("user", [Text("a" * 10)]), Message("assistant", [Text("b" * 99)])
    assert of_messages([one, other]) == of_message(one) + of_message(other)
    assert of_messages([]) == 0
