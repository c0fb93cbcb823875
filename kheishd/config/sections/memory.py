"""``[memory]``: the notes that runs are given at their start."""

from typing import Annotated

from msgspec import Meta

from kheishd.config.sections.section import Section
from protocol.limits.memory import MAX_HITS, MAX_RECALL_TOKENS


class MemorySection(Section, frozen=True):
    """``[memory]``: the notes that runs are given at their start."""

    recall_limit: Annotated[int, Meta(ge=0, le=MAX_HITS)] = 5
    """Maximum notes that fit a run's input and are added to its prompt; 0: none."""

    recall_tokens: Annotated[int, Meta(ge=100, le=MAX_RECALL_TOKENS)] = 1_000
    """Maximum tokens of these notes, as estimated."""
