"""The judge of a run's tool calls: whether each may run, needs a person's answer first, or fails at once.

Judging changes nothing but blobs of long previews: the caller commits the judgements before any call runs.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kheishd.core.audience import NOBODY, is_same_or_wider
from kheishd.core.permissions.judge import (
    Layers,
    Ruling,
    closed_patterns,
    has_grants,
    judge,
    judge_claim,
    use_grants,
)
from kheishd.core.run.commands import ApprovalAsk, CallReturn, Judgement, NoteHooks, QuestionAsk
from kheishd.core.text.scrub import REPLACEMENT, cut_text
from kheishd.kernel.hook import Invocation, NeedsAnswer, NeedsApproval, ToolError
from kheishd.objects.agents.attendance import UNATTENDED, find_attendance
from kheishd.objects.people.permission import facts_of, layers_of, opinion_of
from kheishd.objects.talk.bounds import bounds_of
from kheishd.store.tables import APPROVALS, RUNS, SESSIONS
from protocol import ids
from protocol.events.hook import CallInputChanged
from protocol.limits.call import (
    MAX_FACTS_BYTES,
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
from protocol.objects.approval import Preview
from protocol.objects.permission import CallFacts, Verdict
from protocol.text import truncate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kheishd.core.permissions.claims import Claim
    from kheishd.core.permissions.judge import HookOpinion
    from kheishd.kernel.hook import RunContext, Tool
    from kheishd.kernel.runtime import Runtime
    from kheishd.store.environment import Snapshot
    from kheishd.workers.runs.active import ActiveRun
    from protocol.audience import Audience
    from protocol.objects.run import CallOutcome, CallState, OpenCall
    from protocol.transcript import ToolCall

MAX_LISTED_TOOLS = 40


def list_names(names: Sequence[str]) -> str:
    """Return the names of the tools as a sentence, with the number of those that are left out."""
    if not names:
        return "There are no tools."
    count = len(names) - MAX_LISTED_TOOLS
    more = f", and {count} more" if count > 0 else ""
    return f"The tools are: {', '.join(names[:MAX_LISTED_TOOLS])}{more}."


class CallJudge:
    """The judge of one batch of calls.

    Tools come from the runtime that the run holds; ``rules`` is the current runtime, whose permission rules
    and tool limits apply. ``offered`` are the run's tools by name.
    """

    def __init__(self, active: ActiveRun, context: RunContext, rules: Runtime) -> None:
        self.active = active
        self.context = context
        self.rules = rules
        self.hooks = active.runtime.hooks
        self.offered = {tool.name: tool for tool in self.hooks.offer(context)}
        # The rules and grants at the first judgement.
        self._first_layers: Layers | None = None
        # The grants that this batch has used so far, and the states of its calls that will wait for a person.
        self._used_grants: list[str] = []
        self._asking: list[CallState] = []
        # The arguments that hooks have changed, by the index of their call.
        self.amended: dict[int, dict[str, Any]] = {}

    async def judge(self, index: int, call: OpenCall, tool_call: ToolCall) -> Judgement:
        """Judge a call: ``index`` is its index in the message, ``tool_call`` the model's text of it."""
        tool = self.offered.get(call.tool)
        max_output_bytes = self.rules.config.tools.max_run_output_bytes
        if self.context.run.tool_bytes >= max_output_bytes:
            text = (
                f"This was not run: the tools of this run returned {self.context.run.tool_bytes} bytes, "
                f"and the limit, tools.max_run_output_bytes, is {max_output_bytes}. "
                "Answer with the results so far."
            )
            return _reject(call, tool, text)
        if tool_call.invalid is not None:
            text = f"These arguments cannot be used: {tool_call.invalid}. Nothing was run."
            return _reject(call, tool, text)
        if tool is None:
            problem = self.hooks.explain_missing(self.context, call.tool)
            parts = [f"There is no tool '{call.tool}'.", problem, list_names(sorted(self.offered))]
            return _reject(call, None, " ".join(filter(None, parts)))
        try:
            arguments = self.validate(tool, tool_call.arguments)
            invocation = Invocation(self.context, call.call_id, tool, arguments)
            return await self._judge_valid(index, call, invocation)
        except ToolError as error:
            return _reject(call, tool, f"{str(error).rstrip('.')}. Nothing was run.")

    def validate(self, tool: Tool, arguments: Mapping[str, Any]) -> Any:
        """Return the arguments as the tool takes them. Errors: ToolError if they are invalid or too long."""
        max_bytes = self.rules.config.tools.max_input_bytes
        encoded = msgspec.json.encode(arguments)
        size = len(encoded)
        if size > max_bytes:
            raise ToolError(
                f"the arguments take {size} bytes as JSON; the limit, tools.max_input_bytes, is {max_bytes}"
            )
        valid = self.hooks.validate(tool, arguments)
        scrubber = self.active.live.scrubber
        # The arguments of a call that was stored are redacted already.
        if tool.arguments is not None and (REPLACEMENT.encode() in encoded or scrubber.may_occur(encoded)):
            # Imported where a secret was found.
            from kheishd.core.text.identities import find_secret

            place = find_secret(tool.arguments, valid, scrubber, "$")
            if place is not None:
                raise ToolError(f"{place} contains a secret, which must not be in a name or an address")
        return valid

    def judge_again(self, invocation: Invocation, call: OpenCall) -> Ruling:
        """Judge a call again, right before it runs: ``ask`` if a person must be asked who was not.

        A call that was approved, by a person or by a grant, may run unless a rule or plan mode denies it now,
        or its rules name people who did not answer: rules are added, and an approver may change the input.
        Errors: ToolError.
        """
        # Without facts, no grant is used: only a verdict counts it down. So a person is asked.
        ruling = self._judge(invocation)
        if not self._is_approved(call, ruling):
            return ruling
        denied = ruling.base == "deny" or ruling.mode_effect == "denied_in_plan"
        return replace(ruling, decision="deny" if denied else "allow")

    def is_current(self, store: Snapshot) -> bool:
        """Whether the rules, grants and allowed tools are still those by which the batch was judged."""
        rules = self.active.current_runtime
        session = store.need(SESSIONS, self.context.run.session_id)
        bounds, judged = bounds_of(store, rules, session), self.context.bounds
        if judged is None or (bounds.scope, bounds.blocked) != (judged.scope, judged.blocked):
            return False
        return self._read_layers(store, rules) == self._first_layers

    def closed_patterns(self) -> tuple[str, ...]:
        """Return the patterns of paths that rules keep from tools that read, by the current rules."""
        return closed_patterns(
            [tool.name for tool in self.hooks.tools() if tool.kind == "read"], self._layers()
        )

    def _is_approved(self, call: OpenCall, ruling: Ruling) -> bool:
        """Whether the people whom a ruling asks have approved a call."""
        if not call.approved or ruling.audience is None:
            return call.approved
        with self.active.state.read() as store:
            approval = store.get(APPROVALS, call.approval_id or "")
        return approval is not None and is_same_or_wider(ruling.audience, approval.audience)

    def judge_claim(self, invocation: Invocation, call: OpenCall, claim: Claim) -> Ruling:
        """Judge a claim of a running call by the current rules (see :class:`Invocation`)."""
        ruling = judge_claim(facts_of(invocation.tool), claim, self._layers())
        is_open = ruling.decision != "deny" and claim in self.hooks.claims(invocation)
        if is_open and self._is_approved(call, ruling):
            return replace(ruling, decision="allow", why="approved with the call")
        return ruling

    def _judge(
        self,
        invocation: Invocation,
        opinion: HookOpinion | None = None,
        facts: CallFacts | None = None,
    ) -> Ruling:
        # Rules match the whole subject: the end of a command may lie beyond the part that is stored.
        tool, subject = facts_of(invocation.tool), self.hooks.subject(invocation)
        claims = self.hooks.claims(invocation)
        return judge(tool, subject, self._layers(), opinion, claims=claims, facts=facts)

    async def renew_approval(self, index: int, invocation: Invocation) -> ApprovalAsk | None:
        """Return a new approval if the approved state has changed, else None.

        Errors: ToolError if the call has become impossible.
        """
        preview = await self._preview(invocation)
        if preview is None or preview.binding == invocation.binding:
            return None
        note = "what was approved has changed since: look again"
        audience = self._require_audience(self._judge(invocation))
        return await self._approval(index, invocation, note, preview, audience)

    async def request_late_approval(self, index: int, invocation: Invocation, ruling: Ruling) -> ApprovalAsk:
        """Return the approval of a call that was allowed before and needs another one by the current rules.

        Errors: ToolError if the call is impossible.
        """
        note = f"this was allowed before, and now a person is to be asked: {ruling.note or ruling.why}"
        audience = self._require_audience(ruling)
        return await self._approval(index, invocation, note, await self._preview(invocation), audience)

    async def _judge_valid(self, index: int, call: OpenCall, invocation: Invocation) -> Judgement:
        """Judge a call with valid arguments by opinions and rules."""
        tool = invocation.tool
        amendment = await self.hooks.amend(invocation)
        if amendment is not None and call.input_cursor is None:
            # A call that was amended before the daemon restarted is not amended again.
            arguments = self.validate(tool, amendment.arguments)
            change = CallInputChanged(
                call_id=call.call_id, hook=amendment.hook, updated_input=dict(amendment.arguments)
            )
            await self.active.commit(NoteHooks((change,)))
            invocation = replace(invocation, arguments=arguments)
            self.amended[index] = dict(amendment.arguments)
        opinion = await self.hooks.before_call(invocation)
        subject = self.hooks.subject(invocation)
        ruling, preview = self._judge(invocation, opinion_of(opinion)), None
        if ruling.decision == "ask" and has_grants(self._layers(), facts_of(tool), subject):
            preview = await self._preview(invocation)
            facts = CallFacts() if preview is None or preview.facts is None else preview.facts
            ruling = self._judge(invocation, opinion_of(opinion), facts)
        verdict = Verdict(
            call_id=call.call_id,
            tool=tool.name,
            decision=ruling.decision,
            base=ruling.base,
            why=ruling.why,
            subject=self._cut(subject, MAX_VERDICT_SUBJECT_BYTES),
            note=self._cut(ruling.note, MAX_JUDGED_REASON_BYTES),
            mode=ruling.mode,
            mode_effect=ruling.mode_effect,
            grant_id=ruling.grant_id,
            approval_id=ruling.approval_id,
            binding=preview.binding if preview is not None and ruling.grant_id is not None else None,
            parallel=tool.parallel,
            repeatable=tool.repeatable,
            waits=tool.waits,
        )
        if ruling.grant_id is not None:
            self._used_grants.append(ruling.grant_id)
        if ruling.decision == "deny":
            text = f"This was not allowed: {ruling.note or ruling.why}"
            return Judgement(verdict, _error_result(text, how="denied"))
        if ruling.decision == "allow" and not isinstance(opinion, NeedsAnswer):
            return Judgement(verdict)
        audience = ruling.audience
        if not isinstance(opinion, NeedsAnswer) or opinion.to_agent is None:
            try:
                audience = self._require_audience(ruling)
            except ToolError as error:
                return Judgement(verdict, _error_result(f"This was not allowed: {error}", how="denied"))
        if isinstance(opinion, NeedsAnswer):
            return self._ask_question(verdict, call, opinion, audience)
        if len(self._waiting()) >= MAX_WAITING_CALLS:
            problem = f"{MAX_WAITING_CALLS} calls of this message wait for a person already"
            return _reject_for_now(verdict, call, problem)
        denial = await self.hooks.before_approval(invocation, ruling.note or ruling.why)
        if denial is not None:
            return Judgement(verdict, _error_result(f"This was not allowed: {denial.note}", how="denied"))
        try:
            preview = preview or await self._preview(invocation)
        except ToolError as error:
            # A person is not asked about an impossible call.
            return Judgement(verdict, _error_result(str(error)))
        note = ruling.note or ruling.why
        if isinstance(opinion, NeedsApproval) and opinion.is_firm:
            note = opinion.note
        approval = await self._approval(index, invocation, note, preview, audience)
        self._asking.append("asked")
        return Judgement(verdict, approval)

    def _require_audience(self, ruling: Ruling) -> Audience | None:
        """Return the people who may answer: those of the rules, else those who attend the agent.

        Errors: ToolError if nobody does.
        """
        if ruling.audience is not None:
            return ruling.audience
        with self.active.state.read() as store:
            audience = find_attendance(store, self.rules, self.context.session)
        if audience == NOBODY:
            raise ToolError(UNATTENDED)
        return audience

    async def _preview(self, invocation: Invocation) -> Preview | None:
        """Return the preview of a call; its facts include the call's destinations. Errors: ToolError."""
        preview = await self.hooks.preview(invocation)
        network = [claim.subject for claim in self.hooks.claims(invocation) if claim.kind == "network"]
        if network:
            preview = preview or Preview(kind="text", text=f"connect to {', '.join(network)}")
            preview = replace(preview, facts=replace(preview.facts or CallFacts(), network=network))
        if preview is not None and preview.facts is not None:
            encoded = msgspec.json.encode(preview.facts)
            if len(encoded) > MAX_FACTS_BYTES:
                digest = sha256(encoded).hexdigest()
                preview = replace(preview, facts=CallFacts(other=[f"sha256 {digest}"]))
        return preview

    def _ask_question(
        self, verdict: Verdict, call: OpenCall, opinion: NeedsAnswer, audience: Audience | None
    ) -> Judgement:
        """Put the call's question to a person, unless too many calls wait already."""
        waiting = self._waiting()
        if waiting.count("questioned") >= MAX_WAITING_QUESTIONS or len(waiting) >= MAX_WAITING_CALLS:
            return _reject_for_now(
                verdict, call, "other calls of this message ask already; ask all in one call"
            )
        self._asking.append("questioned")
        question = QuestionAsk(
            self.active.state.new_id(ids.QUESTION),
            opinion.questions,
            self._deadline(opinion.expires_after_ms),
            audience,
            opinion.to_agent,
        )
        return Judgement(verdict, question)

    def _waiting(self) -> list[CallState]:
        """Return the states of the message's calls that wait for a person, with those of this batch."""
        with self.active.state.read() as store:
            run = store.need(RUNS, self.context.run.run_id)
        return [call.state for call in run.calls if call.waits_for is not None] + self._asking

    async def _approval(
        self,
        index: int,
        invocation: Invocation,
        note: str,
        preview: Preview | None,
        audience: Audience | None,
    ) -> ApprovalAsk:
        """Return the approval of a call; a preview that is too long for the journal is stored as a blob."""
        run = self.context.run
        if preview is not None:
            max_bytes = max(MAX_PREVIEWS_BYTES // min(len(run.calls), MAX_JUDGED_CALLS), 1024)
            max_bytes = min(max_bytes, MAX_PREVIEW_BYTES)
            if len(msgspec.json.encode(preview.text)) > max_bytes:
                # Scrubbed before it is cut: a preview shows the content of files.
                encoded = self.active.live.scrubber.scrub_bytes(preview.text.encode())
                blob, _ = await self.active.put_blob(encoded)
                # Escaped, a character takes up to six bytes.
                text = encoded[: max_bytes // 6].decode(errors="ignore")
                preview = replace(preview, text=text, truncated=True, blob=blob)
        expires_after_ms = round(self.active.runtime.config.runs.approval_expires_s * 1000)
        return ApprovalAsk(
            approval_id=self.active.state.new_id(ids.APPROVAL),
            subject=self._cut(self.hooks.subject(invocation), MAX_SUBJECT_BYTES),
            note=self._cut(note, MAX_JUDGED_REASON_BYTES),
            preview=preview,
            expires_at_ms=self._deadline(expires_after_ms or None),
            audience=audience,
        )

    def _cut(self, text: str, max_bytes: int) -> str:
        return cut_text(text, max_bytes, self.active.live.scrubber.scrub_cut)

    def _layers(self) -> Layers:
        """Return the current rules and grants, without the grants that this batch has used up."""
        with self.active.state.read() as store:
            layers = self._read_layers(store, self.rules)
        self._first_layers = self._first_layers or layers
        return use_grants(layers, self._used_grants)

    def _read_layers(self, store: Snapshot, rules: Runtime) -> Layers:
        session = store.need(SESSIONS, self.context.run.session_id)
        return layers_of(store, rules, session, store.need(RUNS, self.context.run.run_id))

    def _deadline(self, after_ms: int | None) -> int | None:
        return None if after_ms is None else self.active.state.now_ms() + after_ms


def _reject(call: OpenCall, tool: Tool | None, text: str) -> Judgement:
    """Fail a call that is impossible, whatever the rules say."""
    verdict = Verdict(call_id=call.call_id, tool=call.tool, decision="deny", base="deny", why="not valid")
    if tool is not None:
        verdict = replace(verdict, parallel=tool.parallel, repeatable=tool.repeatable, waits=tool.waits)
    return Judgement(verdict, _error_result(text))


def _reject_for_now(verdict: Verdict, call: OpenCall, problem: str) -> Judgement:
    """Fail a call because too many calls of its message wait for a person."""
    return Judgement(verdict, _error_result(f"This was not run: {problem}. Try this one again later."))


def _error_result(text: str, *, how: CallOutcome = "failed") -> CallReturn:
    return CallReturn(how, truncate(text, MAX_REASON_BYTES), is_error=True)
