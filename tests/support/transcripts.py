"""Transcripts: a validity check, and strategies that make them."""

from hypothesis import strategies as st

from kheishd.core.context.reduction import TranscriptEntry
from protocol.transcript import Item, Message, Text, ToolCall, ToolResult

ROLES = {"user": (Text,), "assistant": (Text, ToolCall), "tool": (ToolResult,)}


def assert_valid(messages: list[Message]) -> None:
    """Require that every call has exactly one result, in the next message, in the same order."""
    open_calls: list[str] = []
    for message in messages:
        assert message.items, "a message of nothing"
        assert all(isinstance(item, ROLES[message.role]) for item in message.items)
        results = [item.call_id for item in message.items if isinstance(item, ToolResult)]
        assert results == open_calls
        open_calls = [item.call_id for item in message.items if isinstance(item, ToolCall)]
    assert open_calls == []


_SIZES = st.integers(1, 3_000)
_TURNS = st.lists(
    st.tuples(st.sampled_from(["input", "said", "answer", "calls"]), st.integers(1, 3), _SIZES), max_size=25
)


@st.composite
def transcripts(draw: st.DrawFn) -> list[TranscriptEntry]:
    """Return the messages of a session: inputs, steers, answers, and calls with their results."""
    entries: list[TranscriptEntry] = []
    for number, (kind, count, size) in enumerate(draw(_TURNS)):
        cursor = 10 * number + 10
        match kind:
            case "input":
                entries.append(TranscriptEntry(cursor, cursor, Message("user", [Text("i" * size)]), "input"))
            case "said":
                # Steers that enter together have one cursor.
                message = Message("user", [Text("s" * size)])
                entries += [TranscriptEntry(cursor, cursor, message) for _ in range(count)]
            case "answer":
                entries.append(TranscriptEntry(cursor, cursor, Message("assistant", [Text("a" * size)])))
            case _:
                names = [f"c{number}.{n}" for n in range(count)]
                tools = ["bash", "look", "read_file"]
                calls: list[Item] = [ToolCall(name, tools[n], {"n": n}) for n, name in enumerate(names)]
                results: list[Item] = [ToolResult(name, tools[n], "r" * size) for n, name in enumerate(names)]
                entries.append(TranscriptEntry(cursor, cursor, Message("assistant", calls)))
                entries.append(TranscriptEntry(cursor + 5, cursor + 5, Message("tool", results)))
    return entries
