"""Compaction: decide when a conversation is too long, and up to which cursor it is reduced. Pure.

Compaction has three stages, each a journaled event that ``core/context/reduction.py`` applies:

* *results*: after a pause, when no provider caches the conversation any more and all of it is read anew, old
  results of tools are dropped. There are often many of them, and few are needed again.
* *summary*: when the context window is nearly full, all but the last messages are replaced by a summary that
  the run's own model writes.
* *snip*: when no summary is available, the oldest messages are removed and replaced by a note. The model
  forgets them, so this is the last resort.

The token count of the newest answer comes from the provider; only later messages are estimated.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from kheishd.config.sections.context import ContextSection
from kheishd.core.context.reduction import TranscriptEntry, drop_results, replace_with_summary, snip
from kheishd.core.context.tokens import estimate_bytes, estimate_message, estimate_messages
from kheishd.core.context.transcript import TokenCount
from protocol.structs import Value

DEFAULT_ANSWER_TOKENS: Final = 8_192
"""Tokens reserved for an answer if the route's options set no maximum."""

# A summary has at least a few sentences: fewer messages than these are not worth a model call.
MIN_SUMMARIZED: Final = 2

MIN_SNIP_KEEP: Final = 2
"""Messages that are always kept: the newest one, and the one that it answers."""


class Prompt(Value, frozen=True):
    """The prompt of the next model call, and its size.

    ``overhead`` is the estimated tokens of instructions and tools, ``tokens`` the size of the whole prompt.
    ``droppable`` are the names of the tools whose old results may be dropped.
    """

    entries: Sequence[TranscriptEntry]
    overhead: int
    tokens: int
    droppable: Sequence[str] = ()


class DropResults(Value, frozen=True):
    """The stage that drops old results of tools up to a cursor."""

    upto: int


class Summarize(Value, frozen=True):
    """The stage that replaces the messages up to a cursor with a summary."""

    upto: int


class Snip(Value, frozen=True):
    """The stage that removes the oldest messages up to a cursor."""

    upto: int


Stage = DropResults | Summarize | Snip


# A provider counts its own work for an answer, too, such as each request of a hosted search, and a faulty one
# counts anything. Neither may compact a conversation that is short: no tokenizer has more tokens than bytes.
MAX_TOKENS_PER_ESTIMATED: Final = 4


def measure_prompt(
    entries: Sequence[TranscriptEntry],
    counted: TokenCount | None,
    speaker: str | None,
    overhead_bytes: int,
    droppable: Sequence[str] = (),
    *,
    estimates: Sequence[int],
) -> Prompt:
    """Return the prompt with its size: the count of the same speaker's last answer plus later messages.

    A count is believed up to MAX_TOKENS_PER_ESTIMATED.

    Args:   ``estimates`` are the estimated tokens of the first 0, 1, 2 … entries.
    """
    overhead = estimate_bytes(overhead_bytes)
    if counted is None or counted.speaker != speaker:
        return Prompt(entries, overhead, overhead + estimates[-1], droppable)
    earlier = estimates[bisect_right(entries, counted.cursor, key=attrgetter("cursor"))]
    tokens = min(counted.tokens, MAX_TOKENS_PER_ESTIMATED * (overhead + earlier))
    return Prompt(entries, overhead, tokens + estimates[-1] - earlier, droppable)


def max_prompt_tokens(limits: ContextSection, window: int, options: Mapping[str, Any]) -> int:
    """Return the size above which a prompt is reduced.

    In a small window the reserves would take nearly everything, so at least a third of it may be used.
    """
    room = window - max_answer_tokens(options) - limits.margin_tokens
    return min(limits.compact_tokens, max(room, window // 3))


def max_answer_tokens(options: Mapping[str, Any]) -> int:
    """Return the maximum size of an answer, from a route's options or the default."""
    config = options.get("generationConfig")
    limits = {**options, **(config if isinstance(config, dict) else {})}
    for name in ("max_output_tokens", "max_completion_tokens", "max_tokens", "maxOutputTokens"):
        value = limits.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return DEFAULT_ANSWER_TOKENS


def due_stage(
    prompt: Prompt, max_tokens: int, now_ms: int, limits: ContextSection, *, may_summarize: bool
) -> Stage | None:
    """Return the stage that is due before the model is called; None if the prompt can be sent.

    Args:   ``max_tokens`` is the size that the prompt may have; ``may_summarize`` is false after too many
            failed summaries.
    """
    upto = find_results_cut(prompt, now_ms, limits)
    if upto is not None:
        return DropResults(upto)
    if may_summarize:
        if prompt.tokens <= max_tokens:
            return None
        upto = find_summary_cut(prompt.entries, max_tokens, limits)
        return Summarize(upto) if upto is not None else None
    target = min(max_tokens, limits.snip_tokens)
    if prompt.tokens <= target:
        return None
    upto = find_snip_cut(prompt, target, limits.snip_keep_messages)
    return Snip(upto) if upto is not None else None


def find_results_cut(prompt: Prompt, now_ms: int, limits: ContextSection) -> int | None:
    """Return the cursor up to which results are dropped.

    None while the last answer is recent, or if there is no result to drop.
    """
    entries, droppable = prompt.entries, list(prompt.droppable)
    answer_times = (entry.at_ms for entry in reversed(entries) if entry.message.role == "assistant")
    last_ms = next(answer_times, None)
    if last_ms is None or now_ms - last_ms <= limits.drop_results_after_s * 1000:
        return None
    recent = 0
    for entry in reversed(entries):
        if recent >= limits.keep_results:
            changed = drop_results(list(entries), entry.cursor, droppable) != list(entries)
            return entry.cursor if changed else None
        if entry.message.role == "tool":
            recent += sum(getattr(item, "name", "") in droppable for item in entry.message.items)
    return None


def find_summary_cut(
    entries: Sequence[TranscriptEntry], max_tokens: int, limits: ContextSection
) -> int | None:
    """Return the cursor up to which messages are summarized; None if there are too few of them.

    The last ``keep_messages`` stay, or as many of them as take half the size. A call stays with its results.
    """
    cut, room = len(entries), max_tokens // 2
    while cut and len(entries) - cut < limits.keep_messages:
        room -= estimate_message(entries[cut - 1].message)
        if room < 0 and cut < len(entries):
            break
        cut -= 1
    while not _is_boundary(entries, cut):
        cut -= 1
    summarized = sum(entry.kind != "summary" for entry in entries[:cut])
    return entries[cut - 1].cursor if summarized >= MIN_SUMMARIZED else None


def find_snip_cut(prompt: Prompt, target: int, keep: int) -> int | None:
    """Return the cursor up to which messages are removed, so that the rest takes ``target`` tokens.

    The last ``keep`` messages stay even if they take more; None if nothing can be removed.
    """
    entries = prompt.entries
    latest = max(len(entries) - keep, 0)
    while not _is_boundary(entries, latest):
        latest -= 1
    tokens = prompt.overhead + _estimate_entries(entries)
    cut = 0
    while cut < latest and tokens > target:
        tokens -= estimate_message(entries[cut].message) if entries[cut].kind != "summary" else 0
        cut += 1
    # Results go together with their calls, but never more than may go.
    while not _is_boundary(entries, cut):
        cut += 1
    cut = min(cut, latest)
    if cut == 0:
        return None
    upto = entries[cut - 1].cursor
    return upto if snip(list(entries), upto) != list(entries) else None


def _is_boundary(entries: Sequence[TranscriptEntry], cut: int) -> bool:
    """Whether a transcript may be cut before an index: between two cursors, and not before results."""
    if not 0 < cut < len(entries):
        return True
    return entries[cut].message.role != "tool" and entries[cut].cursor > entries[cut - 1].cursor


def tokens_after(prompt: Prompt, stage: Stage, summary: str = "") -> int:
    """Return the size of the prompt after a stage, scaled by the estimates before and after it."""
    previous, current = estimate_stage(prompt, stage, summary)
    return -(-prompt.tokens * current // previous) if previous else 0


def estimate_stage(prompt: Prompt, stage: Stage, summary: str = "") -> tuple[int, int]:
    """Estimate the size of the prompt before and after a stage."""
    entries = list(prompt.entries)
    match stage:
        case DropResults(upto):
            reduced = drop_results(entries, upto, list(prompt.droppable))
        case Summarize(upto):
            reduced = replace_with_summary(entries, upto, 0, summary)
        case Snip(upto):
            reduced = snip(entries, upto)
    return prompt.overhead + _estimate_entries(entries), prompt.overhead + _estimate_entries(reduced)


def _estimate_entries(entries: Sequence[TranscriptEntry]) -> int:
    return estimate_messages(entry.message for entry in entries)
