"""Carrying out a run's tool calls: judged, journaled as called, run, journaled as returned.

Every step is a command to the run machine, committed before the next: so wherever the daemon dies, the
journal says which calls had begun, and what is known of each.

A call that has ended is remembered until its result is saved: whatever happens in between, a full disk or
somebody who wants the run stopped, its result is what came of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kheishd.core.run.answers import met_by
from kheishd.core.run.calls import NOT_RUN, STOPPED, doubt
from kheishd.core.run.commands import CallTools, Command, Judge, Observe, Renew, Return, Settle
from kheishd.kernel.hook import Invocation, Outcome, ProbeResult, RunContext, Stale, ToolError
from kheishd.kernel.live import OF_TOOLS
from kheishd.objects.talk.bounds import bounds_of
from kheishd.store.tables import SESSIONS
from kheishd.workers.runs.judge import CallJudge
from kheishd.workers.runs.results import bounded, last_words, readable
from protocol.events.approval import ApprovalAnswered
from protocol.events.call import CallProbed, ToolCalled, ToolObserved, ToolReturned
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.events.run import MessageAppended
from protocol.journal.line import JournalEvent, Unknown, decode_event
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from kheishd.config.sections.tools import ToolsSection
    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.hook import Tool
    from kheishd.kernel.live import Live, Writing
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot
    from kheishd.workers.runs.saving import DurableCommit
    from protocol.events.output import RequirementSatisfied
    from protocol.objects.run import CallOutcome, OpenCall, Pinned

log = logging.getLogger("kheishd.runs")

SAYING_SECONDS = 20.0
"""What a tool has beyond the longest time, to stop and to say what it had by then."""

Commit = Callable[["Command | Callable[[Snapshot], Command]"], Awaitable["RunRecord"]]
"""Carries out a command, or what is made one in its transaction; gives the run as it is then."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """What came of a call."""

    how: CallOutcome
    outcome: Outcome
    took_ms: int | None = None


class CallExecutor:
    """The calls of one run, while a worker has it in its hands.

    ``runtime`` is the one that the run holds, ``present`` gives the one in force: its rules are judged by.
    """

    def __init__(
        self,
        state: State,
        live: Live,
        runtime: Runtime,
        present: Callable[[], Runtime],
        saving: DurableCommit,
        commit: Commit,
        pinned: Pinned,
    ) -> None:
        self._pinned = pinned
        self._state = state
        self._live = live
        self._runtime = runtime
        self._present = present
        self._saving = saving
        self._commit = commit
        # Of calls that run: what they write, and what came of those that have ended and are not saved yet.
        self._writings: dict[str, Writing] = {}
        self._ended: dict[str, _Ended] = {}

    # Judging.

    async def judge(self, run: RunRecord, places: tuple[int, ...]) -> None:
        """Judge some calls and commit what comes of it."""
        judging = await self._judging(run)
        asked = self._asked(run)
        judgements = [await judging.judgement(place, run.calls[place], asked[place]) for place in places]
        await self._commit(Judge(judgements))

    async def _judging(self, run: RunRecord) -> CallJudge:
        await self._runtime.hooks.prepare()
        place = self.place(run)
        offered = {tool.name: tool for tool in self._runtime.hooks.offer(place)}
        return CallJudge(self._state, self._runtime, self._present(), self._saving, run, place, offered)

    def place(self, run: RunRecord) -> RunContext:
        """Where the run is."""
        with self._state.read() as store:
            session = store.need(SESSIONS, run.session_id)
            # What the run pinned holds no longer where a session was narrowed since.
            tools = bounds_of(store, self._present(), session).scope.tools
        workspace = self._pinned.workspace or self._runtime.workspace_root
        return RunContext(
            session, run, self._pinned, workspace, self._runtime.config.workspace.sandbox, self._state, tools
        )

    def _asked(self, run: RunRecord) -> list[ToolCall]:
        """The calls as the model wrote them."""
        assert run.output_cursor is not None, "a call stands in a message"
        event = self._event(run, run.output_cursor)
        assert isinstance(event, MessageAppended)
        return [item for item in event.message.items if isinstance(item, ToolCall)]

    def _event(self, run: RunRecord, cursor: int) -> JournalEvent:
        with self._state.read() as store:
            found = store.entry(run.session_id, cursor)
        assert found is not None, "what a record points at is in the journal"
        event = decode_event(found[1])
        assert not isinstance(event, Unknown), "what a record points at was written by this version"
        return event

    def _arguments(self, run: RunRecord, place: int, asked: list[ToolCall]) -> Mapping[str, Any]:
        """The input of a call: as the person who approved it changed it, else as the model wrote it."""
        call = run.calls[place]
        if call.input_cursor is None:
            return asked[place].arguments
        event = self._event(run, call.input_cursor)
        assert isinstance(event, ApprovalAnswered)
        return event.updated_input or {}

    # Running.

    async def execute(self, run: RunRecord, places: tuple[int, ...]) -> None:
        """Run some calls side by side; on cancellation all of them have stopped when this ends."""
        judging = await self._judging(run)
        asked = self._asked(run)
        ready: list[tuple[int, Invocation]] = []
        # Those beyond stay ready, and are due again when these have returned.
        for place in places[: judging.present.config.tools.max_parallel]:
            use = await self._cleared(run, judging, place, asked)
            if use is None:
                # It has its result now, or a person is asked again: look at the batch anew.
                return
            ready.append((place, use))
        called = [
            ToolCalled(
                call_id=use.call_id,
                tool=use.tool.name,
                attempt=run.calls[place].attempt + 1,
                evidence=bounded(await self._runtime.hooks.evidence(use)),
            )
            for place, use in ready
        ]
        run = await self._commit(CallTools(called))
        if run.cancel is not None:
            return
        async with trio.open_nursery() as nursery:
            for place, use in ready:
                nursery.start_soon(self._perform, run, place, use, judging)

    async def _cleared(
        self, run: RunRecord, judging: CallJudge, place: int, asked: list[ToolCall]
    ) -> Invocation | None:
        """A call as it is to be dispatched; None if it may not run after all, which is committed then."""
        call = run.calls[place]
        tool = judging.offered.get(call.tool)
        if tool is None:
            await self._return(call, _Ended("failed", Outcome(_missing(call.tool, judging.place), True)))
            return None
        try:
            arguments = judging.checked(tool, self._arguments(run, place, asked))
            use = Invocation(
                judging.place,
                call.call_id,
                within(tool, judging.present.config.tools),
                arguments,
                call.binding,
                lambda text: self._say(call.call_id, text),
                lambda evidence: self._observe(call.call_id, evidence),
            )
            # Rules may have changed while this call, or another of its batch, waited for a person; and a call
            # before this one may have entered plan mode.
            judged = judging.reconsidered(use, approved=call.approved)
            renewed = None
            if judged.decision == "ask":
                renewed = await judging.asked_late(place, use, judged)
            elif judged.decision == "allow" and call.binding is not None:
                renewed = await judging.renewed(place, use)
        except ToolError as error:
            await self._return(call, _Ended("failed", Outcome(str(error), True)))
            return None
        if judged.decision == "deny":
            denial = f"This is no longer allowed: {judged.note or judged.why}"
            await self._return(call, _Ended("denied", Outcome(denial, True)))
            return None
        if renewed is not None:
            await self._commit(Renew(renewed))
            return None
        return use

    async def _perform(self, run: RunRecord, place: int, use: Invocation, judging: CallJudge) -> None:
        call = run.calls[place]
        began = self._state.now_ms()
        writing = self._live.begin(run.session_id, run.run_id, call.call_id, call.attempt, OF_TOOLS)
        self._writings[call.call_id] = writing
        try:
            outcome = await self._runtime.hooks.dispatch(use)
        except Stale:
            await self._ask_again(call, place, use, judging)
        else:
            if not outcome.is_error:
                met = met_by(run, self._pinned, use.call_id, [*use.tool.writes(use.arguments)])
                outcome = replace(outcome, events=(*outcome.events, *met))
            ended = _Ended(
                "failed" if outcome.is_error else "returned", outcome, self._state.now_ms() - began
            )
            # From here on that is what came of it, whoever wants what; others may only put it differently.
            self._ended[call.call_id] = ended
            outcome = await self._runtime.hooks.after_call(use, _as_changed(call, use, outcome))
            self._ended[call.call_id] = replace(ended, outcome=outcome)
            await self._save(call)
        self._live.end(self._writings.pop(call.call_id))

    async def _ask_again(self, call: OpenCall, place: int, use: Invocation, judging: CallJudge) -> None:
        """What was approved changed at the last moment, and nothing was done."""
        try:
            approval = await judging.renewed(place, use)
        except ToolError as error:
            await self._return(call, _Ended("failed", Outcome(str(error), True)))
            return
        if approval is None:
            text = "What was approved changed while this was about to run. Nothing was done; try again."
            await self._return(call, _Ended("failed", Outcome(text, True)))
            return
        await self._commit(Renew(approval))

    def _say(self, call_id: str, text: str) -> None:
        writing = self._writings.get(call_id)
        if writing is not None:
            # What a program writes need not be text.
            said = text if text.isascii() else text.encode(errors="replace").decode()
            self._live.text(writing, "output", said)

    async def _observe(self, call_id: str, evidence: Mapping[str, Any]) -> None:
        await self._commit(Observe(ToolObserved(call_id=call_id, evidence=bounded(evidence))))

    async def _save(self, call: OpenCall) -> None:
        """Commit the result of a call that has ended."""
        await self._return(call, self._ended[call.call_id])
        del self._ended[call.call_id]

    async def _return(self, call: OpenCall, ended: _Ended) -> None:
        """Commit a result: what is too long to be read at once stands whole in a blob."""
        text, whole = readable(ended.outcome, self._present().config.tools.max_output_bytes)
        blob, size = (None, None) if whole is None else await self._saving.put_blob(whole)
        returned = ToolReturned(
            call_id=call.call_id,
            tool=call.tool,
            how=ended.how,
            text=text,
            is_error=ended.outcome.is_error,
            blob=blob,
            bytes=size,
            took_ms=ended.took_ms,
        )
        change = ended.outcome.decide
        if change is None:
            await self._commit(Return(returned, ended.outcome.events))
        else:
            await self._commit(partial(_changed, returned, ended.outcome, change))

    # Stopping.

    async def save_ended(self, run: RunRecord) -> None:
        """Commit the results of calls that had ended when the rest was stopped."""
        for call in run.calls:
            if call.call_id in self._ended:
                await self._save(call)

    def stopped(self, run: RunRecord, *, for_good: bool = True) -> tuple[Return, ...]:
        """The results of the calls that were running when they were stopped: what they had said by then.

        ``for_good``: of all of them; else only of those that may not be run again.
        """
        return tuple(
            Return(self._stopped(call))
            for call in run.calls
            if call.state == "called" and (for_good or not call.repeatable)
        )

    def _stopped(self, call: OpenCall) -> ToolReturned:
        writing = self._writings.get(call.call_id)
        if writing is None:
            # Journaled as called, and stopped before it was dispatched.
            text = NOT_RUN
        else:
            self._live.whole(writing)
            said = last_words(writing.text("output"))
            text = f"{STOPPED} Its last output:\n{said}" if said else STOPPED
        return ToolReturned(call_id=call.call_id, tool=call.tool, how="stopped", text=text, is_error=True)

    def close(self) -> None:
        """The run is put down, or has ended: no call writes any more."""
        for writing in self._writings.values():
            self._live.end(writing)

    # After a crash.

    async def look_into(self, run: RunRecord, places: tuple[int, ...]) -> None:
        """Find out what became of calls that the daemon died in, and commit what is known."""
        await self._runtime.hooks.prepare()
        asked = self._asked(run)
        for place in places:
            finding, met = await self._found(run, place, asked)
            await self._commit(Settle((*met, *_settling(run, place, finding))))

    async def _found(
        self, run: RunRecord, place: int, asked: list[ToolCall]
    ) -> tuple[ProbeResult, list[RequirementSatisfied]]:
        """What became of a call, and what it did thereby that the run must have done."""
        call = run.calls[place]
        evidence = self._evidence(run, call)
        tool = self._runtime.hooks.find_tool(call.tool)
        if tool is None:
            return ProbeResult("unknown", "the tool is gone", evidence), []
        try:
            arguments = self._runtime.hooks.validate(tool, self._arguments(run, place, asked))
        except ToolError:
            return ProbeResult("unknown", "its arguments no longer fit the tool", evidence), []
        use = Invocation(self.place(run), call.call_id, tool, arguments, call.binding)
        finding = await self._runtime.hooks.probe(use, evidence)
        written = [*tool.writes(arguments)] if finding.outcome == "done" else []
        met = met_by(run, self._pinned, use.call_id, written)
        return ProbeResult(finding.outcome, finding.note, bounded({**evidence, **finding.evidence})), met

    def _evidence(self, run: RunRecord, call: OpenCall) -> dict[str, Any]:
        """What was noted about a call before and while it ran, the newest for each name.

        Source: the journal, back from the last event about the call to the one with which it began.
        """
        gathered: dict[str, Any] = {}
        with self._state.read() as store:
            for _, line in store.entries(run.session_id, call.updated_cursor + 1, reverse=True):
                # Most of what a session takes in meanwhile is of other kinds, and may be long.
                event = decode_event(line) if b'"type":"tool_' in line else None
                if isinstance(event, ToolCalled | ToolObserved) and event.call_id == call.call_id:
                    gathered = event.evidence | gathered
                    if isinstance(event, ToolCalled):
                        break
        return gathered


def _missing(tool: str, place: RunContext) -> str:
    """Why a tool that could be called is not offered any more."""
    why = "is gone" if place.allows(tool) else "is no longer allowed here"
    return f"The tool '{tool}' {why}."


def _changed(
    returned: ToolReturned, given: Outcome, change: Callable[[Snapshot], Outcome], store: Snapshot
) -> Return:
    """A result as it is in the transaction that commits it, with what changes there."""
    try:
        outcome = change(store)
    except ToolError as error:
        outcome = Outcome(str(error), is_error=True)
    how: CallOutcome = "failed" if outcome.is_error else "returned"
    text, _ = readable(outcome)
    final = msgspec.structs.replace(returned, how=how, text=text, is_error=outcome.is_error)
    return Return(final, outcome.events if outcome.is_error else (*outcome.events, *given.events))


def _as_changed(call: OpenCall, use: Invocation, outcome: Outcome) -> Outcome:
    """What a call gave that a person changed: the model is told what was done instead of what it wrote."""
    if call.input_cursor is None:
        return outcome
    changed = last_words(msgspec.json.encode(use.arguments).decode())
    said = f"The person who approved this changed its input to {changed}\n"
    then = outcome.decide
    if then is None:
        return replace(outcome, text=said + outcome.text)

    def told(store: Snapshot) -> Outcome:
        settled = then(store)
        return replace(settled, text=said + settled.text)

    return replace(outcome, text=said + outcome.text, decide=told)


def within(tool: Tool, limits: ToolsSection) -> Tool:
    """A tool that takes no longer than tools may; one that keeps the limit itself can still say so."""
    longest = limits.max_timeout_s + SAYING_SECONDS
    return tool if tool.timeout_s <= longest else replace(tool, timeout_s=longest)


def _settling(
    run: RunRecord, place: int, finding: ProbeResult
) -> tuple[CallProbed | IndoubtOpened | IndoubtResolved | ToolReturned, ...]:
    """The events of what was found out about a call."""
    call = run.calls[place]
    note = last_words(finding.note)
    if finding.outcome == "not_done":
        return (CallProbed(call_id=call.call_id, tool=call.tool, note=note, evidence=finding.evidence),)
    item, told = doubt(run, place, note=note, evidence=finding.evidence)
    if finding.outcome == "unknown":
        return item, told
    settled = IndoubtResolved(
        indoubt_id=item.indoubt_id, call_id=call.call_id, tool=call.tool, outcome="done"
    )
    text = f"The daemon went down while this ran. It took effect all the same: {note}."
    return item, settled, ToolReturned(call_id=call.call_id, tool=call.tool, how="returned", text=text)
