"""Messages and their items: every kind there is, from the start."""

import msgspec
import pytest
from msgspec.structs import replace

from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
    VisibleCall,
    VisibleMessage,
    VisibleThinking,
    make_visible,
    text_of,
)

DATA = ProviderData("openai api.test gpt", "functions.look:0", {"extra_content": {"x": [1, None]}})

ITEMS: list[Item] = [
    Text("é\n\u2028🌍"),
    Thinking("hm", signature="s", redacted=True),
    Thinking("hm"),
    ToolCall("c1", "read_file", {"path": "a", "n": [1, None]}),
    ToolCall("c1", "read_file", {}, invalid="they are no JSON object"),
    ToolCall("c1", "read_file", {}, provider_data=DATA),
    ToolResult("c1", "read_file", "gone", is_error=True),
    ToolResult("c1", "read_file", "here"),
    AssetReference("ast_1", "image/png"),
    AssetReference("ast_1"),
]


@pytest.mark.parametrize("item", ITEMS)
def test_items_survive(item: Item) -> None:
    """Every item is the same after a journey through JSON and through MessagePack."""
    message = Message("assistant", [item], agent="reviewer", provider_data=DATA)
    assert msgspec.json.decode(msgspec.json.encode(message), type=Message) == message
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=Message) == message


def test_kinds_have_their_names() -> None:
    """The kind of an item is a word that never changes."""
    kinds = {msgspec.to_builtins(item)["kind"] for item in ITEMS}
    assert kinds == {"text", "thinking", "tool_call", "tool_result", "asset"}


def test_text_of_passes_over_the_rest() -> None:
    """The text of a message is its text items, joined."""
    items: list[Item] = [Text("a"), Thinking("b"), Text("c"), ToolCall("c1", "x", {})]
    assert text_of(items) == "ac"
    assert text_of(items[:0]) == ""


def test_usage_adds_up() -> None:
    """Tokens are added kind by kind."""
    one = Usage(1, 2, 3, 4, 5)
    assert one + Usage() == one
    assert one + one == Usage(2, 4, 6, 8, 10)


def test_usage_is_not_negative() -> None:
    """A provider that counts backwards is not believed."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"input_tokens": -1}, Usage)


def test_unknown_fields_are_passed_over() -> None:
    """A message written by a later version is read."""
    data = b'{"role":"user","items":[{"kind":"text","text":"a","new":1}],"new":{}}'
    assert msgspec.json.decode(data, type=Message) == Message("user", [Text("a")])


def test_messages_without_provider_data_are_read() -> None:
    """Messages and calls of earlier versions have none, and none is written where there is none."""
    data = b'{"role":"assistant","items":[{"kind":"tool_call","call_id":"c1","name":"look","arguments":{}}]}'
    message = Message("assistant", [ToolCall("c1", "look", {})])
    assert msgspec.json.decode(data, type=Message) == message
    assert msgspec.json.encode(message) == data


def test_people_see_no_provider_data() -> None:
    """Provider data and signatures are left out of a message for people; the rest of it stays."""
    call = ToolCall("c1", "look", {"a": 1})
    items: list[Item] = [Thinking("hm", "sig"), Text("a"), replace(call, provider_data=DATA)]
    message = Message("assistant", items, "reviewer", DATA)
    visible = make_visible(message)
    assert visible.agent == "reviewer"
    assert visible.items == [VisibleThinking("hm"), Text("a"), VisibleCall("c1", "look", {"a": 1})]
    bare = replace(message, items=[Thinking("hm"), Text("a"), call], provider_data=None)
    assert msgspec.json.encode(visible) == msgspec.json.encode(bare)


def test_people_see_every_kind_of_item() -> None:
    """Every item of a transcript is one of a message for people, with the same fields."""
    bare = [replace(item, signature=None) if isinstance(item, Thinking) else item for item in ITEMS]
    bare = [replace(item, provider_data=None) if isinstance(item, ToolCall) else item for item in bare]
    visible = make_visible(Message("assistant", ITEMS))
    assert msgspec.json.encode(visible.items) == msgspec.json.encode(bare)
    assert msgspec.convert(msgspec.to_builtins(visible), VisibleMessage) == visible
