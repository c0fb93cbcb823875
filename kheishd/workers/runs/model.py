"""A model call of a run, from the prompt to the committed answer or failure."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, assert_never

from msgspec.structs import replace

from kheishd.core.fallback import falls_over, has_chain
from kheishd.core.run.answers import continued_cursors, fit_items, fit_message, measure_data, measure_items
from kheishd.core.run.calls import normalize_calls
from kheishd.core.run.commands import AcceptAnswer, BeginModelCall, EndEarly, Fail, FailModelCall, Steer
from kheishd.core.run.due import next_attempt_at_ms
from kheishd.core.text.scrub import cut_text
from kheishd.kernel.route import find_route_error
from kheishd.kernel.runtime import ModelAnswer, ModelFailure, TextDelta, ThinkingDelta
from kheishd.objects.talk.contract import check_answer
from kheishd.objects.talk.hook import decide
from kheishd.objects.talk.output import answer_text
from kheishd.store.tables import AGENTS
from kheishd.workers.runs.context import ContextWindow
from kheishd.workers.runs.fallover import RouteChain
from kheishd.workers.runs.memory import commit_compaction
from kheishd.workers.runs.transcript import TranscriptReader
from protocol import ids
from protocol.events.agent import AgentCloseRequested
from protocol.limits.hook import MAX_HOOK_TEXT_BYTES, MAX_STOP_BLOCKS
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.limits.output import MAX_REPAIR_OVERHEAD_BYTES
from protocol.limits.store import MAX_CHECKPOINT_BYTES
from protocol.transcript import Item, Text, ToolCall, text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.core.context.checkpoint import Chunks
    from kheishd.kernel.live import LiveText
    from kheishd.records.writer import SessionWriter
    from kheishd.workers.runs.active import ActiveRun
    from protocol.objects.run import RunError

TOO_LONG_HINT = (
    "nothing more can be left out: send less at once, start over with another session, or name another "
    "route; 'context_tokens' of a route says how much its model takes"
)


MAX_TRUNCATED_CALLS = 4
"""The answers in a row whose calls did not fit: a model that does not make them smaller must not go on."""


CONTINUED = ("length", "pause")
"""The reasons for the end of an answer after which the model goes on by itself."""


class ModelTurn:
    """The model calls of one run."""

    def __init__(self, active: ActiveRun) -> None:
        self._active = active
        self._transcript = TranscriptReader(
            active.state, active.record.session_id, active.services.transcripts
        )
        self._window = ContextWindow(active, self._transcript)
        self._chain = RouteChain(active, self._window.measure) if has_chain(active.accepted) else None
        if self._chain is not None:
            self._window.may_move = self._chain.may_move
        self._has_answer_begun = False
        self._live_text: LiveText | None = None
        self._truncated_answers = 0
        self._stop_blocks = 0

    async def ask(self) -> None:
        """Call the model and commit the outcome; a compaction run compacts its session instead."""
        active = self._active
        if not active.is_call_begun:
            await active.commit(BeginModelCall(active.state.new_id(ids.ITEM)))
            if active.record.cancel is not None or active.record.ended_at_ms is not None:
                return
        active.is_call_begun = False
        self._has_answer_begun = False
        if self._chain is not None:
            error = await self._chain.choose()
        else:
            error = find_route_error(active.current_runtime.routes, active.pinned)
        if error is not None:
            await active.commit(Fail(error))
        elif active.record.kind == "compaction":
            await self._compact()
        else:
            await self._answer()

    def close(self) -> None:
        """End the live text, and keep the transcript of a run that has ended for the next one."""
        # The message is in the journal, or will never be.
        self._end_live_text()
        if self._active.record.ended_at_ms is not None:
            # A run that waits for a person may wait for days, and costs no memory.
            self._transcript.close()

    async def _answer(self) -> None:
        """Get an answer from the model and commit it, or the failure, or the text that came before a stop."""
        received: list[str] = []
        try:
            answer = await self._stream(received)
        except ModelFailure as failure:
            if failure.reason == "context_too_long":
                await self._shrink(failure)
            elif failure.reason == "empty_answer" and self._active.record.output_cursors:
                # The run has emitted its output, so that nothing is left to say.
                await self._commit_answer(ModelAnswer([], failure.usage, "end"))
            else:
                await self._fail(failure)
            return
        if answer is not None:
            await self._commit_answer(answer)
            return
        text = "".join(received)
        parts: list[Item] = [Text(text)] if text else []
        items, _ = fit_items(parts, MAX_ANSWER_BYTES)
        await self._active.commit(self._stopped(items))

    async def _stream(self, received: list[str]) -> ModelAnswer | None:
        """Stream the answer to the run's followers.

        Return the answer; None if the call was stopped, with the text until then in ``received``.
        Errors: ModelFailure.
        """
        active = self._active
        answer: ModelAnswer | None = None
        with active.effect() as scope:
            request = await self._window.request()
            run = active.record
            assert run.item_id is not None, "a model call has the id of its message"
            live_text = self._live_text = active.live.begin(
                run.session_id, run.run_id, run.item_id, run.attempt
            )
            async with active.runtime.models.ask(request) as events:
                async for event in events:
                    self._has_answer_begun = True
                    match event:
                        case TextDelta(text):
                            received.append(text)
                            active.live.append(live_text, "text", text)
                        case ThinkingDelta(text):
                            active.live.append(live_text, "thinking", text)
                        case ModelAnswer():
                            answer = event
                        case _:
                            assert_never(event)
        if scope.cancelled_caught and answer is None:
            return None
        active.live.flush(live_text)
        if answer is None:
            raise ModelFailure("bad_response", "the provider ended without an answer", retryable=True)
        return answer

    async def _commit_answer(self, answer: ModelAnswer) -> None:
        """Commit an answer, with a checkpoint of the transcript if both fit into one transaction."""
        active = self._active
        active.services.cooldowns.note_answer(active.pinned.route, active.pinned.auth_ref)
        if self._chain is not None:
            self._chain.note_answer()
        bound = active.pinned.output_contract is not None
        max_bytes = MAX_ANSWER_BYTES - (MAX_REPAIR_OVERHEAD_BYTES if bound else 0)
        items, provider_data, cut = fit_message(
            normalize_calls(self._scrub_items(answer.items), self._transcript.call_ids()),
            answer.provider_data,
            max_bytes,
        )
        stop_reason = "length" if cut else answer.stop_reason
        if self._count_truncated_calls(items, stop_reason) > MAX_TRUNCATED_CALLS:
            message = f"the model's tool calls did not fit {MAX_TRUNCATED_CALLS + 1} times in a row"
            await self._fail(ModelFailure("calls_too_large", message, retryable=False, usage=answer.usage))
            return
        await self._hold_end(items, stop_reason)
        check = None
        if bound:
            with active.state.read() as store:
                earlier_parts = answer_text(store, active.record, continued_cursors(active.record))
                check = check_answer(store, active.record, active.pinned, earlier_parts + text_of(items))
        command = AcceptAnswer(
            items=items,
            usage=answer.usage,
            stop_reason=stop_reason,
            model=answer.model,
            cut=cut,
            max_calls=active.current_runtime.config.tools.max_calls,
            checked=check,
            provider_data=provider_data,
            passed_over=chain.passed_over if (chain := self._chain) is not None else [],
        )
        room = max_bytes - measure_data(provider_data) - measure_items(items)
        checkpoint = self._transcript.begin_checkpoint()
        is_beside = checkpoint is not None and checkpoint.size_bytes <= min(MAX_CHECKPOINT_BYTES, room)

        def commit(writer: SessionWriter) -> Chunks | None:
            writer.carry_out(command)
            return checkpoint.write(writer.tx) if checkpoint is not None and is_beside else None

        saved = await active.transact(commit, advances=True)
        self._end_live_text()
        if checkpoint is not None and is_beside:
            checkpoint.finish(saved)
        elif checkpoint is not None:
            await self._transcript.save_checkpoint(checkpoint)

    async def _hold_end(self, items: list[Item], stop_reason: str) -> None:
        """Let the hooks of the run's end judge an answer without calls; a block is a message to the run.

        While a message is pending, the model is called again after the answer.
        """
        active, run = self._active, self._active.record
        if stop_reason in CONTINUED or any(isinstance(item, ToolCall) for item in items):
            return
        if self._stop_blocks >= MAX_STOP_BLOCKS or run.pending_steers or run.cancel is not None:
            return
        with active.effect():
            verdict = await decide(
                active.services,
                "stop",
                run.agent,
                f"{run.run_id}.{run.turn}.stop",
                lambda: {
                    "agent": run.agent,
                    "sender": run.sender,
                    "output": cut_text(text_of(items), MAX_HOOK_TEXT_BYTES, active.live.scrubber.scrub_cut),
                    "blocks": self._stop_blocks,
                },
                workspace=active.pinned.workspace or active.runtime.workspace_root,
                run=run,
            )
            if verdict.block is not None:
                self._stop_blocks += 1
                texts = [
                    f"You are not done: {verdict.block}",
                    *(context.text for context in verdict.contexts),
                ]
                steer = Steer(
                    steer_id=active.state.new_id(ids.STEER),
                    items=[Text("\n\n".join(texts))],
                    sender=run.sender,
                    origin=verdict.block_origin,
                    source=f"hook:{verdict.blocked_by}",
                )
                await active.commit(steer)

    def _end_live_text(self) -> None:
        if self._live_text is not None:
            self._active.live.end(self._live_text)

    def _scrub_items(self, items: Sequence[Item]) -> list[Item]:
        """Replace the secrets in texts and names of tools, before a cut or another spelling hides a part."""
        scrubber = self._active.live.scrubber
        if not scrubber.secrets:
            return list(items)
        scrubbed: list[Item] = []
        for item in items:
            match item:
                case Text():
                    scrubbed.append(replace(item, text=scrubber.scrub_text(item.text)))
                case ToolCall():
                    scrubbed.append(replace(item, name=scrubber.scrub_text(item.name)))
                case _:
                    scrubbed.append(item)
        return scrubbed

    def _count_truncated_calls(self, items: list[Item], stop_reason: str) -> int:
        """Return the number of answers in a row in which no call fitted."""
        calls = [item for item in items if isinstance(item, ToolCall)]
        is_truncated = stop_reason == "length" and bool(calls) and all(call.invalid for call in calls)
        self._truncated_answers = self._truncated_answers + 1 if is_truncated else 0
        return self._truncated_answers

    async def _fail(self, failure: ModelFailure) -> None:
        """Commit a failure: ask another route or key, repeat the call later, or end the run."""
        active, chain, error = self._active, self._chain, failure.error
        passed_over = chain.passed_over if chain is not None else []
        if falls_over(error) and not self._has_answer_begun:
            route, auth_ref = active.pinned.route, active.pinned.auth_ref
            active.services.cooldowns.note_failure(route, auth_ref, error, failure.retry_after_s)
            if chain is not None and (candidate := await chain.find_next(failure)) is not None:
                now_ms = active.state.now_ms()
                await active.commit(
                    FailModelCall(error, now_ms, failure.usage, candidate, passed_over=passed_over)
                )
                chain.follow(candidate)
                return
            failure = chain.combine(failure) if chain is not None else failure
        error, at_ms = self._find_retry(failure)
        final_error = chain.explain(error) if chain is not None and at_ms is None else None
        command = FailModelCall(error, at_ms, failure.usage, None, final_error, passed_over)

        def fail(writer: SessionWriter) -> None:
            writer.carry_out(command)
            agent = writer.tx.get(AGENTS, active.record.session_id)
            if (
                agent is not None
                and agent.state == "open"
                and agent.launch_run_id == active.record.run_id
                and (error.reason, active.record.turn) == ("hook_blocked", 0)
            ):
                # A hook has refused the agent before it did anything: it must not stay open.
                writer.append(AgentCloseRequested(note=error.message, failed=True))

        await active.transact(fail)
        if chain is not None:
            chain.begin_round()

    def _find_retry(self, failure: ModelFailure) -> tuple[RunError, int | None]:
        """Return the error of a failure, and the time of the next attempt if there is to be one."""
        record, error = self._active.record, failure.error
        limits, delay_s = self._active.runtime.config.runs, failure.retry_after_s
        if failure.reason == "empty_answer" and record.empty_answers:
            # An empty answer is retried once in each turn.
            return replace(error, message=f"{error.message}; the retry was empty, too", retryable=False), None
        if not failure.retryable:
            return error, None
        if delay_s is not None and delay_s > limits.max_retry_after_s:
            limit = f"runs.max_retry_after_s allows {limits.max_retry_after_s:g} s"
            text = f"{error.message}; it asks to wait for {delay_s:g} s, and {limit}"
            return replace(error, message=text), None
        at_ms = next_attempt_at_ms(
            now_ms=self._active.state.now_ms(),
            attempt=record.failures + 1,
            max_attempts=limits.max_attempts,
            backoff_s=limits.backoff_s,
            max_backoff_s=limits.max_backoff_s,
            retry_after_s=delay_s,
            max_retry_after_s=limits.max_retry_after_s,
            jitter=random.random(),
        )
        return error, at_ms

    async def _shrink(self, failure: ModelFailure) -> None:
        """Shorten a prompt that the provider refused as too long; fail if it cannot be shortened."""
        with self._active.effect() as scope:
            try:
                if not await self._window.shrink():
                    message = f"{failure.message}; {TOO_LONG_HINT}"
                    await self._fail(
                        ModelFailure(failure.reason, message, retryable=False, status=failure.status)
                    )
            except ModelFailure as summary_failure:
                await self._fail(summary_failure)
        if scope.cancelled_caught:
            self._active.reload()

    async def _compact(self) -> None:
        """Summarize the session, which is the only task of a compaction run."""
        try:
            with self._active.effect() as scope:
                command = await self._window.summarize_all()
        except ModelFailure as failure:
            await self._fail(failure)
            return
        if scope.cancelled_caught:
            await self._active.commit(self._stopped([]))
        else:
            await commit_compaction(self._active, command)
        if self._active.record.status == "completed":
            # A checkpoint now spares the next run from reading the events before the summary.
            await self._transcript.read()
            self._transcript.note_compaction()
            checkpoint = self._transcript.begin_checkpoint()
            if checkpoint is not None:
                await self._transcript.save_checkpoint(checkpoint)

    def _stopped(self, items: list[Item]) -> EndEarly:
        return EndEarly(items, error=self._active.timeout if self._active.out_of_time else None)
