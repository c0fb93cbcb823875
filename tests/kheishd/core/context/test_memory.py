"""The memory of a value: that of all its parts."""

import sys

from kheishd.core.context.memory import memory_of
from protocol.transcript import Message, Text, ToolCall


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
