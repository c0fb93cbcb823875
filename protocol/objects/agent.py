"""An agent: the execution context of a session, and a node in a tree of agents.

Every session has exactly one agent, whose id is the session's. The agent of a session without a parent is a
root. A spawned agent, a sidechain, works in a session of its own below its parent's, with at most its
parent's rights.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.audience import Person
from protocol.budget import Budget, BudgetUse, Cost
from protocol.errors.agent import (
    AgentAlreadyClosed,
    MemberForbidden,
    NoSuchAgent,
    SpawnConflict,
    SpawnLimit,
    WorktreeUnavailable,
)
from protocol.errors.budget import BudgetExhausted
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.persona import PersonaNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, WorkspaceForbidden, WorkspaceMissing
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, Cursor
from protocol.limits.agent import (
    MAX_AGENT_DESCRIPTION_BYTES,
    MAX_AGENT_PROMPT_BYTES,
    MAX_NICKNAME_BYTES,
)
from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.session import MAX_INPUT_ITEMS
from protocol.objects.goal import GoalStatus
from protocol.objects.permission import PermissionMode
from protocol.objects.run import ModelName, Name, Outcome, PathName, RunError
from protocol.objects.session import CapabilityScope, CredentialScope, ProfileName, ToolNames
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import InputItem, Usage

AgentStatus = Literal[
    "preparing",
    "queued",
    "running",
    "waiting_for_approval",
    "waiting_for_user_input",
    "waiting_for_event",
    "idle",
    "completed",
    "failed",
]
"""The status of an agent: ``preparing`` while its worktree is made; else that of its first open run; else
``idle``, ``completed`` for an agent that closes once it has settled, or ``failed`` if its last run failed."""

SETTLED_AGENT: frozenset[AgentStatus] = frozenset(("idle", "completed", "failed"))
"""The statuses of an agent without an open run."""

AgentRetention = Literal["retain", "close_on_settle"]
"""``retain``: the agent is idle after a run and can be sent more. ``close_on_settle``: it is closed."""

PromptMode = Literal["append", "replace"]
"""How a spawned agent's own prompt relates to the instructions of its definition."""

AgentState = Literal["open", "closing", "closed"]

ShellsAtClose = Literal["stop", "pass"]
"""``stop``: when an agent is closed, its background shells end. ``pass``: they become its parent's."""

Isolation = Literal["shared", "worktree"]
"""``shared``: an agent works in a directory of its parent. ``worktree``: in a git worktree of its own."""

AgentAddress = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        extra=IDENTITY,
        description="An agent: its id, path or nickname, or a name that no other live agent has.",
    ),
]
Nickname = Annotated[str, Meta(min_length=1, max_length=MAX_NICKNAME_BYTES)]


class AgentWorktree(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The git worktree of an agent: its directory, and its branch, in the repository at ``source_root``.

    ``base_commit`` is the commit that it began with; null until the worktree has been made.
    """

    path: str
    source_root: str
    branch: str
    base_commit: str | None = None


class AgentProperties(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a spawned agent, as its record and the event ``agent_spawned`` hold them.

    ``path`` joins the names from its root down. ``spawn_request_id`` identifies the request among those of
    its parent, ``fingerprint`` is the SHA-256 (hex) of what it asked for. ``launch_run_id`` is its first run.
    ``prompt_digest`` names the blob of its own prompt, which replaces the instructions of its definition or
    follows them. ``owner`` answers what it asks people. ``worktree`` is made before its first run starts.
    ``shells`` declares what becomes of its background shells when it is closed.
    """

    parent_id: str
    root_id: str
    name: str
    path: str
    nickname: str
    spawn_request_id: str
    fingerprint: str
    launch_run_id: str
    retention: AgentRetention = "retain"
    description: str = ""
    owner: str | None = None
    spawned_by_run_id: str | None = None
    prompt_digest: str | None = None
    prompt_mode: PromptMode = "append"
    worktree: AgentWorktree | None = None
    shells: ShellsAtClose = "stop"


class ManagedAgent(AgentProperties, frozen=True, kw_only=True, omit_defaults=True):
    """A spawned agent, as stored. The record is the fold of events of its session.

    ``agent_id`` is also the id of its session. ``last_run_id``, ``last_outcome`` and ``last_error`` are those
    of the newest run that has ended, at ``settled_at_ms``. ``failed``: it was closed because of a failure.
    ``kept_worktree`` is the worktree's directory, if it has stayed after the close; ``kept_branch`` its
    branch, if that has stayed.
    """

    agent_id: str
    spawned_at_ms: int
    state: AgentState = "open"
    last_run_id: str | None = None
    last_outcome: Outcome | None = None
    last_error: RunError | None = None
    failed: bool = False
    close_note: str = ""
    kept_worktree: str | None = None
    kept_branch: str | None = None
    settled_at_ms: int | None = None
    closed_at_ms: int | None = None
    created_cursor: Cursor = 0
    updated_cursor: Cursor = 0


class AgentView(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent as shown. A root has no ``nickname``, and its ``path`` and ``name`` are its id.

    ``definition`` is the named agent that it works as. ``children`` counts its live children.
    ``active_run_id`` is its first open run, ``queued_runs`` counts the others. ``pending_approvals`` and
    ``pending_questions`` count the calls of that run that wait for a person. ``usage`` and ``costs``
    are those of its own model calls. ``budget`` is what it was given for itself and the agents below it, and
    what is used, reserved and left of it; null: it has none. After the close of an agent with a ``worktree``,
    ``kept_worktree`` and ``kept_branch`` are the directory and the branch that have stayed, because they hold
    work.
    """

    agent_id: str
    root_id: str
    definition: str
    name: str
    path: str
    status: AgentStatus
    state: AgentState
    depth: int
    spawned_at_ms: int
    updated_at_ms: int
    parent_id: str | None = None
    nickname: str | None = None
    sender: str | None = None
    title: str | None = None
    description: str = ""
    retention: AgentRetention = "retain"
    shells: ShellsAtClose = "stop"
    spawned_by_run_id: str | None = None
    launch_run_id: str | None = None
    active_run_id: str | None = None
    queued_runs: int = 0
    pending_approvals: int = 0
    pending_questions: int = 0
    children: int = 0
    last_run_id: str | None = None
    last_outcome: Outcome | None = None
    last_error: RunError | None = None
    close_note: str = ""
    worktree: AgentWorktree | None = None
    kept_worktree: str | None = None
    kept_branch: str | None = None
    settled_at_ms: int | None = None
    closed_at_ms: int | None = None
    usage: Usage = Usage()
    costs: list[Cost] = []
    budget: BudgetUse | None = None


class AgentSnapshot(AgentView, frozen=True, kw_only=True, omit_defaults=True):
    """An agent with its session's properties, open requests, and the output of its newest run.

    A long output is truncated; output.list has all of it. ``permission_mode`` is the session's own; null:
    that of its definition. ``active_skills`` are names. ``approval_ids`` and ``question_ids`` are the
    requests for which its first open run waits.
    """

    output: str | None = None
    profile: str | None = None
    permission_mode: PermissionMode | None = None
    persona_id: str | None = None
    active_skills: list[str] = []
    goal_status: GoalStatus | None = None
    approval_ids: list[str] = []
    question_ids: list[str] = []


class AgentList(Struct, frozen=True):
    """A page of agents."""

    agents: list[AgentView]
    next: str | None


class AgentTransition(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of an agent's audit: an event of its life, or a change of its status.

    ``event`` is the type of the journal's event at ``cursor``. ``previous`` is null at the first entry.
    """

    cursor: Cursor
    at_ms: int
    event: str
    status: AgentStatus
    previous: AgentStatus | None = None
    run_id: str | None = None
    actor: str | None = None
    note: str = ""


class AgentAudit(Struct, frozen=True):
    """A page of an agent's audit, oldest first."""

    transitions: list[AgentTransition]
    next: str | None


class SpawnRequest(Mutation, frozen=True, kw_only=True):
    """What a spawned agent is to do, and within which limits. All rights are at most the parent's.

    ``budget`` is for it and all agents below it, and is reserved from the parent's; a limit of the parent
    that it leaves out is a share of what the parent has left.

    ``agent`` is the definition that it works as; null: its parent's. ``name`` becomes a short name that is
    unique among its siblings. ``prompt`` is text; ``input_items`` are ordered items instead. ``instructions``
    are its own, for this task. Without a ``credential_scope``, it keeps the routes and gets no connector and
    no credential of connectors and MCP servers. ``allowed_tools`` leave only these, within its ``profile``.
    With the ``isolation`` ``worktree``, it works in a git worktree of its own, of the repository whose top is
    its ``workspace``. ``owner`` is the person who answers the approvals and questions of it and of the agents
    below it. ``shells``: when it is closed, its background shells are stopped, or ``pass`` to its parent.
    """

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    agent: Name | None = None
    description: Annotated[str, Meta(max_length=MAX_AGENT_DESCRIPTION_BYTES)] = ""
    prompt: str | None = None
    input_items: Annotated[list[InputItem], Meta(max_length=MAX_INPUT_ITEMS)] | None = None
    instructions: Annotated[str, Meta(max_length=MAX_AGENT_PROMPT_BYTES)] = ""
    instructions_mode: PromptMode = "append"
    nickname: Nickname | None = None
    owner: Person | None = None
    retention: AgentRetention = "retain"
    shells: ShellsAtClose = "stop"
    route: Name | None = None
    model: ModelName | None = None
    permission_mode: PermissionMode | None = None
    scope: CapabilityScope | None = None
    credential_scope: CredentialScope | None = None
    profile: ProfileName | None = None
    allowed_tools: ToolNames | None = None
    blocked_tools: ToolNames = []
    workspace: PathName | None = None
    isolation: Isolation = "shared"
    budget: Budget | None = None


class SpawnParams(SpawnRequest, frozen=True, kw_only=True):
    """Params of ``agent.spawn``. The same ``spawn_request_id`` of one parent returns the same agent."""

    parent: AgentAddress
    spawn_request_id: (
        Annotated[
            str, Meta(min_length=1, max_length=256, description="Null: the idempotency key, else a new id.")
        ]
        | None
    ) = None


class AgentExplain(Params, frozen=True, kw_only=True):
    """Params of ``agent.explain``: those of the ``agent.spawn`` to be judged."""

    spawn: SpawnParams


class LimitUse(Struct, frozen=True, kw_only=True):
    """A limit on agents and how much of it is used."""

    limit: str
    allowed: int
    used: int


class SpawnExplanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a spawn would be allowed, and what the agent would be.

    A rejected one has the ``reason``, ``field`` and ``message`` of the refusal. ``warnings`` name requested
    tools that the agent will not have.
    """

    allowed: bool
    limits: list[LimitUse]
    reason: str | None = None
    field: str | None = None
    message: str = ""
    definition: str | None = None
    name: str | None = None
    path: str | None = None
    permission_mode: PermissionMode | None = None
    scope: CapabilityScope | None = None
    credential_scope: CredentialScope | None = None
    profile: str | None = None
    blocked_tools: list[str] = []
    workspace: str | None = None
    branch: str | None = None
    route: str | None = None
    budget: Budget | None = None
    model: str | None = None
    warnings: list[str] = []


class AgentRef(Params, frozen=True, kw_only=True):
    """Params that name an agent."""

    agent: AgentAddress


class AgentListParams(Page, frozen=True, kw_only=True):
    """Params of ``agent.list``: the tree of a root, each agent after its parent; null: all spawned agents."""

    root: AgentAddress | None = None
    status: AgentStatus | None = None
    closed: Annotated[bool, Meta(description="Include closed agents.")] = False


class AgentAuditParams(Page, frozen=True, kw_only=True):
    """Params of ``agent.audit``."""

    agent: AgentAddress


class AgentRename(Mutation, frozen=True, kw_only=True):
    """Params of ``agent.rename``."""

    agent: AgentAddress
    nickname: Nickname


class AgentClose(Mutation, frozen=True, kw_only=True):
    """Params of ``agent.close``."""

    agent: AgentAddress
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


_SPAWN = (
    NoSuchAgent,
    AgentAlreadyClosed,
    SessionAlreadyEnded,
    SpawnConflict,
    SpawnLimit,
    MemberForbidden,
    AgentForbidden,
    AgentNotFound,
    PersonaNotFound,
    ScopeWouldWiden,
    RouteNotFound,
    RouteForbidden,
    RouteNotReady,
    WorkspaceForbidden,
    WorkspaceMissing,
    WorktreeUnavailable,
    InputTooLarge,
    BudgetExhausted,
    StorageFull,
)

SPAWN = Method(
    "agent.spawn",
    "mutation",
    SpawnParams,
    AgentSnapshot,
    "Spawn an agent below another one and start its first run, or return the one of that request id.",
    scope="operate",
    errors=_SPAWN,
)
EXPLAIN = Method(
    "agent.explain",
    "query",
    AgentExplain,
    SpawnExplanation,
    "Judge a spawn exactly as agent.spawn, with every limit and its use, and change nothing.",
    errors=(NoSuchAgent,),
)
LIST = Method("agent.list", "query", AgentListParams, AgentList, "List agents.", errors=(NoSuchAgent,))
GET = Method(
    "agent.get",
    "query",
    AgentRef,
    AgentSnapshot,
    "Show an agent, with its newest output.",
    errors=(NoSuchAgent,),
)
AUDIT = Method(
    "agent.audit",
    "control",
    AgentAuditParams,
    AgentAudit,
    "List every transition of an agent, computed from its journal.",
    errors=(NoSuchAgent,),
)
RENAME = Method(
    "agent.rename",
    "mutation",
    AgentRename,
    AgentSnapshot,
    "Give a spawned agent another nickname.",
    scope="operate",
    errors=(NoSuchAgent, AgentAlreadyClosed, StorageFull),
)
CLOSE = Method(
    "agent.close",
    "mutation",
    AgentClose,
    AgentSnapshot,
    "Close a spawned agent and all agents below it. Answers when nothing of it runs any more.",
    scope="operate",
    errors=(NoSuchAgent, AgentAlreadyClosed, StorageFull),
    while_draining=True,
)

METHODS = (SPAWN, EXPLAIN, LIST, GET, AUDIT, RENAME, CLOSE)
