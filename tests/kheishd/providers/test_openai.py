"""The OpenAI driver: requests, and answers read from the streams that servers publish."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kheishd.core.text.sse import EventDecoder
from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, TextDelta
from kheishd.providers.chat_messages import messages
from kheishd.providers.driver import BLANK
from kheishd.providers.exchange import AnswerBody
from kheishd.providers.failures import FailureFactory
from kheishd.providers.openai import ChatReader, _decode_text, post, reader
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
    Usage,
)
from tests.support.model_calls import make_request

STREAMS = Path(__file__).parent / "streams"


def new() -> ChatReader:
    """Return a new reader."""
    return reader(FailureFactory("api.test", "sk-secret"))


def read(*chunks: dict[str, Any] | str) -> ChatReader:
    """Return a reader that processed these chunks."""
    fresh = new()
    for chunk in chunks:
        fresh.event(chunk.encode() if isinstance(chunk, str) else msgspec.json.encode(chunk))
    return fresh


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a chunk with one delta."""
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def read_answer(*chunks: dict[str, Any] | str) -> ModelAnswer:
    """Return the answer of these chunks."""
    answer = read(*chunks).end()
    assert answer is not None
    return answer


# The request.


def test_the_request() -> None:
    """URL, head and body are as published; options are added but replace no field of the driver."""
    options = {"temperature": 0.5, "stream": False, "model": "other", "headers": {"X-Title": "kheish"}}
    request = make_request("hello", driver="openai", model="gpt", instructions="be brief", options=options)
    sent = post(request, "https://api.test/v1/", "sk-secret")
    assert sent.url == "https://api.test/v1/chat/completions"
    assert sent.headers == {"x-title": "kheish", "authorization": "Bearer sk-secret"}
    assert msgspec.json.decode(sent.body) == {
        "model": "gpt",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
    }


def test_without_credential_or_instructions() -> None:
    """Without credential or instructions the header and the system message are absent."""
    sent = post(make_request("hello"), "http://127.0.0.1:8080/v1", None)
    assert sent.headers == {}
    assert msgspec.json.decode(sent.body)["messages"] == [{"role": "user", "content": "hello"}]


def test_stream_options_may_be_replaced() -> None:
    """An option replaces the default stream options."""
    sent = post(make_request("hello", options={"stream_options": {}}), "http://x", None)
    assert msgspec.json.decode(sent.body)["stream_options"] == {}


def test_every_kind_of_item() -> None:
    """Every kind of item is encoded, except reasoning, which is left out."""
    transcript = [
        Message("user", [Text("look"), AssetReference("ast_1", "image/png")]),
        Message(
            "assistant", [Thinking("hm", "sig"), Text("I "), Text("will"), ToolCall("c1", "look", {"a": 1})]
        ),
        Message("tool", [ToolResult("c1", "look", "seen"), ToolResult("c2", "wait", "no", is_error=True)]),
        Message("assistant", [Text("done")]),
    ]
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    asset = "[attached file ast_1, image/png: its content is not shown here]"
    assert messages("", transcript) == [
        {"role": "user", "content": f"look\n\n{asset}"},
        {"role": "assistant", "content": "I will", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "seen"},
        {"role": "tool", "tool_call_id": "c2", "content": "The tool failed: no"},
        {"role": "assistant", "content": "done"},
    ]


def test_reasoning_is_sent_back_if_configured() -> None:
    """An option names the field in which reasoning is sent back; the option itself is not sent."""
    earlier = (Message("user", [Text("q")]), Message("assistant", [Thinking("hm"), Text("a")]))
    sent = post(make_request("hello", earlier=earlier, options={"reasoning_content": True}), "http://x", None)
    body = msgspec.json.decode(sent.body)
    assert body["messages"][1] == {"role": "assistant", "content": "a", "reasoning_content": "hm"}
    assert "reasoning_content" not in body


def test_users_messages_in_a_row_are_one() -> None:
    """Adjacent user messages, as after a failed run, are merged for strict chat templates."""
    transcript = [Message("user", [Text("one")]), Message("user", [Text("two")])]
    assert messages("", transcript) == [{"role": "user", "content": "one\n\ntwo"}]


def test_empty_messages_are_left_out() -> None:
    """An answer without text is left out; calls without text have null content."""
    transcript = [
        Message("user", [Text("hello")]),
        Message("assistant", [Thinking("hm")]),
        Message("assistant", [ToolCall("c1", "look", {})]),
    ]
    [_, only] = messages("", transcript)
    assert only["content"] is None


def test_a_blank_message_is_sent_as_one() -> None:
    """A blank message of the user stays one, so that the request has a message, and the roles alternate."""
    assert messages("", [Message("user", [Text(" ")])]) == [{"role": "user", "content": BLANK}]


# The answer.


@pytest.mark.parametrize(
    ("name", "items", "usage", "stop"),
    [
        (
            "openai-text",
            [Text("Grüße aus 東京 🗼")],
            Usage(2006, 300, cached_input_tokens=1920, reasoning_tokens=64),
            "end",
        ),
        (
            "openai-tools",
            [
                ToolCall("call_DdmO9pD3xa9XTPNJ32zg2hcA", "get_weather", {"location": "Zürich"}),
                ToolCall("call_ABCDEF", "get_time", {}),
            ],
            Usage(82, 31),
            "tool_calls",
        ),
        ("openai-openrouter", [Thinking("Two and two."), Text("Four.")], Usage(10, 9), "end"),
        (
            "openai-ollama",
            [Thinking("The tool knows."), ToolCall("call_yb7r5xot", "get_weather", {"city": "Oslo"})],
            Usage(151, 120),
            "tool_calls",
        ),
        ("openai-llamacpp", [Thinking("Hm."), Text("Yes.")], Usage(17, 4), "length"),
    ],
)
def test_published_streams(name: str, items: list[Item], usage: Usage, stop: str) -> None:
    """Streams of every kind of server produce their answer, wherever the network cuts them."""
    stream = (STREAMS / f"{name}.sse").read_bytes()
    for cut in range(len(stream)):
        fresh = new()
        body = AnswerBody(fresh)
        body.feed(stream[:cut])
        body.feed(stream[cut:])
        answer = fresh.end()
        assert fresh.done
        assert answer is not None, f"cut at {cut}"
        assert (answer.items, answer.usage, answer.stop_reason) == (items, usage, stop), f"cut at {cut}"


@pytest.mark.parametrize("path", sorted(STREAMS.glob("openai-*.sse")), ids=lambda path: path.stem)
def test_events_of_one_read(path: Path) -> None:
    """The events of one read have the outcome of the same events, one by one."""
    events = EventDecoder().feed(path.read_bytes())
    together, alone = new(), new()
    together.events(events)
    for event in events:
        if not alone.done:
            alone.event(event)
    assert together.take() == alone.take()
    assert together.end() == alone.end()


@pytest.mark.parametrize(
    ("chunk", "text"),
    [
        (delta(content="x"), "x"),
        ({**delta(content="x", role="assistant"), "id": "c", "model": "m"}, "x"),
        ({"choices": [{"delta": {"content": ""}}]}, ""),
        (delta("stop", content="x"), None),
        (delta(content="x", reasoning="y"), None),
        (delta(content="x", reasoning_content="y"), None),
        (delta(content="x", refusal="y"), None),
        (delta(content="x", tool_calls=[{}]), None),
        (delta(content="x", function_call={}), None),
        (delta(content="x", extra_content={}), None),
        (delta(content="x", reasoning_details=[]), None),
        (delta(content=[{"text": "x"}]), None),
        ({**delta(content="x"), "usage": {}}, None),
        ({**delta(content="x"), "error": {}}, None),
        ({**delta(content="x"), "x_groq": {}}, None),
        ({"choices": [{"delta": {"content": "x"}, "error": {}}]}, None),
        ({"choices": [{"delta": {"content": "x"}, "usage": {}}]}, None),
        ({"choices": [{"message": {"content": "x"}}]}, None),
        ({"choices": [{"index": 1, "delta": {"content": "x"}}]}, None),
        ({"choices": [*delta(content="x")["choices"], {}]}, None),
        ({"choices": []}, None),
    ],
)
def test_a_piece_of_text(chunk: dict[str, Any], text: str | None) -> None:
    """A chunk is a piece of text only if nothing else in it has a meaning."""
    data = msgspec.json.encode(chunk)
    if text is None:
        with pytest.raises(msgspec.DecodeError):
            _decode_text(data)
    else:
        assert _decode_text(data).choices[0].delta.content == text


def test_text_between_other_pieces() -> None:
    """Texts, thoughts and calls that alternate in one read are those of the same pieces, one by one."""
    call = {"index": 0, "id": "a", "function": {"name": "look", "arguments": "{}"}}
    pieces = [delta(reasoning="hm"), delta(content="a"), delta(content="b"), delta(tool_calls=[call])]
    chunks = [*pieces, *pieces[:3], delta(content="\u00e9", role="assistant"), delta("tool_calls")]
    together = new()
    together.events([msgspec.json.encode(chunk) for chunk in chunks])
    answer = together.end()
    assert answer == read(*chunks).end()
    assert answer is not None
    assert [type(item) for item in answer.items] == [Thinking, Text, ToolCall, Thinking, Text]
    assert answer.items[4] == Text("ab\u00e9")


def test_a_skipped_field_that_is_no_text() -> None:
    """A piece of text with a byte outside of UTF-8, even in a field without meaning, is invalid."""
    with pytest.raises(ModelFailure):
        new().events([b'{"id": "\xff", "choices": [{"delta": {"content": "x"}}]}'])


def test_text_before_a_failure_of_the_same_read() -> None:
    """The text before invalid data of the same read is written before the failure."""
    fresh = new()
    with pytest.raises(ModelFailure):
        fresh.events([msgspec.json.encode(delta(content="fine")), b"nonsense"])
    assert fresh.take() == [TextDelta("fine")]


def test_text_over_the_limit_of_one_read() -> None:
    """Text of one read is cut at the limit, and the events after it are ignored."""
    fresh = new()
    half = "x" * (MAX_ANSWER_BYTES // 2)
    chunks = [*(delta(content=text) for text in (half, half, "y")), delta("stop"), delta(content="z")]
    fresh.events([msgspec.json.encode(chunk) for chunk in chunks])
    assert fresh.done
    answer = fresh.end()
    assert answer is not None
    assert (answer.items, answer.stop_reason) == ([Text(half * 2)], "length")


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("stop", "end"),
        ("eos", "end"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "refusal"),
        ("something new", "end"),
    ],
)
def test_stop_reasons(reason: str, stop: str) -> None:
    """Every stop reason is mapped; an unknown one counts as an ordinary end."""
    assert read_answer(delta(content="x"), delta(reason)).stop_reason == stop


def test_nothing_but_done_is_an_end() -> None:
    """``[DONE]`` ends an answer without a reason; without either the answer is incomplete."""
    assert read_answer(delta(content="x"), "[DONE]").stop_reason == "end"
    assert read(delta(content="x")).end() is None


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None, "usage": None, "model": None, "error": None},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"delta": None, "finish_reason": ""}]},
        {"choices": [{"delta": {"content": None, "tool_calls": None, "unknown": [1]}}]},
        {"choices": [{"delta": {"tool_calls": []}}], "service_tier": "default"},
        {"choices": [{"delta": {"reasoning": {"text": "an object"}}}]},
        {"usage": {"prompt_tokens": None, "prompt_tokens_details": None}},
        {"usage": {"prompt_tokens": -1, "completion_tokens": 2.0}},
    ],
)
def test_missing_and_unknown_fields(chunk: dict[str, Any]) -> None:
    """Missing, null and unknown fields are ignored."""
    answer = read_answer(delta(content="a"), chunk, delta(content="b"), delta("stop"))
    assert answer.items == [Text("ab")]


def test_reasoning_under_two_names_is_taken_once() -> None:
    """Reasoning that a server sends under two names is read once."""
    answer = read_answer(delta(reasoning="hm", reasoning_content="hm"), delta("stop", content="x"))
    assert answer.items == [Thinking("hm"), Text("x")]


def test_content_in_parts() -> None:
    """Content in a list of parts is joined."""
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    assert read_answer(delta("stop", content=parts)).items == [Text("ab")]


def test_a_refusal_is_marked_text() -> None:
    """A refusal is shown as text, and the answer is marked as refused."""
    answer = read_answer(delta(refusal="I can"), delta(refusal="not."), delta("stop"))
    assert (answer.items, answer.stop_reason) == ([Text("I cannot.")], "refusal")


def call(index: Any = None, call_id: Any = None, **function: Any) -> dict[str, Any]:
    """Return a chunk with a piece of a tool call."""
    return delta(tool_calls=[{"index": index, "id": call_id, "function": function}])


def test_calls_that_take_turns() -> None:
    """Pieces of two calls may come in any order."""
    answer = read_answer(
        call(0, "a", name="one", arguments='{"n"'),
        call(1, "b", name="two", arguments="{"),
        call(0, arguments=":1}"),
        call(1, arguments="}"),
        delta("tool_calls"),
    )
    assert answer.items == [ToolCall("a", "one", {"n": 1}), ToolCall("b", "two", {})]


def test_calls_without_an_index() -> None:
    """Without an index, a new id begins a new call, and a missing id continues the last call."""
    answer = read_answer(
        call(None, "a", name="one", arguments='{"n":'),
        call(None, None, arguments="1}"),
        call(None, "b", name="two", arguments="{}"),
        call(None, "a", arguments=" "),
        delta("stop"),
    )
    assert answer.items == [ToolCall("a", "one", {"n": 1}), ToolCall("b", "two", {})]


def test_calls_without_an_id_or_with_an_object() -> None:
    """A call without an id gets one; arguments that are an object are read unchanged."""
    answer = read_answer(call(0, None, name="one", arguments={"n": 1}), delta("stop"))
    assert answer.items == [ToolCall("call_0", "one", {"n": 1})]


@pytest.mark.parametrize(
    "chunk",
    [
        {"error": {"message": "Overloaded", "type": "overloaded_error"}},
        {"error": {"message": "Overloaded", "code": 529}, "choices": [{"finish_reason": "error"}]},
        {"choices": [{"delta": {}, "finish_reason": "error", "error": {"code": 529, "message": "x"}}]},
    ],
)
def test_errors_inside_the_stream(chunk: dict[str, Any]) -> None:
    """An error in place of a chunk fails the answer with that error's reason."""
    with pytest.raises(ModelFailure) as raised:
        read(delta(content="a"), chunk)
    assert (raised.value.reason, raised.value.retryable) == ("overloaded", True)


@pytest.mark.parametrize(
    "data", ["{", "[]", '{"choices": 1}', "\x00", "[" * 5000, '{"choices":[{"delta":"x"}]}']
)
def test_malformed_data(data: str) -> None:
    """Data that is no chunk fails the answer with a retryable failure."""
    with pytest.raises(ModelFailure) as raised:
        read(delta(content="a"), data)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


def test_bytes_that_are_no_utf8() -> None:
    """Text that is not UTF-8 has the reason malformed_answer."""
    with pytest.raises(ModelFailure, match="no chat completion"):
        new().event(b'{"model": "\xff"}')


def test_too_long_an_answer() -> None:
    """Text beyond the limit is dropped, and the reader reports that it needs no more."""
    fresh = read(*(delta(content="x" * 1024) for _ in range(MAX_ANSWER_BYTES // 1024)))
    assert not fresh.done
    fresh.event(msgspec.json.encode(delta(content="y")))
    assert fresh.done
    answer = fresh.end()
    assert answer is not None
    assert (answer.items, answer.stop_reason) == ([Text("x" * MAX_ANSWER_BYTES)], "length")


def test_a_whole_completion() -> None:
    """A server that does not stream produces the same answer."""
    fresh = new()
    function = {"name": "look", "arguments": "{}"}
    message = {"content": "a", "reasoning_content": "hm", "tool_calls": [{"id": "c", "function": function}]}
    choice = {"message": {"role": "assistant", **message}, "finish_reason": "tool_calls"}
    fresh.whole(msgspec.json.encode({"choices": [choice], "usage": {"prompt_tokens": 3}, "model": "m"}))
    assert fresh.end() == ModelAnswer(
        [Thinking("hm"), Text("a"), ToolCall("c", "look", {})], Usage(3), "tool_calls", "m"
    )


def test_a_whole_completion_without_a_reason_or_content() -> None:
    """A whole completion with content needs no stop reason; without content it is no answer."""
    fresh = new()
    fresh.whole(b'{"choices":[{"message":{"content":"a"}}]}')
    answer = fresh.end()
    assert answer is not None
    assert answer.stop_reason == "end"
    empty = new()
    empty.whole(b"{}")
    assert empty.end() is None


def test_tools_are_offered_as_functions() -> None:
    """Tools are functions in order, each with its schema; without tools the field is absent."""
    schema = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
    tools = (
        Tool("look", "Look at a path.", schema, "read"),
        Tool("wait", "Wait.", {"type": "object"}, "read"),
    )
    body = msgspec.json.decode(
        post(msgspec.structs.replace(make_request(), tools=tools), "http://x/v1", None).body
    )
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "look", "description": "Look at a path.", "parameters": schema},
        },
        {
            "type": "function",
            "function": {
                "name": "wait",
                "description": "Wait.",
                "parameters": {"type": "object", "properties": {}},
            },
        },
    ]
    assert "tools" not in msgspec.json.decode(post(make_request(), "http://x/v1", None).body)


def test_a_call_with_invalid_arguments_is_sent_back_as_a_valid_one() -> None:
    """A call with invalid arguments is sent back with valid JSON, because servers parse it."""
    function = {"name": "look", "arguments": '{"path": "a'}
    answer = read_answer(
        delta(tool_calls=[{"index": 0, "id": "c1", "function": function}]), delta("tool_calls")
    )
    (call,) = answer.items
    assert isinstance(call, ToolCall)
    assert call.invalid is not None
    result = Message("tool", [ToolResult("c1", "look", f"cannot be used: {call.invalid}", is_error=True)])
    assistant, result_message = messages("", [Message("assistant", answer.items), result])
    assert assistant["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    ]
    assert (result_message["tool_call_id"], result_message["role"]) == ("c1", "tool")
    assert "they begin" in result_message["content"]


def test_tools_may_be_withheld() -> None:
    """Withheld tools are defined but may not be called; without tools both fields are absent."""
    tool = Tool("look", "Look.", {"type": "object"}, "read")
    request = msgspec.structs.replace(make_request(), tools=(tool,), withheld=True)
    body = msgspec.json.decode(post(request, "http://x/v1", None).body)
    assert (body["tool_choice"], len(body["tools"])) == ("none", 1)
    assert "tool_choice" not in msgspec.json.decode(
        post(msgspec.structs.replace(request, tools=()), "http://x/v1", None).body
    )
    assert "tool_choice" not in msgspec.json.decode(
        post(msgspec.structs.replace(request, withheld=False), "http://x/v1", None).body
    )


# Irregularities of servers.


def test_calls_that_share_an_index() -> None:
    """Two whole calls with the same index and different ids are two calls."""
    answer = read_answer(
        call(0, "call_a", name="one", arguments='{"n":1}'),
        call(0, "call_b", name="one", arguments='{"n":2}'),
        delta("stop"),
    )
    assert answer.items == [ToolCall("call_a", "one", {"n": 1}), ToolCall("call_b", "one", {"n": 2})]


def test_an_index_that_is_counted_late() -> None:
    """The later pieces of a call belong to it though the index changes after the first one."""
    answer = read_answer(
        call(0, "a", name="one", arguments="{}"),
        call(0, "b", name="two", arguments='{"n"'),
        call(1, None, arguments=":"),
        call(1, "", arguments="2}"),
        delta("stop"),
    )
    assert answer.items == [ToolCall("a", "one", {}), ToolCall("b", "two", {"n": 2})]


@pytest.mark.parametrize("index", [None, 0, "0", 0.0, "0.0"])
@pytest.mark.parametrize("call_id", [None, ""])
def test_calls_without_an_id_begin_at_a_name(index: Any, call_id: str | None) -> None:
    """Without ids, another name begins another call, and so does the same name after a complete call."""
    answer = read_answer(
        call(index, call_id, name="one", arguments='{"n":'),
        call(index, call_id, arguments="1}"),
        call(index, call_id, name="two", arguments="{}"),
        call(index, call_id, name="two", arguments='{"n":3}'),
        delta("stop"),
    )
    assert answer.items == [
        ToolCall("call_0", "one", {"n": 1}),
        ToolCall("call_1", "two", {}),
        ToolCall("call_2", "two", {"n": 3}),
    ]


def test_a_name_in_every_piece() -> None:
    """A server that repeats the name, or sends a new id with each piece of one call, has called once."""
    repeated = read_answer(
        call(0, "a", name="one", arguments='{"n"'), call(0, "a", name="one", arguments=":1}"), delta("stop")
    )
    assert repeated.items == [ToolCall("a", "one", {"n": 1})]
    renumbered = read_answer(
        call(0, "a", name="one", arguments='{"n"'), call(0, "b", arguments=":1}"), delta("stop")
    )
    assert renumbered.items == [ToolCall("a", "one", {"n": 1})]


def test_an_id_that_comes_late() -> None:
    """An id in a later piece is that of the call."""
    answer = read_answer(call(0, None, name="one"), call(0, "a", arguments="{}"), delta("stop"))
    assert answer.items == [ToolCall("a", "one", {})]


def test_ids_that_count_from_one() -> None:
    """An id that looks like one of kheish's own is the provider's: no call loses its id by that."""
    answer = read_answer(
        call(0, "call_1", name="one", arguments="{}"),
        call(1, "call_2", name="one", arguments="{}"),
        delta("stop"),
    )
    assert answer.items == [ToolCall("call_1", "one", {}), ToolCall("call_2", "one", {})]


def test_a_repeated_id_of_another_call() -> None:
    """A server that sends one id for two calls has still called twice."""
    answer = read_answer(
        call(0, "a", name="one", arguments="{}"), call(1, "a", name="two", arguments="{}"), delta("stop")
    )
    assert [item.name for item in answer.items if isinstance(item, ToolCall)] == ["one", "two"]


def test_numbers_in_the_place_of_texts() -> None:
    """Numeric ids and counts as texts cost nothing, and neither does an empty error."""
    usage = {"prompt_tokens": "12", "completion_tokens": "x", "prompt_tokens_details": [1]}
    answer = read_answer(
        {"error": {}, **delta(content="a")},
        call(0, 7, name="one", arguments="{}"),
        {"choices": [], "usage": usage, "model": 3},
        delta("stop"),
    )
    assert answer.items == [Text("a"), ToolCall("7", "one", {})]
    assert (answer.usage, answer.model) == (Usage(12), "3")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_cache_hit_tokens": 4}, Usage(9, cached_input_tokens=4)),
        ({"cached_tokens": 4}, Usage(9, cached_input_tokens=4)),
        ({"prompt_tokens_details": {"cache_write_tokens": 5}}, Usage(9, cache_write_tokens=5)),
        ({"prompt_tokens_details": {"cache_creation_tokens": 5}}, Usage(9, cache_write_tokens=5)),
    ],
)
def test_cached_tokens_under_every_name(usage: dict[str, Any], expected: Usage) -> None:
    """Tokens read from and written to the cache are counted, because they have prices of their own."""
    answer = read_answer(delta("stop", content="a"), {"choices": [], "usage": {"prompt_tokens": 9, **usage}})
    assert answer.usage == expected


@pytest.mark.parametrize("usage", ["none", 7, [], {"prompt_tokens": {}}, {"prompt_tokens_details": "x"}])
def test_unusable_counts_cost_nothing(usage: Any) -> None:
    """Usage that makes no sense counts as missing."""
    answer = read_answer(delta(content="a"), {"choices": [], "usage": usage}, delta("stop"))
    assert (answer.items, answer.usage) == ([Text("a")], Usage())


def test_halves_of_characters() -> None:
    """A character whose halves come in two chunks is one character, also in a call."""
    answer = read_answer(
        '{"choices":[{"delta":{"content":"a\\ud83d"}}]}',
        '{"choices":[{"delta":{"content":"\\ude00"}}]}',
        '{"choices":[{"delta":{"tool_calls":[{"id":"c","function":{"name":"n","arguments":{"x":"\\ud83d"}}}]}}]}',
        delta("stop"),
    )
    assert answer.items == [Text("a😀"), ToolCall("c", "n", {"x": "\ufffd"})]


def test_only_the_first_choice_counts() -> None:
    """Of several choices, the one with the index 0 is the answer, in whichever order they come."""
    others = [{"index": 1, "delta": {"content": "no"}}, {"index": "2", "delta": {"content": "no"}}]
    first = {"index": 0, "delta": {"content": "yes"}, "finish_reason": "stop"}
    assert read_answer({"choices": others}, {"choices": [*others, first]}).items == [Text("yes")]


def test_thinking_in_parts() -> None:
    """Mistral sends reasoning as parts of the content."""
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}, 7]},
        {"type": "thinking", "thinking": "!"},
        {"type": "thinking", "thinking": None},
        {"type": "text", "text": "yes"},
    ]
    assert read_answer(delta("stop", content=parts)).items == [Thinking("hm!"), Text("yes")]


def test_the_older_form_of_a_call() -> None:
    """A server may still send a single function call, in pieces."""
    answer = read_answer(
        delta(function_call={"name": "look", "arguments": '{"n"'}),
        delta("function_call", function_call={"arguments": ":1}"}),
    )
    assert answer.items == [ToolCall("call_0", "look", {"n": 1})]


@pytest.mark.parametrize(
    "chunk",
    [
        {"choices": [{"delta": {}, "usage": {"prompt_tokens": 5, "completion_tokens": 6}}]},
        {"choices": [], "x_groq": {"usage": {"prompt_tokens": 5, "completion_tokens": 6}}},
        {"choices": [], "usage": {"prompt_tokens": "5", "completion_tokens": 6.0}},
    ],
)
def test_usage_at_other_places(chunk: dict[str, Any]) -> None:
    """The usage is counted wherever it is, and an empty one later does not erase it."""
    answer = read_answer(delta(content="a"), chunk, {"choices": [], "usage": {}}, delta("stop"))
    assert answer.usage == Usage(5, 6)


def test_errors_in_extensions_and_finish_reasons() -> None:
    """Groq's own error field, and Gemini's finish reason for a malformed call, fail the answer."""
    with pytest.raises(ModelFailure) as raised:
        read(delta(content="a"), {"x_groq": {"error": "over capacity"}})
    assert "over capacity" in raised.value.message
    with pytest.raises(ModelFailure, match="malformed") as raised:
        read(delta("function_call_filter: MALFORMED_FUNCTION_CALL"))
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


def test_a_call_without_its_start_is_no_part_of_another_call() -> None:
    """Arguments for an unknown index, after a call with an index of its own, have lost their name."""
    chunks = read(call(0, "a", name="one", arguments="{"), call(1, arguments='{"n":1}'), delta("stop"))
    with pytest.raises(ModelFailure, match="without a name"):
        chunks.end()
