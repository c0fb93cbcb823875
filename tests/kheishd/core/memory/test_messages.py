"""The messages of a journal that are searched."""

import pytest

from kheishd.core.memory.messages import MESSAGE_TYPES, SearchedMessage, read_message
from protocol.events.call import ToolReturned
from protocol.events.run import InputReceived, MessageAppended, Steered
from protocol.events.session import SessionRenamed, TranscriptImported
from protocol.journal.line import JournalEvent
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult

CALL = ToolCall("c1", "bash", {"command": "secret"})
RESULT = ToolResult("c1", "bash", "secret")


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (InputReceived(input_id="i", items=[Text("hi")]), SearchedMessage("hi", origin="person")),
        (
            Steered(steer_id="s", items=[Text("more")], origin="connector"),
            SearchedMessage("more", origin="connector"),
        ),
        (
            MessageAppended(item_id="m", message=Message("assistant", [Thinking("hm"), Text("ok"), CALL])),
            SearchedMessage("ok", is_answer=True),
        ),
        (
            MessageAppended(item_id="m", message=Message("assistant", [Text("ok")], agent="guest")),
            SearchedMessage("ok", is_answer=True, agent="guest"),
        ),
        (MessageAppended(item_id="m", message=Message("assistant", [CALL])), None),
        (MessageAppended(item_id="m", message=Message("user", [Text("go on")])), None),
        (
            TranscriptImported(message=Message("user", [Text("old")], origin="program"), source_cursor=1),
            SearchedMessage("old", origin="program"),
        ),
        (
            TranscriptImported(message=Message("assistant", [Text("old")]), source_cursor=1),
            SearchedMessage("old", is_answer=True),
        ),
        (TranscriptImported(message=Message("tool", [RESULT]), source_cursor=1), None),
        (ToolReturned(call_id="c1", tool="bash", how="returned", text="secret"), None),
        (SessionRenamed(title="x"), None),
    ],
)
def test_texts_of_people_and_agents_are_messages(
    event: JournalEvent, message: SearchedMessage | None
) -> None:
    """Texts of people and agents are; calls, results, thoughts and texts of the daemon are not."""
    assert read_message(event) == message
    assert message is None or event.__struct_config__.tag in MESSAGE_TYPES
