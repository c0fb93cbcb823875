"""Making room in a run's context window: the stages of compaction that are due are taken.

Each step is one event, committed before the model is asked: wherever the daemon dies, the whole of it is in
the journal or nothing is. A summary is made by the run's own model, and nobody sees it being written. Where
it cannot be had, the run goes on without: what is shown is long, but not yet too long.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from kheishd.core.context.compaction import (
    MIN_SNIP_KEEP,
    DropResults,
    Prompt,
    Snip,
    Stage,
    Summarise,
    due_stage,
    estimate_stage,
    find_snip_cut,
    find_summary_cut,
    max_prompt_tokens,
    measure_prompt,
    tokens_after,
)
from kheishd.core.context.summary import (
    SUMMARY_INSTRUCTIONS,
    NoSummary,
    extract_summary,
    make_summary_request,
)
from kheishd.core.context.tokens import estimate_messages
from kheishd.core.run.commands import Command, Compact
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, ModelRequest
from kheishd.workers.completion import complete
from protocol.events.context import CompactionFailed, ContextCompacted
from protocol.objects.run import RunError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kheishd.core.context.reduction import TranscriptEntry
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.hook import RunContext
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.workers.runs.transcript import TranscriptReader
    from protocol.events.context import CompactTrigger
    from protocol.objects.run import Pinned
    from protocol.transcript import Message

log = logging.getLogger("kheishd.runs")

SUMMARY_TRIES = 4
"""How often a summary is asked for, each time of half as much, while that is too long for the model."""

MAX_OVERFLOWS = 4
"""How often what one answer needs is made shorter because the provider refused it."""


def given_up(failure: ModelFailure) -> ModelFailure:
    """The failure of a call that is too long, when nothing more can be left out."""
    hint = (
        "nothing more can be left out: send less at once, start over with another session, or name another "
        "route; 'context_tokens' of a route says how much its model takes"
    )
    return ModelFailure(failure.reason, f"{failure.message}; {hint}", retryable=False, status=failure.status)


class ContextWindow:
    """The room in the context of one run's model, while a worker has the run in its hands."""

    def __init__(
        self,
        state: State,
        runtime: Runtime,
        reading: TranscriptReader,
        commit: Callable[[Command], Awaitable[RunRecord]],
        pinned: Pinned,
    ) -> None:
        self._pinned = pinned
        self._state = state
        self._runtime = runtime
        self._reading = reading
        self._commit = commit
        self._failures = 0
        self._step = -1
        self._overflows = 0
        self._refused_tokens: int | None = None

    async def request(self, run: RunRecord, place: RunContext) -> ModelRequest:
        """The model call that is due, once what is too long was made shorter."""
        limits = self._runtime.config.context
        while True:
            request, prompt = await self._prompt(run, place)
            may_summarise = self._failures < limits.max_failures
            step = due_stage(
                prompt, self._ceiling(), self._state.now_ms(), limits, may_summarise=may_summarise
            )
            if step is None or not await self._take(run, prompt, step):
                return request

    async def overflowed(self, run: RunRecord, place: RunContext) -> bool:
        """Make shorter what the provider refused as too long; whether anything could be done."""
        if run.turn != self._step:
            self._step, self._overflows = run.turn, 0
        self._overflows += 1
        if self._overflows > MAX_OVERFLOWS:
            return False
        _, prompt = await self._prompt(run, place)
        # The window is smaller than was thought, by whatever measure; and so it is for the rest of the run.
        self._refused_tokens = prompt.tokens
        target = prompt.tokens // 2
        if self._overflows == 1:
            upto = find_summary_cut(prompt.entries, target, self._runtime.config.context)
            if upto is not None and await self._sum_up(run, prompt, upto, "overflow"):
                return True
        upto = find_snip_cut(prompt, target, MIN_SNIP_KEEP)
        if upto is None:
            return False
        await self._shorten(prompt, Snip(upto), "overflow")
        return True

    async def all_summed_up(self, run: RunRecord, place: RunContext) -> Compact:
        """What a run that is for nothing else comes to. Errors: ModelFailure."""
        _, prompt = await self._prompt(run, place)
        upto = find_summary_cut(prompt.entries, self._ceiling(), self._runtime.config.context)
        if upto is None:
            return Compact(None)
        return Compact(await self._summed_up(run, prompt, upto, "manual"))

    # How much there is.

    async def _prompt(self, run: RunRecord, place: RunContext) -> tuple[ModelRequest, Prompt]:
        request = await self._reading.request(run, self._runtime.hooks, place)
        transcript = self._reading.last
        tools = sum(
            len(msgspec.json.encode(tool.model_schema)) + len(tool.description) for tool in request.tools
        )
        overhead = len(request.instructions.encode()) + tools
        droppable = [tool.name for tool in self._runtime.hooks.tools() if tool.droppable]
        return request, measure_prompt(transcript.entries, transcript.counted, run.guest, overhead, droppable)

    def _ceiling(self) -> int:
        ceiling = max_prompt_tokens(
            self._runtime.config.context, self._pinned.context_tokens, self._pinned.options
        )
        return ceiling if self._refused_tokens is None else min(ceiling, self._refused_tokens * 3 // 4)

    # Steps.

    async def _take(self, run: RunRecord, prompt: Prompt, step: Stage) -> bool:
        """Take a step; whether it was taken."""
        if isinstance(step, Summarise):
            return await self._sum_up(run, prompt, step.upto, "auto")
        await self._shorten(prompt, step, "auto")
        return True

    async def _shorten(self, prompt: Prompt, step: DropResults | Snip, trigger: CompactTrigger) -> None:
        event = ContextCompacted(
            upto=step.upto,
            strategy="snip" if isinstance(step, Snip) else "results",
            trigger=trigger,
            tools=[] if isinstance(step, Snip) else list(prompt.droppable),
            pre_tokens=prompt.tokens,
            post_tokens=tokens_after(prompt, step),
        )
        await self._commit(Compact(event))
        self._reading.became_shorter()

    async def _sum_up(self, run: RunRecord, prompt: Prompt, upto: int, trigger: CompactTrigger) -> bool:
        """Have messages summed up and commit what came of it; whether there is a summary."""
        try:
            event = await self._summed_up(run, prompt, upto, trigger)
        except ModelFailure as failure:
            error = RunError(failure.reason, failure.message, failure.status, failure.retryable)
            event = CompactionFailed(trigger=trigger, error=error)
        await self._commit(Compact(event))
        if isinstance(event, ContextCompacted):
            self._failures = 0
            self._reading.became_shorter()
            return True
        self._failures += 1
        log.warning("no summary: %s", event.error.message, extra={"run_id": run.run_id})
        return False

    async def _summed_up(
        self, run: RunRecord, prompt: Prompt, upto: int, trigger: CompactTrigger
    ) -> ContextCompacted | CompactionFailed:
        """Errors: ModelFailure where the model gave no answer at all."""
        answer = await self._asked(run, [each for each in prompt.entries if each.cursor <= upto])
        try:
            summary = extract_summary(answer.items)
            before, left = estimate_stage(prompt, Summarise(upto), summary)
            if left >= before:
                raise NoSummary("the summary is no shorter than what it sums up")
        except NoSummary as error:
            return CompactionFailed(
                trigger=trigger, error=RunError("no_summary", str(error)), usage=answer.usage
            )
        return ContextCompacted(
            upto=upto,
            strategy="summary",
            trigger=trigger,
            summary=summary,
            pre_tokens=prompt.tokens,
            post_tokens=tokens_after(prompt, Summarise(upto), summary),
            usage=answer.usage,
            model=answer.model,
        )

    async def _asked(self, run: RunRecord, placed: Sequence[TranscriptEntry]) -> ModelAnswer:
        """The model's answer. Errors: ModelFailure."""
        # The estimate is a third too high on purpose. Here too long costs no more than another try.
        max_tokens, tries = self._pinned.context_tokens * 4 // 3, SUMMARY_TRIES
        while True:
            messages = make_summary_request(placed, max_tokens, run.agent)
            try:
                return await self._answer(run, messages)
            except ModelFailure as failure:
                tries -= 1
                if failure.reason != "context_too_long" or not tries:
                    raise
                max_tokens = estimate_messages(messages) // 2

    async def _answer(self, run: RunRecord, messages: list[Message]) -> ModelAnswer:
        """One model call, which nobody follows. Errors: ModelFailure."""
        request = ModelRequest(
            pinned=self._pinned,
            instructions=SUMMARY_INSTRUCTIONS,
            messages=messages,
            session_id=run.session_id,
            run_id=run.run_id,
            purpose="summary",
            max_answer_tokens=self._runtime.config.context.summary_tokens,
            turn=run.turn + 1,
            attempt=max(run.attempt, 1),
        )
        return await complete(self._runtime.models, request)
