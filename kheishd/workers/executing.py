"""Carrying out a run's tool calls: judged, journaled as called, run, journaled as returned.

Every step is a command to the run machine, committed before the next: so wherever the daemon dies, the
journal says which calls had begun, and what is known of each.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from kheishd.core.calls import NOT_RUN, STOPPED, doubt
from kheishd.core.commands import CallTools, Command, Judge, Observe, Renew, Return, Settle
from kheishd.kernel.hook import Finding, Outcome, Place, Stale, ToolError, ToolUse
from kheishd.store.tables import SESSIONS
from kheishd.workers.judging import Judging
from kheishd.workers.tail import Tail
from protocol.events import (
    ApprovalAnswered,
    CallProbed,
    DoubtSettled,
    JournalEvent,
    MessageAppended,
    ToolCalled,
    ToolObserved,
    ToolReturned,
    Unknown,
    decode_event,
)
from protocol.limits import EVIDENCE_BYTES_MAX, TOOL_OUTPUT_BYTES_MAX, TOOL_TEXT_BYTES_MAX
from protocol.transcript import ToolCall

if TYPE_CHECKING:
    from kheishd.kernel.live import Live
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from protocol.objects.run import CallOutcome, OpenCall, Run

log = logging.getLogger("kheishd.runs")

Commit = Callable[[Command], Awaitable["Run"]]
"""Carries out a command; gives the run as it is then."""


class Calls:
    """The calls of one run, while a worker has it in its hands.

    ``runtime`` is the one that the run holds, ``present`` gives the one in force: its rules are judged by.
    """

    def __init__(
        self,
        state: "State",
        live: "Live",
        runtime: "Runtime",
        present: Callable[[], "Runtime"],
        commit: Commit,
    ) -> None:
        self._state = state
        self._live = live
        self._runtime = runtime
        self._present = present
        self._commit = commit
        self._running: dict[str, Tail] = {}

    # Judging.

    async def judge(self, run: "Run", places: tuple[int, ...]) -> None:
        """Judge some calls and commit what comes of it."""
        judging = self._judging(run)
        asked = self._asked(run)
        judgements = [await judging.judgement(place, run.calls[place], asked[place]) for place in places]
        await self._commit(Judge(judgements))

    def _judging(self, run: "Run") -> Judging:
        place = self.place(run)
        offered = {tool.name: tool for tool in self._runtime.hooks.offered(place)}
        return Judging(self._state, self._runtime, self._present(), run, place, offered)

    def place(self, run: "Run") -> Place:
        """Where the run is. Errors: AssertionError for a run that pinned no workspace."""
        with self._state.read() as store:
            session = store.get(SESSIONS, run.session_id)
        assert session is not None, "a run has its session"
        workspace = run.pinned.workspace or self._runtime.workspace_root
        assert workspace is not None, "every runtime has a workspace"
        return Place(session, run, workspace, self._runtime.sandbox, self._state)

    def _asked(self, run: "Run") -> list[ToolCall]:
        """The calls as the model wrote them."""
        assert run.output_cursor is not None, "a call stands in a message"
        event = self._event(run, run.output_cursor)
        assert isinstance(event, MessageAppended)
        return [item for item in event.message.items if isinstance(item, ToolCall)]

    def _event(self, run: "Run", cursor: int) -> JournalEvent:
        with self._state.read() as store:
            found = store.entry(run.session_id, cursor)
        assert found is not None, "what a record points at is in the journal"
        event = decode_event(found[1])
        assert not isinstance(event, Unknown), "what a record points at was written by this version"
        return event

    def _arguments(self, run: "Run", place: int, asked: list[ToolCall]) -> Mapping[str, Any]:
        """The input of a call: as the person who approved it changed it, else as the model wrote it."""
        call = run.calls[place]
        if call.input_cursor is None:
            return asked[place].arguments
        event = self._event(run, call.input_cursor)
        assert isinstance(event, ApprovalAnswered)
        return event.updated_input or {}

    # Running.

    async def execute(self, run: "Run", places: tuple[int, ...]) -> None:
        """Run some calls side by side; on cancellation all of them have stopped when this ends."""
        judging = self._judging(run)
        asked = self._asked(run)
        ready: list[tuple[int, ToolUse]] = []
        for place in places:
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
        self._running = {use.call_id: Tail() for _, use in ready}
        async with trio.open_nursery() as nursery:
            for place, use in ready:
                nursery.start_soon(self._perform, run, place, use, judging)

    async def _cleared(
        self, run: "Run", judging: Judging, place: int, asked: list[ToolCall]
    ) -> ToolUse | None:
        """A call as it is to be dispatched; None if it may not run after all, which is committed then."""
        call = run.calls[place]
        tool = judging.offered.get(call.tool)
        if tool is None:
            await self._return(run, call, "failed", Outcome(f"The tool '{call.tool}' is gone.", True))
            return None
        try:
            arguments = self._runtime.hooks.checked(tool, self._arguments(run, place, asked))
            use = ToolUse(
                judging.place,
                call.call_id,
                tool,
                arguments,
                call.binding,
                lambda text: self._say(run, call.call_id, text),
                lambda evidence: self._observe(call.call_id, evidence),
            )
            if not call.approved:
                return use
            denial = judging.still_allowed(use)
            if denial is not None:
                await self._return(run, call, "denied", Outcome(f"This is no longer allowed: {denial}", True))
                return None
            approval = await judging.renewed(place, use) if call.binding is not None else None
        except ToolError as error:
            await self._return(run, call, "failed", Outcome(str(error), True))
            return None
        if approval is not None:
            await self._commit(Renew(approval))
            return None
        return use

    async def _perform(self, run: "Run", place: int, use: ToolUse, judging: Judging) -> None:
        call = run.calls[place]
        began = self._state.now_ms()
        try:
            outcome = await self._runtime.hooks.dispatch(use)
        except Stale:
            await self._ask_again(run, place, use, judging)
            return
        if call.input_cursor is not None:
            changed = msgspec.json.encode(use.arguments).decode()
            told = f"The person who approved this changed its input to {changed}\n{outcome.text}"
            outcome = replace(outcome, text=told)
        how: CallOutcome = "failed" if outcome.is_error else "returned"
        with trio.CancelScope(shield=True):
            # It has happened, so it is said, even if somebody wants the run stopped meanwhile.
            await self._return(run, call, how, outcome, self._state.now_ms() - began)
        self._running.pop(use.call_id, None)

    async def _ask_again(self, run: "Run", place: int, use: ToolUse, judging: Judging) -> None:
        """What was approved changed at the last moment, and nothing was done."""
        try:
            approval = await judging.renewed(place, use)
        except ToolError as error:
            await self._return(run, run.calls[place], "failed", Outcome(str(error), True))
            return
        if approval is None:
            text = "What was approved changed while this was about to run. Nothing was done; try again."
            await self._return(run, run.calls[place], "failed", Outcome(text, True))
            return
        await self._commit(Renew(approval))

    def _say(self, run: "Run", call_id: str, text: str) -> None:
        tail = self._running.get(call_id)
        if tail is not None:
            tail.add(text)

    async def _observe(self, call_id: str, evidence: Mapping[str, Any]) -> None:
        await self._commit(Observe(ToolObserved(call_id=call_id, evidence=bounded(evidence))))

    async def _return(
        self, run: "Run", call: "OpenCall", how: "CallOutcome", outcome: Outcome, took_ms: int | None = None
    ) -> None:
        """Commit a call's result: what is too long to be read at once stands whole in a blob."""
        whole = outcome.whole
        encoded = outcome.text.encode()
        text = outcome.text
        if len(encoded) > TOOL_TEXT_BYTES_MAX:
            whole = whole if whole is not None else encoded
            text = shortened(encoded, TOOL_TEXT_BYTES_MAX)
        blob = size = None
        if whole is not None:
            whole = whole[:TOOL_OUTPUT_BYTES_MAX]
            blob, size = await self._state.put_blob(whole), len(whole)
        returned = ToolReturned(
            call_id=call.call_id,
            tool=call.tool,
            how=how,
            text=text,
            is_error=outcome.is_error,
            blob=blob,
            bytes=size,
            took_ms=took_ms,
        )
        await self._commit(Return(returned, outcome.events))

    # Stopping.

    def stopped(self, run: "Run", *, for_good: bool = True) -> tuple[ToolReturned, ...]:
        """The results of the calls that were running when they were stopped: what they had said by then.

        ``for_good``: of all of them; else only of those that may not be run again.
        """
        return tuple(
            self._stopped(call)
            for call in run.calls
            if call.state == "called" and (for_good or not call.repeatable)
        )

    def _stopped(self, call: "OpenCall") -> ToolReturned:
        tail = self._running.get(call.call_id)
        if tail is None:
            # Journaled as called, and stopped before it was dispatched.
            text = NOT_RUN
        else:
            said = tail.text()
            text = f"{STOPPED} Its last output:\n{said}" if said else STOPPED
        return ToolReturned(call_id=call.call_id, tool=call.tool, how="stopped", text=text, is_error=True)

    # After a crash.

    async def look_into(self, run: "Run", places: tuple[int, ...]) -> None:
        """Find out what became of calls that the daemon died in, and commit what is known."""
        asked = self._asked(run)
        for place in places:
            finding = await self._found(run, place, asked)
            await self._commit(Settle(tuple(self._settling(run, place, finding))))

    async def _found(self, run: "Run", place: int, asked: list[ToolCall]) -> Finding:
        call = run.calls[place]
        tool = self._runtime.hooks.tool(call.tool)
        if tool is None:
            return Finding("unknown", "the tool is gone")
        evidence = self._evidence(run, call)
        try:
            arguments = self._runtime.hooks.checked(tool, self._arguments(run, place, asked))
        except ToolError:
            return Finding("unknown", "its arguments no longer fit the tool", evidence)
        use = ToolUse(self.place(run), call.call_id, tool, arguments, call.binding)
        finding = await self._runtime.hooks.probe(use, evidence)
        return Finding(finding.outcome, finding.note, bounded({**evidence, **finding.evidence}))

    def _evidence(self, run: "Run", call: "OpenCall") -> dict[str, Any]:
        """What was noted about a call before and while it ran, read from the journal."""
        gathered: dict[str, Any] = {}
        assert run.output_cursor is not None
        with self._state.read() as store:
            lines = [line for _, line in store.entries(run.session_id, run.output_cursor)]
        for line in lines:
            event = decode_event(line)
            if isinstance(event, ToolCalled | ToolObserved) and event.call_id == call.call_id:
                gathered |= event.evidence
        return gathered

    def _settling(self, run: "Run", place: int, finding: Finding) -> list[Any]:
        call = run.calls[place]
        if finding.outcome == "not_done":
            probed = CallProbed(
                call_id=call.call_id, tool=call.tool, note=finding.note, evidence=finding.evidence
            )
            return [probed]
        item, told = doubt(run, place, note=finding.note, evidence=finding.evidence)
        if finding.outcome == "unknown":
            return [item, told]
        settled = DoubtSettled(
            indoubt_id=item.indoubt_id, call_id=call.call_id, tool=call.tool, outcome="done", note=""
        )
        text = f"The daemon went down while this ran. It took effect all the same: {finding.note}."
        returned = ToolReturned(call_id=call.call_id, tool=call.tool, how="returned", text=text)
        return [item, settled, returned]


def bounded(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Evidence as it may be journaled: what takes too much room is left out, the largest first."""
    kept = dict(evidence)
    while kept and len(msgspec.json.encode(kept)) > EVIDENCE_BYTES_MAX:
        sizes = {name: len(msgspec.json.encode(value)) for name, value in kept.items()}
        del kept[max(sizes, key=lambda name: sizes[name])]
    return kept


def shortened(encoded: bytes, bytes_max: int) -> str:
    """The beginning and the end of a long text, and how much was left out between them."""
    half = bytes_max // 2
    head, tail = encoded[:half].decode(errors="ignore"), encoded[-half:].decode(errors="ignore")
    return f"{head}\n[... {len(encoded) - 2 * half} bytes left out here ...]\n{tail}"
