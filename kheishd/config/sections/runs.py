"""``[runs]``: limits, retries and timeouts of runs."""

from typing import Annotated, Literal

from msgspec import Meta

from kheishd.config.sections.section import Age, Money, Pause, Section, Timeout
from protocol.budget import Budget
from protocol.limits.budget import MAX_BUDGET_TOKENS, MAX_WORK_SECONDS
from protocol.limits.output import MAX_CONTINUATIONS
from protocol.objects.run import Busy


class RunsSection(Section, frozen=True):
    """``[runs]``: limits, retries and timeouts of runs."""

    max_active: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """Maximum number of runs executed at once; others wait."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 4
    """Maximum attempts per model call."""

    backoff_s: Pause = 1.0
    """Pause after the first failed attempt; it doubles with each further one."""

    max_backoff_s: Pause = 60.0
    """Longest pause between attempts."""

    max_retry_after_s: Pause = 3600.0
    """Longest pause that a provider may request."""

    stream_timeout_s: Timeout = 600.0
    """Time limit of one model answer."""

    inactivity_timeout_s: Timeout = 120.0
    """Longest silence during a model answer."""

    max_turns: Annotated[int, Meta(ge=1)] = 500
    """Maximum model calls per run."""

    max_continuations: Annotated[int, Meta(ge=0, le=MAX_CONTINUATIONS)] = MAX_CONTINUATIONS
    """How many times a truncated answer is continued automatically."""

    max_tokens: Annotated[int, Meta(ge=0, le=MAX_BUDGET_TOKENS)] = 0
    """Maximum tokens per run, input and output together (0: no limit)."""

    max_work_s: Annotated[float, Meta(ge=0, le=MAX_WORK_SECONDS)] = 0.0
    """Maximum working time per run; waiting for people or in the queue does not count (0: no limit)."""

    max_cost: Money = 0.0
    """Maximum cost per run, in the currency of its route; requires prices (0: no limit)."""

    approval_expires_s: Age = 0.0
    """Time after which an unanswered approval is denied (0: never)."""

    recovery: Literal["resume", "interrupt"] = "resume"
    """Treatment of unfinished runs at startup: `"resume"` or `"interrupt"`."""

    busy: Busy = "queue"
    """A message while a run is in flight: `"queue"`, `"steer"`, `"interrupt"` or `"reject"`."""

    @property
    def budget(self) -> Budget:
        """The limits on a run's use, in the currency of its route."""
        return Budget(max_tokens=self.max_tokens, max_work_s=self.max_work_s, max_cost=self.max_cost)
