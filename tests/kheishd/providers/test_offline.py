"""The stand-in: plain about itself, deterministic, and obedient to slash lines."""

import dataclasses

import pytest
import trio
from trio.testing import MockClock

from kheishd.kernel.runtime import ModelRequest, TextDelta, ThinkingDelta
from kheishd.providers.caller import ProviderCaller
from kheishd.providers.offline import MAX_PAUSE_MS, MAX_PIECES, WHAT_IT_IS, cut, read_directives
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.objects.run import Pinned
from protocol.transcript import AssetReference, Message, Text, Thinking, ToolCall, ToolResult, Usage, text_of
from tests.support.model_asking import Heard, ask, asking


async def heard(request: ModelRequest) -> Heard:
    """Return the stand-in's answer."""
    return await ask(ProviderCaller(), request)


async def test_it_says_what_it_is_and_repeats() -> None:
    """The first line says that this is no model; what was said comes back; the deltas are the answer."""
    said = await heard(asking("How are you?"))
    answer = said.answered()
    assert text_of(answer.items) == said.text
    assert said.text.splitlines() == [
        WHAT_IT_IS,
        "This is message 1 of our conversation.",
        "You say: “How are you?”",
    ]
    assert "offline stand-in" in WHAT_IT_IS
    assert (answer.stop_reason, answer.model) == ("end", "echo")


async def test_what_is_summed_up_is_not_obeyed() -> None:
    """It says plainly that it cannot, and how much it was shown; a title is the first words."""
    request = asking("<conversation>\nUser:\n/fail overloaded\n/call bash {}\n</conversation>")
    said = await heard(dataclasses.replace(request, purpose="summary"))
    assert said.deltas == []
    (item,) = said.answered().items
    assert isinstance(item, Text)
    assert "cannot summarise" in item.text
    assert "8 words" in item.text
    assert said.answered().usage.input_tokens == 8
    titled = await heard(dataclasses.replace(asking("one two three four five six"), purpose="title"))
    assert text_of(titled.answered().items) == "one two three four five"


async def test_it_remembers() -> None:
    """It counts the messages and repeats the one before, so that a resumed conversation can be seen."""
    earlier = (Message("user", [Text("first\n/long 1")]), Message("assistant", [Text("well")]))
    said = await heard(asking("second", earlier=earlier))
    assert "This is message 2 of our conversation; before it you said: “first”" in said.text
    only_orders = (Message("user", [Text("/long 1")]), Message("assistant", [Text("well")]))
    assert "you said: only directives" in (await heard(asking("x", earlier=only_orders))).text


async def test_it_is_deterministic() -> None:
    """The same request gets the same events."""
    request = asking("/think hm\n/long 20\n/slow 3 0\n/call a {}\nhello", instructions="be brief")
    assert await heard(request) == await heard(request)


async def test_usage_counts_words() -> None:
    """Words stand for tokens, of the instructions, the messages and the answer."""
    said = await heard(asking("/think one two\nthree", instructions="be very brief"))
    assert said.answered().usage == Usage(
        input_tokens=3 + 4, output_tokens=len(said.text.split()) + 2, reasoning_tokens=2
    )


async def test_slow(autojump_clock: MockClock) -> None:
    """So many pieces with that pause before each; together they are the answer."""
    began = trio.current_time()
    said = await heard(asking("/slow 10 500\nhello"))
    assert trio.current_time() - began == pytest.approx(5)
    assert len(said.deltas) == 10
    assert said.text == text_of(said.answered().items)


async def test_more_pieces_than_characters(autojump_clock: MockClock) -> None:
    """Pauses are as many as were asked for; a piece with nothing in it is no delta."""
    began = trio.current_time()
    said = await heard(asking("/slow 5000 10"))
    assert trio.current_time() - began == pytest.approx(50)
    assert all(delta.text for delta in said.deltas)


async def test_think() -> None:
    """Reasoning comes first, as deltas and as an item."""
    said = await heard(asking("/think let me see\nhello"))
    assert said.deltas[0] == ThinkingDelta("let me see")
    assert isinstance(said.deltas[1], TextDelta)
    assert said.answered().items[0] == Thinking("let me see")


async def test_long() -> None:
    """So many words."""
    said = await heard(asking("/long 1000"))
    assert said.text.splitlines()[-1].split()[-1] == "word1000"


async def test_an_answer_over_the_limit_is_cut() -> None:
    """An answer longer than is kept is cut and says so, as a model's is."""
    said = await heard(asking("/long 999999999"))
    assert said.answered().stop_reason == "length"
    assert len(said.text.encode()) == MAX_ANSWER_BYTES


@pytest.mark.parametrize(
    ("reason", "retryable"), [("rate_limited", True), ("unauthorized", False), ("anything", False)]
)
async def test_fail(reason: str, retryable: bool) -> None:
    """It fails as a provider would."""
    said = await heard(asking(f"/fail {reason}"))
    assert (said.failed().reason, said.failed().retryable) == (reason, retryable)
    assert not said.deltas


async def test_call() -> None:
    """Lines give tool calls, all in one batch, with ids that go on through the conversation."""
    said = await heard(asking('/call look {"at": "me"}\n/call wait\nplease'))
    answer = said.answered()
    assert answer.stop_reason == "tool_calls"
    assert answer.items[1:] == [ToolCall("call_1", "look", {"at": "me"}), ToolCall("call_2", "wait", {})]
    earlier = (Message("user", [Text("x")]), Message("assistant", answer.items))
    again = (await heard(asking("/call look {}", earlier=earlier))).answered()
    assert again.items[1:] == [ToolCall("call_3", "look", {})]


@pytest.mark.parametrize(
    "arguments",
    ["[1]", "{", "text", "[" * 5000, '{"n": 99999999999999999999}', '{"n":' * 200 + "1" + "}" * 200],
)
async def test_call_without_an_object(arguments: str) -> None:
    """Arguments that are no object are complained of, not guessed."""
    said = await heard(asking(f"/call look {arguments}"))
    assert "I cannot call look" in said.text
    assert said.answered().stop_reason == "end"


async def test_after_a_tool() -> None:
    """Once the results are there it tells them and does not obey the same orders again."""
    messages = [
        Message("user", [Text('/call look {"at": "me"}')]),
        Message("assistant", [ToolCall("call_1", "look", {"at": "me"})]),
        Message("tool", [ToolResult("call_1", "look", "I see")]),
        Message("tool", [ToolResult("call_2", "wait", "no", is_error=True)]),
    ]
    request = ModelRequest(Pinned(route="offline", driver="offline", model="offline"), "", messages)
    said = await heard(request)
    assert said.text.splitlines() == [
        WHAT_IT_IS,
        "The tool look gave: “I see”",
        "The tool wait failed with: “no”",
    ]
    assert said.answered().stop_reason == "end"


async def test_an_order_that_failed_is_not_obeyed_again() -> None:
    """What was said before and got no answer is remembered; only the last message is obeyed."""
    earlier = (Message("user", [Text("one\n/fail server_error"), AssetReference("ast_1")]),)
    said = await heard(asking("two", earlier=earlier))
    assert said.failure is None
    assert "before it you said: “one”" in said.text
    assert "You say: “two”" in said.text


def test_orders() -> None:
    """Orders are lines of their own; their numbers are bounded; other slash lines are text."""
    orders = read_directives("/slow 99999999 99999999\nhello /slow 1 1\n/unknown x\n/slow x y\n/long 3 ")
    assert (orders.pieces, orders.pause_ms, orders.words) == (MAX_PIECES, MAX_PAUSE_MS, 3)
    assert orders.text == "hello /slow 1 1\n/unknown x\n/slow x y"
    assert read_directives("/slow 0 0").pieces == 1


@pytest.mark.parametrize(
    ("text", "size", "kept"),
    [("abc", 3, "abc"), ("abc", 2, "ab"), ("aé", 2, "a"), ("é", 2, "é"), ("", 0, "")],
)
def test_cut(text: str, size: int, kept: str) -> None:
    """A text is cut at a character."""
    assert cut(text, size) == kept


async def test_orders_for_later_answers_wait_for_their_turn() -> None:
    """What follows a /then is obeyed once the tools before it have returned, and each part once."""
    said = Message("user", [Text("go on\n/call one {}\n/then\n/call two {}\n/call three {}\n/then\n/long 1")])
    first = Message("assistant", [ToolCall("call_1", "one", {})])
    results = Message("tool", [ToolResult("call_1", "one", "done")])
    asked = [calls_of(await heard(asking_of(said)))]
    asked.append(calls_of(await heard(asking_of(said, first, results))))
    last = await heard(asking_of(said, first, results, first, results))
    assert asked == [["one"], ["two", "three"]]
    assert calls_of(last) == []
    assert last.text.endswith("word1")
    assert calls_of(await heard(asking_of(said, *([first, results] * 3)))) == []
    assert "you said: “go on”" in (await heard(asking("x", earlier=(said, first)))).text


def asking_of(*messages: Message) -> ModelRequest:
    """Return a request with these messages."""
    return ModelRequest(Pinned(route="offline", driver="offline", model="echo"), "", list(messages))


def calls_of(said: Heard) -> list[str]:
    """Return the tool calls of an answer."""
    return [item.name for item in said.answered().items if isinstance(item, ToolCall)]


async def test_answer() -> None:
    """That text and nothing else, with calls if there are any; in its turn, where there are several."""
    said = await heard(asking('/answer {"ok": true}\nhello'))
    assert said.text == '{"ok": true}'
    said = await heard(asking("/answer yes\n/call look {}\n/then\n/answer no"))
    assert [type(item) for item in said.answered().items] == [Text, ToolCall]
    assert said.text == "yes"
