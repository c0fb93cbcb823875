"""Judging a run's tool calls: may each run, must a person be asked first, or does it fail at once.

Nothing here changes anything: what was judged is one command, committed before any call runs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from dataclasses import replace as _replaced
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kheishd.core.permissions.judge import Layers, Ruling, judge, use_grants
from kheishd.core.run.commands import Judgement
from kheishd.kernel.hook import Invocation, NeedsAnswer, NeedsApproval, RunContext, Tool, ToolError
from kheishd.objects.people.permission import facts_of, layers_of, opinion_of
from kheishd.store.tables import RUNS, SESSIONS
from protocol import ids
from protocol.events.approval import ApprovalRequested
from protocol.events.call import ToolReturned
from protocol.events.question import QuestionAsked
from protocol.limits.call import (
    MAX_JUDGED_CALLS,
    MAX_JUDGED_REASON_BYTES,
    MAX_PREVIEW_BYTES,
    MAX_PREVIEWS_BYTES,
    MAX_SUBJECT_BYTES,
    MAX_VERDICT_SUBJECT_BYTES,
    MAX_WAITING_CALLS,
    MAX_WAITING_QUESTIONS,
)
from protocol.limits.names import MAX_REASON_BYTES
from protocol.objects.permission import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.core.run.record import RunRecord
    from kheishd.kernel.runtime import Runtime
    from kheishd.kernel.state import State
    from kheishd.workers.runs.saving import DurableCommit
    from protocol.objects.approval import Preview
    from protocol.objects.run import CallState, OpenCall
    from protocol.transcript import ToolCall

log = logging.getLogger("kheishd.runs")

MAX_NAMES_SHOWN = 40


@dataclass(frozen=True, slots=True)
class CallJudge:
    """Judges the calls of one run by what holds now.

    ``runtime`` is what the run uses, ``present`` what is configured now: a rule that was written there
    meanwhile counts, too. ``used_grants`` are the grants that this batch used so far, ``asking`` the states
    that those of its calls will have that wait for a person.
    """

    state: State
    runtime: Runtime
    present: Runtime
    saving: DurableCommit
    run: RunRecord
    place: RunContext
    offered: dict[str, Tool]
    used_grants: list[str] = field(default_factory=list)
    asking: list[CallState] = field(default_factory=list)

    async def judgement(self, number: int, call: OpenCall, asked: ToolCall) -> Judgement:
        """How a call is judged: ``number`` is its place in its message, ``asked`` what the model wrote."""
        tool = self.offered.get(call.tool)
        if self.run.tool_bytes >= self.present.config.tools.max_run_output_bytes:
            return self._failed(call, tool, self._no_more_output())
        if asked.invalid is not None:
            return self._failed(
                call, tool, f"These arguments cannot be used: {asked.invalid}. Nothing was run."
            )
        if tool is None:
            return self._failed(call, None, self._no_such_tool(call.tool))
        try:
            arguments = self.checked(tool, asked.arguments)
            return await self._judged(number, call, Invocation(self.place, call.call_id, tool, arguments))
        except ToolError as error:
            return self._failed(call, tool, f"{str(error).rstrip('.')}. Nothing was run.")

    def checked(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """The arguments as the tool wants them. Errors: ToolError if they do not fit, or are too long."""
        most = self.present.config.tools.max_input_bytes
        size = len(msgspec.json.encode(arguments))
        if size > most:
            raise ToolError(
                f"the arguments take {size} bytes as JSON; the limit, tools.max_input_bytes, is {most}"
            )
        return self.runtime.hooks.validate(tool, arguments)

    async def renewed(self, number: int, use: Invocation) -> ApprovalRequested | None:
        """A new approval for a call that was approved, if what was shown is no longer so; else None.

        Errors: ToolError if what was approved can no longer be done at all.
        """
        preview = await self.runtime.hooks.preview(use)
        if preview is None or preview.binding == use.binding:
            return None
        reason = "what was approved has changed since: look again"
        subject = _beginning(self.runtime.hooks.subject(use), MAX_SUBJECT_BYTES)
        return await self._approval(number, use, subject, reason, preview)

    def reconsidered(self, use: Invocation, *, approved: bool) -> Ruling:
        """A call judged once more, when its turn has come: ``ask`` if nobody was asked who would be now.

        What a person approved, now or by a grant, needs no more than that no rule, nor plan mode, denies it.
        Errors: ToolError.
        """
        judged = judge(facts_of(use.tool), self.runtime.hooks.subject(use), self._layers())
        if not approved:
            # A grant that would answer now is not counted down here: so a person does.
            return judged if judged.grant_id is None else _replaced(judged, decision="ask")
        denied = judged.base == "deny" or judged.mode_effect == "denied_in_plan"
        return _replaced(judged, decision="deny" if denied else "allow")

    async def asked_late(self, number: int, use: Invocation, judged: Ruling) -> ApprovalRequested:
        """The approval of a call that was allowed when it was judged, and would have to be asked about now.

        Errors: ToolError if it cannot be done at all.
        """
        why = judged.note or judged.why
        reason = f"this was allowed before, and now a person is to be asked: {why}"
        subject = _beginning(self.runtime.hooks.subject(use), MAX_SUBJECT_BYTES)
        return await self._approval(number, use, subject, reason, await self.runtime.hooks.preview(use))

    async def _judged(self, number: int, call: OpenCall, use: Invocation) -> Judgement:
        opinion = await self.runtime.hooks.before_call(use)
        # The rules read the whole of it: what a command ends with may lie beyond what is kept of it.
        whole = self.runtime.hooks.subject(use)
        judged = judge(facts_of(use.tool), whole, self._layers(), opinion_of(opinion))
        subject = _beginning(whole, MAX_SUBJECT_BYTES)
        verdict = _verdict(call, use.tool, _beginning(whole, MAX_VERDICT_SUBJECT_BYTES), judged)
        if judged.grant_id is not None:
            self.used_grants.append(judged.grant_id)
        if judged.decision == "deny":
            return Judgement(verdict, result=_denied(call, judged.note or judged.why))
        if isinstance(opinion, NeedsAnswer):
            return self._question(verdict, call, opinion)
        if judged.decision == "allow":
            return Judgement(verdict)
        if len(self._waiting()) >= MAX_WAITING_CALLS:
            return self._crowded(
                verdict, call, f"{MAX_WAITING_CALLS} calls of this message wait for a person already"
            )
        try:
            preview = await self.runtime.hooks.preview(use)
        except ToolError as error:
            # Nobody is asked about what cannot be done.
            return Judgement(verdict, result=_failure(call, str(error)))
        reason = opinion.note if isinstance(opinion, NeedsApproval) else judged.note or judged.why
        approval = await self._approval(number, use, subject, reason, preview)
        self.asking.append("asked")
        return Judgement(replace(verdict, approval_id=approval.approval_id), asks=approval)

    def _question(self, verdict: Verdict, call: OpenCall, opinion: NeedsAnswer) -> Judgement:
        waiting = self._waiting()
        if waiting.count("questioned") >= MAX_WAITING_QUESTIONS or len(waiting) >= MAX_WAITING_CALLS:
            return self._crowded(
                verdict, call, "other calls of this message ask already; ask all in one call"
            )
        self.asking.append("questioned")
        asked = QuestionAsked(
            question_id=self.state.new_id(ids.QUESTION),
            call_id=call.call_id,
            questions=opinion.questions,
            expires_at_ms=self._in(opinion.expires_after_ms),
            agent=self.run.agent,
            sender=self.run.sender,
        )
        return Judgement(replace(verdict, question_id=asked.question_id), asks=asked)

    def _waiting(self) -> list[CallState]:
        """The states of the calls of this message that wait for a person: by now, and from this batch on."""
        with self.state.read() as store:
            run = store.get(RUNS, self.run.run_id)
        assert run is not None, "a run's record is never deleted"
        return [call.state for call in run.calls if call.waits_for is not None] + self.asking

    def _crowded(self, verdict: Verdict, call: OpenCall, why: str) -> Judgement:
        """A call that would have a person asked, beside so many that it is one too many."""
        return Judgement(
            verdict, result=_failure(call, f"This was not run: {why}. Try this one again later.")
        )

    async def _approval(
        self, number: int, use: Invocation, subject: str, reason: str, preview: Preview | None
    ) -> ApprovalRequested:
        assert self.run.output_cursor is not None, "a call stands in a message"
        limits = self.runtime.config.runs
        return ApprovalRequested(
            approval_id=self.state.new_id(ids.APPROVAL),
            call_id=use.call_id,
            tool=use.tool.name,
            index=number,
            message_cursor=self.run.output_cursor,
            subject=subject,
            note=_beginning(reason, MAX_JUDGED_REASON_BYTES),
            preview=await self._shown(preview),
            expires_at_ms=self._in(round(limits.approval_expires_s * 1000) or None),
            agent=self.run.agent,
            sender=self.run.sender,
        )

    async def _shown(self, preview: Preview | None) -> Preview | None:
        """A preview as it goes into the journal: what is too long stands whole in a blob."""
        if preview is None:
            return None
        room = max(MAX_PREVIEWS_BYTES // min(len(self.run.calls), MAX_JUDGED_CALLS), 1024)
        room = min(room, MAX_PREVIEW_BYTES)
        encoded = preview.text.encode()
        if len(msgspec.json.encode(preview.text)) <= room:
            return preview
        blob, _ = await self.saving.put_blob(encoded)
        # Escaped, a character takes up to six bytes.
        text = encoded[: room // 6].decode(errors="ignore")
        return replace(preview, text=text, truncated=True, blob=blob)

    def _layers(self) -> Layers:
        """What holds now: what was changed since the run was taken up counts too."""
        with self.state.read() as store:
            session = store.need(SESSIONS, self.run.session_id)
            run = store.get(RUNS, self.run.run_id)
            return use_grants(layers_of(store, self.present, session, run), self.used_grants)

    def _in(self, ms: int | None) -> int | None:
        return None if ms is None else self.state.now_ms() + ms

    def _failed(self, call: OpenCall, tool: Tool | None, text: str) -> Judgement:
        """A call that cannot be carried out, whoever allowed it."""
        verdict = Verdict(call_id=call.call_id, tool=call.tool, decision="deny", base="deny", why="not valid")
        return Judgement(_of_tool(verdict, tool), result=_failure(call, text))

    def _no_more_output(self) -> str:
        given, most = self.run.tool_bytes, self.present.config.tools.max_run_output_bytes
        return (
            f"This was not run: the tools of this run gave {given} bytes together, and the limit, "
            f"tools.max_run_output_bytes, is {most}. Answer with what there is."
        )

    def _no_such_tool(self, name: str) -> str:
        known = sorted(self.offered)[:MAX_NAMES_SHOWN]
        those = f"Those there are: {', '.join(known)}." if known else "There are none."
        return f"There is no tool called '{name}' here. {those}"


def _beginning(whole: str, max_bytes: int) -> str:
    """A text as it is kept; one that was cut says so, and so a subject is never that of another call."""
    encoded = whole.encode()
    if len(encoded) <= max_bytes:
        return whole
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"


def _verdict(call: OpenCall, tool: Tool, subject: str, judged: Ruling) -> Verdict:
    return _of_tool(
        Verdict(
            call_id=call.call_id,
            tool=tool.name,
            decision=judged.decision,
            base=judged.base,
            why=judged.why,
            subject=subject,
            note=_beginning(judged.note, MAX_JUDGED_REASON_BYTES),
            mode=judged.mode,
            mode_effect=judged.mode_effect,
            grant_id=judged.grant_id,
        ),
        tool,
    )


def _of_tool(verdict: Verdict, tool: Tool | None) -> Verdict:
    if tool is None:
        return verdict
    return replace(verdict, parallel=tool.parallel, repeatable=tool.repeatable)


def _failure(call: OpenCall, text: str) -> ToolReturned:
    text = _beginning(text, MAX_REASON_BYTES)
    return ToolReturned(call_id=call.call_id, tool=call.tool, how="failed", text=text, is_error=True)


def _denied(call: OpenCall, reason: str) -> ToolReturned:
    text = _beginning(f"This was not allowed: {reason}", MAX_REASON_BYTES)
    return ToolReturned(call_id=call.call_id, tool=call.tool, how="denied", text=text, is_error=True)
