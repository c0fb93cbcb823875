"""An answer in the making: what becomes of pieces, and where it is full."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.kernel.runtime import ModelFailure, TextDelta, ThinkingDelta
from kheishd.providers.draft import Block, Draft
from protocol.transcript import Text, Thinking, ToolCall, Usage


def test_pieces_of_one_kind_are_one_item_and_one_delta() -> None:
    """Pieces that follow each other join; a change of kind begins another item."""
    draft = Draft()
    for kind, piece in (("thinking", "a"), ("thinking", "b"), ("text", "c"), ("text", "d")):
        draft.write(kind, piece)  # type: ignore[arg-type]
    assert draft.take() == [ThinkingDelta("ab"), TextDelta("cd")]
    draft.write("text", "e")
    assert draft.take() == [TextDelta("e")]
    assert draft.take() == []
    assert draft.finish("end", Usage(), "m").items == [Thinking("ab"), Text("cde")]


def test_calls_are_items_and_no_deltas() -> None:
    """A call's arguments are decoded at the end; none at all is an empty object."""
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


@pytest.mark.parametrize("arguments", ['{"at', "[1]", '"text"', "[" * 5000])
def test_arguments_that_are_no_object_are_a_bad_response(arguments: str) -> None:
    """A call that cannot be made fails the answer, so that it is asked for again."""
    draft = Draft()
    draft.extend(draft.open(Block("call", call_id="1", name="look")), arguments)
    with pytest.raises(ModelFailure, match="'look'") as raised:
        draft.finish("tool_calls", Usage(), None)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('{"n": 123456789012345678901234567890}', "more than 64 bits"),
        ('{"n":' * 200 + "1" + "}" * 200, "deeper than 128 levels"),
    ],
)
def test_arguments_that_no_record_can_hold_are_a_bad_response(arguments: str, words: str) -> None:
    """Kept all the same, they would make the conversation unreadable for good."""
    draft = Draft()
    draft.extend(draft.open(Block("call", call_id="1", name="look")), arguments)
    with pytest.raises(ModelFailure, match=words) as raised:
        draft.finish("tool_calls", Usage(), None)
    assert (raised.value.reason, raised.value.retryable) == ("bad_response", True)
    assert draft.finish("length", Usage(), None).items == []


def test_a_call_cut_short_is_left_out() -> None:
    """An answer that was cut keeps what is whole of it."""
    draft = Draft()
    draft.write("text", "I will")
    draft.extend(draft.open(Block("call", call_id="1", name="look")), '{"at')
    answer = draft.finish("length", Usage(), None)
    assert (answer.items, answer.stop_reason) == ([Text("I will")], "length")


def test_full() -> None:
    """Beyond the limit nothing is kept, no character is halved, and the answer says that it was cut."""
    draft = Draft(bytes_max=7)
    draft.write("text", "abcd")
    assert not draft.full
    draft.write("text", "ef😀")
    assert draft.full
    draft.write("text", "g")
    draft.write("thinking", "h")
    assert draft.take() == [TextDelta("abcdef")]
    answer = draft.finish("end", Usage(), None)
    assert (answer.items, answer.stop_reason) == ([Text("abcdef")], "length")


def test_signatures() -> None:
    """A signature arrives in pieces, or alone; a thought with neither text nor proof is no item."""
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


def test_half_a_signature_is_none() -> None:
    """A signature that does not fit is dropped whole: half of one would be refused."""
    draft = Draft(bytes_max=4)
    block = draft.open(Block("thinking"))
    draft.extend(block, "ab")
    draft.sign(block, "long")
    assert draft.full
    assert draft.finish("end", Usage(), None).items == [Thinking("ab")]


@given(st.lists(st.tuples(st.sampled_from(["text", "thinking"]), st.text()), max_size=20), st.integers(1, 60))
def test_deltas_and_items_say_the_same(pieces: list[tuple[str, str]], limit: int) -> None:
    """What followers were told is what the transcript keeps, whatever the pieces and the limit."""
    draft = Draft(bytes_max=limit)
    told: list[str] = []
    for kind, piece in pieces:
        draft.write(kind, piece)  # type: ignore[arg-type]
        told += [delta.text for delta in draft.take() if isinstance(delta, TextDelta | ThinkingDelta)]
    items = draft.finish("end", Usage(), None).items
    kept = "".join(item.text for item in items if isinstance(item, Text | Thinking))
    assert "".join(told) == kept
    assert len(kept.encode()) <= limit
    assert "".join(piece for _, piece in pieces).startswith(kept)
