"""Lifecycle hooks: programs and servers of the operator that watch events, and may veto or amend them."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors.hook import (
    DeadLetterAlreadyResolved,
    DeadLetterNotFound,
    HookNotFound,
    WorkspaceHooksUnusable,
)
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, Cursor, Id, shaped
from protocol.limits.names import MAX_PATH_BYTES, MAX_REASON_BYTES
from protocol.rpc.method import Method, Mutation, Page, Params

HookEvent = Literal[
    "pre_tool_use",
    "post_tool_use",
    "post_tool_use_failure",
    "permission_request",
    "permission_denied",
    "session_start",
    "session_end",
    "stop",
    "stop_failure",
    "user_prompt_submit",
    "pre_compact",
    "post_compact",
    "subagent_start",
    "subagent_stop",
    "task_created",
    "task_completed",
    "config_change",
    "worktree_create",
    "worktree_remove",
    "notification",
]

POLICY_EVENTS: frozenset[HookEvent] = frozenset(
    (
        "pre_tool_use",
        "post_tool_use",
        "post_tool_use_failure",
        "permission_request",
        "session_start",
        "stop",
        "user_prompt_submit",
        "pre_compact",
        "subagent_start",
        "config_change",
        "worktree_create",
    )
)
"""The events whose hooks run one by one, before the daemon goes on, and may stop or amend it.

The hooks of all other events run side by side, after the event, and only learn of it.
"""

HookFailurePolicy = Literal["open", "closed"]
"""``open``: a failure of the hook is ignored. ``closed``: it blocks the event."""

HookExecutor = Literal["command", "http"]

HookName = Annotated[
    str,
    shaped(
        r"^[a-z0-9][a-z0-9._-]{0,63}$(?!\n)", "1-64 characters of a-z 0-9 . _ -, the first one of a-z 0-9"
    ),
]


class LifecycleHook(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A hook from a file of the operator, or of the trusted root ``workspace``, where it may only restrict.

    ``matcher`` is a pattern of the event's subject (``*`` and ``?``); null matches every one. ``target`` is
    the command, or the URL. ``policy`` says what a failure means. ``is_policy``: the hook may block.
    """

    name: str
    event: HookEvent
    executor: HookExecutor
    target: str
    path: str
    policy: HookFailurePolicy = "open"
    matcher: str | None = None
    timeout_ms: int
    max_retries: int = 0
    is_policy: bool = False
    workspace: str | None = None


class LifecycleHookList(Struct, frozen=True):
    """A page of hooks, by name."""

    hooks: list[LifecycleHook]
    next: str | None


class HookOutcome(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The answer of a hook, as JSON; an empty answer is one without fields.

    ``decision``: ``block`` stops the event. ``permission``: ``deny`` is a block, ``ask`` puts the call to a
    person, ``allow`` is no objection: a hook never allows what the rules do not. ``updated_input`` replaces
    the arguments of a call. ``additional_context`` is a text for the model.
    """

    contract_version: Literal[1] = 1
    decision: Literal["continue", "block"] = "continue"
    permission: Literal["allow", "deny", "ask"] | None = None
    reason: str = ""
    updated_input: dict[str, Any] | None = None
    additional_context: str = ""


class HookTrial(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A dry run of a hook: its input and its outcome, or the problem. Nothing follows from it.

    A preview has neither an outcome nor a problem, because the hook has not been run.

    ``exit_code`` and ``stderr`` are those of a command, ``status`` that of an HTTP answer.
    """

    hook: str
    matches: bool
    payload: dict[str, Any]
    outcome: HookOutcome | None = None
    problem: str | None = None
    attempts: int = 0
    took_ms: int = 0
    exit_code: int | None = None
    status: int | None = None
    stdout: str = ""
    stderr: str = ""


class HookDeadLetter(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The failure of a hook for one event. ``policy`` ``closed``: it has blocked the event, if it can.

    ``payload`` is the beginning of the hook's input. ``on_session`` and ``on_run`` are those of the event.
    """

    dead_letter_id: str
    hook: str
    event: HookEvent
    subject: str
    invocation_key: str
    policy: HookFailurePolicy
    problem: str
    attempts: int
    payload: str
    failed_at_ms: int
    on_session: str | None = None
    on_run: str | None = None
    state: Literal["open", "resolved"] = "open"
    note: str = ""
    resolved_by: str | None = None
    resolved_at_ms: int | None = None
    created_cursor: Cursor = 0
    updated_cursor: Cursor = 0


class HookDeadLetterList(Struct, frozen=True):
    """A page of failures, oldest first."""

    dead_letters: list[HookDeadLetter]
    next: str | None


WorkspacePath = Annotated[str, Meta(max_length=MAX_PATH_BYTES, extra=IDENTITY)]


class HookListParams(Page, frozen=True, kw_only=True):
    """Params of ``hook.list``. ``workspace`` is an absolute path: the hooks of its trusted roots, too."""

    event: HookEvent | None = None
    workspace: WorkspacePath | None = None


class HookRef(Params, frozen=True, kw_only=True):
    """Params that name a hook: of the trusted roots around a ``workspace``, the nearest one, or the operator.

    ``workspace`` is an absolute path.
    """

    name: HookName
    workspace: WorkspacePath | None = None


class HookTestParams(HookRef, frozen=True, kw_only=True):
    """Params of ``hook.test``: a sample event; without a subject, that of a typical one.

    The fields of ``payload`` replace those of a sample payload of the event. ``preview``: the hook is not
    run, and only its input is shown.
    """

    subject: Annotated[str, Meta(max_length=1024)] | None = None
    payload: dict[str, Any] = {}
    preview: bool = False


class HookDeadLetterParams(Page, frozen=True, kw_only=True):
    """Params of ``hook.dead_letters``."""

    state: Literal["open", "resolved", "any"] = "open"


class HookResolve(Mutation, frozen=True, kw_only=True):
    """Params of ``hook.resolve``."""

    dead_letter_id: Id
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


LIST = Method(
    "hook.list",
    "query",
    HookListParams,
    LifecycleHookList,
    "List the operator's hooks and, on request, those of a trusted workspace, by name.",
    errors=(WorkspaceHooksUnusable,),
)
GET = Method(
    "hook.get", "query", HookRef, LifecycleHook, "Show a hook.", errors=(HookNotFound, WorkspaceHooksUnusable)
)
TEST = Method(
    "hook.test",
    "control",
    HookTestParams,
    HookTrial,
    "Run a hook with a sample event, and show its outcome. Nothing follows from it.",
    scope="operate",
    errors=(HookNotFound, ScopeWouldWiden, WorkspaceHooksUnusable),
)
DEAD_LETTERS = Method(
    "hook.dead_letters",
    "query",
    HookDeadLetterParams,
    HookDeadLetterList,
    "List the failures of hooks, oldest first.",
    scope="operate",
    errors=(ScopeWouldWiden,),
)
RESOLVE = Method(
    "hook.resolve",
    "mutation",
    HookResolve,
    HookDeadLetter,
    "Note that the failure of a hook is dealt with. Nothing is run again.",
    scope="operate",
    errors=(ScopeWouldWiden, DeadLetterNotFound, DeadLetterAlreadyResolved, StorageFull),
)

METHODS = (LIST, GET, TEST, DEAD_LETTERS, RESOLVE)
