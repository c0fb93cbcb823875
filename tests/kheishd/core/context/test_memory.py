"""The memory of a value: that of all its parts."""

import sys

from kheishd.core.context.memory import memory_of, memory_of_message
from kheishd.core.context.reduction import TranscriptEntry
from protocol.transcript import Message, ProviderData, Text, ToolCall, ToolResult


def test_memory_of_counts_all_parts() -> None:
    """Texts, fields, keys and nested values count."""
    assert memory_of("x" * 1_000) == sys.getsizeof("x" * 1_000)
    assert memory_of(["x", ("y", {"z": None})]) == sum(
        map(sys.getsizeof, (["x", 1], "x", ("y", 1), "y", {"z": 1}, "z", None))
    )
    short, long = (memory_of(Message("user", [Text("é" * size)])) for size in (1_000, 3_000))
    assert long - short == sys.getsizeof("é" * 3_000) - sys.getsizeof("é" * 1_000)
    nested = ToolCall("c", "look", {"a": [[] for _ in range(1_000)]})
    assert memory_of(nested) > 1_000 * sys.getsizeof([])


def test_memory_of_message_is_about_that_of_its_entry() -> None:
    """The memory of an entry is estimated within a few hundred bytes, and never much too low."""
    data = ProviderData("origin", fields={"a": ["b" * 500]})
    for items, provider_data in (
        ([Text("x")], None),
        ([Text("y" * 5_000), Text("é" * 5_000)], None),
        ([ToolCall("c", "look", {"a": [[] for _ in range(1_000)]})], data),
        ([ToolResult("c", "look", "z" * 5_000)], None),
    ):
        entry = TranscriptEntry(1, 1, Message("assistant", list(items), provider_data=provider_data))
        assert abs(memory_of_message(entry.message) - memory_of(entry)) < 400
