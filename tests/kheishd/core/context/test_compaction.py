"""When a conversation is too long, and where it is cut."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.config.sections.context import ContextSection
from kheishd.core.context.compaction import (
    LeaveOutResults,
    Prompt,
    Snip,
    Step,
    SumUp,
    after,
    due,
    prompt_of,
    results_cut,
    snip_cut,
    summary_cut,
    threshold,
)
from kheishd.core.context.reduction import Placed, snipped, summed_up, without_results
from kheishd.core.context.tokens import of_bytes, of_messages
from kheishd.core.context.transcript import Measured
from protocol.transcript import Message, Text, ToolCall, ToolResult
from tests.support.talk import assert_valid, transcripts

LIMITS = ContextSection()
FAR = 10**12


def turns(count: int, size: int = 100) -> list[Placed]:
    """Questions and answers of so many bytes each."""
    placed: list[Placed] = []
    for number in range(count):
        at = 10 * number + 1
        placed.append(Placed(at, at, Message("user", [Text("q" * size)]), "input"))
        placed.append(Placed(at + 1, at + 1, Message("assistant", [Text("a" * size)])))
    return placed


DROPPABLE = ("read_file", "bash")


def reads(count: int, tool: str = "read_file", size: int = 4_000, begin: int = 1) -> list[Placed]:
    """Calls of a tool with their results, one after another."""
    placed: list[Placed] = []
    for number in range(count):
        at = begin + 2 * number
        call = f"c{at}"
        placed.append(Placed(at, at, Message("assistant", [ToolCall(call, tool, {})])))
        placed.append(Placed(at + 1, at + 1, Message("tool", [ToolResult(call, tool, "r" * size)])))
    return placed


def whole(placed: list[Placed], overhead: int = 0) -> Prompt:
    """A prompt that nobody has counted."""
    tokens = overhead + of_messages(each.message for each in placed)
    return Prompt(placed, overhead, tokens, DROPPABLE)


# How long it is.


def test_what_was_counted_is_not_estimated() -> None:
    """Only what came after the newest answer is; instructions and tools are in what was counted."""
    placed = turns(3)
    measured = Measured(placed[3].cursor, 1_000, None)
    latest = of_messages(each.message for each in placed[4:])
    assert prompt_of(placed, measured, None, 9_999).tokens == 1_000 + latest


def test_what_another_speaker_was_shown_says_nothing() -> None:
    """A guest reads another prompt; then all of it is estimated, instructions and tools too."""
    placed = turns(2)
    measured = Measured(placed[-1].cursor, 7, "critic")
    everything = of_bytes(500) + of_messages(each.message for each in placed)
    assert prompt_of(placed, measured, None, 500).tokens == everything
    assert prompt_of(placed, None, "critic", 500).tokens == everything
    assert prompt_of(placed, measured, "critic", 500).tokens == 7


@pytest.mark.parametrize(
    ("window", "options", "expected"),
    [
        (200_000, {}, 167_000),
        (200_000, {"max_tokens": 64_000}, 123_000),
        (128_000, {"max_completion_tokens": 4_000}, 111_000),
        (1_000_000, {}, 167_000),
        (32_000, {}, 10_808),
        (8_192, {}, 2_730),
        (128_000, {"max_tokens": "many"}, 106_808),
    ],
)
def test_how_long_a_prompt_may_become(window: int, options: dict[str, object], expected: int) -> None:
    """Room is left for an answer and a margin; a small window is filled to a third all the same."""
    assert threshold(LIMITS, window, options) == expected


# What is due.


def test_a_short_conversation_is_left_alone() -> None:
    """Most are."""
    prompt = whole(turns(5))
    assert due(prompt, FAR, 0, LIMITS, resting=False) is None
    assert due(prompt, FAR, 0, LIMITS, resting=True) is None


def test_a_long_one_is_summed_up() -> None:
    """But for the last messages."""
    placed = turns(20)
    prompt = whole(placed)
    assert due(prompt, prompt.tokens, 0, LIMITS, resting=False) is None
    assert due(prompt, prompt.tokens - 1, 0, LIMITS, resting=False) == SumUp(placed[-7].cursor)


def test_where_no_summary_can_be_had_the_oldest_is_left_out() -> None:
    """Down to what a snip leaves, or what is allowed if that is less."""
    placed = turns(20)
    prompt = whole(placed)
    limits = replace(LIMITS, snip_tokens=prompt.tokens // 2)
    assert due(prompt, FAR, 0, limits, resting=False) is None
    step = due(prompt, FAR, 0, limits, resting=True)
    assert isinstance(step, Snip)
    assert after(prompt, step) <= prompt.tokens // 2 + 100
    assert isinstance(due(prompt, prompt.tokens - 1, 0, LIMITS, resting=True), Snip)
    assert due(whole(turns(5)), 1, 0, limits, resting=True) is None


def test_old_results_go_after_a_pause() -> None:
    """All but the newest five of tools whose results can be had again; while it goes on, none."""
    placed = [*turns(1), *reads(8, begin=100)]
    late = placed[-2].at_ms + 900_000
    prompt = whole(placed)
    assert due(prompt, FAR, late, LIMITS, resting=False) is None
    step = due(prompt, FAR, late + 1, LIMITS, resting=False)
    assert step == LeaveOutResults(placed[-10].cursor)
    left = without_results(placed, placed[-10].cursor, list(DROPPABLE))
    texts = [item.text for each in left for item in each.message.items if isinstance(item, ToolResult)]
    assert [len(text) == 4_000 for text in texts] == [False] * 3 + [True] * 5
    assert after(prompt, step) < prompt.tokens
    # What is done is done.
    assert due(whole(left), FAR, late + 1, LIMITS, resting=False) is None


def test_no_result_goes_that_was_not_read_yet() -> None:
    """Results that came together go together: more than five of them stay."""
    calls = [ToolCall(f"c{n}", "bash", {}) for n in range(9)]
    results = [ToolResult(call.call_id, "bash", "r" * 1_000) for call in calls]
    batch = [
        Placed(50, 50, Message("assistant", list(calls))),
        Placed(51, 51, Message("tool", list(results))),
    ]
    assert results_cut(whole(batch), FAR, LIMITS) is None
    assert results_cut(whole([*reads(3), *batch]), FAR, LIMITS) == 50
    assert results_cut(whole([*reads(6, "remember"), *reads(5, begin=50)]), FAR, LIMITS) is None
    assert results_cut(whole(turns(3)[:1]), FAR, LIMITS) is None


def test_what_is_left_is_told_by_the_same_measure() -> None:
    """Half of what was estimated is half of what was counted; nothing is left of nothing."""
    placed = turns(20)
    counted = dataclasses.replace(whole(placed), tokens=1_000)
    step = Snip(placed[19].cursor)
    assert 500 <= after(counted, step) <= 560
    assert after(Prompt([], 0, 0), step) == 0


# Where it is cut.


def test_a_call_stays_with_its_results() -> None:
    """The cut moves back to before the call."""
    placed = [*turns(3), *reads(3, begin=100)]
    assert summary_cut(placed, FAR, replace(LIMITS, keep_messages=5)) == placed[-7].cursor
    assert summary_cut(placed, FAR, replace(LIMITS, keep_messages=6)) == placed[-7].cursor


def test_what_entered_together_stays_together() -> None:
    """Messages of one event cannot be told apart by a cursor."""
    said = [Placed(90, 90, Message("user", [Text("s")])) for _ in range(3)]
    placed = [*turns(2), *said, *reads(2, begin=100)]
    assert summary_cut(placed, FAR, replace(LIMITS, keep_messages=5)) == placed[3].cursor


def test_long_messages_at_the_end_are_summed_up_too() -> None:
    """What stays takes half the room at most, but the last message stays."""
    placed = [*turns(3), *reads(4, size=40_000, begin=100)]
    one = of_messages([placed[-1].message])
    assert summary_cut(placed, 5 * one, LIMITS) == placed[-5].cursor
    assert summary_cut(placed, one, LIMITS) == placed[-3].cursor


def test_too_little_is_not_summed_up() -> None:
    """Nor is a summary alone, or with one message."""
    assert summary_cut(turns(3), FAR, LIMITS) is None
    assert summary_cut([], FAR, LIMITS) is None
    summary = summed_up(turns(4), 12, 1, "They talked.")
    assert summary_cut(summary, FAR, LIMITS) is None
    assert summary_cut(summary, FAR, replace(LIMITS, keep_messages=3)) is None
    assert summary_cut(summary, FAR, replace(LIMITS, keep_messages=2)) == summary[-3].cursor


def test_a_snip_leaves_the_last_messages() -> None:
    """However long they are; and says so where nothing can go."""
    placed = turns(10)
    upto = snip_cut(whole(placed), 0, 10)
    assert upto == placed[9].cursor
    assert snip_cut(whole(placed[:10]), 0, 10) is None
    assert snip_cut(whole(placed), FAR, 10) is None
    assert snip_cut(whole([]), 0, 10) is None
    again = snipped(placed, placed[9].cursor)
    assert snip_cut(whole(again), 0, 10) is None


CEILINGS = st.integers(1, 20_000)


@given(transcripts(), CEILINGS, st.integers(0, 12), st.booleans(), st.booleans())
def test_whatever_is_due_leaves_a_valid_transcript_that_is_shorter(
    placed: list[Placed], ceiling: int, keep: int, resting: bool, late: bool
) -> None:
    """Step after step until nothing is due: it ends, and every transcript on the way is valid."""
    limits = replace(LIMITS, keep_messages=keep, snip_keep_messages=keep, snip_tokens=5_000, keep_results=2)
    now_ms = FAR if late else 0
    for _ in range(60):
        step = due(whole(placed), ceiling, now_ms, limits, resting=resting)
        if step is None:
            break
        newest = placed[-1]
        shorter = _taken(placed, step)
        assert_valid([each.message for each in shorter])
        assert shorter != placed
        if not isinstance(step, LeaveOutResults) and newest.message.role != "tool":
            assert shorter[-1] == newest or keep == 0
        placed = shorter
    else:
        raise AssertionError("it does not end")


def _taken(placed: list[Placed], step: Step) -> list[Placed]:
    match step:
        case SumUp(upto):
            return summed_up(placed, upto, 0, "so far")
        case Snip(upto):
            return snipped(placed, upto)
        case LeaveOutResults(upto):
            return without_results(placed, upto, list(DROPPABLE))
