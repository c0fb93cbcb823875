"""The draft of an answer: how pieces become items and deltas, and where the limit cuts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.kernel.runtime import ModelFailure, TextDelta, ThinkingDelta
from kheishd.providers.draft import (
    MAX_BLOCKS,
    MAX_CHECKED_BYTES,
    MAX_INVALID_CHARACTERS,
    PLACED,
    Block,
    Draft,
)
from protocol.limits.model import MAX_PROVIDER_DATA_BYTES
from protocol.transcript import ProviderData, Text, Thinking, ToolCall, Usage


def test_pieces_of_one_kind_are_one_item_and_one_delta() -> None:
    """Adjacent pieces of one kind are joined; another kind begins a new item."""
    draft = Draft()
    for kind, piece in (("thinking", "a"), ("thinking", "b"), ("text", "c"), ("text", "d")):
        draft.write(kind, piece)  # type: ignore[arg-type]
    assert draft.take() == [ThinkingDelta("ab"), TextDelta("cd")]
    draft.write("text", "e")
    assert draft.take() == [TextDelta("e")]
    assert draft.take() == []
    assert draft.finish("end", Usage(), "m").items == [Thinking("ab"), Text("cde")]


def test_calls_are_items_and_no_deltas() -> None:
    """A call's arguments are decoded at the end; missing arguments are an empty object."""
    draft = Draft()
    call = draft.open(Block("call", call_id="1", name="look"))
    draft.extend(call, '{"at"')
    draft.extend(call, ': "me"}')
    draft.open(Block("call", call_id="2", name="wait"))
    null = draft.open(Block("call", call_id="3", name="rest"))
    draft.extend(null, "null")
    assert draft.take() == []
    answer = draft.finish("end", Usage(), None)
    assert answer.items == [
        ToolCall("1", "look", {"at": "me"}),
        ToolCall("2", "wait", {}),
        ToolCall("3", "rest", {}),
    ]
    assert answer.stop_reason == "tool_calls", "a server that says 'stop' after calls means them"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"at', "they are no JSON object; they begin '{\"at'"),
        ("[1]", "they are no JSON object; they begin '[1]'"),
        ('"text"', "they are no JSON object"),
        ('{"n": NaN}', "they are no JSON object"),
        ("[" * 5000, "they are no JSON object; they begin '" + "[" * MAX_INVALID_CHARACTERS + "'"),
        ('{"n": 123456789012345678901234567890}', "they hold a whole number of more than 64 bits"),
        ('{"n":' * 200 + "1" + "}" * 200, "they are nested deeper than 128 levels"),
    ],
)
def test_a_call_with_invalid_arguments_is_marked(arguments: str, words: str) -> None:
    """A call with invalid arguments is kept without them, and says why they are invalid."""
    draft = Draft()
    draft.extend(draft.open(Block("call", call_id="1", name="look")), arguments)
    (call,) = draft.finish("tool_calls", Usage(), None).items
    assert isinstance(call, ToolCall)
    assert (call.call_id, call.name, call.arguments) == ("1", "look", {})
    assert call.invalid is not None
    assert words in call.invalid


def test_a_call_without_a_name_is_a_bad_response() -> None:
    """A call without a name is a retryable failure, because no tool can be meant."""
    draft = Draft()
    draft.extend(draft.open(Block("call", call_id="1")), "{}")
    with pytest.raises(ModelFailure, match="without a name") as raised:
        draft.finish("tool_calls", Usage(), None)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


def test_a_truncated_call_says_that_it_did_not_fit() -> None:
    """A truncated answer keeps the incomplete call, so that its result tells the model what did not fit."""
    draft = Draft()
    draft.write("text", "I will")
    draft.extend(draft.open(Block("call", call_id="1", name="look")), '{"at')
    answer = draft.finish("length", Usage(), None)
    text, call = answer.items
    assert (text, answer.stop_reason) == (Text("I will"), "length")
    assert isinstance(call, ToolCall)
    assert (call.name, call.arguments) == ("look", {})
    assert call.invalid is not None
    assert "cut off after 4 bytes, because the answer reached the model's output limit" in call.invalid
    assert "did not fit" in call.invalid


def test_only_the_incomplete_call_of_a_truncated_answer_is_invalid() -> None:
    """Complete calls of a truncated answer are run; a last call whose arguments never began is not."""
    draft = Draft()
    draft.extend(draft.open(Block("call", call_id="1", name="look")), '{"at": 1}')
    draft.open(Block("call", call_id="2", name="wait"))
    draft.open(Block("call", call_id="3", name="rest"))
    first, second, third = draft.finish("length", Usage(), None).items
    assert (first, second) == (ToolCall("1", "look", {"at": 1}), ToolCall("2", "wait", {}))
    assert isinstance(third, ToolCall)
    assert third.invalid is not None
    assert "cut off after 0 bytes" in third.invalid


def test_a_call_above_the_limit_of_the_daemon_says_so() -> None:
    """A call with more arguments than are accepted names that limit."""
    draft = Draft(max_bytes=10)
    draft.extend(draft.open(Block("call", call_id="1", name="look")), '{"at": "' + "x" * 100)
    answer = draft.finish("tool_calls", Usage(), None)
    (call,) = answer.items
    assert isinstance(call, ToolCall)
    assert call.invalid is not None
    assert "the answer exceeds the 10 bytes that are accepted" in call.invalid
    assert answer.stop_reason == "length"


def test_a_truncated_call_without_a_name_is_dropped() -> None:
    """A call whose name never came cannot be answered."""
    draft = Draft()
    draft.write("text", "I will")
    draft.open(Block("call", call_id="1"))
    assert draft.finish("length", Usage(), None).items == [Text("I will")]


def test_a_refused_answer_calls_nothing() -> None:
    """Calls before a refusal are not run."""
    draft = Draft()
    draft.write("text", "I will")
    draft.extend(draft.open(Block("call", call_id="1", name="look")), "{}")
    assert draft.finish("refusal", Usage(), None).items == [Text("I will")]


def test_halves_of_characters_are_joined() -> None:
    """A character in two pieces is one character; a half without its other half is U+FFFD."""
    draft = Draft()
    for piece in ("a\ud83d", "\ude00b", "\ude00", "\ud83dc", "\ud83d"):
        draft.write("text", piece)
    draft.complete_characters()
    assert draft.take() == [TextDelta("a😀b\ufffd\ufffdc\ufffd")]
    assert draft.finish("end", Usage(), None).items == [Text("a😀b\ufffd\ufffdc\ufffd")]


def test_halves_of_characters_in_calls() -> None:
    """Halves in names, ids, arguments and signatures neither break an answer nor enter the transcript."""
    draft = Draft()
    call = draft.open(Block("call", call_id="1\ud83d", name="look\ude00"))
    draft.extend(call, '{"n": "\ud83d')
    draft.extend(call, '\ude00", "m": "\\ud83d"}')
    thought = draft.open(Block("thinking"))
    draft.sign(thought, "s\ud83d")
    assert draft.finish("end", Usage(), None).items == [
        ToolCall("1\ufffd", "look\ufffd", {"n": "😀", "m": "\ufffd"}),
        Thinking("", "s\ufffd"),
    ]


def test_full() -> None:
    """Text beyond the limit is dropped at a character boundary, and the answer counts as truncated."""
    draft = Draft(max_bytes=7)
    draft.write("text", "abcd")
    assert not draft.full
    draft.write("text", "ef😀")
    assert draft.full
    draft.write("text", "g")
    draft.write("thinking", "h")
    assert draft.take() == [TextDelta("abcdef")]
    answer = draft.finish("end", Usage(), None)
    assert (answer.items, answer.stop_reason) == ([Text("abcdef")], "length")


def test_too_many_items() -> None:
    """An answer has a limited number of items, whatever their size; the rest is dropped."""
    draft = Draft()
    for number in range(MAX_BLOCKS + 10):
        draft.open(Block("call", call_id=f"call_{number}", name="look"))
    assert draft.full
    answer = draft.finish("tool_calls", Usage(), "m")
    assert (len(answer.items), answer.stop_reason) == (MAX_BLOCKS, "length")
    call = answer.items[-1]
    assert isinstance(call, ToolCall)
    assert call.invalid is not None
    assert "exceeds the 1,024 parts" in call.invalid


def test_the_end_of_a_call_is_sought_for_a_limited_time() -> None:
    """A call whose server repeats its name with each piece is not decoded again and again for ever."""
    call = Block("call", parts=['{"a":1}'])
    assert call.has_whole_arguments
    for _ in range(MAX_CHECKED_BYTES // len(call.content) + 1):
        _ = call.has_whole_arguments
    assert not call.has_whole_arguments


def test_signatures() -> None:
    """A signature may arrive in pieces or alone; a thought without text and signature is no item."""
    draft = Draft()
    signed = draft.open(Block("thinking"))
    draft.extend(signed, "because")
    draft.sign(signed, "ab")
    draft.sign(signed, "cd")
    draft.sign(draft.open(Block("thinking", redacted=True)), "data")
    draft.sign(draft.open(Block("thinking")), "alone")
    draft.open(Block("thinking"))
    assert draft.finish("end", Usage(), None).items == [
        Thinking("because", "abcd"),
        Thinking("", "data", redacted=True),
        Thinking("", "alone"),
    ]


def test_a_truncated_signature_is_dropped() -> None:
    """A signature beyond the limit is dropped whole, because providers refuse a part of one."""
    draft = Draft(max_bytes=4)
    block = draft.open(Block("thinking"))
    draft.extend(block, "ab")
    draft.sign(block, "long")
    assert draft.full
    assert draft.finish("end", Usage(), None).items == [Thinking("ab")]


def test_data_keeps_its_place() -> None:
    """Data of a text and opaque data between items are stored with the index of their item."""
    draft = Draft(origin="here")
    draft.write("text", "a")
    draft.place(draft.open(Block("opaque")), "part", {"kind": "news"})
    signed = draft.open(Block("text"))
    draft.extend(signed, "b")
    draft.place(signed, "signature", "s")
    draft.write("text", "c")
    draft.open(Block("thinking"))
    draft.place(draft.open(Block("opaque")), "part", {"kind": "end"})
    answer = draft.finish("end", Usage(), None)
    assert answer.items == [Text("a"), Text("b"), Text("c")]
    placed = [
        {"index": 1, "part": {"kind": "news"}},
        {"index": 1, "signature": "s"},
        {"index": 3, "part": {"kind": "end"}},
    ]
    assert answer.provider_data == ProviderData("here", fields={PLACED: placed})
    assert draft.finish("end", Usage(), None) == answer


def test_too_much_data_in_places_is_dropped_whole() -> None:
    """Data between items that became too large is dropped from all places; the items stay."""
    draft = Draft(origin="here")
    half = "x" * (MAX_PROVIDER_DATA_BYTES // 2)
    for piece in ("a", "b", "c"):
        block = draft.open(Block("text"))
        draft.extend(block, piece)
        draft.place(block, "signature", half)
    answer = draft.finish("end", Usage(), None)
    assert answer.items == [Text("a"), Text("b"), Text("c")]
    assert answer.provider_data is None


@given(st.lists(st.tuples(st.sampled_from(["text", "thinking"]), st.text()), max_size=20), st.integers(1, 60))
def test_deltas_and_items_say_the_same(pieces: list[tuple[str, str]], limit: int) -> None:
    """The deltas equal the items of the transcript for all pieces and limits."""
    draft = Draft(max_bytes=limit)
    streamed: list[str] = []
    for kind, piece in pieces:
        draft.write(kind, piece)  # type: ignore[arg-type]
        streamed += [delta.text for delta in draft.take() if isinstance(delta, TextDelta | ThinkingDelta)]
    items = draft.finish("end", Usage(), None).items
    text = "".join(item.text for item in items if isinstance(item, Text | Thinking))
    assert "".join(streamed) == text
    assert len(text.encode()) <= limit
    assert "".join(piece for _, piece in pieces).startswith(text)


def test_a_block_before_another() -> None:
    """A block may be opened before a later one, and after all others if that is gone."""
    draft = Draft()
    last = draft.open(Block("text"))
    draft.extend(last, "b")
    draft.extend(draft.open(Block("text"), last), "a")
    draft.extend(draft.open(Block("thinking"), Block("text")), "hm")
    assert draft.finish("end", Usage(), None).items == [Text("a"), Text("b"), Thinking("hm")]
    assert (draft.join_content("text"), draft.join_content("thinking")) == ("ab", "hm")


def test_content_may_be_rewritten() -> None:
    """Rewritten content is not shown again, and takes the room of what it replaces."""
    draft = Draft(max_bytes=6)
    block = draft.open(Block("text"))
    draft.extend(block, "wrong\ud83d")
    draft.rewrite(block, "right\ud83d")
    assert draft.take() == [TextDelta("wrong")]
    assert draft.full, "the replacement character takes three bytes"
    assert draft.finish("end", Usage(), None).items == [Text("right")]
