"""The sub-hook of lifecycle hooks: those of tool calls, of a run's begin, and of requests for approval."""

from __future__ import annotations

import logging
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kheishd.core.hook import NO_OBJECTION, HookContext, HookVerdict
from kheishd.core.text.scrub import cut_text
from kheishd.kernel.hook import Amendment, Deny, NeedsApproval, SubHook
from kheishd.kernel.runtime import ModelFailure
from kheishd.objects.talk.hook import add_contexts, decide, has_hooks
from kheishd.store.tables import AGENTS, RUNS, RUNS_BY_SESSION
from protocol.events.run import InputReceived
from protocol.journal.line import decode_event
from protocol.limits.hook import MAX_HOOK_TEXT_BYTES
from protocol.transcript import text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kheishd.kernel.hook import Invocation, Opinion, Outcome, RunContext
    from kheishd.kernel.services import Services
    from protocol.objects.hook import HookEvent

log = logging.getLogger("kheishd.hooks")

MAX_KEPT_VERDICTS = 256
"""Verdicts between the amendment of a call and the opinion about it; a cancelled run leaves its own."""


class LifecycleHooks(SubHook):
    """Lets the operator's hooks, and those of a trusted workspace, judge calls and the begins of runs."""

    name = "lifecycle"

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services
        self._verdicts: dict[str, tuple[Invocation, HookVerdict]] = {}

    # The begin of a run.

    async def begin(self, context: RunContext) -> bool:
        """Run the hooks of the session's and the run's begin; return whether they added a text.

        Errors: ModelFailure if one of them blocks the run, or if it is not known whether one would.
        """
        if context.run.turn or context.run.kind == "compaction":
            return False
        try:
            return await self._begin(context)
        except ModelFailure:
            raise
        except Exception:
            log.exception("the hooks of a run's begin could not be run", extra={"run": context.run.run_id})
            text = "this run must not begin: its hooks failed inside the daemon; its log has the details"
            raise ModelFailure("hook_blocked", text, retryable=False) from None

    async def _begin(self, context: RunContext) -> bool:
        run, services, has_changed = context.run, self._services(), False
        events: list[HookEvent] = ["user_prompt_submit"]
        # Whether an earlier run of the session has begun takes a read.
        if has_hooks(services, context.workspace) and self._is_first(context):
            events.insert(0, "subagent_start" if self._is_spawned(context) else "session_start")
        for event in events:
            key = f"{run.run_id}.{event}"
            verdict = await decide(
                services,
                event,
                run.agent,
                key,
                lambda: self._describe_run(context),
                workspace=context.workspace,
                run=run,
            )
            if verdict.block is not None:
                raise ModelFailure(
                    "hook_blocked", f"this run must not begin: {verdict.block}", retryable=False
                )
            has_changed |= await add_contexts(services, run, key, verdict.contexts)
        return has_changed

    def _is_first(self, context: RunContext) -> bool:
        """Whether no earlier run of the session got past the hooks of its begin to a model's message."""
        with context.state.read() as store:
            for _, run_id in store.scan(RUNS_BY_SESSION, context.run.session_id):
                run = store.need(RUNS, run_id)
                if run.turn and run.kind != "compaction":
                    return False
        return True

    def _is_spawned(self, context: RunContext) -> bool:
        """Whether the session is that of a spawned agent."""
        with context.state.read() as store:
            return store.get(AGENTS, context.run.session_id) is not None

    def _describe_run(self, context: RunContext) -> dict[str, Any]:
        run, session, prompt = context.run, context.session, ""
        with context.state.read() as store:
            for _, line in store.entries(run.session_id, run.accepted_cursor, reverse=True):
                event = decode_event(line)
                prompt = text_of(event.items) if isinstance(event, InputReceived) else ""
                break
        return {
            "agent": run.agent,
            "sender": run.sender,
            "origins": list(run.origins),
            "prompt": prompt,
            "route": context.pinned.route,
            "workspace": context.workspace,
            "parent_session_id": session.parent_session_id,
        }

    # Calls.

    async def amend(self, call: Invocation) -> Amendment | None:
        """Run the hooks before a call; return other arguments if one of them changes these."""
        verdict = await self._judge(call)
        if len(self._verdicts) >= MAX_KEPT_VERDICTS:
            self._verdicts.clear()
        self._verdicts[call.key] = call, verdict
        if verdict.updated_input is None or verdict.block is not None:
            return None
        return Amendment(verdict.updated_input, verdict.changed_by)

    async def before_call(self, call: Invocation) -> Opinion | None:
        """Deny a call that a hook blocks, and ask a person about one that a hook asks for."""
        judged, verdict = self._verdicts.pop(call.key, (None, NO_OBJECTION))
        if judged is None or judged.arguments != call.arguments:
            # A hook has changed the arguments: all hooks judge the final ones, and none changes these.
            first, verdict = verdict, await self._judge(call, verdict.contexts)
            verdict = replace(verdict, ask=first.ask or verdict.ask)
        if verdict.block is not None:
            return Deny(verdict.block)
        return NeedsApproval(verdict.ask) if verdict.ask is not None else None

    async def _judge(self, call: Invocation, known: Sequence[HookContext] = ()) -> HookVerdict:
        verdict = await self._decide("pre_tool_use", call, {})
        contexts = [context for context in verdict.contexts if context not in known]
        await add_contexts(self._services(), call.context.run, f"{call.key}.before", contexts)
        return verdict

    async def before_approval(self, call: Invocation, note: str) -> Deny | None:
        """Deny a call about which a person would be asked, if a hook blocks it."""
        verdict = await self._decide("permission_request", call, {"note": note})
        return Deny(verdict.block) if verdict.block is not None else None

    async def after_call(self, call: Invocation, outcome: Outcome) -> Outcome:
        """Run the hooks after a call. The outcome stays; an objection is a text beside it."""
        event: HookEvent = "post_tool_use_failure" if outcome.is_error else "post_tool_use"
        output = cut_text(outcome.text, MAX_HOOK_TEXT_BYTES, call.scrub_cut)
        verdict = await self._decide(event, call, {"output": output})
        contexts = verdict.contexts
        if verdict.block is not None:
            text = f"After {call.tool.name} had run: {verdict.block}"
            contexts = (*contexts, HookContext(verdict.blocked_by, text, verdict.block_origin))
        await add_contexts(self._services(), call.context.run, f"{call.key}.after", contexts)
        return outcome

    async def _decide(self, event: HookEvent, call: Invocation, details: dict[str, Any]) -> HookVerdict:
        context = call.context
        if not has_hooks(self._services(), context.workspace):
            return NO_OBJECTION
        arguments = msgspec.to_builtins(call.arguments)
        # A person may change the arguments later: that is another event.
        digest = sha256(msgspec.json.encode(arguments)).hexdigest()[:8]

        def describe() -> dict[str, Any]:
            return {
                "agent": context.run.agent,
                "sender": context.run.sender,
                "origins": list(context.run.origins),
                "tool": call.tool.name,
                "kind": call.tool.kind,
                "call_id": call.call_id,
                "arguments": arguments,
                "workspace": context.workspace,
                **details,
            }

        return await decide(
            self._services(),
            event,
            call.tool.name,
            f"{call.key}.{event}.{digest}",
            describe,
            workspace=context.workspace,
            run=context.run,
        )
