"""Messages and their items: every kind there is, from the start."""

import msgspec
import pytest
from msgspec.structs import replace

from protocol.transcript import (
    ITEMS_OF,
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    TranscriptChecker,
    Usage,
    VisibleCall,
    VisibleMessage,
    VisibleThinking,
    find_message_problem,
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


CALLS = Message("assistant", [Text("I look"), ToolCall("c1", "look", {}), ToolCall("c2", "look", {})])
ASKED = Message("user", [Text("look")])


def result(call_id: str, name: str = "look") -> Message:
    """Return the result of a call."""
    return Message("tool", [ToolResult(call_id, name, "")])


def check(*messages: Message) -> list[str | None]:
    """Return what a checker says about each message."""
    checker = TranscriptChecker()
    return [checker.add(message) for message in messages]


def test_a_valid_transcript() -> None:
    """Questions, steers, calls, results in any order, thoughts and answers are valid."""
    answer = Message("assistant", [Thinking("hm"), Text("a stone")])
    joined = Message("tool", [ToolResult("d1", "t", "x"), ToolResult("d2", "t", "y", is_error=True)])
    more = Message("assistant", [ToolCall("d1", "t", {}), ToolCall("d2", "t", {})])
    messages = (ASKED, ASKED, CALLS, result("c2"), result("c1"), ASKED, more, joined, answer, ASKED, answer)
    assert check(*messages) == [None] * len(messages)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((CALLS,), "begins with a message of the assistant"),
        ((result("c1"),), "does not exist"),
        ((ASKED, CALLS, ASKED), "'c1' has no result"),
        ((ASKED, CALLS, result("c1"), result("c1")), "already has a result"),
        ((ASKED, CALLS, result("c1", "other")), "names another tool"),
        ((ASKED, CALLS, result("c1"), result("c2"), CALLS), "two calls have the id 'c1'"),
        ((ASKED, Message("assistant", [Text("a")]), Message("assistant", [Text("b")])), "follows another"),
        ((ASKED, CALLS, Message("tool", [ToolResult("c1", "look", "x")] * 2)), "already has a result"),
    ],
)
def test_an_invalid_transcript(messages: tuple[Message, ...], words: str) -> None:
    """The first message that breaks a rule is named, and is not added."""
    *valid, problem = check(*messages)
    assert valid == [None] * len(valid)
    assert problem is not None
    assert words in problem


ANTHROPIC = ProviderData("anthropic api.anthropic.com model")


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (Message("user", [ToolCall("c", "t", {})]), "kind 'tool_call'"),
        (Message("user", [ToolResult("c", "t", "x")]), "kind 'tool_result'"),
        (Message("user", [Thinking("hm")]), "kind 'thinking'"),
        (Message("assistant", [ToolResult("c", "t", "x")]), "kind 'tool_result'"),
        (Message("assistant", [AssetReference("a")]), "kind 'asset'"),
        (Message("tool", [Text("x")]), "kind 'text'"),
        (Message("user", []), "no content"),
        (Message("assistant", [Text("")]), "no content"),
        (Message("assistant", [Thinking("")]), "no content"),
        (Message("user", [Text("x"), Text("")]), "an empty text"),
        (Message("user", [Text("x")], provider_data=ANTHROPIC), "data of a provider"),
        (Message("assistant", [ToolCall("", "t", {})]), "an id that is empty"),
        (Message("assistant", [ToolCall("c" * 41, "t", {})]), "too long"),
        (Message("assistant", [ToolCall("c\n", "t", {})]), "not printable"),
        (Message("assistant", [ToolCall("c", "", {})]), "a name that no tool can have"),
        (Message("assistant", [ToolCall("c", "a b", {})]), "a name that no tool can have"),
        (
            Message(
                "assistant",
                [ToolCall("c", "t", {}, provider_data=ProviderData("google host model"))],
                provider_data=ANTHROPIC,
            ),
            "data of several providers",
        ),
    ],
)
def test_an_invalid_message(message: Message, words: str) -> None:
    """A message that no provider accepts is invalid, and the problem is named."""
    problem = find_message_problem(message)
    assert problem is not None
    assert words in problem


def test_no_message_is_both() -> None:
    """Each kind of item belongs to the roles of the table."""
    assert {kind for kinds in ITEMS_OF.values() for kind in kinds} == set(Item.__args__)
