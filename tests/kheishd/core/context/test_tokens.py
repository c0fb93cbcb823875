"""Token estimates: rather too many than too few, and exact arithmetic."""

import math
from fractions import Fraction
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.context.tokens import (
    ASSET_TOKENS,
    estimate_bytes,
    estimate_message,
    estimate_messages,
    estimate_text,
)
from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tests.support.samples import sample


@given(st.integers(0, 10**9))
def test_estimate_bytes(count: int) -> None:
    """Bytes are 0.285 tokens each, rounded up, plus a third, rounded up."""
    assert estimate_bytes(count) == math.ceil(math.ceil(count * Fraction(285, 1000)) * Fraction(4, 3))


@given(st.text(max_size=200), st.text(max_size=200))
def test_more_text_is_never_fewer_tokens(text: str, suffix: str) -> None:
    """Longer text never takes fewer tokens, and bytes count, not characters."""
    assert estimate_text(text) <= estimate_text(text + suffix) <= estimate_text(text) + estimate_text(suffix)
    assert estimate_text("ä" * 100) == estimate_text("x" * 200)


@pytest.mark.parametrize("variant", get_args(Item), ids=lambda variant: variant.__name__)
def test_every_kind_of_item_counts(variant: type) -> None:
    """Each kind of item takes tokens beside its message."""
    item: Any = msgspec.convert(sample(variant, full=True), variant)
    assert estimate_message(Message("user", [item] * 9)) > estimate_message(Message("user", [item]))


def test_everything_that_is_sent_counts() -> None:
    """Arguments, results and signatures count, and a file counts as a usual one."""
    bare = estimate_message(Message("assistant", []))
    long = "x" * 3_000
    items: list[Item] = [
        Text(long),
        Thinking("", signature=long),
        ToolCall("c", "t", {"text": long}),
        ToolCall("c", "t", {}, provider_data=ProviderData("o", fields={"data": long})),
        ToolResult("c", "t", long),
    ]
    for item in items:
        assert estimate_message(Message("assistant", [item])) >= bare + estimate_bytes(2_900)
    data = ProviderData("o", fields={"data": long})
    assert estimate_message(Message("assistant", [], provider_data=data)) >= bare + estimate_bytes(2_900)
    assert estimate_message(Message("user", [AssetReference("a")])) == bare + ASSET_TOKENS


def test_estimate_messages() -> None:
    """Several messages take the sum of their tokens."""
    question, answer = Message("user", [Text("a" * 10)]), Message("assistant", [Text("b" * 99)])
    assert estimate_messages([question, answer]) == estimate_message(question) + estimate_message(answer)
    assert estimate_messages([]) == 0
