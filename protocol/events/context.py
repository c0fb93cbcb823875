"""What happens to the context of a session's models: how much of what was said they are shown.

These are events of the journal. They change only what is shown; what was said
stays in the journal, whole.
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
    """From here on a model is shown less of what was said up to ``upto``. The journal keeps all of it.

    ``strategy``: ``summary``, all of it is replaced by ``summary``; ``snip``, it is left out but for the
    newest input; ``results``, only the results of ``tools`` are left out. ``trigger``: ``auto``, it became
    long; ``manual``, somebody asked; ``overflow``, the provider refused it as too long. Tokens are what the
    model was shown before and is shown after, as far as is known; ``usage`` is what the summary took,
    ``cost`` what that costs.
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
    """No summary could be had, so nothing changed; ``usage`` is what trying took."""

    trigger: CompactTrigger
    error: RunError
    usage: Usage = Usage()
    cost: Cost | None = None
