"""``[context]``: the size of prompts, and compaction."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import Age, Section


class ContextSection(Section, frozen=True):
    """``[context]``: the size of prompts, and compaction."""

    compact_tokens: Annotated[int, Meta(ge=1_000)] = 167_000
    """Prompt size at which a conversation is summarized, lowered to fit the route's `context_tokens`."""

    margin_tokens: Annotated[int, Meta(ge=0)] = 13_000
    """Safety margin of the route's `context_tokens`, in addition to the part reserved for an answer."""

    keep_messages: Annotated[int, Meta(ge=1, le=1_000)] = 6
    """Number of newest messages that a summary does not replace."""

    summary_tokens: Annotated[int, Meta(ge=256, le=32_768)] = 4_096
    """Maximum length of a summary."""

    max_failures: Annotated[int, Meta(ge=1)] = 3
    """Consecutive failed summaries of a run after which the oldest messages are dropped instead."""

    snip_tokens: Annotated[int, Meta(ge=1_000)] = 120_000
    """Prompt size after dropping the oldest messages."""

    snip_keep_messages: Annotated[int, Meta(ge=1, le=1_000)] = 10
    """Number of newest messages that are never dropped."""

    drop_results_after_s: Age = 900.0
    """Idle time after which old tool results are dropped from the prompt."""

    keep_results: Annotated[int, Meta(ge=0, le=1_000)] = 5
    """Number of newest tool results that are not dropped."""
