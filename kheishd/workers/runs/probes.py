"""Probe the calls during which a daemon died: find out whether each took effect, and commit the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheishd.core.run.commands import ResolveDoubt
from kheishd.kernel.hook import Invocation, ToolError
from kheishd.workers.runs.results import cut_to_end, fit_evidence
from protocol.events.call import ToolCalled, ToolObserved
from protocol.journal.line import decode_event

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.workers.runs.active import ActiveRun
    from protocol.objects.run import OpenCall
    from protocol.transcript import ToolCall


class CallProber:
    """The prober of one run's doubted calls."""

    def __init__(self, active: ActiveRun) -> None:
        self._active = active

    async def probe(self, indexes: tuple[int, ...]) -> None:
        """Probe some calls, each in its own commit."""
        run, tool_calls = self._active.record, self._active.tool_calls()
        names = [run.calls[index].tool for index in indexes]
        await self._active.runtime.hooks.prepare(self._active.context(), names)
        for index in indexes:
            await self._active.commit(await self._probe(run, run.calls[index], tool_calls[index]))

    async def _probe(self, run: RunRecord, call: OpenCall, tool_call: ToolCall) -> ResolveDoubt:
        """Ask the tool's probe for the outcome of a call."""
        hooks = self._active.runtime.hooks
        evidence = self._evidence(run, call)
        tool = hooks.find_tool(call.tool)
        if tool is None:
            return ResolveDoubt(call.call_id, "unknown", "the tool is gone", evidence)
        try:
            arguments = hooks.validate(tool, tool_call.arguments)
        except ToolError:
            note = "its arguments no longer fit the tool"
            return ResolveDoubt(call.call_id, "unknown", note, evidence)
        invocation = Invocation(self._active.context(), call.call_id, tool, arguments, call.binding)
        finding = await hooks.probe(invocation, evidence)
        note = cut_to_end(finding.note, self._active.live.scrubber.scrub_bytes)
        written = tuple(tool.writes(arguments)) if finding.outcome == "done" else ()
        evidence = fit_evidence({**evidence, **finding.evidence})
        return ResolveDoubt(call.call_id, finding.outcome, note, evidence, written)

    def _evidence(self, run: RunRecord, call: OpenCall) -> dict[str, Any]:
        """Return the evidence about a call, the newest value for each name.

        Source: the journal, from the last event about the call back to the one with which it began.
        """
        evidence: dict[str, Any] = {}
        with self._active.state.read() as store:
            for _, line in store.entries(run.session_id, call.updated_cursor + 1, reverse=True):
                # Most events of other kinds in between may be long, so they are not decoded.
                event = decode_event(line) if b'"type":"tool_' in line else None
                if isinstance(event, ToolCalled | ToolObserved) and event.call_id == call.call_id:
                    evidence = event.evidence | evidence
                    if isinstance(event, ToolCalled):
                        break
        return evidence
