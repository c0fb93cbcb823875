"""Lifecycle hooks: the fold of their failures, and the verdict that follows from their outcomes. Pure."""

from __future__ import annotations

import fnmatch
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from protocol.events.hook import HookFailed, HookFailureResolved
from protocol.limits.hook import MAX_HOOK_CONTEXT_BYTES, MAX_HOOK_REASON_BYTES
from protocol.objects.hook import HookDeadLetter, HookOutcome
from protocol.structs import Value
from protocol.text import truncate

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope
    from protocol.transcript import InputOrigin


class HookContext(Value, frozen=True):
    """A text that a hook adds for the model, with the trust that the hook's source has."""

    hook: str
    text: str
    origin: InputOrigin


class HookVerdict(Value, frozen=True):
    """The result of all hooks of one event.

    ``block`` is the reason why the event must not go on, and ``ask`` why a person is asked; None without.
    ``blocked_by`` is the hook that blocks, and ``block_origin`` the trust that its text has.
    ``updated_input`` replaces the arguments of the call; ``changed_by`` is the hook that set it.
    """

    block: str | None = None
    blocked_by: str = ""
    block_origin: InputOrigin = "program"
    ask: str | None = None
    updated_input: dict[str, Any] | None = None
    changed_by: str = ""
    contexts: tuple[HookContext, ...] = ()


NO_OBJECTION = HookVerdict()


def add_outcome(verdict: HookVerdict, hook: str, outcome: HookOutcome, *, is_operators: bool) -> HookVerdict:
    """Return the verdict with the outcome of one more hook.

    Block dominates, then ask; the first reason of each stays. The last updated input counts, and contexts are
    listed. A hook of a workspace restricts only: it changes no input, and its texts are data.
    """
    origin: InputOrigin = "program" if is_operators else "tool_output"
    reason = truncate(outcome.reason.strip(), MAX_HOOK_REASON_BYTES)
    if outcome.additional_context.strip():
        text = truncate(outcome.additional_context, MAX_HOOK_CONTEXT_BYTES)
        context = HookContext(hook, text, origin)
        verdict = replace(verdict, contexts=(*verdict.contexts, context))
    if outcome.updated_input is not None and is_operators:
        verdict = replace(verdict, updated_input=outcome.updated_input, changed_by=hook)
    if outcome.permission == "ask" and verdict.ask is None:
        verdict = replace(verdict, ask=f"the hook '{hook}' asks for it" + (f": {reason}" if reason else ""))
    if (outcome.decision == "block" or outcome.permission == "deny") and verdict.block is None:
        note = f"the hook '{hook}' blocked it" + (f": {reason}" if reason else "")
        verdict = replace(verdict, block=note, blocked_by=hook, block_origin=origin)
    return verdict


@lru_cache(maxsize=1024)
def _compile(matcher: str) -> re.Pattern[str]:
    # The standard library's translation does not backtrack over several stars.
    return re.compile(fnmatch.translate(matcher.replace("[", "[[]")))


def matches(matcher: str | None, subject: str) -> bool:
    """Whether a pattern with ``*`` and ``?`` matches a whole subject; none and the empty one match all."""
    return not matcher or _compile(matcher).fullmatch(subject) is not None


def evolve(
    record: HookDeadLetter | None, envelope: Envelope, event: HookFailed | HookFailureResolved
) -> HookDeadLetter | None:
    """Return a failure after an event; None if it is no longer kept. Errors: AssertionError."""
    if isinstance(event, HookFailureResolved):
        assert record is not None, "a failure begins before it is resolved"
        return replace(
            record,
            state="resolved",
            note=event.note,
            resolved_by=envelope.actor,
            resolved_at_ms=envelope.at_ms,
            updated_cursor=envelope.cursor,
        )
    if record is not None:
        return None
    return HookDeadLetter(
        dead_letter_id=event.dead_letter_id,
        hook=event.hook,
        event=event.event,
        subject=event.subject,
        invocation_key=event.invocation_key,
        policy=event.policy,
        problem=event.problem,
        attempts=event.attempts,
        payload=event.payload,
        failed_at_ms=envelope.at_ms,
        on_session=event.on_session,
        on_run=event.on_run,
        created_cursor=envelope.cursor,
        updated_cursor=envelope.cursor,
    )
