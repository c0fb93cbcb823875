"""Messages of chat completions: each server gets its own data back, and nothing that it rejects."""

from typing import Any

import msgspec
import pytest

from kheishd.kernel.runtime import ModelAnswer
from kheishd.providers.chat_messages import PLACEHOLDER_SIGNATURE, ChatRules, messages, take_rules
from kheishd.providers.failures import FailureFactory
from kheishd.providers.openai import reader
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS
from protocol.limits.model import MAX_PROVIDER_DATA_BYTES
from protocol.transcript import Item, Message, ProviderData, Text, Thinking, ToolCall, ToolResult
from tests.support.model_calls import make_request

ORIGIN = "openai api.test gpt"
OTHER = ChatRules("openai api.test other")
OWN = ChatRules(ORIGIN)

SIGNATURE = {"google": {"thought_signature": "c2ln"}}


def read(*deltas: dict[str, Any]) -> ModelAnswer:
    """Return the answer that arrives in these pieces."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    for delta in deltas:
        fresh.event(msgspec.json.encode({"choices": [{"index": 0, "delta": delta}]}))
    fresh.event(b"[DONE]")
    answer = fresh.end()
    assert answer is not None
    return answer


def call(index: int, call_id: str | None, **more: Any) -> dict[str, Any]:
    """Return a piece with a whole call."""
    function = {"name": "look", "arguments": "{}", **more.pop("function", {})}
    return {"tool_calls": [{"index": index, "id": call_id, "function": function, **more}]}


def send_back(answer: ModelAnswer, rules: ChatRules = OWN) -> dict[str, Any]:
    """Return an answer as the assistant's message of the next request."""
    message = Message("assistant", answer.items, provider_data=answer.provider_data)
    sent: dict[str, Any] = messages("", [message], rules)[0]
    return sent


# The situation.


def test_the_situation_is_the_end_of_the_last_message() -> None:
    """It follows the user's message or a tool's result, without a message of its own."""
    user = Message("user", [Text("hello")])
    call = Message("assistant", [ToolCall("c1", "look", {})])
    result = Message("tool", [ToolResult("c1", "look", "seen")])
    assert messages("", [user], OWN, "now")[-1] == {"role": "user", "content": "hello\n\nnow"}
    sent = messages("", [user, call, result], OWN, "now")
    assert sent[-1] == {"role": "tool", "tool_call_id": "c1", "content": "seen\n\nnow"}
    assert sent[:-1] == messages("", [user, call], OWN)
    assert messages("be brief", [], OWN, "now")[-1] == {"role": "user", "content": "now"}


# Reasoning.


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_goes_back_under_its_name(name: str) -> None:
    """The text of the thoughts is sent back to its origin under the name under which it arrived."""
    answer = read({name: "Let me "}, {name: "see."}, call(0, "c1"))
    assert send_back(answer)[name] == "Let me see."
    assert {"reasoning_content", "reasoning"}.isdisjoint(send_back(answer, OTHER))


def test_reasoning_under_both_names_goes_back_once() -> None:
    """Of two equal texts, the one is sent back whose name some servers require."""
    sent = send_back(read({"reasoning": "hm", "reasoning_content": "hm", "content": "a"}))
    assert (sent.get("reasoning_content"), "reasoning" in sent) == ("hm", False)


def test_required_reasoning_is_learned() -> None:
    """Once the model has sent ``reasoning_content``, every message with calls has it, even if it is empty."""
    answer = read({"reasoning_content": "hm"}, {"content": "a"})
    own = Message("assistant", answer.items, provider_data=answer.provider_data)
    transcript = [
        Message(
            "assistant", [Thinking("other"), ToolCall("c1", "look", {})], provider_data=ProviderData("x")
        ),
        Message("tool", [ToolResult("c1", "look", "seen")]),
        Message("assistant", [Text("b")]),
        own,
    ]
    sent = messages("", transcript, OWN)
    assert [message.get("reasoning_content") for message in sent] == ["", None, None, "hm"]
    for rules in (OTHER, ChatRules(ORIGIN, reasoning_content=False)):
        assert all("reasoning_content" not in message for message in messages("", transcript, rules))
    assert (
        messages("", transcript[:3], ChatRules(ORIGIN, reasoning_content=True))[0]["reasoning_content"] == ""
    )


def test_refused_thoughts_are_left_out() -> None:
    """Once a server refused its signed thoughts, the text of the thoughts remains."""
    block = {"type": "thinking", "thinking": "hm", "signature": "c2ln"}
    answer = read({"reasoning_content": "hm", "thinking_blocks": [block]}, {"content": "a"})
    assert send_back(answer)["thinking_blocks"] == [block]
    traits = USUAL_TRAITS.omit(OUTPUT_ITEMS)
    rules = take_rules(make_request(driver="openai", model="gpt"), "http://api.test", {}, traits)
    sent = send_back(answer, rules)
    assert (sent.get("thinking_blocks"), sent["reasoning_content"]) == (None, "hm")


def test_required_reasoning_is_remembered() -> None:
    """After a compaction, the conversation's marks say that the model sends ``reasoning_content``."""
    answer = read({"reasoning_content": "hm"}, call(0, "c1"))
    assert answer.provider_data is not None
    assert answer.provider_data.marks == ["reasoning_content"]
    request = msgspec.structs.replace(
        make_request(driver="openai", model="gpt"), marks={ORIGIN: answer.provider_data.marks}
    )
    assert take_rules(request, "http://api.test", {}).reasoning_content is True
    assert take_rules(request, "http://other.test", {}).reasoning_content is None
    assert take_rules(request, "http://api.test", {"reasoning_content": False}).reasoning_content is False


@pytest.mark.parametrize("thinking", [[{"type": "text", "text": "Let me see."}], "Let me see."])
def test_reasoning_in_parts_of_the_content_goes_back(thinking: Any) -> None:
    """Thoughts that arrived as parts of the content are sent back as such, in their order with the texts."""
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "a"}]
    answer = read({"content": parts}, {"content": "b"}, {"content": parts[:1]}, call(0, "abcdefgh1"))
    assert send_back(answer)["content"] == [parts[0], {"type": "text", "text": "ab"}, parts[0]]
    for rules in (OTHER, ChatRules(ORIGIN, reasoning_content=False)):
        assert send_back(answer, rules)["content"] == "ab"


def test_a_bridge_between_a_result_and_the_user() -> None:
    """Mistral wants an answer of the assistant before the user speaks again, as after a cancelled run."""
    transcript = [
        Message("assistant", [ToolCall("c1", "look", {})]),
        Message("tool", [ToolResult("c1", "look", "seen")]),
        Message("user", [Text("never mind")]),
        Message("user", [Text("go on")]),
    ]
    options = {"call_ids": "mistral"}
    rules = take_rules(make_request(driver="openai", model="m"), "http://x", options)
    assert [message["role"] for message in messages("", transcript, rules)] == [
        "assistant",
        "tool",
        "assistant",
        "user",
    ]
    assert [message["role"] for message in messages("", transcript, OWN)] == ["assistant", "tool", "user"]


def test_reasoning_of_an_earlier_version() -> None:
    """A message without an origin keeps its meaning: its thoughts are sent if the route says so."""
    message = Message("assistant", [Thinking("hm"), Text("a")])
    assert "reasoning_content" not in messages("", [message], OWN)[0]
    assert messages("", [message], ChatRules(ORIGIN, reasoning_content=True))[0]["reasoning_content"] == "hm"


# Data of routers.


def test_reasoning_details_go_back() -> None:
    """OpenRouter's details are joined and sent back; the text that they repeat is not sent twice."""
    encrypted = {"type": "reasoning.encrypted", "data": "eA==", "index": 1}
    answer = read(
        {
            "reasoning": "Let me ",
            "reasoning_details": [{"type": "reasoning.text", "text": "Let me ", "index": 0}],
        },
        {"reasoning": "see.", "reasoning_details": [{"type": "reasoning.text", "text": "see.", "index": 0}]},
        {"reasoning_details": [encrypted]},
        call(0, "c1"),
    )
    sent = send_back(answer)
    whole = {"type": "reasoning.text", "text": "Let me see.", "index": 0}
    assert sent["reasoning_details"] == [whole, encrypted]
    assert "reasoning" not in sent
    assert send_back(answer, OTHER) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    }


def test_litellm_s_data_goes_back() -> None:
    """LiteLLM's blocks and fields go back on the message, the call and the function that had them, once."""
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    answer = read(
        {"provider_specific_fields": {"x": 1, "thinking_blocks": [block]}, "thinking_blocks": [block]},
        {"provider_specific_fields": {"thinking_blocks": []}, "thinking_blocks": [], "content": "a"},
        call(0, "c1", provider_specific_fields={"y": 2}, function={"provider_specific_fields": {"z": 3}}),
    )
    sent = send_back(answer)
    assert sent["thinking_blocks"] == [block]
    assert sent["provider_specific_fields"] == {"x": 1}
    assert sent["tool_calls"][0]["provider_specific_fields"] == {"y": 2}
    assert sent["tool_calls"][0]["function"]["provider_specific_fields"] == {"z": 3}
    assert b"specific" not in msgspec.json.encode(send_back(answer, OTHER))
    assert b"thinking" not in msgspec.json.encode(send_back(answer, OTHER))


def test_blocks_in_pieces_are_joined() -> None:
    """A thinking block that arrives in pieces is one block with its signature."""
    block = {"type": "thinking", "thinking": "hm", "signature": "s"}
    answer = read(
        {"thinking_blocks": [{**block, "thinking": "h", "signature": None}]},
        {"thinking_blocks": [{**block, "thinking": "m"}], "content": "a"},
    )
    assert send_back(answer)["thinking_blocks"] == [block]


# Gemini.


def test_a_signature_goes_back_on_its_call() -> None:
    """A call's signature is sent back on that call; other calls of the batch have none."""
    sent = send_back(read(call(0, "c1", extra_content=SIGNATURE), call(1, "c2")))
    assert [sent_call.get("extra_content") for sent_call in sent["tool_calls"]] == [SIGNATURE, None]


def test_a_signature_of_a_text_goes_back() -> None:
    """A message's signature is sent back without the mark of a thought, which would change the message."""
    marked = {"google": {"thought": True}}
    signed = {"google": {"thought": True, "thought_signature": "c2ln"}}
    answer = read({"content": "a", "extra_content": marked}, {"content": "b", "extra_content": signed})
    assert send_back(answer)["extra_content"] == SIGNATURE
    assert "extra_content" not in send_back(answer, OTHER)


def test_a_foreign_call_gets_the_placeholder() -> None:
    """Where signatures are required, the first call of a message without one gets Google's placeholder."""
    foreign = read(call(0, "c1", extra_content=SIGNATURE), call(1, "c2"))
    sent = send_back(foreign, ChatRules(OTHER.origin, thought_signatures=True))
    placeholder = {"google": {"thought_signature": PLACEHOLDER_SIGNATURE}}
    assert [sent_call.get("extra_content") for sent_call in sent["tool_calls"]] == [placeholder, None]
    text = Message("assistant", [Text("a")])
    assert messages("", [text], ChatRules(thought_signatures=True)) == [{"role": "assistant", "content": "a"}]


def test_a_server_with_signatures_gets_placeholders() -> None:
    """A server that sent a signature before requires one on all messages with calls."""
    own = read(call(0, "c2", extra_content=SIGNATURE))
    transcript = [
        Message("assistant", [ToolCall("c1", "look", {})]),
        Message("assistant", own.items, provider_data=own.provider_data),
    ]
    signatures = [
        message["tool_calls"][0]["extra_content"]["google"]["thought_signature"]
        for message in messages("", transcript, OWN)
    ]
    assert signatures == [PLACEHOLDER_SIGNATURE, "c2ln"]


# Ids.


def test_results_have_the_ids_of_their_calls() -> None:
    """A call's id is the provider's own in the call and in its result."""
    items: list[Item] = [
        ToolCall("call_1", "look", {}, provider_data=ProviderData(ORIGIN, "functions.look:0"))
    ]
    transcript = [Message("assistant", items), Message("tool", [ToolResult("call_1", "look", "seen")])]
    for rules, call_id in ((OWN, "functions.look:0"), (OTHER, "call_1")):
        sent_call, sent_result = messages("", transcript, rules)
        assert sent_call["tool_calls"][0]["id"] == sent_result["tool_call_id"] == call_id


def test_a_generated_id_is_recorded() -> None:
    """A call without an id gets one, and its data says that the provider sent none."""
    (sent_call,) = read(call(0, None)).items
    assert isinstance(sent_call, ToolCall)
    assert sent_call.provider_data == ProviderData(ORIGIN)


# Rules and limits.


@pytest.mark.parametrize(
    ("base_url", "model", "signatures", "id_length"),
    [
        ("https://api.test/v1", "gemini-3-pro", False, 6),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemini-3-pro", True, 6),
        ("https://aiplatform.googleapis.com/v1/x/endpoints/openapi", "google/gemini-2.5-pro", True, 6),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", "gemma-3", False, 6),
        ("https://api.mistral.ai/v1", "mistral-large", False, 9),
        ("https://notmistral.ai/v1", "mistral-large", False, 6),
    ],
)
def test_rules_of_known_hosts(base_url: str, model: str, signatures: bool, id_length: int) -> None:
    """Google's Gemini needs signatures, and Mistral ids of nine characters, without any option."""
    rules = take_rules(make_request(driver="openai", model=model), base_url, {})
    assert (rules.thought_signatures, len(rules.id_form("call_1", 0))) == (signatures, id_length)


def test_rules_of_options() -> None:
    """Options state the requirements of other hosts, and are not sent."""
    options = {"reasoning_content": True, "call_ids": "mistral", "thought_signatures": True, "top_p": 1}
    rules = take_rules(make_request(driver="openai", model="m"), "http://localhost/v1", options)
    assert (rules.reasoning_content, rules.thought_signatures) == (True, True)
    assert len(rules.id_form("call_1", 0)) == 9
    assert options == {"top_p": 1}


def test_data_beyond_the_limit_is_dropped_whole() -> None:
    """A message's data that is too large is not stored, and the answer is complete without it."""
    details = [{"type": "reasoning.encrypted", "data": "x" * MAX_PROVIDER_DATA_BYTES}]
    answer = read({"reasoning_details": details, "content": "a"}, call(0, "c1", extra_content=SIGNATURE))
    sent = send_back(answer)
    assert "reasoning_details" not in sent
    assert (sent["content"], sent["tool_calls"][0]["extra_content"]) == ("a", SIGNATURE)


def test_calls_have_room_first() -> None:
    """If a message's data and its calls' do not fit together, the calls' data is kept."""
    half = "x" * (MAX_PROVIDER_DATA_BYTES * 2 // 3)
    answer = read({"reasoning_details": [{"data": half}]}, call(0, "c1", extra_content={"x": half}))
    sent = send_back(answer)
    assert ("reasoning_details" in sent, "extra_content" in sent["tool_calls"][0]) == (False, True)


def test_an_id_beyond_the_limit_is_not_kept() -> None:
    """An id that is too long for the data counts as missing."""
    answer = read(call(0, "x" * (MAX_PROVIDER_DATA_BYTES + 1)))
    (sent_call,) = answer.items
    assert isinstance(sent_call, ToolCall)
    assert sent_call.provider_data == ProviderData(ORIGIN)


@pytest.mark.parametrize("name", ["role", "tool_calls", ["reasoning"], {}, 7])
def test_an_import_names_no_other_field(name: Any) -> None:
    """Thoughts go back only under the names that models have for them."""
    data = ProviderData("openai api.test gpt", fields={"thinking_name": name})
    answer = Message("assistant", [Thinking("hm"), Text("Seen.")], provider_data=data)
    rules = ChatRules("openai api.test gpt")
    assert messages("", [answer], rules) == [{"role": "assistant", "content": "Seen."}]
