"""The tool calls of a run: judged, journaled as called, run side by side, journaled as returned.

Each step is a command. Verdicts are committed together with the begin of the calls, unless a person is asked,
and results together with the begin of the next model call. A call has begun in the journal before its tool
has any effect, so wherever the daemon dies, the journal says which calls had begun; ``probes`` finds out
whether those took effect.

The outcome of a call is remembered until it is committed. Neither a full disk nor a request to stop the run
can replace it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from msgspec.structs import replace

from kheishd.core.run.calls import NOT_RUN, STOPPED
from kheishd.core.run.commands import CallReturn, CallTools, Judge, Observe, RenewApproval, ReturnResult
from kheishd.core.run.due import ExecuteCalls, due
from kheishd.core.run.machine import foresee
from kheishd.kernel.hook import Deny, Invocation, Outcome, Stale, ToolError
from kheishd.kernel.live import TOOL_KINDS
from kheishd.kernel.log_fields import LogScope, set_log_scope
from kheishd.objects.work.checkpoint import prepare_checkpoint, save_checkpoint
from kheishd.workers.runs.judge import CallJudge
from kheishd.workers.runs.results import MAX_INLINE_SCRUB_BYTES, cut_to_end, fit_evidence, fit_outcome
from protocol import ids
from protocol.events.approval import ApprovalAnswered
from protocol.events.hook import CallInputChanged
from protocol.limits.store import MAX_BEGIN_BYTES
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from kheishd.config.sections.tools import ToolsSection
    from kheishd.core.run.commands import AwaitEvent
    from kheishd.core.run.record import RunRecord
    from kheishd.core.text.scrub import Scrubber
    from kheishd.kernel.hook import CheckpointDraft, Tool
    from kheishd.kernel.live import LiveText
    from kheishd.objects.work.checkpoint import PreparedCheckpoint
    from kheishd.records.writer import SessionWriter
    from kheishd.store.environment import Transaction
    from kheishd.workers.runs.active import ActiveRun
    from protocol.journal.line import JournalEvent
    from protocol.objects.run import CallOutcome, OpenCall
    from protocol.transcript import ToolCall

    Settle = Callable[[], Awaitable[object]]
    """Commits the result of a call that may not run, or asks a person again."""

log = logging.getLogger("kheishd.runs")

REPORT_SECONDS = 20.0
"""The time that a tool has beyond ``tools.max_timeout_s``, to stop and to report its output until then."""


class _Ended(Value, frozen=True):
    """The outcome of a call that has ended."""

    how: CallOutcome
    outcome: Outcome
    took_ms: int | None = None
    written: tuple[str, ...] = ()


class CallExecutor:
    """The executor of one run's tool calls."""

    def __init__(self, active: ActiveRun) -> None:
        self._active = active
        # The output of the running calls, and the outcomes that are not committed yet, by call id.
        self._live_texts: dict[str, LiveText] = {}
        self._ended: dict[str, _Ended] = {}

    # Judging.

    async def judge(self, indexes: tuple[int, ...]) -> None:
        """Judge some calls and commit the verdicts, unless the run is stopped meanwhile.

        The calls that may run then begin in the same commit.
        """
        active = self._active
        with active.effect() as scope:
            run = active.record
            judge, tool_calls = await self._judge(), active.tool_calls()
            judgements = [await judge.judge(index, run.calls[index], tool_calls[index]) for index in indexes]
            if judge.amended:
                run, tool_calls = active.record, active.tool_calls()
            command = Judge(judgements)
            judged = foresee(run, active.pinned, command)
            effect = due(judged, active.pinned, active.state.now_ms(), owned=True)
            ready = None
            if isinstance(effect, ExecuteCalls):
                ready = await self._clear(judged, judge, effect.indexes, tool_calls)
            if isinstance(ready, list):
                await self._begin(ready, judge, command)
            else:
                # A call that may not run after all gets its result when it is due again.
                await active.advance(command)
        if scope.cancelled_caught:
            active.reload()

    async def _judge(self) -> CallJudge:
        context = self._active.context()
        await self._active.runtime.hooks.prepare(context, [call.tool for call in self._active.record.calls])
        return CallJudge(self._active, context, self._active.current_runtime)

    # Running.

    async def execute(self, indexes: tuple[int, ...]) -> None:
        """Run some calls side by side. On cancellation all of them have stopped when this returns."""
        active = self._active
        with active.effect() as scope:
            run = active.record
            judge, tool_calls = await self._judge(), active.tool_calls()
            ready = await self._clear(run, judge, indexes, tool_calls)
            if isinstance(ready, list):
                await self._begin(ready, judge)
            else:
                # The call gets a result, or waits for a person again: the batch has changed.
                await ready()
        if scope.cancelled_caught:
            active.reload()

    async def _begin(
        self, ready: list[tuple[int, Invocation]], judge: CallJudge, judged: Judge | None = None
    ) -> None:
        """Commit that some calls begin, with their verdicts unless those are committed already; run them.

        If the rules have changed since the judgement, nothing is committed, and the calls are judged again.
        """
        hooks = self._active.runtime.hooks
        command = CallTools(
            {invocation.call_id: fit_evidence(await hooks.evidence(invocation)) for _, invocation in ready}
        )

        drafts = {
            invocation.call_id: draft
            for _, invocation in ready
            if (draft := await hooks.checkpoint(invocation)) is not None and draft.files
        }
        tools = {invocation.call_id: invocation.tool.name for _, invocation in ready}
        checkpoints = [
            await self._prepare_checkpoint(call_id, tools[call_id], draft)
            for call_id, draft in drafts.items()
        ]

        def begin(writer: SessionWriter) -> bool:
            if not judge.is_current(writer.tx):
                return False
            if judged is not None:
                writer.carry_out(judged)
                effect = due(writer.run, writer.pinned, writer.tx.now_ms, owned=True)
                if not isinstance(effect, ExecuteCalls) or writer.tx.free_bytes < MAX_BEGIN_BYTES:
                    return False
            writer.carry_out(command)
            for checkpoint in checkpoints:
                save_checkpoint(writer, checkpoint)
            return True

        has_begun = await self._active.transact(begin)
        run = self._active.record
        if not has_begun or run.cancel is not None:
            return
        async with trio.open_nursery() as nursery:
            for index, invocation in ready:
                draft = drafts.get(invocation.call_id)
                if draft is not None:
                    saved = {file.path: file.digest or "" for file in draft.files}
                    invocation = replace(invocation, saved=saved)
                nursery.start_soon(self._run, run, index, invocation, judge)

    async def _prepare_checkpoint(
        self, call_id: str, tool: str, draft: CheckpointDraft
    ) -> PreparedCheckpoint:
        active = self._active
        return await prepare_checkpoint(
            active.update, active.state.new_id(ids.CHECKPOINT), draft, call_id=call_id, tool=tool
        )

    async def _save_checkpoint(self, call_id: str, tool: str, draft: CheckpointDraft) -> None:
        """Commit the files that a running call has changed, as they were before."""
        checkpoint = await self._prepare_checkpoint(call_id, tool, draft)
        await self._active.transact(lambda writer: save_checkpoint(writer, checkpoint))

    async def _clear(
        self, run: RunRecord, judge: CallJudge, indexes: tuple[int, ...], tool_calls: list[ToolCall]
    ) -> list[tuple[int, Invocation]] | Settle:
        """Return the calls that may be dispatched; for one that may not run after all, how it is settled.

        Calls beyond the limit stay ready, and are due again when these have returned.
        """
        ready: list[tuple[int, Invocation]] = []
        for index in indexes[: judge.rules.config.tools.max_parallel]:
            cleared = await self._clear_call(run, judge, index, tool_calls[index])
            if not isinstance(cleared, Invocation):
                return cleared
            ready.append((index, cleared))
        return ready

    async def _clear_call(
        self, run: RunRecord, judge: CallJudge, index: int, tool_call: ToolCall
    ) -> Invocation | Settle:
        """Return a call that may be dispatched, or how it is settled if it may not run after all.

        Rules may have changed while the call, or another one of its message, waited for a person; and an
        earlier call of the message may have entered plan mode.
        """
        call = run.calls[index]
        tool = judge.offered.get(call.tool)
        if tool is None:
            problem = "is gone" if judge.context.allows(call.tool) else "is no longer allowed here"
            return partial(self._return_error, call, f"The tool '{call.tool}' {problem}.")
        try:
            invocation = Invocation(
                judge.context,
                call.call_id,
                limit_time(tool, judge.rules.config.tools),
                judge.validate(tool, tool_call.arguments),
                call.binding,
                lambda text: self._stream(call.call_id, text),
                lambda evidence: self._observe(call.call_id, evidence),
                judge.closed_patterns,
                yield_slot=self._active.yield_slot,
                save=partial(self._save_checkpoint, call.call_id, tool.name),
                scrub=self._active.live.scrubber.scrub_bytes,
                scrub_cut=self._active.live.scrubber.scrub_cut,
            )
            invocation = replace(invocation, judge_claim=partial(judge.judge_claim, invocation, call))
            if isinstance(self._find_change(call), ApprovalAnswered):
                # The person who approved it has changed its arguments, which no hook has seen.
                opinion = await judge.hooks.before_call(invocation)
                if isinstance(opinion, Deny):
                    text = f"This was not allowed: {opinion.note}"
                    return partial(self._return_error, call, text, how="denied")
            ruling = judge.judge_again(invocation, call)
            approval = None
            if ruling.decision == "ask":
                approval = await judge.request_late_approval(index, invocation, ruling)
            elif ruling.decision == "allow" and call.binding is not None:
                approval = await judge.renew_approval(index, invocation)
        except ToolError as error:
            return partial(self._return_error, call, str(error))
        if ruling.decision == "deny":
            text = f"This is no longer allowed: {ruling.note or ruling.why}"
            return partial(self._return_error, call, text, how="denied")
        if approval is not None:
            return partial(self._active.commit, RenewApproval(call.call_id, approval))
        return invocation

    async def _run(self, run: RunRecord, index: int, invocation: Invocation, judge: CallJudge) -> None:
        """Dispatch a call and commit its result."""
        active, call = self._active, run.calls[index]
        set_log_scope(LogScope(active.state, run.run_id, run.session_id, call.call_id))
        log.debug("a tool is called", extra={"tool": call.tool})
        began_ms = active.state.now_ms()
        live_text = active.live.begin(run.session_id, run.run_id, call.call_id, call.attempt, TOOL_KINDS)
        self._live_texts[call.call_id] = live_text
        try:
            outcome = await active.runtime.hooks.dispatch(invocation)
        except Stale:
            await self._ask_again(call, index, invocation, judge)
        else:
            took_ms = active.state.now_ms() - began_ms
            written = () if outcome.is_error else tuple(invocation.tool.writes(invocation.arguments))
            ended = _Ended("failed" if outcome.is_error else "returned", outcome, took_ms, written)
            # From here on the call has this outcome, even if the run is stopped; hooks may only rephrase it.
            self._ended[call.call_id] = ended
            outcome = await active.runtime.hooks.after_call(
                invocation, _mention_changed_input(self._find_change(call), invocation, outcome)
            )
            self._ended[call.call_id] = replace(ended, outcome=outcome)
            log.debug("a tool has returned", extra={"tool": call.tool, "took_ms": took_ms, "how": ended.how})
            await self._save(call)
        active.live.end(self._live_texts.pop(call.call_id))

    def _find_change(self, call: OpenCall) -> JournalEvent | None:
        """Return the event that changed the input of a call; None if it is the model's."""
        if call.input_cursor is None:
            return None
        with self._active.state.read() as store:
            return self._active.read_event(store, call.input_cursor)

    async def _ask_again(self, call: OpenCall, index: int, invocation: Invocation, judge: CallJudge) -> None:
        """Ask the approver again: the approved state changed right before the call, which did nothing."""
        try:
            approval = await judge.renew_approval(index, invocation)
        except ToolError as error:
            await self._return_error(call, str(error))
            return
        if approval is None:
            text = "What was approved changed while this was about to run. Nothing was done; try again."
            await self._return_error(call, text)
            return
        await self._active.commit(RenewApproval(call.call_id, approval))

    def _stream(self, call_id: str, text: str) -> None:
        """Show a piece of a call's output to the run's followers."""
        live_text = self._live_texts.get(call_id)
        if live_text is not None:
            # The output of a program may hold invalid characters.
            valid = text if text.isascii() else text.encode(errors="replace").decode()
            self._active.live.append(live_text, "output", valid)

    async def _observe(self, call_id: str, evidence: Mapping[str, Any]) -> None:
        await self._active.commit(Observe(call_id, fit_evidence(evidence)))

    # Results.

    async def save_ended(self) -> None:
        """Commit the outcomes of calls that had ended before the others were stopped.

        The run ends or is released next, so no model call begins.
        """
        for call in self._active.record.calls:
            if call.call_id in self._ended:
                await self._save(call, advances=False)

    async def _save(self, call: OpenCall, *, advances: bool = True) -> None:
        await self._return(call, self._ended[call.call_id], advances=advances)
        del self._ended[call.call_id]

    async def _return_error(self, call: OpenCall, text: str, *, how: CallOutcome = "failed") -> None:
        await self._return(call, _Ended(how, Outcome(text, is_error=True)))

    async def _return(self, call: OpenCall, ended: _Ended, *, advances: bool = True) -> None:
        """Commit the result of a call, and after the last one the begin of the next model call.

        Output that is too long for the model is stored as a blob.
        """
        outcome = ended.outcome
        max_bytes = self._active.current_runtime.config.tools.max_output_bytes
        scrubber = self._active.live.scrubber
        if scrubber.secrets and len(outcome.text) + len(outcome.full_output or b"") > MAX_INLINE_SCRUB_BYTES:
            fit = partial(fit_outcome, outcome, max_bytes, scrubber.scrub_bytes)
            text, output = await trio.to_thread.run_sync(fit)
        else:
            text, output = fit_outcome(outcome, max_bytes, scrubber.scrub_bytes)
        blob, size = (None, None) if output is None else await self._active.put_blob(output)
        result = CallReturn(
            ended.how, text, outcome.is_error, blob, size, ended.took_ms, tuple(outcome.origins), outcome.hops
        )
        command, decide = ReturnResult(call.call_id, result, outcome.events, ended.written), outcome.decide

        def save(writer: SessionWriter) -> None:
            if outcome.evidence is not None:
                writer.carry_out(Observe(call.call_id, fit_evidence(outcome.evidence)))
            final = command if decide is None else _decide_result(command, decide, writer.tx, scrubber)
            writer.carry_out(final)

        await self._active.transact(save, advances=advances)

    # Stopping.

    def stopped_results(self, *, keep_repeatable: bool = False) -> tuple[ReturnResult, ...]:
        """Return the results of the calls that were stopped, with their last output.

        ``keep_repeatable`` leaves out the calls that may be run again.
        """
        results = []
        for call in self._active.record.calls:
            if call.state != "called" or (keep_repeatable and call.repeatable):
                continue
            live_text = self._live_texts.get(call.call_id)
            if live_text is None:
                # The call was journaled as called, but stopped before it was dispatched.
                text = NOT_RUN
            else:
                self._active.live.flush(live_text)
                output = cut_to_end(live_text.text("output"))
                text = f"{STOPPED} Its last output:\n{output}" if output else STOPPED
            results.append(ReturnResult(call.call_id, CallReturn("stopped", text, is_error=True)))
        return tuple(results)

    def close(self) -> None:
        """End the output of all calls: the run has ended or is released."""
        for live_text in self._live_texts.values():
            self._active.live.end(live_text)


def limit_time(tool: Tool, limits: ToolsSection) -> Tool:
    """Return the tool with a timeout within the limits, and with some time to report its output."""
    longest_s = limits.max_timeout_s + REPORT_SECONDS
    return tool if tool.waits or tool.timeout_s <= longest_s else replace(tool, timeout_s=longest_s)


def _decide_result(
    command: ReturnResult, decide: Callable[[Transaction], Outcome], tx: Transaction, scrubber: Scrubber
) -> ReturnResult | AwaitEvent:
    """Return the final result of a call whose outcome depends on the state at its commit, or its wait."""
    try:
        final = decide(tx)
    except ToolError as error:
        final = Outcome(str(error), is_error=True)
    if final.awaits is not None:
        return final.awaits
    how: CallOutcome = "failed" if final.is_error else "returned"
    text, _ = fit_outcome(final, scrub=scrubber.scrub_bytes)
    result = replace(
        command.result,
        how=how,
        text=text,
        is_error=final.is_error,
        origins=tuple(final.origins),
        hops=final.hops,
    )
    events = final.events if final.is_error else (*final.events, *command.events)
    return replace(command, result=result, events=events)


def _mention_changed_input(change: JournalEvent | None, invocation: Invocation, outcome: Outcome) -> Outcome:
    """Tell the model which input was used, if a person or a hook changed it."""
    if change is None:
        return outcome
    author = "The person who approved this"
    if isinstance(change, CallInputChanged):
        author = f"The hook '{change.hook}'"
    arguments = cut_to_end(msgspec.json.encode(invocation.arguments).decode(), invocation.scrub)
    prefix = f"{author} changed its input to {arguments}\n"
    decide = outcome.decide
    if decide is None:
        return replace(outcome, text=prefix + outcome.text)

    def decide_with_prefix(tx: Transaction) -> Outcome:
        final = decide(tx)
        return replace(final, text=prefix + final.text)

    return replace(outcome, text=prefix + outcome.text, decide=decide_with_prefix)
