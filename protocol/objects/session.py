"""A session: the durable unit of work, with a journal, limits, and one run at a time."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from protocol.budget import Account, Budget, BudgetUse, Cost
from protocol.contract import BoundContract, InputContract, OutputContract
from protocol.errors.budget import BudgetExhausted
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.journal import CursorPruned
from protocol.errors.persona import PersonaNotFound
from protocol.errors.route import RouteForbidden, RouteNotFound, RouteNotReady
from protocol.errors.run import NothingToSteer
from protocol.errors.session import (
    ContractInvalid,
    ExportKeyUnusable,
    ImportInvalid,
    InputContractViolated,
    InputTooLarge,
    QueueFull,
    SessionAlreadyEnded,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    TooDeep,
    WorkspaceForbidden,
    WorkspaceMissing,
)
from protocol.errors.store import StorageFull
from protocol.errors.token import InputOriginForbidden, ScopeWouldWiden
from protocol.ids import IDENTITY, Cursor, Id
from protocol.limits.call import MAX_TOOL_BYTES
from protocol.limits.names import MAX_REASON_BYTES, MAX_TITLE_BYTES
from protocol.objects.goal import Goal
from protocol.objects.permission import Grant, PermissionMode, Rule
from protocol.objects.run import (
    Busy,
    CompactParams,
    CompactResult,
    ModelName,
    Name,
    PathName,
    SendParams,
    SendResult,
    SteerParams,
    SteerResult,
)
from protocol.objects.transfer import (
    ExportKey,
    SessionExport,
    SessionExportParams,
    SessionImport,
    SessionImportResult,
)
from protocol.rpc.method import Method, Mutation, NoParams, Page, Params
from protocol.transcript import InputItem, InputOrigin, Usage, VisibleMessage

Allowlist = Annotated[list[str], Meta(extra=IDENTITY)] | None
"""Permitted names: null means every name, an empty list none."""


class CapabilityScope(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The widest capabilities of a session: null means every name, an empty list none.

    ``tools`` are names of tools; ``mcp__*`` in it stands for every tool of an MCP server. ``mcp`` are MCP
    servers, ``mcp_tools`` their tools by full name (``mcp__SERVER__TOOL``): such a tool needs all three.
    ``members`` are the agents to delegate to. ``credentials`` limits both the connector credentials and the
    MCP credentials of the credential scope.
    """

    tools: Allowlist = None
    skills: Allowlist = None
    mcp: Allowlist = None
    members: Allowlist = None
    credentials: Allowlist = None
    mcp_tools: Allowlist = None


class CredentialScope(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The credentials that a session may use, by name: null means every name, an empty list none.

    ``routes`` are routes of models, ``connectors`` connectors, ``connector_credentials`` their credentials
    (``CONNECTOR:NAME``; the connector itself must be allowed, too), ``mcp_credentials`` the MCP servers whose
    credential may be used.
    """

    routes: Allowlist = None
    connectors: Allowlist = None
    connector_credentials: Allowlist = None
    mcp_credentials: Allowlist = None


class SkillTool(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tool that a skill allows or blocks; with a ``subject``, only for the subjects that it matches.

    In a subject, ``*`` matches any text, as in permission rules.
    """

    tool: str
    subject: str | None = None


class ActiveSkill(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A skill that is active in a session: a snapshot, which later changes of its file do not change.

    ``text`` is the blob (SHA-256, hex) with the skill as the model reads it. While it is active, only
    ``allowed_tools`` may be used (null: all), and no ``blocked_tools``. ``by_call``: the model activated it,
    and has the text in its context unless ``activated_cursor`` was compacted.
    """

    name: str
    text: str
    text_bytes: int
    activated_cursor: Cursor
    allowed_tools: list[SkillTool] | None = None
    blocked_tools: list[SkillTool] = []
    by_call: bool = False


class PersonaBinding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A frozen snapshot of a persona in a session; no change of the persona reaches it.

    ``soul_sha256`` is the SHA-256 (hex) of its instructions, which are stored separately. ``scope`` narrows
    the session. ``default_skills`` are names of skills that are active in it, and ``skills`` their snapshots,
    which the first run after the binding makes; null: not yet.
    """

    persona_id: str
    version: int
    display_name: str
    soul_sha256: str
    bound_at_ms: int
    scope: CapabilityScope = CapabilityScope()
    default_skills: list[str] = []
    skills: list[ActiveSkill] | None = None


class ForkOf(Struct, frozen=True, omit_defaults=True):
    """The fork point of a session: the parent, a cursor, and the parent's chain hash (hex) at that cursor."""

    session_id: Id
    cursor: Cursor
    hash: str = ""


class Todo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of an agent's list of todos."""

    todo_id: str
    content: str
    status: Literal["pending", "in_progress", "completed"] = "pending"


class Plan(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A plan that an agent proposed in order to leave plan mode. A later plan updates the same artifact."""

    artifact_id: str
    content: str
    created_at_ms: int
    updated_at_ms: int
    summary: str = ""


class SessionProperties(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The properties of a session, as its record and the event ``session_created`` hold them.

    ``session.rename`` changes the title, ``session.update`` the others (:class:`SessionSettings`). Null means
    that the session has no value of its own: the agent's applies, then the daemon's. ``input_contract`` is
    the SHA-256 of the JSON Schema that everything sent to the session must match; ``output_contract`` binds
    the output of its runs. ``profile`` names a fixed tool surface; ``blocked_tools`` are denied whatever else
    allows them. ``busy`` is the policy for a message that arrives while a run is in flight.
    ``budget`` limits the session and all sessions below it together.
    """

    title: str | None = None
    scope: CapabilityScope = CapabilityScope()
    credential_scope: CredentialScope = CredentialScope()
    profile: str | None = None
    blocked_tools: list[str] = []
    permission_mode: PermissionMode | None = None
    workspace: str | None = None
    route: str | None = None
    model: str | None = None
    metadata: dict[str, Any] = {}
    input_contract: str | None = None
    output_contract: BoundContract | None = None
    busy: Busy | None = None
    budget: Budget | None = None


class Session(SessionProperties, frozen=True, kw_only=True, omit_defaults=True):
    """A session, as stored and as shown. The record is the fold of the session's events.

    ``open_runs`` are the unfinished runs, in order: the first one is executed, the others are queued.
    ``rules`` are the permission rules of this session, ``grants`` the approvals remembered in it. ``fork_of``
    is the fork point of a fork, whose transcript begins with the parent's up to that point. ``persona`` is
    the snapshot of a persona that is bound to it. ``plan_mode``: the agent is in plan mode, and leaving it
    restores ``pre_plan_mode`` as the permission mode.
    ``plan_cursor`` and ``todos_cursor`` are the cursors of the newest plan and list of todos.
    ``origins`` are the origins of everything that its ended runs have read, and the next one reads with the
    transcript. ``active_skills`` are in the order of their activation; if a message up to
    ``compacted_cursor`` held the text of one of them, the model no longer reads that message.
    ``preparing``: no run starts until the worktree of its agent has been made. ``account`` is the use of the
    budget, and of what its runs reserved for children. ``hops`` is the number of events on the bus that led
    to its newest run.
    ``updated_cursor`` is the cursor of the last event that changed this record.
    """

    session_id: Id
    agent: str
    status: Literal["open", "ended"]
    created_at_ms: int
    updated_at_ms: int
    sender: str | None = None
    parent_session_id: str | None = None
    root_session_id: str | None = None
    fork_of: ForkOf | None = None
    persona: PersonaBinding | None = None
    open_runs: list[str] = []
    rules: list[Rule] = []
    grants: list[Grant] = []
    plan_mode: bool = False
    pre_plan_mode: PermissionMode | None = None
    plan_cursor: Cursor | None = None
    todos_cursor: Cursor | None = None
    created_cursor: Cursor = 0
    updated_cursor: Cursor = 0
    runs: int = 0
    usage: Usage = Usage()
    costs: list[Cost] = []
    goal_id: str | None = None
    origins: list[InputOrigin] = []
    active_skills: list[ActiveSkill] = []
    compacted_cursor: Cursor = 0
    preparing: bool = False
    account: Account | None = None
    hops: int = 0


class SessionRow(Session, frozen=True, kw_only=True, omit_defaults=True):
    """A session with its effective scopes: its own, narrowed by everything else that limits it.

    That is its agent's definition, its persona, its profile and every session above it. An absent list means
    every name. ``effective_blocked_tools`` are denied whatever the scope has. ``effective_workspace`` is the
    directory of its next run; null if that is no longer allowed.
    """

    effective_scope: CapabilityScope = CapabilityScope()
    effective_credential_scope: CredentialScope = CredentialScope()
    effective_blocked_tools: list[str] = []
    effective_workspace: str | None = None


class SessionView(SessionRow, frozen=True, kw_only=True, omit_defaults=True):
    """A session with its agent's todos and newest plan, its contracts' schemas, and its budget's use."""

    todos: list[Todo] = []
    plan: Plan | None = None
    goal: Goal | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    budget_use: BudgetUse | None = None


class HistoryMessage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a history, with its cursor, its sender and its token usage.

    ``unread``: no model has read it, because its run is queued or ended in the queue.
    """

    cursor: Cursor
    at_ms: int
    message: VisibleMessage
    run_id: str | None = None
    item_id: str | None = None
    sender: str | None = None
    stop_reason: str | None = None
    usage: Usage = Usage()
    unread: bool = False


class History(Struct, frozen=True):
    """A page of messages, in the order in which the model reads them, or from the end."""

    messages: list[HistoryMessage]
    next: str | None


class SessionList(Struct, frozen=True):
    """A page of sessions."""

    sessions: list[SessionRow]
    next: str | None


Title = Annotated[str, Meta(max_length=MAX_TITLE_BYTES)]
Reason = Annotated[str, Meta(max_length=MAX_REASON_BYTES)]
Order = Literal["oldest", "newest"]
ProfileName = Literal["default", "plan", "verification", "coordinator"]
"""The profiles: fixed tool surfaces for common roles."""
ToolNames = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_BYTES)]],
    Meta(description="Names of tools; 'mcp__*' stands for those of MCP servers."),
]


class SessionSettings(Mutation, frozen=True, kw_only=True):
    """The params that set properties of a session. An absent param leaves its property unchanged."""

    scope: CapabilityScope | UnsetType = UNSET
    credential_scope: CredentialScope | UnsetType = UNSET
    profile: ProfileName | UnsetType = UNSET
    blocked_tools: ToolNames | UnsetType = UNSET
    permission_mode: PermissionMode | None | UnsetType = UNSET
    workspace: PathName | None | UnsetType = UNSET
    route: Name | None | UnsetType = UNSET
    model: ModelName | None | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    input_contract: InputContract | None | UnsetType = UNSET
    output_contract: OutputContract | None | UnsetType = UNSET
    busy: Busy | None | UnsetType = UNSET
    budget: Budget | None | UnsetType = UNSET


class SessionCreate(SessionSettings, frozen=True, kw_only=True):
    """Params of ``session.create``. An existing id with the same properties returns that session."""

    session_id: Id | None = None
    agent: Name | None = None
    title: Title | None = None
    parent_session_id: Id | None = None
    persona_id: (
        Annotated[Id, Meta(description="The persona to bind; null: the parent's, else the agent's.")] | None
    ) = None


class SessionRef(Params, frozen=True, kw_only=True):
    """Params that name a session."""

    session_id: Id


class SessionListParams(Page, frozen=True, kw_only=True):
    """Params of ``session.list``: newest first. ``parent_session_id`` lists the children of one."""

    agent: str | None = None
    sender: str | None = None
    status: Literal["open", "ended"] | None = None
    parent_session_id: Id | None = None
    persona_id: Id | None = None
    sidechains: Annotated[bool, Meta(description="Include sidechains that have ended.")] = False
    order: Order = "newest"


class SessionUpdate(SessionSettings, frozen=True, kw_only=True):
    """Params of ``session.update``: null unsets a property. A scope can only be narrowed."""

    session_id: Id


class SessionSend(SendParams, frozen=True, kw_only=True):
    """Params of ``session.send``: as ``conversation.send``, addressed by session."""

    session_id: Id
    sender: Annotated[str, Meta(extra=IDENTITY)] | None = None


class SessionSteer(SteerParams, frozen=True, kw_only=True):
    """Params of ``session.steer``: as ``conversation.steer``, addressed by session."""

    session_id: Id
    sender: Annotated[str, Meta(extra=IDENTITY)] | None = None


class SessionCompact(CompactParams, frozen=True, kw_only=True):
    """Params of ``session.compact``: as ``conversation.compact``, addressed by session."""

    session_id: Id


class SessionFork(Mutation, frozen=True, kw_only=True):
    """Params of ``session.fork``. ``at`` null: the current state; ``agent`` null: the parent's agent."""

    session_id: Id
    at: Annotated[Cursor, Meta(description="The fork point: the last event to include.")] | None = None
    title: Title | None = None
    agent: Name | None = None


class SessionHistoryParams(Page, frozen=True, kw_only=True):
    """Params of ``session.history``."""

    session_id: Id
    order: Order = "oldest"


class SessionRename(Mutation, frozen=True, kw_only=True):
    """Params of ``session.rename``; null removes the title."""

    session_id: Id
    title: Title | None


class SessionInterrupt(Mutation, frozen=True, kw_only=True):
    """Params of ``session.interrupt``."""

    session_id: Id
    note: Reason = ""


class InterruptResult(Struct, frozen=True, omit_defaults=True):
    """Whether a run was interrupted, and its id; false if none was running or it ended first."""

    interrupted: bool
    session_id: str
    run_id: str | None = None


class SessionEnd(Mutation, frozen=True, kw_only=True):
    """Params of ``session.end``."""

    session_id: Id
    note: Reason = ""


_SESSION = (SessionNotFound,)
_SEND = (
    SessionNotFound,
    SessionAlreadyEnded,
    AgentNotFound,
    SenderForbidden,
    SenderInvalid,
    InputOriginForbidden,
    RouteNotFound,
    RouteNotReady,
    RouteForbidden,
    WorkspaceForbidden,
    InputTooLarge,
    ContractInvalid,
    InputContractViolated,
    QueueFull,
    SessionBusy,
    StorageFull,
)

CREATE = Method(
    "session.create",
    "mutation",
    SessionCreate,
    Session,
    "Create a session, or return the existing one with that id and the same properties.",
    scope="operate",
    errors=(
        SessionExists,
        BudgetExhausted,
        AgentNotFound,
        AgentForbidden,
        SenderForbidden,
        RouteNotFound,
        SessionNotFound,
        SessionAlreadyEnded,
        PersonaNotFound,
        ScopeWouldWiden,
        WorkspaceForbidden,
        WorkspaceMissing,
        TooDeep,
        InputTooLarge,
        ContractInvalid,
        StorageFull,
    ),
)
GET = Method("session.get", "query", SessionRef, SessionView, "Show one session.", errors=_SESSION)
LIST = Method("session.list", "query", SessionListParams, SessionList, "List sessions, newest first.")
UPDATE = Method(
    "session.update",
    "mutation",
    SessionUpdate,
    Session,
    "Change properties of a session; future runs use them, accepted runs keep their pinned values.",
    scope="operate",
    errors=(
        SessionNotFound,
        SessionAlreadyEnded,
        BudgetExhausted,
        RouteNotFound,
        ScopeWouldWiden,
        WorkspaceForbidden,
        WorkspaceMissing,
        InputTooLarge,
        ContractInvalid,
        StorageFull,
    ),
)
SEND = Method(
    "session.send",
    "mutation",
    SessionSend,
    SendResult,
    "Send input to a session; the answer means that the input is durable.",
    scope="converse",
    errors=_SEND,
    uncompared=("wait", "stream", "timeout_s"),
)
STEER = Method(
    "session.steer",
    "mutation",
    SessionSteer,
    SteerResult,
    "Add a message to the run in flight; the model reads it before its next answer.",
    scope="converse",
    errors=(
        SessionNotFound,
        SenderForbidden,
        SenderInvalid,
        InputOriginForbidden,
        NothingToSteer,
        InputTooLarge,
        InputContractViolated,
        QueueFull,
        StorageFull,
    ),
)
COMPACT = Method(
    "session.compact",
    "mutation",
    SessionCompact,
    CompactResult,
    "Summarize a session so far; from now on the model reads the summary instead. The session must be idle.",
    scope="converse",
    errors=(
        SessionNotFound,
        SessionAlreadyEnded,
        SessionBusy,
        AgentNotFound,
        RouteNotFound,
        RouteNotReady,
        RouteForbidden,
        WorkspaceForbidden,
        StorageFull,
    ),
    uncompared=("wait", "timeout_s"),
)
HISTORY = Method(
    "session.history", "query", SessionHistoryParams, History, "Read a session's messages.", errors=_SESSION
)
FORK = Method(
    "session.fork",
    "mutation",
    SessionFork,
    Session,
    "Fork a session, from its current state or from an earlier cursor.",
    scope="operate",
    errors=(
        SessionNotFound,
        SessionAlreadyEnded,
        AgentNotFound,
        AgentForbidden,
        CursorPruned,
        TooDeep,
        BudgetExhausted,
        StorageFull,
    ),
)
RENAME = Method(
    "session.rename",
    "mutation",
    SessionRename,
    Session,
    "Set or remove a session's title.",
    scope="operate",
    errors=(SessionNotFound, StorageFull),
)
INTERRUPT = Method(
    "session.interrupt",
    "mutation",
    SessionInterrupt,
    InterruptResult,
    "Interrupt the run in flight; queued runs continue. Answers when it has stopped.",
    scope="operate",
    errors=(SessionNotFound, StorageFull),
    while_draining=True,
)
END = Method(
    "session.end",
    "mutation",
    SessionEnd,
    Session,
    "End an idle session for good. Its journal stays readable.",
    scope="operate",
    errors=(SessionNotFound, SessionAlreadyEnded, SessionBusy, StorageFull),
)
EXPORT = Method(
    "session.export",
    "query",
    SessionExportParams,
    SessionExport,
    "Read a session's journal and its hash chain as lines of a JSONL file.",
    errors=(*_SESSION, ExportKeyUnusable),
)
KEY = Method(
    "session.key",
    "query",
    NoParams,
    ExportKey,
    "Show the public key with which this home signs exports.",
    errors=(ExportKeyUnusable,),
)
IMPORT = Method(
    "session.import",
    "mutation",
    SessionImport,
    SessionImportResult,
    "Import an export as a new session.",
    scope="operate",
    errors=(
        PersonaNotFound,
        ImportInvalid,
        InputTooLarge,
        AgentNotFound,
        AgentForbidden,
        SenderForbidden,
        SessionNotFound,
        StorageFull,
    ),
)

METHODS = (
    CREATE,
    GET,
    LIST,
    UPDATE,
    SEND,
    STEER,
    COMPACT,
    FORK,
    HISTORY,
    RENAME,
    INTERRUPT,
    END,
    EXPORT,
    KEY,
    IMPORT,
)
__all__ = ["METHODS", "InputItem", "Session"]
