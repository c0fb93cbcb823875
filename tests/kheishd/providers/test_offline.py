"""The offline model: it names itself, is deterministic, and obeys slash lines."""

import msgspec
import pytest
import trio
from trio.testing import MockClock

from kheishd.kernel.runtime import ModelRequest, TextDelta, ThinkingDelta
from kheishd.providers.caller import ProviderCaller
from kheishd.providers.offline import MAX_PAUSE_MS, MAX_PIECES, WHAT_IT_IS, cut, read_directives
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.objects.run import Pinned
from protocol.transcript import AssetReference, Message, Text, Thinking, ToolCall, ToolResult, Usage, text_of
from tests.support.model_calls import RecordedCall, ask, make_request


async def ask_offline(request: ModelRequest) -> RecordedCall:
    """Return the answer of the offline model."""
    return await ask(ProviderCaller(), request)


async def test_an_answer_introduces_itself_and_repeats() -> None:
    """The first line says that no model answers, the message is repeated, and deltas equal the text."""
    call = await ask_offline(make_request("How are you?"))
    answer = call.require_answer()
    assert text_of(answer.items) == call.text
    assert call.text.splitlines() == [
        WHAT_IT_IS,
        "This is message 1 of our conversation.",
        "You say: “How are you?”",
    ]
    assert "offline stand-in" in WHAT_IT_IS
    assert (answer.stop_reason, answer.model) == ("end", "echo")


async def test_a_summary_obeys_no_directive() -> None:
    """A summary obeys no directive and says that it is no real one; a title is the first words."""
    request = make_request("<conversation>\nUser:\n/fail overloaded\n/call bash {}\n</conversation>")
    call = await ask_offline(msgspec.structs.replace(request, purpose="summary"))
    assert call.deltas == []
    (item,) = call.require_answer().items
    assert isinstance(item, Text)
    assert "cannot summarize" in item.text
    assert "8 words" in item.text
    assert call.require_answer().usage.input_tokens == 8
    titled = await ask_offline(
        msgspec.structs.replace(make_request("one two three four five six"), purpose="title")
    )
    assert text_of(titled.require_answer().items) == "one two three four five"


async def test_an_answer_counts_the_messages() -> None:
    """The answer counts the messages and repeats the previous one, so that resumption is visible."""
    earlier = (Message("user", [Text("first\n/long 1")]), Message("assistant", [Text("well")]))
    call = await ask_offline(make_request("second", earlier=earlier))
    assert "This is message 2 of our conversation; before it you said: “first”" in call.text
    only_orders = (Message("user", [Text("/long 1")]), Message("assistant", [Text("well")]))
    assert "you said: only directives" in (await ask_offline(make_request("x", earlier=only_orders))).text


async def test_answers_are_deterministic() -> None:
    """The same request produces the same events."""
    request = make_request("/think hm\n/long 20\n/slow 3 0\n/call a {}\nhello", instructions="be brief")
    assert await ask_offline(request) == await ask_offline(request)


async def test_usage_counts_words() -> None:
    """The usage counts the words of the instructions, the messages and the answer."""
    call = await ask_offline(make_request("/think one two\nthree", instructions="be very brief"))
    assert call.require_answer().usage == Usage(
        input_tokens=3 + 4, output_tokens=len(call.text.split()) + 2, reasoning_tokens=2
    )


async def test_slow(autojump_clock: MockClock) -> None:
    """``/slow`` sends the answer in that many pieces with that pause before each."""
    began = trio.current_time()
    call = await ask_offline(make_request("/slow 10 500\nhello"))
    assert trio.current_time() - began == pytest.approx(5)
    assert len(call.deltas) == 10
    assert call.text == text_of(call.require_answer().items)


async def test_more_pieces_than_characters(autojump_clock: MockClock) -> None:
    """There are as many pauses as requested; an empty piece sends no delta."""
    began = trio.current_time()
    call = await ask_offline(make_request("/slow 5000 10"))
    assert trio.current_time() - began == pytest.approx(50)
    assert all(delta.text for delta in call.deltas)


async def test_think() -> None:
    """Reasoning comes first, as deltas and as an item."""
    call = await ask_offline(make_request("/think let me see\nhello"))
    assert call.deltas[0] == ThinkingDelta("let me see")
    assert isinstance(call.deltas[1], TextDelta)
    assert call.require_answer().items[0] == Thinking("let me see")


async def test_long() -> None:
    """``/long`` answers with that many words."""
    call = await ask_offline(make_request("/long 1000"))
    assert call.text.splitlines()[-1].split()[-1] == "word1000"


async def test_an_answer_over_the_limit_is_cut() -> None:
    """An answer beyond the limit is truncated and has the stop reason of a truncated answer."""
    call = await ask_offline(make_request("/long 999999999"))
    assert call.require_answer().stop_reason == "length"
    assert len(call.text.encode()) == MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    ("reason", "retryable"), [("rate_limited", True), ("unauthorized", False), ("anything", False)]
)
async def test_fail(reason: str, retryable: bool) -> None:
    """``/fail`` fails like a provider."""
    call = await ask_offline(make_request(f"/fail {reason}"))
    assert (call.require_failure().reason, call.require_failure().retryable) == (reason, retryable)
    assert not call.deltas


async def test_call() -> None:
    """``/call`` lines make one batch of calls, whose ids are unique in the conversation."""
    call = await ask_offline(make_request('/call look {"at": "me"}\n/call wait\nplease'))
    answer = call.require_answer()
    assert answer.stop_reason == "tool_calls"
    assert answer.items[1:] == [ToolCall("call_1", "look", {"at": "me"}), ToolCall("call_2", "wait", {})]
    earlier = (Message("user", [Text("x")]), Message("assistant", answer.items))
    again = (await ask_offline(make_request("/call look {}", earlier=earlier))).require_answer()
    assert again.items[1:] == [ToolCall("call_3", "look", {})]


@pytest.mark.parametrize(
    "arguments",
    ["[1]", "{", "text", "[" * 5000, '{"n": 99999999999999999999}', '{"n":' * 200 + "1" + "}" * 200],
)
async def test_call_without_an_object(arguments: str) -> None:
    """Arguments that are no object are refused."""
    call = await ask_offline(make_request(f"/call look {arguments}"))
    assert "I cannot call look" in call.text
    assert call.require_answer().stop_reason == "end"


async def test_after_a_tool() -> None:
    """The model reports the tool results and does not repeat the directives."""
    messages = [
        Message("user", [Text('/call look {"at": "me"}')]),
        Message("assistant", [ToolCall("call_1", "look", {"at": "me"})]),
        Message("tool", [ToolResult("call_1", "look", "I see")]),
        Message("tool", [ToolResult("call_2", "wait", "no", is_error=True)]),
    ]
    request = ModelRequest(Pinned(route="offline", driver="offline", model="offline"), "", messages)
    call = await ask_offline(request)
    assert call.text.splitlines() == [
        WHAT_IT_IS,
        "The tool look gave: “I see”",
        "The tool wait failed with: “no”",
    ]
    assert call.require_answer().stop_reason == "end"


async def test_a_failed_directive_is_not_obeyed_again() -> None:
    """Unanswered earlier messages are repeated; only the last message is obeyed."""
    earlier = (Message("user", [Text("one\n/fail server_error"), AssetReference("ast_1")]),)
    call = await ask_offline(make_request("two", earlier=earlier))
    assert call.failure is None
    assert "before it you said: “one”" in call.text
    assert "You say: “two”" in call.text


def test_directives() -> None:
    """A directive is a separate line with bounded numbers; other slash lines are text."""
    orders = read_directives("/slow 99999999 99999999\nhello /slow 1 1\n/unknown x\n/slow x y\n/long 3 ")
    assert (orders.pieces, orders.pause_ms, orders.words) == (MAX_PIECES, MAX_PAUSE_MS, 3)
    assert orders.text == "hello /slow 1 1\n/unknown x\n/slow x y"
    assert read_directives("/slow 0 0").pieces == 1


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [("abc", 3, "abc"), ("abc", 2, "ab"), ("aé", 2, "a"), ("é", 2, "é"), ("", 0, "")],
)
def test_cut(text: str, size: int, expected: str) -> None:
    """A text is truncated at a character boundary."""
    assert cut(text, size) == expected


async def test_directives_after_then_wait_for_the_tools() -> None:
    """Directives after ``/then`` are obeyed once, after the tools before them have returned."""
    message = Message(
        "user", [Text("go on\n/call one {}\n/then\n/call two {}\n/call three {}\n/then\n/long 1")]
    )
    first = Message("assistant", [ToolCall("call_1", "one", {})])
    results = Message("tool", [ToolResult("call_1", "one", "done")])
    batches = [calls_of(await ask_offline(join_request(message)))]
    batches.append(calls_of(await ask_offline(join_request(message, first, results))))
    last = await ask_offline(join_request(message, first, results, first, results))
    assert batches == [["one"], ["two", "three"]]
    assert calls_of(last) == []
    assert last.text.endswith("word1")
    assert calls_of(await ask_offline(join_request(message, *([first, results] * 3)))) == []
    assert "you said: “go on”" in (await ask_offline(make_request("x", earlier=(message, first)))).text


def join_request(*messages: Message) -> ModelRequest:
    """Return a request with messages."""
    return ModelRequest(Pinned(route="offline", driver="offline", model="echo"), "", list(messages))


def calls_of(call: RecordedCall) -> list[str]:
    """Return the tool calls of an answer."""
    return [item.name for item in call.require_answer().items if isinstance(item, ToolCall)]


async def test_answer() -> None:
    """``/answer`` replies with only that text, besides calls; each part of ``/then`` has its own."""
    call = await ask_offline(make_request('/answer {"ok": true}\nhello'))
    assert call.text == '{"ok": true}'
    call = await ask_offline(make_request("/answer yes\n/call look {}\n/then\n/answer no"))
    assert [type(item) for item in call.require_answer().items] == [Text, ToolCall]
    assert call.text == "yes"
