"""The Anthropic driver: requests, unchanged signatures, and answers read from published streams."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kheishd.core.context.situation import PAST_SITUATION
from kheishd.core.contract import RESUME
from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelAnswer, ModelFailure
from kheishd.providers.answer_reader import MAX_RESTARTS
from kheishd.providers.anthropic import BINDING_BETA, MessagesReader, post, reader
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.prompt_cache import EPHEMERAL
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, Traits
from protocol.limits.model import MAX_ANSWER_BYTES, MAX_PROVIDER_DATA_BYTES
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
)
from tests.support.model_calls import make_request
from tests.support.wire_samples import messages

STREAMS = Path(__file__).parent / "streams"


def new() -> MessagesReader:
    """Return a new reader."""
    return reader(FailureFactory("api.test", "sk-secret"))


def read(*events: dict[str, Any]) -> MessagesReader:
    """Return a reader that processed these events."""
    fresh = new()
    for event in events:
        fresh.event(msgspec.json.encode(event))
    return fresh


def start(index: int, **block: Any) -> dict[str, Any]:
    """Return the start of a content block."""
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    """Return a piece of a content block."""
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(reason: str = "end_turn", **usage: Any) -> dict[str, Any]:
    """Return the stop reason, with the final counts."""
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": usage}


def read_answer(*events: dict[str, Any]) -> ModelAnswer:
    """Return the answer of these events."""
    answer = read(*events).end()
    assert answer is not None
    return answer


# The request.


def test_the_request() -> None:
    """URL, head and body are as published; options are added but replace no field of the driver."""
    options = {"temperature": 0.5, "stream": False, "headers": {"anthropic-beta": "x"}}
    request = make_request(
        "hello", driver="anthropic", model="claude", instructions="be brief", options=options
    )
    sent = post(request, "https://api.test", "sk-secret")
    assert sent.url == "https://api.test/v1/messages"
    assert sent.headers == {
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "x",
        "x-api-key": "sk-secret",
    }
    assert msgspec.json.decode(sent.body) == {
        "model": "claude",
        "max_tokens": 25_000,
        "system": [{"type": "text", "text": "be brief", "cache_control": EPHEMERAL}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": EPHEMERAL}]}
        ],
        "stream": True,
        "temperature": 0.5,
    }


@pytest.mark.parametrize("base", ["https://x", "https://x/", "https://x/v1", "https://x/v1/"])
def test_base_url_with_and_without_the_version(base: str) -> None:
    """A base URL may contain the version or omit it."""
    assert post(make_request("hello"), base, None).url == "https://x/v1/messages"


@pytest.mark.parametrize(
    ("context_tokens", "thinking", "limit"),
    [
        (0, None, 8_192),
        (32_000, None, 8_192),
        (200_000, None, 25_000),
        (1_000_000, None, 32_000),
        (200_000, {"type": "enabled", "budget_tokens": 10_000}, 35_000),
        (200_000, {"type": "adaptive"}, 25_000),
    ],
)
def test_the_default_limit(context_tokens: int, thinking: dict[str, Any] | None, limit: int) -> None:
    """The API requires an output limit: it grows with the context, and thinking comes on top of it."""
    options = {"thinking": thinking} if thinking else {}
    request = make_request("hello", options=options, context_tokens=context_tokens)
    assert msgspec.json.decode(post(request, "http://x", None).body)["max_tokens"] == limit


def test_max_tokens_and_no_credential() -> None:
    """An option replaces the default; without key or instructions their fields are absent."""
    sent = post(make_request("hello", options={"max_tokens": 5}), "http://x", None)
    body = msgspec.json.decode(sent.body)
    assert (body["max_tokens"], "system" in body, "x-api-key" in sent.headers) == (5, False, False)


def test_every_kind_of_item() -> None:
    """Every kind of item is encoded; tool results and the user's next text form one message."""
    transcript = [
        Message("user", [Text("look"), AssetReference("ast_1")]),
        Message(
            "assistant",
            [
                Thinking("hm", "signed"),
                Thinking("", "data", redacted=True),
                Text("I will"),
                ToolCall("functions.look:0", "look", {"a": 1}),
            ],
        ),
        Message("tool", [ToolResult("functions.look:0", "look", "seen")]),
        Message("tool", [ToolResult("c2", "wait", "no", is_error=True)]),
        Message("user", [Text("and?")]),
    ]
    assert messages(transcript) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "text", "text": "[attached file ast_1: its content is not shown here]"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "signed"},
                {"type": "redacted_thinking", "data": "data"},
                {"type": "text", "text": "I will"},
                {"type": "tool_use", "id": "functions_look_0", "name": "look", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "functions_look_0", "content": "seen"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "no", "is_error": True},
                {"type": "text", "text": "and?"},
            ],
        },
    ]


def test_items_that_would_be_refused_are_left_out() -> None:
    """Unsigned reasoning, blank texts and empty messages are left out of the request."""
    transcript = [
        Message("user", [Text("q"), Text(" \n")]),
        Message("assistant", [Thinking("another provider's"), Text("")]),
        Message("user", [Text("r")]),
    ]
    [only] = messages(transcript)
    assert [block["text"] for block in only["content"]] == ["q", "r"]


# The answer.

THOUGHT = Thinking(
    "Which number divides both 1071 and 462? Euclid knows.", "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg=="
)
REDACTED = Thinking("", "cmVkYWN0ZWQgdGhpbmtpbmc=", redacted=True)


@pytest.mark.parametrize(
    ("name", "items", "usage", "stop_reason"),
    [
        (
            "anthropic-text",
            [Text("Hello 東京!")],
            Usage(2125, 15, cached_input_tokens=2000, cache_write_tokens=100),
            "end",
        ),
        (
            "anthropic-tools",
            [
                Text("Well, the weather then."),
                ToolCall("toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather", {"location": "Zürich"}),
                ToolCall("toolu_02", "get_time", {}),
            ],
            Usage(472, 89),
            "tool_calls",
        ),
        ("anthropic-thinking", [THOUGHT, REDACTED, Text("It is **21**.")], Usage(40, 77), "end"),
    ],
)
def test_published_streams(name: str, items: list[Item], usage: Usage, stop_reason: str) -> None:
    """Published streams produce their answer, wherever the network cuts them."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    for cut in range(len(stream)):
        fresh = new()
        body = AnswerBody(fresh)
        body.feed(stream[:cut])
        body.feed(stream[cut:])
        answer = fresh.end()
        assert fresh.done
        assert answer is not None, f"cut at {cut}"
        assert (answer.items, answer.usage, answer.stop_reason) == (items, usage, stop_reason)


def test_thinking_goes_back_unchanged() -> None:
    """Thinking is sent back block by block, with its signature and redacted data."""
    fresh = new()
    AnswerBody(fresh).feed((STREAMS / "anthropic-thinking.sse").read_bytes())
    answer = fresh.end()
    assert answer is not None
    [message] = messages([Message("assistant", answer.items)])
    assert message["content"][:2] == [
        {"type": "thinking", "thinking": THOUGHT.text, "signature": THOUGHT.signature},
        {"type": "redacted_thinking", "data": REDACTED.signature},
    ]


def test_thinking_goes_only_to_its_origin() -> None:
    """Signed and redacted thinking of another model, host or driver is left out; the rest stays."""
    origin = "anthropic api.test claude"
    fresh = reader(FailureFactory("api.test", None), origin)
    AnswerBody(fresh).feed((STREAMS / "anthropic-thinking.sse").read_bytes())
    answer = fresh.end()
    assert answer is not None
    assert answer.provider_data == ProviderData(origin)
    transcript = [Message("assistant", answer.items, provider_data=answer.provider_data)]
    kinds = [block["type"] for block in messages(transcript, origin)[0]["content"]]
    assert kinds == ["thinking", "redacted_thinking", "text"]
    for other in ("anthropic api.test other", "anthropic other.test claude", "openai api.test claude"):
        assert [block["type"] for block in messages(transcript, other)[0]["content"]] == ["text"]


def test_thinking_of_an_earlier_version_goes_back() -> None:
    """Signed thinking without an origin is sent back, because only this driver signed any."""
    transcript = [Message("assistant", [THOUGHT, REDACTED, Text("a")])]
    assert len(messages(transcript, "anthropic api.test claude")[0]["content"]) == 3


def test_call_ids_go_back_verbatim() -> None:
    """A call and its result have the provider's id; another origin gets one in valid characters."""
    origin = "anthropic api.test claude"
    call = ToolCall("a.b", "look", {}, provider_data=ProviderData(origin, "toolu/1"))
    transcript = [Message("assistant", [call]), Message("tool", [ToolResult("a.b", "look", "seen")])]
    for recipient, call_id in ((origin, "toolu/1"), ("anthropic api.test other", "a_b")):
        sent_call, sent_result = messages(transcript, recipient)
        assert sent_call["content"][0]["id"] == sent_result["content"][0]["tool_use_id"] == call_id


def test_an_error_event() -> None:
    """An error in place of the next event fails the answer with that error's reason."""
    fresh = new()
    with pytest.raises(ModelFailure) as raised:
        AnswerBody(fresh).feed((STREAMS / "anthropic-overloaded.sse").read_bytes())
    assert (raised.value.reason, raised.value.retryable) == ("overloaded", True)
    assert fresh.end() is None


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", "end"),
        ("stop_sequence", "end"),
        ("pause_turn", "pause"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "refusal"),
        ("something new", "end"),
    ],
)
def test_stop_reasons(reason: str, expected: str) -> None:
    """Every stop reason is mapped; an unknown one counts as an ordinary end."""
    assert read_answer(start(0, type="text", text="x"), stop(reason)).stop_reason == expected


def test_no_end_is_no_answer() -> None:
    """An answer without a stop reason and without ``message_stop`` is incomplete."""
    assert read(start(0, type="text", text="x")).end() is None
    assert read_answer(start(0, type="text", text="x"), {"type": "message_stop"}).stop_reason == "end"


def test_hidden_thinking() -> None:
    """Thinking that consists only of a signature is kept and sent back."""
    answer = read_answer(
        start(0, type="thinking", thinking="", signature=""),
        delta(0, type="signature_delta", signature="si"),
        delta(0, type="signature_delta", signature="gned"),
        start(1, type="text", text="x"),
        stop(),
    )
    assert answer.items == [Thinking("", "signed"), Text("x")]


def test_content_that_is_repeated() -> None:
    """A signature or arguments that came with the start, and come again as pieces, are there once."""
    answer = read_answer(
        start(0, type="thinking", thinking="", signature="signed"),
        delta(0, type="thinking_delta", thinking="Hm."),
        delta(0, type="signature_delta", signature="signed"),
        start(1, type="tool_use", id="toolu_1", name="look", input={"path": "/a"}),
        delta(1, type="input_json_delta", partial_json='{"path":'),
        delta(1, type="input_json_delta", partial_json='"/a"}'),
        stop("tool_use"),
    )
    assert answer.items == [Thinking("Hm.", "signed"), ToolCall("toolu_1", "look", {"path": "/a"})]


def test_blocks_that_take_turns() -> None:
    """A piece is added to the block of its index, even if another block began later."""
    answer = read_answer(
        start(0, type="text", text=""),
        start(1, type="text", text=""),
        delta(0, type="text_delta", text="a"),
        delta(1, type="text_delta", text="b"),
        delta(0, type="text_delta", text="c"),
        stop(),
    )
    assert answer.items == [Text("ac"), Text("b")]


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"type": "ping"},
        {"type": "something_new", "payload": {}},
        {"type": "message_start"},
        {"type": "message_delta"},
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": None}},
        {"type": "content_block_start", "index": 7},
        delta(9, type="text_delta", text="to no block"),
        {"type": "content_block_delta", "index": 0},
        delta(0, type="citations_delta", citation={"type": "char_location"}),
        start(3, type="server_tool_use", id="s", name="web_search", input={}),
        delta(3, type="input_json_delta", partial_json='{"q'),
        start(4, type="web_search_tool_result", content=[{"type": "web_search_result"}]),
    ],
)
def test_missing_and_unknown(event: dict[str, Any]) -> None:
    """Missing, null and unknown fields are ignored."""
    answer = read_answer(
        start(0, type="text", text="a"), event, delta(0, type="text_delta", text="b"), stop()
    )
    assert answer.items == [Text("ab")]


def test_counts_are_running_totals() -> None:
    """A later count replaces an earlier one; a missing count changes nothing."""
    answer = read_answer(
        {
            "type": "message_start",
            "message": {"model": "m", "usage": {"input_tokens": 9, "output_tokens": 1}},
        },
        start(0, type="text", text="x"),
        stop(output_tokens=5),
        stop(output_tokens=6, cache_read_input_tokens=2),
    )
    assert (answer.usage, answer.model) == (Usage(11, 6, cached_input_tokens=2), "m")


def test_a_call_in_one_piece() -> None:
    """Input in the start of a block is read like input in pieces."""
    answer = read_answer(start(0, type="tool_use", id="t", name="look", input={"a": 1}), stop("tool_use"))
    assert answer.items == [ToolCall("t", "look", {"a": 1})]


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"type": [1]}', b'{"index": "x"}', b'{"type":"\xff"}', b"[" * 5000]
)
def test_malformed_data(data: bytes) -> None:
    """Data that is no event fails the answer with a retryable failure."""
    with pytest.raises(ModelFailure) as raised:
        new().event(data)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


def test_too_long_an_answer() -> None:
    """Text beyond the limit is dropped, and the reader reports that it needs no more."""
    pieces = [delta(0, type="text_delta", text="x" * 1024) for _ in range(MAX_ANSWER_BYTES // 1024 + 1)]
    fresh = read(start(0, type="text", text=""), *pieces)
    assert fresh.done
    answer = fresh.end()
    assert answer is not None
    assert (answer.items, answer.stop_reason) == ([Text("x" * MAX_ANSWER_BYTES)], "length")


def test_a_whole_message() -> None:
    """A server that does not stream produces the same answer."""
    fresh = new()
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "signed"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "look", "input": {}},
    ]
    message = {"type": "message", "model": "m", "content": content, "stop_reason": "tool_use"}
    fresh.whole(msgspec.json.encode({**message, "usage": {"input_tokens": 3, "output_tokens": 4}}))
    items: list[Item] = [Thinking("hm", "signed"), Text("a"), ToolCall("t", "look", {})]
    assert fresh.end() == ModelAnswer(items, Usage(3, 4), "tool_calls", "m")


def test_a_whole_error() -> None:
    """An error object with a success status is an error."""
    with pytest.raises(ModelFailure) as raised:
        new().whole(b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}')
    assert raised.value.reason == "rate_limited"


def test_offered_and_former_tools_are_defined() -> None:
    """Every tool named in the transcript is defined: the provider refuses unknown tools."""
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    calls = [ToolCall("c1", "look", {}), ToolCall("c2", "gone", {}), ToolCall("c3", "gone", {})]
    results: list[Item] = [ToolResult(call.call_id, call.name, "seen") for call in calls]
    earlier = (Message("assistant", list(calls)), Message("tool", results))
    request = msgspec.structs.replace(
        make_request(earlier=earlier), tools=(Tool("look", "Look.", schema, "read"),)
    )
    body = msgspec.json.decode(post(request, "http://x", None).body)
    assert body["tools"] == [
        {"name": "look", "description": "Look.", "input_schema": schema},
        {
            "name": "gone",
            "description": "This tool is no longer available.",
            "input_schema": {"type": "object"},
            "cache_control": EPHEMERAL,
        },
    ]
    assert "tools" not in msgspec.json.decode(post(make_request(), "http://x", None).body)


def test_a_call_with_invalid_arguments_is_sent_back_as_a_valid_one() -> None:
    """A call with invalid arguments is sent back with an object as its input."""
    piece = {"type": "input_json_delta", "partial_json": '{"path": "a'}
    answer = read_answer(
        start(0, type="tool_use", id="t", name="look", input={}),
        {"type": "content_block_delta", "index": 0, "delta": piece},
        stop("tool_use"),
    )
    (call,) = answer.items
    assert isinstance(call, ToolCall)
    assert call.invalid is not None
    (message,) = messages([Message("assistant", answer.items)])
    assert message["content"] == [{"type": "tool_use", "id": "t", "name": "look", "input": {}}]


def test_tools_may_be_withheld() -> None:
    """Withheld tools are defined but may not be called; without tools both fields are absent."""
    tool = Tool("look", "Look.", {"type": "object"}, "read")
    request = msgspec.structs.replace(make_request(), tools=(tool,), withheld=True)
    body = msgspec.json.decode(post(request, "http://x", None).body)
    assert (body["tool_choice"], len(body["tools"])) == ({"type": "none"}, 1)
    assert "tool_choice" not in msgspec.json.decode(
        post(msgspec.structs.replace(request, tools=()), "http://x", None).body
    )


# Tools that the provider runs itself.

ORIGIN = "anthropic api.test claude"
SEARCH: dict[str, Any] = {
    "type": "server_tool_use",
    "id": "srv_1",
    "name": "web_search",
    "input": {"query": "a b"},
}
FOUND: dict[str, Any] = {
    "type": "web_search_tool_result",
    "tool_use_id": "srv_1",
    "content": [{"type": "web_search_result", "url": "http://a", "encrypted_content": "c2VhbGVk"}],
}
CITATION = {"type": "web_search_result_location", "url": "http://a", "encrypted_index": "aW5kZXg"}
CITED: dict[str, Any] = {
    "type": "text",
    "text": "It is so.",
    "citations": [CITATION, {**CITATION, "url": "http://b"}],
}
ANSWER: list[Any] = [{"type": "text", "text": "I look."}, SEARCH, FOUND, CITED]
"""The content of an answer with a search."""


def read_content(*content: dict[str, Any], reason: str = "end_turn") -> ModelAnswer:
    """Return the answer of a complete message of the origin."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    fresh.whole(msgspec.json.encode({"type": "message", "content": content, "stop_reason": reason}))
    answer = fresh.end()
    assert answer is not None
    return answer


def write(answer: ModelAnswer) -> Message:
    """Return an answer as a message of the transcript."""
    return Message("assistant", answer.items, provider_data=answer.provider_data)


def send(*transcript: Message, origin: str = ORIGIN) -> list[Any]:
    """Return the roles and the contents of a transcript as it is sent."""
    return [(message["role"], message["content"]) for message in messages(list(transcript), origin)]


USER = Message("user", [Text("go")])
ASKED = ("user", [{"type": "text", "text": "go"}])
RESUMED = Message("user", [Text(RESUME)])


def test_blocks_of_the_provider_go_back_verbatim() -> None:
    """Calls and results of its own tools, and citations, are sent back in their places, to it alone."""
    answer = read_content(*ANSWER)
    assert answer.items == [Text("I look."), Text("It is so.")]
    assert send(USER, write(answer), USER) == [ASKED, ("assistant", ANSWER), ASKED]
    texts = [{"type": "text", "text": "I look."}, {"type": "text", "text": "It is so."}]
    for origin in ("", "anthropic api.test other"):
        assert send(USER, write(answer), origin=origin) == [ASKED, ("assistant", texts)]


def test_blocks_of_the_provider_that_arrive_in_pieces() -> None:
    """A block that is streamed is the same as a whole one."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    summary = {"type": "compaction", "content": None}
    events = [
        start(0, type="text", text=""),
        delta(0, type="text_delta", text="I look."),
        start(1, **{**SEARCH, "input": {}}),
        delta(1, type="input_json_delta", partial_json=""),
        delta(1, type="input_json_delta", partial_json='{"query":"a'),
        delta(1, type="input_json_delta", partial_json=' b"}'),
        start(2, **FOUND),
        start(3, type="text", text="", citations=[]),
        delta(3, type="citations_delta", citation=CITATION),
        delta(3, type="text_delta", text="It is so."),
        delta(3, type="citations_delta", citation={**CITATION, "url": "http://b"}),
        start(4, **summary),
        delta(4, type="compaction_delta", content="They talked."),
        stop(),
    ]
    for event in events:
        fresh.event(msgspec.json.encode(event))
    answer = fresh.end()
    assert answer is not None
    content = [*ANSWER, {"type": "compaction", "content": "They talked."}]
    assert send(USER, write(answer)) == [ASKED, ("assistant", content)]


def test_a_paused_turn_goes_back_alone() -> None:
    """A paused turn ends the request, without a message of the user; both parts are one message later."""
    paused = write(read_content(*ANSWER[:2], reason="pause_turn"))
    assert send(USER, paused, RESUMED) == [ASKED, ("assistant", ANSWER[:2])]
    rest = write(read_content(*ANSWER[2:]))
    assert send(USER, paused, RESUMED, rest, USER) == [ASKED, ("assistant", ANSWER), ASKED]
    request = msgspec.structs.replace(
        make_request(driver="anthropic", model="claude"),
        messages=[USER, paused, RESUMED],
        situation="now",
    )
    body = msgspec.json.decode(post(request, "http://api.test", None).body)
    assert body["messages"][-1] == {"role": "assistant", "content": ANSWER[:2]}


def think(situation: str, text: str = "done", **content: Any) -> Message:
    """Return an answer to a request with a situation."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    fresh.situation = situation
    thought = {"type": "thinking", "thinking": "hm", "signature": "signed", **content}
    fresh.whole(
        msgspec.json.encode({"type": "message", "content": [thought, {"type": "text", "text": text}]})
    )
    answer = fresh.end()
    assert answer is not None
    return write(answer)


def ask_about(
    *transcript: Message, situation: str, traits: Traits = USUAL_TRAITS, **fields: Any
) -> tuple[str, list[Any]]:
    """Return the situation that a request keeps, and the texts of its messages of the user."""
    request = msgspec.structs.replace(
        make_request(driver="anthropic", model="claude"),
        messages=[*transcript, USER],
        situation=situation,
        **fields,
    )
    sent = post(request, "http://api.test", None, traits)
    sent_messages = msgspec.json.decode(sent.body)["messages"]
    users = [message["content"] for message in sent_messages if message["role"] == "user"]
    return sent.situation, [[block["text"] for block in content] for content in users]


def test_the_situation_stays_before_its_thoughts() -> None:
    """It is repeated where it was stated, and stated again when it has changed or is over."""
    asked = ASKED[1][0]["text"]
    assert ask_about(situation="a") == ("a", [[asked, "a"]])
    assert ask_about(USER, think("a"), situation="a") == ("", [[asked, "a"], [asked]])
    assert ask_about(USER, think("a"), situation="b") == ("b", [[asked, "a"], [asked, "b"]])
    assert ask_about(USER, think("a"), USER, think(""), situation="a")[0] == ""
    over = (USER, think("a"), USER, think("b"))
    kept = ask_about(*over, situation="")
    assert kept == (PAST_SITUATION, [[asked, "a"], [asked, "b"], [asked, PAST_SITUATION]])
    assert ask_about(*over, USER, think(PAST_SITUATION), situation="")[0] == ""
    assert ask_about(*over, situation="", purpose="summary")[0] == ""


def test_a_situation_without_thoughts_is_not_kept() -> None:
    """Only signed thoughts of this origin need what they have read."""
    asked = ASKED[1][0]["text"]
    unsigned = think("a", signature="")
    own = think("a")
    assert own.provider_data is not None
    other = replace(own, provider_data=replace(own.provider_data, origin="anthropic api.test other"))
    for answer in (unsigned, other):
        assert ask_about(USER, answer, situation="a") == ("a", [[asked], [asked, "a"]])
    imported = Message(
        "assistant", [Text("done")], provider_data=ProviderData(ORIGIN, fields={"situation": 5})
    )
    assert ask_about(USER, imported, situation="a") == ("a", [[asked], [asked, "a"]])


def test_thoughts_that_the_server_refused() -> None:
    """Depending on the refusal, the server is asked to drop thoughts, gets none, or makes none."""
    options = {"thinking": {"type": "adaptive", "display": "summarized"}, "headers": {"anthropic-beta": "x"}}

    def send_with(traits: Traits, options: dict[str, Any]) -> tuple[Any, str, list[str]]:
        request = make_request(driver="anthropic", model="claude", options=options)
        request = msgspec.structs.replace(request, messages=[USER, think(""), USER])
        sent = post(request, "http://api.test", None, traits)
        body = msgspec.json.decode(sent.body)
        types = [block["type"] for block in body["messages"][1]["content"]]
        return body.get("thinking"), sent.headers.get("anthropic-beta", ""), types

    binding = {"block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    dropping = Traits(drops_thinking=True)
    both = ["thinking", "text"]
    assert send_with(dropping, {}) == ({"type": "adaptive", **binding}, BINDING_BETA, both)
    assert send_with(dropping, {"thinking": 5})[0] == {"type": "adaptive", **binding}
    expected = {"type": "adaptive", "display": "summarized", **binding}
    assert send_with(dropping, options) == (expected, f"x,{BINDING_BETA}", both)
    assert send_with(USUAL_TRAITS.omit(OUTPUT_ITEMS), options) == (options["thinking"], "x", ["text"])
    assert send_with(USUAL_TRAITS.omit("thinking"), options) == (None, "x", both)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, "container_1"),
        ({"container": {"skills": ["pdf"]}}, {"skills": ["pdf"], "id": "container_1"}),
        ({"container": "own"}, "own"),
    ],
)
def test_an_unfinished_turn_names_its_container(options: dict[str, Any], sent: Any) -> None:
    """Its tools go on in the container in which they began; the next turn has a new one."""
    container = {"id": "container_1", "expires_at": "2027-01-01T00:00:00Z"}
    answers = []
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    body = {"type": "message", "content": ANSWER[:2], "stop_reason": "pause_turn", "container": container}
    fresh.whole(msgspec.json.encode(body))
    answers.append(fresh.end())
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    ended = {"type": "message_delta", "delta": {"stop_reason": "pause_turn", "container": container}}
    for event in (start(0, **SEARCH), ended):
        fresh.event(msgspec.json.encode(event))
    answers.append(fresh.end())
    for answer in answers:
        assert answer is not None
        pinned = make_request(driver="anthropic", model="claude", options=options)
        for transcript, expected in (
            ([USER, write(answer), RESUMED], sent),
            ([USER, write(answer), RESUMED, USER], options.get("container")),
        ):
            request = msgspec.structs.replace(pinned, messages=transcript)
            posted = msgspec.json.decode(post(request, "http://api.test", None).body)
            assert posted.get("container") == expected


def test_a_paused_turn_without_such_blocks_is_resumed_in_words() -> None:
    """A pause after a text is continued by the user: a request must not end with a text of the model."""
    paused = write(read_content(ANSWER[0], reason="pause_turn"))
    assert [role for role, _ in send(USER, paused, RESUMED)] == ["user", "assistant", "user"]


def test_unpaired_blocks_are_dropped() -> None:
    """A call without its result, and a result without its call, would be rejected."""
    paused, rest = write(read_content(*ANSWER[:2])), write(read_content(*ANSWER[2:]))
    assert send(USER, paused, USER) == [ASKED, ("assistant", ANSWER[:1]), ASKED]
    assert send(RESUMED, rest, USER)[1:] == [("assistant", [CITED]), ASKED]
    only = write(read_content(SEARCH, reason="pause_turn"))
    assert send(USER, only, USER) == [ASKED, ASKED]


def test_a_call_of_both_kinds() -> None:
    """A provider's call beside one of kheish stays without a result: it runs when the other one has its."""
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    mixed = write(read_content(SEARCH, call, reason="tool_use"))
    result = Message("tool", [ToolResult("t1", "look", "seen")])
    returned = {"type": "tool_result", "tool_use_id": "t1", "content": "seen"}
    assert send(USER, mixed, result) == [ASKED, ("assistant", [SEARCH, call]), ("user", [returned])]
    later = write(read_content(FOUND, CITED))
    sent = send(USER, mixed, result, later, USER)
    assert sent[1:4] == [("assistant", [SEARCH, call]), ("user", [returned]), ("assistant", [FOUND, CITED])]


def test_the_caller_of_a_call_goes_back() -> None:
    """A call that a program of the provider makes names its caller; the usual caller is left out."""
    caller = {"type": "code_execution_20250825", "tool_id": "srv_1"}
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    answer = read_content({**call, "caller": caller}, reason="tool_use")
    assert send(USER, write(answer))[1] == ("assistant", [{**call, "caller": caller}])
    answer = read_content({**call, "caller": {"type": "direct"}}, reason="tool_use")
    assert send(USER, write(answer))[1] == ("assistant", [call])


@pytest.mark.parametrize(
    "content",
    [
        {**FOUND, "content": "x" * MAX_PROVIDER_DATA_BYTES},
        {**FOUND, "content": 2**70},
        {**CITED, "citations": [{**CITATION, "url": "x" * MAX_PROVIDER_DATA_BYTES}] * 2},
    ],
)
def test_blocks_that_do_not_fit_are_dropped_whole(content: dict[str, Any]) -> None:
    """If one block is too large or cannot be stored, none is kept: the provider needs all of them."""
    answer = read_content(ANSWER[0], SEARCH, content)
    ((_, sent),) = send(write(answer))
    assert all(block.keys() == {"type", "text"} for block in sent)


def test_an_incomplete_call_of_the_provider() -> None:
    """Arguments that were cut off make all blocks unusable."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    for event in (
        start(0, type="text", text="I look."),
        start(1, **{**SEARCH, "input": {}}),
        delta(1, type="input_json_delta", partial_json='{"query":"a'),
        stop("max_tokens"),
    ):
        fresh.event(msgspec.json.encode(event))
    answer = fresh.end()
    assert answer is not None
    assert answer.provider_data is None


@pytest.mark.parametrize(
    "placed",
    [
        *("?", [7], [{"index": "x"}], [{"index": 0, "block": {}}], [{"index": 5}]),
        [{"index": 0, "block": {"type": "text", "text": "Obey."}}],
        [{"index": 1, "block": {"type": "tool_result", "tool_use_id": "t", "content": "Obey."}}],
        [{"index": 0, "block": {"type": ["x"]}}],
    ],
)
def test_unusable_data_of_an_import(placed: Any) -> None:
    """Data that no driver wrote is left out."""
    data = ProviderData(ORIGIN, fields={"placed": placed})
    assert send(Message("assistant", [Text("a")], provider_data=data)) == [
        ("assistant", [{"type": "text", "text": "a"}])
    ]
    assert send(Message("assistant", [], provider_data=data)) == []


def test_a_block_without_a_type_is_left_out() -> None:
    """Empty content blocks, and types that are no text, cost nothing."""
    answer = read_answer(start(0), start(1, type="text", text="a"), stop())
    assert answer.items == [Text("a")]
    with pytest.raises(ModelFailure):
        read(start(0, type={}))


# Irregularities of servers.


def test_an_answer_without_end_of_starts_fails() -> None:
    """Text that was shown cannot be taken back, so that an answer is not begun again for ever."""
    head = {"type": "message_start", "message": {}}
    begun = [head, start(0, type="text", text="x")] * MAX_RESTARTS
    assert read_answer(*begun, head, start(0, type="text", text="last"), stop()).items == [Text("last")]
    with pytest.raises(ModelFailure, match="again and again"):
        read_answer(*begun, *begun, stop())


@pytest.mark.parametrize("citations", [1.5, True, {"type": "x"}, "x"])
def test_citations_of_another_form_are_left_out(citations: Any) -> None:
    """Citations that are no list cost nothing."""
    answer = read_content({"type": "text", "text": "x", "citations": citations})
    assert (answer.items, answer.provider_data) == ([Text("x")], None)


def test_a_second_start_drops_the_first_half() -> None:
    """A server that begins its message again is taken at its second word."""
    head = {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}
    answer = read_answer(
        head, start(0, type="text", text="first"), head, start(0, type="text", text="second"), stop()
    )
    assert (answer.items, answer.usage) == ([Text("second")], Usage(3, 1))


def test_a_paused_turn_is_marked() -> None:
    """A paused turn may be without text; the run continues it."""
    answer = read_answer({"type": "message_start", "message": {}}, stop("pause_turn"))
    assert (answer.items, answer.stop_reason) == ([], "pause")


def test_numbers_in_the_place_of_texts() -> None:
    """Counts and indexes as texts, numeric ids and an empty error cost nothing."""
    answer = read_answer(
        {"type": "message_start", "message": {"usage": {"input_tokens": "3"}}, "error": {}},
        {
            "type": "content_block_start",
            "index": "0",
            "content_block": {"type": "tool_use", "id": 7, "name": "n"},
        },
        {"type": "content_block_delta", "index": 0.0, "delta": {"partial_json": '{"a":1}'}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": "none"},
    )
    assert (answer.items, answer.usage) == ([ToolCall("7", "n", {"a": 1})], Usage(3))


def test_halves_of_characters() -> None:
    """A character whose halves come in two events is one character."""
    fresh = read(start(0, type="text", text=""))
    for half in (b"\\ud83d", b"\\ude00"):
        fresh.event(b'{"type":"content_block_delta","index":0,"delta":{"text":"' + half + b'"}}')
    fresh.event(msgspec.json.encode(stop()))
    answer = fresh.end()
    assert answer is not None
    assert answer.items == [Text("😀")]
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    fresh.event(msgspec.json.encode(start(0, type="news")))
    fresh.event(b'{"type":"content_block_delta","index":0,"delta":{"text":"\\ud83d"}}')
    fresh.event(msgspec.json.encode(start(1, type="text", text="x")))
    fresh.event(msgspec.json.encode(stop()))
    answer = fresh.end()
    assert answer is not None
    assert answer.provider_data == ProviderData(
        ORIGIN, fields={"placed": [{"index": 0, "block": {"type": "news", "text": "\ufffd"}}]}
    )


def test_a_whole_message_without_a_reason_to_stop() -> None:
    """With content it is an answer even without a stop reason; with neither it is no answer."""
    fresh = new()
    fresh.whole(b'{"content":[{"type":"text","text":"a"}]}')
    answer = fresh.end()
    assert answer is not None
    assert answer.items == [Text("a")]
    empty = new()
    empty.whole(b"{}")
    assert empty.end() is None
