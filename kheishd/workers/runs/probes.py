"""The calls during which a daemon died: find out whether each took effect, and commit the finding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheishd.core.run.answers import met_by
from kheishd.core.run.calls import doubt
from kheishd.core.run.commands import Settle
from kheishd.kernel.hook import Invocation, ProbeResult, ToolError
from kheishd.workers.runs.results import cut_to_end, fit_evidence
from protocol.events.call import CallProbed, ToolCalled, ToolObserved, ToolReturned
from protocol.events.indoubt import IndoubtOpened, IndoubtResolved
from protocol.journal.line import decode_event

if TYPE_CHECKING:
    from kheishd.core.run.record import RunRecord
    from kheishd.workers.runs.active import ActiveRun, CallInputs
    from protocol.events.output import RequirementSatisfied
    from protocol.objects.run import OpenCall


class CallProber:
    """The prober of one run's doubted calls."""

    def __init__(self, active: ActiveRun) -> None:
        self._active = active

    async def probe(self, indexes: tuple[int, ...]) -> None:
        """Probe some calls, each in its own commit."""
        await self._active.runtime.hooks.prepare()
        run, inputs = self._active.record, self._active.inputs()
        for index in indexes:
            finding, satisfied = await self._probe(run, index, inputs)
            await self._active.commit(Settle((*satisfied, *_events(run, index, finding))))

    async def _probe(
        self, run: RunRecord, index: int, inputs: CallInputs
    ) -> tuple[ProbeResult, list[RequirementSatisfied]]:
        """Ask the tool's probe; also return the requirements of the run that the call has satisfied."""
        call, hooks = run.calls[index], self._active.runtime.hooks
        evidence = self._evidence(run, call)
        tool = hooks.find_tool(call.tool)
        if tool is None:
            return ProbeResult("unknown", "the tool is gone", evidence), []
        try:
            arguments = hooks.validate(tool, inputs.arguments(index))
        except ToolError:
            return ProbeResult("unknown", "its arguments no longer fit the tool", evidence), []
        invocation = Invocation(self._active.context(), call.call_id, tool, arguments, call.binding)
        finding = await hooks.probe(invocation, evidence)
        files = [*tool.writes(arguments)] if finding.outcome == "done" else []
        satisfied = met_by(run, self._active.pinned, call.call_id, files)
        evidence = fit_evidence({**evidence, **finding.evidence})
        return ProbeResult(finding.outcome, finding.note, evidence), satisfied

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


def _events(
    run: RunRecord, index: int, finding: ProbeResult
) -> tuple[CallProbed | IndoubtOpened | IndoubtResolved | ToolReturned, ...]:
    """Return the events of a finding."""
    call = run.calls[index]
    note = cut_to_end(finding.note)
    if finding.outcome == "not_done":
        return (CallProbed(call_id=call.call_id, tool=call.tool, note=note, evidence=finding.evidence),)
    opened, result = doubt(run, index, note=note, evidence=finding.evidence)
    if finding.outcome == "unknown":
        return opened, result
    resolved = IndoubtResolved(
        indoubt_id=opened.indoubt_id, call_id=call.call_id, tool=call.tool, outcome="done"
    )
    text = f"The daemon went down while this ran. It took effect all the same: {note}."
    return opened, resolved, ToolReturned(call_id=call.call_id, tool=call.tool, how="returned", text=text)
