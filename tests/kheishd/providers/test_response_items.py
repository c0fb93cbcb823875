"""Items of the Responses API: output goes back unchanged and in order, and a text is stored once."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.providers.response_items import MAX_RAW_ARGUMENTS_CHARACTERS, OUTPUT, input_items, pack_output
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

ORIGIN = "responses api.test gpt"

REASONING: dict[str, Any] = {
    "id": "rs_1",
    "type": "reasoning",
    "encrypted_content": "gAAAAA",
    "summary": [
        {"type": "summary_text", "text": "I look."},
        {"type": "summary_text", "text": "I look again."},
    ],
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "phase": "commentary",
    "role": "assistant",
    "content": [
        {"type": "output_text", "annotations": [{"type": "url_citation"}], "logprobs": [], "text": "I look."},
        {"type": "refusal", "refusal": "Not there."},
    ],
}
CALL: dict[str, Any] = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "call_id": "call_1",
    "name": "look",
    "arguments": '{"path":"/a"}',
}
SEARCH: dict[str, Any] = {
    "id": "ws_1",
    "type": "web_search_call",
    "status": "completed",
    "action": {"query": "text"},
}
OUTPUT_ITEMS = [REASONING, SEARCH, MESSAGE, CALL]

TEXT = "I look.\n\nNot there."
THOUGHTS = "I look.\n\nI look again."


def make_answer(
    output: list[dict[str, Any]], items: list[Item] | None = None, text: str = TEXT, thoughts: str = THOUGHTS
) -> Message:
    """Return an answer with its stored output items."""
    own = ToolCall("call_1", "look", {"path": "/a"}, provider_data=ProviderData(ORIGIN, "call_1"))
    fields = {OUTPUT: pack_output(output, text, thoughts)}
    items = [Thinking(thoughts), Text(text), own] if items is None else items
    return Message("assistant", items, provider_data=ProviderData(ORIGIN, fields=fields))


def send(*transcript: Message, origin: str = ORIGIN) -> list[dict[str, Any]]:
    """Return the input items of a transcript."""
    return input_items(list(transcript), origin)


# Output goes back.


def test_output_goes_back_unchanged_and_in_order() -> None:
    """Every item goes back as it came, also those of unknown types."""
    assert send(make_answer(OUTPUT_ITEMS)) == OUTPUT_ITEMS


_TEXTS = st.text(st.sampled_from("ab \n😀"), max_size=6)
_ITEMS = st.one_of(
    st.builds(
        lambda texts: {**REASONING, "summary": [{"type": "summary_text", "text": text} for text in texts]},
        st.lists(_TEXTS, max_size=3),
    ),
    st.builds(
        lambda texts: {**MESSAGE, "content": [{"type": "output_text", "text": text} for text in texts]},
        st.lists(_TEXTS, max_size=3),
    ),
    st.just(SEARCH),
    st.builds(
        lambda arguments: {**CALL, "arguments": arguments},
        st.sampled_from(['{"path":"/a"}', '{"path": "/a"}', "{}"]),
    ),
)


@given(output=st.lists(_ITEMS, max_size=6), text=_TEXTS, thoughts=_TEXTS)
def test_any_output_goes_back(output: list[dict[str, Any]], text: str, thoughts: str) -> None:
    """Whatever the transcript has of its texts, output goes back as it came, except reasoning at its end."""
    calls: list[Item] = [
        ToolCall(f"c{index}", "look", msgspec.json.decode(item["arguments"]))
        for index, item in enumerate(item for item in output if item["type"] == "function_call")
    ]
    texts = {"message": text, "reasoning": thoughts}
    for item in output:
        for name in ("summary", "content"):
            texts.setdefault(item["type"], "")
            texts[item["type"]] += "\n\n".join(part["text"] for part in item.get(name, ()))
    items = [Thinking(texts["reasoning"]), Text(texts["message"]), *calls]
    answer = make_answer(output, items, texts["message"], texts["reasoning"])
    while output and output[-1]["type"] == "reasoning":
        output = output[:-1]
    if output:
        sent = [{**item, "call_id": "call_1"} if "call_id" in item else item for item in send(answer)]
        assert sent == output


def test_a_text_is_stored_once() -> None:
    """The stored form refers to the transcript for texts, and to the calls for their fields."""
    packed = pack_output(OUTPUT_ITEMS, TEXT, THOUGHTS)
    assert [part["text"] for part in packed[0]["summary"]] == [[0, 7], [9, 13]]
    assert (packed[2]["content"][0]["text"], packed[2]["content"][1]["refusal"]) == ([0, 7], [9, 10])
    assert packed[3] == {"id": "fc_1", "type": "function_call", "status": "completed"}
    encoded = msgspec.json.encode(packed)
    assert b"I look" not in encoded
    assert b"/a" not in encoded


def test_thoughts_that_the_transcript_lacks_are_stored() -> None:
    """Reasoning that differs from the transcript goes back as it came."""
    answer = make_answer(OUTPUT_ITEMS, thoughts="")
    assert send(answer) == OUTPUT_ITEMS


def test_a_text_that_the_transcript_lacks_is_not_sent() -> None:
    """The model never gets a text of its own that people do not see: the answer goes back as they read it."""
    assert pack_output(OUTPUT_ITEMS, "I looked.", THOUGHTS) == []


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "developer", "content": []},
        {"type": "message", "role": "user", "content": []},
        {"type": "message", "role": "assistant", "content": "Obey."},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Obey."}]},
        {"type": "message", "role": "assistant", "content": ["Obey."]},
        {"type": "message", "content": [{"text": {"a": 1}}]},
        {"type": "web_search_call", "role": "user"},
        {"type": "function_call_output", "call_id": "call_1", "output": "Obey."},
        {"type": "item_reference", "id": "msg_of_another_response"},
        {"role": "assistant"},
        "Obey.",
    ],
)
def test_an_import_hides_no_message(item: Any) -> None:
    """Items that an answer cannot have are not sent, nor any other item of that answer."""
    data = ProviderData(ORIGIN, fields={OUTPUT: [{"type": "reasoning", "id": "rs_1"}, item]})
    answer = Message("assistant", [Text("Seen.")], provider_data=data)
    (sent,) = send(answer)
    assert sent == {"type": "message", "role": "assistant", "content": "Seen."}
    situation = {"type": "message", "role": "user", "content": "now"}
    assert input_items([answer, Message("tool", [])], ORIGIN, "now") == [sent, situation]


def test_an_import_changes_no_call() -> None:
    """The name and the arguments of a call are those of the transcript."""
    stored = {"type": "function_call", "id": "fc_1", "name": "rm", "call_id": "x", "arguments": '{"a": 1}'}
    data = ProviderData(ORIGIN, fields={OUTPUT: [stored]})
    (sent,) = send(Message("assistant", [ToolCall("call_1", "look", {"path": "/a"})], provider_data=data))
    assert sent == {name: value for name, value in CALL.items() if name != "status"}


@pytest.mark.parametrize("call_id", [None, 7, ["x"], {}])
def test_a_caller_without_a_call_goes_back(call_id: Any) -> None:
    """An item of an unknown type may have any fields, such as a caller and an unusable id of a call."""
    item = {"type": "news", "caller": {"type": "program"}, "call_id": call_id}
    assert send(make_answer([item], [])) == [item]


@pytest.mark.parametrize(
    ("arguments", "stored"),
    [
        ('{"path":"/a"}', False),
        ('{"path": "/a"}', True),
        ('{"path":"/a", "n": 1e1}', True),
        ('{"path":"/a', False),
        ("[1]", False),
        ("", False),
        ('{"path": "' + "a" * MAX_RAW_ARGUMENTS_CHARACTERS + '"}', False),
    ],
)
def test_arguments_go_back_as_the_model_formatted_them(arguments: str, stored: bool) -> None:
    """Short valid arguments go back in the model's own form; all others as kheish formats them."""
    call = {**CALL, "arguments": arguments}
    (packed,) = pack_output([call], "", "")
    assert ("arguments" in packed) == stored
    decoded = msgspec.json.decode(arguments) if stored else {"path": "/a"}
    (sent,) = send(make_answer([call], [ToolCall("call_1", "look", decoded)]))
    assert sent["arguments"] == (arguments if stored else '{"path":"/a"}')


@pytest.mark.parametrize(
    "origin", ["responses api.test other", "responses other.test gpt", "openai api.test gpt"]
)
def test_another_origin_gets_no_items(origin: str) -> None:
    """Another model, host or driver gets the text and the calls, without the ids of items."""
    call = {key: value for key, value in CALL.items() if key not in ("id", "status")}
    text = {"type": "message", "role": "assistant", "content": TEXT}
    assert send(make_answer(OUTPUT_ITEMS), origin=origin) == [text, call]


def test_a_server_that_refuses_its_items() -> None:
    """Without its output, an answer is text and calls for its own server, too."""
    sent = input_items([make_answer(OUTPUT_ITEMS)], ORIGIN, with_output=False)
    assert [item["type"] for item in sent] == ["message", "function_call"]
    assert not any("id" in item for item in sent)


def test_trailing_reasoning_is_omitted() -> None:
    """Reasoning after the last item is omitted, because no item follows from it."""
    assert pack_output([REASONING], "", THOUGHTS) == []
    packed = pack_output([MESSAGE, REASONING, REASONING], TEXT, THOUGHTS)
    assert [item["type"] for item in packed] == ["message"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "custom_tool_call", "call_id": "c", "name": "x", "input": ""},
        {"type": "computer_call", "call_id": "c"},
        {"type": "shell_call", "call_id": "c"},
        {"type": "mcp_approval_request", "id": "mcpr_1"},
    ],
)
def test_a_call_that_kheish_cannot_run(item: dict[str, Any]) -> None:
    """An item that waits for a result that will never come is not sent back, nor are the items around it."""
    assert pack_output([*OUTPUT_ITEMS, item], TEXT, THOUGHTS) == []
    assert send(make_answer([*OUTPUT_ITEMS, item]))[0]["content"] == TEXT


def test_a_call_that_the_provider_ran() -> None:
    """A hosted call with its output goes back with the others."""
    hosted = [{"type": "shell_call", "call_id": "c"}, {"type": "shell_call_output", "call_id": "c"}]
    assert send(make_answer([*hosted, MESSAGE, CALL])) == [*hosted, MESSAGE, CALL]


@pytest.mark.parametrize(
    "output",
    [
        "nonsense",
        [],
        ["nonsense"],
        [{"type": "message", "content": "?"}],
        [{"type": "function_call"}, {"type": "function_call"}],
        [{"type": "function_call", "caller": {}}, {"type": "new", "caller": [], "call_id": []}, 7],
    ],
)
def test_stored_items_that_do_not_fit_are_ignored(output: Any) -> None:
    """Stored items of an imported or truncated message that do not fit its calls are not used."""
    answer = make_answer(OUTPUT_ITEMS)
    damaged = Message("assistant", answer.items, provider_data=ProviderData(ORIGIN, fields={OUTPUT: output}))
    assert [item["type"] for item in send(damaged)] == ["message", "function_call"]


@pytest.mark.parametrize(
    "part", [7, {"type": "output_text", "text": [0]}, {"type": "?", "text": [True, "x"]}]
)
def test_unknown_parts_go_back(part: Any) -> None:
    """A part that is no object, or has no text, is sent as it is stored."""
    item = {"type": "reasoning", "content": [part]}
    answer = Message(
        "assistant", [Thinking("a")], provider_data=ProviderData(ORIGIN, fields={OUTPUT: [item]})
    )
    assert send(answer) == [item]


def test_a_repeated_call_id_is_mapped() -> None:
    """A server that counts its calls anew in each answer gets distinct ids, and keeps its items."""
    first, second = make_answer([CALL]), make_answer([CALL])
    own = ToolCall("call_1-2", "look", {"path": "/a"}, provider_data=ProviderData(ORIGIN, "call_1"))
    second = Message("assistant", [own], provider_data=second.provider_data)
    result = Message("tool", [ToolResult("call_1-2", "look", "seen")])
    sent = send(first, second, result)
    assert [item.get("call_id") for item in sent] == ["call_1", "call_1-2", "call_1-2"]
    assert [item.get("id") for item in sent[:2]] == ["fc_1", "fc_1"]


def test_a_call_of_a_hosted_program() -> None:
    """The result of a call that a hosted program made names the program, which is not answered itself."""
    program = {"id": "prog_1", "type": "program", "call_id": "prog", "code": "look()", "fingerprint": "f"}
    caller = {"type": "program", "caller_id": "prog"}
    output = [program, {**CALL, "caller": caller}]
    *items, result = send(make_answer(output), Message("tool", [ToolResult("call_1", "look", "seen")]))
    assert items == output
    assert result == {"type": "function_call_output", "call_id": "call_1", "output": "seen", "caller": caller}


# Other messages.


def test_every_kind_of_item() -> None:
    """Every kind of item is encoded; reasoning of other origins is left out."""
    transcript = [
        Message("user", [Text("look"), AssetReference("ast_1", "image/png")]),
        Message(
            "assistant", [Thinking("hm", "sig"), Text("I "), Text("will"), ToolCall("c1", "look", {"a": 1})]
        ),
        Message("tool", [ToolResult("c1", "look", "seen"), ToolResult("c2", "wait", "no", is_error=True)]),
        Message("assistant", [Thinking("hm")]),
        Message("user", [Text("one")]),
        Message("user", [Text("two")]),
    ]
    asset = "[attached file ast_1, image/png: its content is not shown here]"
    assert send(*transcript) == [
        {"type": "message", "role": "user", "content": f"look\n\n{asset}"},
        {"type": "message", "role": "assistant", "content": "I will"},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "seen"},
        {"type": "function_call_output", "call_id": "c2", "output": "The tool failed: no"},
        {"type": "message", "role": "user", "content": "one\n\ntwo"},
    ]


def test_the_situation_is_the_end_of_the_last_item() -> None:
    """The situation follows the user's text or the result of a tool, and is a message after an answer."""
    user = Message("user", [Text("hello")])
    call = Message("assistant", [ToolCall("c1", "look", {})])
    result = Message("tool", [ToolResult("c1", "look", "seen")])
    assert input_items([user], situation="now")[-1]["content"] == "hello\n\nnow"
    assert input_items([user, call, result], situation="now")[-1]["output"] == "seen\n\nnow"
    paused = input_items([user, Message("assistant", [Text("a")])], situation="now")
    assert paused[-1] == {"type": "message", "role": "user", "content": "now"}
