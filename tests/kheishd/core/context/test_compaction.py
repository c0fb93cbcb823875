"""Compaction: when a conversation is too long, and where it is cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kheishd.config.sections.context import ContextSection
from kheishd.core.context.compaction import (
    MAX_TOKENS_PER_ESTIMATED,
    DropResults,
    Prompt,
    Snip,
    Stage,
    Summarize,
    due_stage,
    find_results_cut,
    find_snip_cut,
    find_summary_cut,
    max_prompt_tokens,
    measure_prompt,
    tokens_after,
)
from kheishd.core.context.reduction import TranscriptEntry, drop_results, replace_with_summary, snip
from kheishd.core.context.tokens import estimate_bytes, estimate_messages
from kheishd.core.context.transcript import TokenCount
from protocol.transcript import Message, Text, ToolCall, ToolResult, text_of
from tests.support.transcripts import assert_valid, transcripts

LIMITS = ContextSection()
FAR = 10**12


def turns(count: int, size: int = 100) -> list[TranscriptEntry]:
    """Make questions and answers of ``size`` bytes each."""
    entries: list[TranscriptEntry] = []
    for number in range(count):
        cursor = 10 * number + 1
        entries.append(TranscriptEntry(cursor, cursor, Message("user", [Text("q" * size)]), "input"))
        entries.append(TranscriptEntry(cursor + 1, cursor + 1, Message("assistant", [Text("a" * size)])))
    return entries


DROPPABLE = ("read_file", "bash")


def make_calls(
    count: int, tool: str = "read_file", size: int = 4_000, begin: int = 1
) -> list[TranscriptEntry]:
    """Make calls of a tool with their results."""
    entries: list[TranscriptEntry] = []
    for number in range(count):
        cursor = begin + 2 * number
        call_id = f"c{cursor}"
        entries.append(TranscriptEntry(cursor, cursor, Message("assistant", [ToolCall(call_id, tool, {})])))
        entries.append(
            TranscriptEntry(cursor + 1, cursor + 1, Message("tool", [ToolResult(call_id, tool, "r" * size)]))
        )
    return entries


def uncounted(entries: list[TranscriptEntry], overhead: int = 0) -> Prompt:
    """Return a prompt without a provider's count."""
    tokens = overhead + estimate_messages(entry.message for entry in entries)
    return Prompt(entries, overhead, tokens, DROPPABLE)


# How long it is.


def measure(
    entries: Sequence[TranscriptEntry], counted: TokenCount | None, speaker: str | None, overhead: int
) -> Prompt:
    """Measure a prompt with the estimates of its messages."""
    estimates = [
        estimate_messages(entry.message for entry in entries[:end]) for end in range(len(entries) + 1)
    ]
    return measure_prompt(entries, counted, speaker, overhead, estimates=estimates)


def test_only_later_messages_are_estimated() -> None:
    """Messages after the counted answer are estimated; instructions and tools are counted."""
    entries = turns(3)
    counted = TokenCount(entries[3].cursor, 1_000, None)
    latest = estimate_messages(entry.message for entry in entries[4:])
    assert measure(entries, counted, None, 9_999).tokens == 1_000 + latest


def test_an_impossible_count_is_not_believed() -> None:
    """A count that the transcript cannot have, such as that of a hosted search, compacts nothing."""
    entries = turns(3)
    everything = estimate_bytes(9_999) + estimate_messages(entry.message for entry in entries)
    for tokens in (10**9, 8 * everything):
        measured = measure(entries, TokenCount(entries[-1].cursor, tokens, None), None, 9_999).tokens
        assert measured == MAX_TOKENS_PER_ESTIMATED * everything
    possible = 9_999 + sum(len(text_of(entry.message.items).encode()) for entry in entries)
    assert measure(entries, TokenCount(entries[-1].cursor, possible, None), None, 9_999).tokens == possible


def test_another_speakers_count_is_ignored() -> None:
    """A guest reads another prompt, so all of it is estimated, with instructions and tools."""
    entries = turns(2)
    counted = TokenCount(entries[-1].cursor, 7, "critic")
    everything = estimate_bytes(500) + estimate_messages(entry.message for entry in entries)
    assert measure(entries, counted, None, 500).tokens == everything
    assert measure(entries, None, "critic", 500).tokens == everything
    assert measure(entries, counted, "critic", 500).tokens == 7


@pytest.mark.parametrize(
    ("window", "options", "expected"),
    [
        (200_000, {}, 167_000),
        (200_000, {"max_tokens": 64_000}, 123_000),
        (128_000, {"max_completion_tokens": 4_000}, 111_000),
        (128_000, {"max_output_tokens": 4_000}, 111_000),
        (1_000_000, {}, 167_000),
        (32_000, {}, 10_808),
        (8_192, {}, 2_730),
        (128_000, {"max_tokens": "many"}, 106_808),
        (128_000, {"generationConfig": {"maxOutputTokens": 4_000}}, 111_000),
        (128_000, {"generationConfig": "many"}, 106_808),
    ],
)
def test_max_prompt_tokens(window: int, options: dict[str, object], expected: int) -> None:
    """An answer and a margin are reserved; at least a third of a small window may be used."""
    assert max_prompt_tokens(LIMITS, window, options) == expected


# Due stages.


def test_no_stage_is_due_for_a_short_conversation() -> None:
    """No stage is due for a short conversation."""
    prompt = uncounted(turns(5))
    assert due_stage(prompt, FAR, 0, LIMITS, may_summarize=True) is None
    assert due_stage(prompt, FAR, 0, LIMITS, may_summarize=False) is None


def test_summarize_is_due() -> None:
    """A long conversation is summarized, except for the last messages."""
    entries = turns(20)
    prompt = uncounted(entries)
    assert due_stage(prompt, prompt.tokens, 0, LIMITS, may_summarize=True) is None
    assert due_stage(prompt, prompt.tokens - 1, 0, LIMITS, may_summarize=True) == Summarize(
        entries[-7].cursor
    )


def test_snip_is_due_without_summaries() -> None:
    """Without summaries, the oldest messages are removed down to the lower of two limits."""
    entries = turns(20)
    prompt = uncounted(entries)
    limits = replace(LIMITS, snip_tokens=prompt.tokens // 2)
    assert due_stage(prompt, FAR, 0, limits, may_summarize=True) is None
    stage = due_stage(prompt, FAR, 0, limits, may_summarize=False)
    assert isinstance(stage, Snip)
    assert tokens_after(prompt, stage) <= prompt.tokens // 2 + 100
    assert isinstance(due_stage(prompt, prompt.tokens - 1, 0, LIMITS, may_summarize=False), Snip)
    assert due_stage(uncounted(turns(5)), 1, 0, limits, may_summarize=False) is None


def test_drop_results_is_due_after_a_pause() -> None:
    """After a pause, all but the newest five results of droppable tools are dropped, once."""
    entries = [*turns(1), *make_calls(8, begin=100)]
    late = entries[-2].at_ms + 900_000
    prompt = uncounted(entries)
    assert due_stage(prompt, FAR, late, LIMITS, may_summarize=True) is None
    stage = due_stage(prompt, FAR, late + 1, LIMITS, may_summarize=True)
    assert stage == DropResults(entries[-10].cursor)
    reduced = drop_results(entries, entries[-10].cursor, list(DROPPABLE))
    texts = [item.text for entry in reduced for item in entry.message.items if isinstance(item, ToolResult)]
    assert [len(text) == 4_000 for text in texts] == [False] * 3 + [True] * 5
    assert tokens_after(prompt, stage) < prompt.tokens
    # Nothing is left to drop.
    assert due_stage(uncounted(reduced), FAR, late + 1, LIMITS, may_summarize=True) is None


def test_results_of_one_message_go_together() -> None:
    """Results of one message are kept together, even if they are more than five."""
    calls = [ToolCall(f"c{n}", "bash", {}) for n in range(9)]
    results = [ToolResult(call.call_id, "bash", "r" * 1_000) for call in calls]
    batch = [
        TranscriptEntry(50, 50, Message("assistant", list(calls))),
        TranscriptEntry(51, 51, Message("tool", list(results))),
    ]
    assert find_results_cut(uncounted(batch), FAR, LIMITS) is None
    assert find_results_cut(uncounted([*make_calls(3), *batch]), FAR, LIMITS) == 50
    assert (
        find_results_cut(uncounted([*make_calls(6, "remember"), *make_calls(5, begin=50)]), FAR, LIMITS)
        is None
    )
    assert find_results_cut(uncounted(turns(3)[:1]), FAR, LIMITS) is None


def test_tokens_after() -> None:
    """The remaining size is scaled from estimate to count."""
    entries = turns(20)
    counted = replace(uncounted(entries), tokens=1_000)
    stage = Snip(entries[19].cursor)
    assert 500 <= tokens_after(counted, stage) <= 560
    assert tokens_after(Prompt([], 0, 0), stage) == 0


# Where it is cut.


def test_a_call_stays_with_its_results() -> None:
    """The cut moves back to before the call."""
    entries = [*turns(3), *make_calls(3, begin=100)]
    assert find_summary_cut(entries, FAR, replace(LIMITS, keep_messages=5)) == entries[-7].cursor
    assert find_summary_cut(entries, FAR, replace(LIMITS, keep_messages=6)) == entries[-7].cursor


def test_messages_of_one_event_stay_together() -> None:
    """Messages of one event have one cursor, so they stay together."""
    steers = [TranscriptEntry(90, 90, Message("user", [Text("s")])) for _ in range(3)]
    entries = [*turns(2), *steers, *make_calls(2, begin=100)]
    assert find_summary_cut(entries, FAR, replace(LIMITS, keep_messages=5)) == entries[3].cursor


def test_kept_messages_take_half_the_size() -> None:
    """The kept messages take at most half the size, but the last message stays."""
    entries = [*turns(3), *make_calls(4, size=40_000, begin=100)]
    last_tokens = estimate_messages([entries[-1].message])
    assert find_summary_cut(entries, 5 * last_tokens, LIMITS) == entries[-5].cursor
    assert find_summary_cut(entries, last_tokens, LIMITS) == entries[-3].cursor


def test_too_few_messages_are_not_summarized() -> None:
    """A summary alone, or with one message, is not summarized again."""
    assert find_summary_cut(turns(3), FAR, LIMITS) is None
    assert find_summary_cut([], FAR, LIMITS) is None
    summary = replace_with_summary(turns(4), 12, 1, "They talked.")
    assert find_summary_cut(summary, FAR, LIMITS) is None
    assert find_summary_cut(summary, FAR, replace(LIMITS, keep_messages=3)) is None
    assert find_summary_cut(summary, FAR, replace(LIMITS, keep_messages=2)) == summary[-3].cursor


def test_a_snip_keeps_the_last_messages() -> None:
    """The last messages stay at any size; None if nothing can be removed."""
    entries = turns(10)
    upto = find_snip_cut(uncounted(entries), 0, 10)
    assert upto == entries[9].cursor
    assert find_snip_cut(uncounted(entries[:10]), 0, 10) is None
    assert find_snip_cut(uncounted(entries), FAR, 10) is None
    assert find_snip_cut(uncounted([]), 0, 10) is None
    again = snip(entries, entries[9].cursor)
    assert find_snip_cut(uncounted(again), 0, 10) is None


CEILINGS = st.integers(1, 20_000)


@given(transcripts(), CEILINGS, st.integers(0, 12), st.booleans(), st.booleans())
def test_stages_end_with_valid_transcripts(
    entries: list[TranscriptEntry], ceiling: int, keep: int, may_summarize: bool, late: bool
) -> None:
    """The stages end after some steps, and each leaves a valid, different transcript."""
    limits = replace(LIMITS, keep_messages=keep, snip_keep_messages=keep, snip_tokens=5_000, keep_results=2)
    now_ms = FAR if late else 0
    for _ in range(60):
        stage = due_stage(uncounted(entries), ceiling, now_ms, limits, may_summarize=may_summarize)
        if stage is None:
            break
        newest = entries[-1]
        reduced = _apply(entries, stage)
        assert_valid([entry.message for entry in reduced])
        assert reduced != entries
        if not isinstance(stage, DropResults) and newest.message.role != "tool":
            assert reduced[-1] == newest or keep == 0
        entries = reduced
    else:
        raise AssertionError("it does not end")


def _apply(entries: list[TranscriptEntry], stage: Stage) -> list[TranscriptEntry]:
    """Apply a stage."""
    match stage:
        case Summarize(upto):
            return replace_with_summary(entries, upto, 0, "so far")
        case Snip(upto):
            return snip(entries, upto)
        case DropResults(upto):
            return drop_results(entries, upto, list(DROPPABLE))
