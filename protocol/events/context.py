"""Events of a session's model context: compaction.

They change only what the model reads. The journal keeps every message.
"""

from typing import Literal

from protocol.budget import Cost
from protocol.ids import Cursor
from protocol.journal.envelope import Event
from protocol.objects.run import RunError
from protocol.transcript import Usage

CompactStrategy = Literal["summary", "snip", "results"]
CompactTrigger = Literal["auto", "manual", "overflow"]


class ContextCompacted(Event, frozen=True, tag="context_compacted"):
    """The messages up to ``upto`` are compacted in the model's context.

    ``strategy``: ``summary`` replaces them by ``summary``; ``snip`` drops them except for the newest input;
    ``results`` drops only the results of ``tools``. ``trigger``: ``auto``, a limit was reached; ``manual``, a
    client requested it; ``overflow``, the provider refused the context as too long. ``pre_tokens`` and
    ``post_tokens`` are the size of the context before and after, as far as known; ``usage`` and ``cost`` are
    those of the summary.
    """

    upto: Cursor
    strategy: CompactStrategy
    trigger: CompactTrigger
    summary: str = ""
    tools: list[str] = []
    pre_tokens: int = 0
    post_tokens: int = 0
    usage: Usage = Usage()
    model: str | None = None
    cost: Cost | None = None


class CompactionFailed(Event, frozen=True, tag="compaction_failed"):
    """A summary could not be made and the context is unchanged. ``usage`` is that of the attempts."""

    trigger: CompactTrigger
    error: RunError
    usage: Usage = Usage()
    cost: Cost | None = None
