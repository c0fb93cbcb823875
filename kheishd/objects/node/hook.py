"""Lifecycle hooks of the operator: list and test them, and list and resolve their failures."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kheishd.core.hook import matches
from kheishd.kernel.call import Call, control, mutation, origin_of, query
from kheishd.kernel.lifecycle import HookSpec, HookSubject
from kheishd.objects.pages import cursor_after, page_of
from kheishd.objects.talk.hook import find_roots, workspace_hooks
from kheishd.objects.talk.workspace import resolve
from kheishd.records.writer import StreamWriter
from kheishd.store.tables import HOOK_DEAD_LETTERS, HOOK_DEAD_LETTERS_BY_AGE
from protocol import ids
from protocol.errors.hook import (
    DeadLetterAlreadyResolved,
    DeadLetterNotFound,
    HookNotFound,
    WorkspaceHooksUnusable,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.token import ScopeWouldWiden
from protocol.events.hook import HookFailureResolved
from protocol.journal.envelope import DAEMON_STREAM
from protocol.limits.names import MAX_PATH_BYTES
from protocol.objects import hook as rows
from protocol.objects.hook import (
    POLICY_EVENTS,
    HookDeadLetter,
    HookDeadLetterList,
    HookDeadLetterParams,
    HookListParams,
    HookRef,
    HookResolve,
    HookTestParams,
    HookTrial,
    LifecycleHook,
    LifecycleHookList,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kheishd.kernel.hook import ToolKind
    from kheishd.store.environment import Transaction
    from protocol.objects.hook import HookEvent
    from protocol.transcript import InputOrigin

SAMPLE_SUBJECTS = {
    "config_change": "reload",
    "notification": "approval",
    "pre_compact": "auto",
    "post_compact": "auto",
}
"""Subjects of events that concern neither a tool nor an agent."""

_ORIGINS: list[InputOrigin] = ["person"]
_KIND: ToolKind = "execute"
_RUN = {
    "agent": "default",
    "sender": "user",
    "origins": _ORIGINS,
    "prompt": "Clean up the build directory.",
    "route": "main",
    "workspace": "/home/user/project",
    "parent_session_id": None,
}
_CALL = {
    "agent": "default",
    "sender": "user",
    "origins": _ORIGINS,
    "tool": "bash",
    "kind": _KIND,
    "call_id": "call_1",
    "arguments": {"command": "rm -rf build"},
    "workspace": "/home/user/project",
}
_END = {"outcome": "failed", "error": {"reason": "model_failed", "message": "the model does not answer"}}

SAMPLE_PAYLOADS: Mapping[HookEvent, Mapping[str, object]] = {
    "session_start": _RUN,
    "subagent_start": {**_RUN, "parent_session_id": "ses_0EXAMPLE"},
    "user_prompt_submit": _RUN,
    "pre_tool_use": _CALL,
    "permission_request": {**_CALL, "note": "commands are asked about"},
    "post_tool_use": {**_CALL, "output": "done"},
    "post_tool_use_failure": {**_CALL, "output": "rm: cannot remove 'build'"},
    "permission_denied": {"agent": "default", "call_id": "call_1", "text": "the rules deny it"},
    "stop": {"agent": "default", "sender": "user", "output": "The directory is clean.", "blocks": 0},
    "stop_failure": _END,
    "subagent_stop": _END,
    "session_end": {"note": "finished"},
    "pre_compact": {"agent": "default", "tokens": 150_000, "upto": 420},
    "post_compact": {"agent": "default", "strategy": "summary", "pre_tokens": 150_000, "post_tokens": 9_000},
    "task_created": {"agent": "default", "task_id": "task_0EXAMPLE"},
    "task_completed": {"agent": "default"},
    "worktree_create": {
        "agent_id": "ses_0EXAMPLE",
        "path": "/home/user/worktree",
        "branch": "kheish/worker",
        "source_root": "/home/user/project",
    },
    "worktree_remove": {"agent": "default", "note": ""},
    "config_change": {"generation": 2, "warnings": []},
    "notification": {"agent": "default", "approval_id": "apr_0EXAMPLE", "tool": "bash", "note": ""},
}
"""A payload of each event, with the fields of a real one."""


def view_of(hook: HookSpec) -> LifecycleHook:
    """Return a hook as shown; a credential by its reference only."""
    return LifecycleHook(
        name=hook.name,
        event=hook.event,
        executor="command" if hook.url is None else "http",
        target=shlex.join(hook.argv) if hook.url is None else hook.url,
        path=hook.path,
        policy=hook.policy,
        matcher=hook.matcher,
        timeout_ms=round(hook.timeout_s * 1000),
        max_retries=hook.max_retries,
        is_policy=hook.event in POLICY_EVENTS,
        workspace=None if hook.is_operators else hook.directory,
    )


@query(rows.LIST)
def list_hooks(call: Call, params: HookListParams) -> LifecycleHookList:
    """List the operator's hooks by name, with those of the trusted roots around a workspace.

    Errors: WorkspaceHooksUnusable.
    """
    # A name has no blank: the hooks of other files with the same name follow each other.
    hooks = {f"{hook.name} {hook.path}": hook for hook in _list_specs(call, params.workspace)}
    keys = (key for key in sorted(hooks) if params.after is None or key > params.after)
    views = (((key,), view_of(hooks[key])) for key in keys)
    page, following = page_of(
        views, params.limit, lambda hook: params.event is None or hook.event == params.event
    )
    return LifecycleHookList(page, following)


def _list_specs(call: Call, workspace: str | None) -> list[HookSpec]:
    """Return the operator's hooks, then those of the trusted roots around a workspace.

    Errors: InvalidParams, WorkspaceHooksUnusable.
    """
    hooks, field = [*call.runtime.lifecycle], "$.params.workspace"
    if workspace is None:
        return hooks
    if not workspace.startswith("/") or (path := resolve(workspace, "/")) is None:
        text = f"a workspace is an absolute path of at most {MAX_PATH_BYTES} printable bytes"
        raise InvalidParams(text, field=field)
    roots = find_roots(call.services, path)
    if not roots:
        text = (
            f"no trusted root contains {path}, so no hooks there take effect; workspace.trust trusts a root"
        )
        raise WorkspaceHooksUnusable(text, field=field)
    specs, problem = workspace_hooks(call.services, roots)
    if problem is not None:
        text = f"all that the hooks of {path} guard is blocked: {problem}; correct the file and reload"
        raise WorkspaceHooksUnusable(text, field=field)
    return hooks + specs


@query(rows.GET)
def get_hook(call: Call, params: HookRef) -> LifecycleHook:
    """Show a hook. Errors: HookNotFound, WorkspaceHooksUnusable."""
    return view_of(_find_hook(call, params))


def _find_hook(call: Call, params: HookRef) -> HookSpec:
    """Return a hook, of the nearest root if several files have one of that name.

    Errors: HookNotFound, WorkspaceHooksUnusable.
    """
    for hook in reversed(_list_specs(call, params.workspace)):
        if hook.name == params.name:
            return hook
    raise HookNotFound(f"there is no hook '{params.name}'; hook.list names the hooks", field="$.params.name")


def _require_unrestricted(call: Call) -> None:
    """Reject a caller whose token covers only some agents or senders. Errors: ScopeWouldWiden."""
    if not call.caller.is_unrestricted:
        raise ScopeWouldWiden("hooks concern every agent and sender, and the token covers only some")


@control(rows.TEST)
async def try_hook(call: Call, params: HookTestParams) -> HookTrial:
    """Run a hook with a sample event, or show its input.

    Errors: HookNotFound, ScopeWouldWiden, WorkspaceHooksUnusable.
    """
    _require_unrestricted(call)
    hook = _find_hook(call, params)
    subject = params.subject
    if subject is None:
        facts = SAMPLE_PAYLOADS[hook.event]
        typical = SAMPLE_SUBJECTS.get(hook.event) or str(facts.get("tool") or facts.get("agent") or "sample")
        pattern = hook.matcher or typical
        subject = pattern.replace("*", "").replace("?", "x") or "sample"
    payload = {**SAMPLE_PAYLOADS[hook.event], **params.payload}
    if "tool" in payload and "tool" not in params.payload and hook.event != "notification":
        payload["tool"] = subject
    if "workspace" in payload and "workspace" not in params.payload and not hook.is_operators:
        payload["workspace"] = hook.directory
    occurrence = HookSubject(hook.event, subject, f"test.{call.state.new_id(ids.RUN)}", payload)
    runner = call.services.lifecycle.runner
    trial = runner.preview(hook, occurrence) if params.preview else await runner.test(hook, occurrence)
    return replace(trial, matches=matches(hook.matcher, subject))


# Failures.


@query(rows.DEAD_LETTERS)
def list_dead_letters(call: Call, params: HookDeadLetterParams) -> HookDeadLetterList:
    """List failures of hooks, oldest first. Errors: ScopeWouldWiden."""
    _require_unrestricted(call)
    position = cursor_after(params.after)
    with call.state.read() as store:
        start = None if position is None else (position,)
        letters = (
            (key, store.get(HOOK_DEAD_LETTERS, dead_letter_id))
            for key, dead_letter_id in store.scan(HOOK_DEAD_LETTERS_BY_AGE, after=start)
        )
        page, following = page_of(letters, params.limit, lambda letter: params.state in ("any", letter.state))
    return HookDeadLetterList(page, following)


@mutation(rows.RESOLVE)
def resolve_dead_letter(tx: Transaction, call: Call, params: HookResolve) -> HookDeadLetter:
    """Note that a failure is dealt with.

    Errors: ScopeWouldWiden, DeadLetterNotFound, DeadLetterAlreadyResolved.
    """
    _require_unrestricted(call)
    letter = tx.get(HOOK_DEAD_LETTERS, params.dead_letter_id)
    field = "$.params.dead_letter_id"
    if letter is None:
        raise DeadLetterNotFound(f"there is no failure '{params.dead_letter_id}' of a hook", field=field)
    if letter.state == "resolved":
        raise DeadLetterAlreadyResolved(f"{letter.resolved_by} has resolved it already", field=field)
    writer = StreamWriter(tx, DAEMON_STREAM, origin=origin_of(call))
    writer.append(HookFailureResolved(dead_letter_id=params.dead_letter_id, note=params.note))
    resolved = writer.need(HOOK_DEAD_LETTERS, params.dead_letter_id)
    writer.write()
    return resolved


HANDLERS = (list_hooks, get_hook, try_hook, list_dead_letters, resolve_dead_letter)
