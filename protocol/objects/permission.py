"""Permissions: rules, modes and verdicts. Deny beats ask beats allow, and nothing narrower loosens.

A call is judged by every layer there is, from the broadest to the narrowest: ``managed`` (the daemon's
configuration), ``daemon`` (changed live), then for the root session and each one below it the ``definition``
of its agent and its own rules (``parent``, the last one ``session``), and ``run``. Each layer says deny, ask,
allow or nothing; the strictest of them is the verdict of the rules. Where no layer says anything, the tool's
own default stands. The mode then turns an ask into something else, and a grant (an approval that was to be
remembered) answers one.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.permission import GrantNotFound
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import Cursor, Id
from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_TOOL_BYTES
from protocol.limits.names import MAX_AGENT_BYTES, MAX_REASON_BYTES
from protocol.limits.permission import MAX_RULES
from protocol.rpc.method import Method, Mutation, Page, Params

Decision = Literal["allow", "ask", "deny"]
PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
MODES: tuple[PermissionMode, ...] = ("plan", "dontAsk", "default", "acceptEdits", "bypassPermissions")
"""All modes, from the narrowest to the widest."""
Layer = Literal["managed", "daemon", "definition", "parent", "session", "run"]
"""Whose rule it is, from the broadest to the narrowest; ``parent``: a session further up."""
ModeEffect = Literal["edit_allowed", "ask_allowed", "ask_denied", "denied_in_plan"]
"""What the mode made of a verdict: acceptEdits, bypassPermissions, dontAsk and plan, in this order."""

# The lookahead, as "$" alone also matches before a newline at the end.
PATTERN = r"^(\*|[^*\s]+\*?)$(?!\n)"

Pattern = Annotated[
    str,
    Meta(
        pattern=PATTERN,
        max_length=MAX_TOOL_BYTES,
        description="A tool's name, a prefix and '*', or '*'.",
    ),
]
Subject = Annotated[
    str,
    Meta(
        max_length=MAX_SUBJECT_BYTES,
        description="What the tool works on: a path, a command line, a host. In a rule, '*' is anything.",
    ),
]


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One rule: what is decided about calls of these tools on these subjects. ``subject`` null: on any."""

    tool: Pattern
    decision: Decision
    subject: Subject | None = None
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


class RuleRef(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a rule is about, by which it is replaced and removed: a layer has one rule at most of each."""

    tool: Pattern
    subject: Subject | None = None


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An approval that is remembered: it answers asks about a tool, on a subject, so many times.

    Both are meant to the letter, a ``*`` too; ``subject`` null: where there is none. ``remaining_uses`` null:
    any number of times. ``approval_id`` is the approval it was given with.
    """

    grant_id: str
    tool: str
    granted_by: str
    subject: str | None = None
    remaining_uses: int | None = None
    approval_id: str | None = None


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one call was judged: ``base`` by the rules, ``decision`` once mode, grants and hooks had their say.

    ``why`` names what decided, such as ``managed rule bash deny``; ``mode_effect`` is set where the mode
    changed something. ``subject`` is only the beginning where it is long. ``parallel`` and ``repeatable`` are
    what the tool said of itself at that time.
    """

    call_id: str
    tool: str
    decision: Decision
    base: Decision
    why: str
    subject: str = ""
    note: str = ""
    mode: PermissionMode = "default"
    mode_effect: ModeEffect | None = None
    grant_id: str | None = None
    approval_id: str | None = None
    question_id: str | None = None
    parallel: bool = False
    repeatable: bool = False


class ExplanationLine(Struct, frozen=True, kw_only=True):
    """One line of an explanation: what a layer, the mode, a grant or the tool itself says.

    ``says`` null: nothing that decides. ``source`` is a layer with its name, ``tool``, ``hook``, ``mode`` or
    ``grant``.
    """

    source: str
    says: Decision | None
    text: str


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a call would be judged as it would: the verdict, and every line that it came of, in order.

    Hooks are not asked: what one says depends on the call's arguments.
    """

    decision: Decision
    base: Decision
    why: str
    note: str
    mode: PermissionMode
    mode_effect: ModeEffect | None
    grant_id: str | None
    lines: list[ExplanationLine]


class Layered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules and grants of one layer. ``name`` is the agent's, session's or run's.

    ``mode`` is the widest that the layer lets be: the narrowest of them all is in force.
    """

    layer: Layer
    rules: list[Rule]
    name: str | None = None
    mode: PermissionMode | None = None
    grants: list[Grant] = []


class PermissionList(Struct, frozen=True):
    """A page of the layers that a call in a place would be judged by, broadest first."""

    permissions: list[Layered]
    next: str | None


AgentName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_AGENT_BYTES,
        description="A new session of this agent, where neither a session nor a run is named.",
    ),
]


class PermissionWhy(Params, frozen=True, kw_only=True):
    """Params of ``permission.why``: a tool, and where it would be called.

    Without a place, in a new session of ``agent`` or of the default one. ``mode``: as if the session had
    this mode, within what bounds it.
    """

    tool: Annotated[str, Meta(min_length=1, max_length=MAX_TOOL_BYTES)]
    subject: Annotated[str, Meta(max_length=MAX_SUBJECT_BYTES)] = ""
    session_id: Id | None = None
    run_id: Id | None = None
    agent: AgentName | None = None
    mode: PermissionMode | None = None


class PermissionListParams(Page, frozen=True, kw_only=True):
    """Params of ``permission.list``: a place, as in ``permission.why``."""

    session_id: Id | None = None
    run_id: Id | None = None
    agent: AgentName | None = None


class PermissionUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``permission.update``: for the whole daemon, or one session, or one run.

    ``add`` puts rules in place, replacing those of the same tool and subject; ``remove`` takes rules of
    these tools and subjects away; ``revoke`` takes grants away. It counts from the next judgement on.
    """

    session_id: Id | None = None
    run_id: Id | None = None
    add: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    remove: Annotated[list[RuleRef], Meta(max_length=MAX_RULES)] = []
    revoke: Annotated[list[Id], Meta(max_length=MAX_RULES)] = []


class AuditRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One verdict in the journal, or the answer to an approval; an expiry has the actor ``daemon``."""

    cursor: Cursor
    at_ms: int
    session_id: str
    call_id: str
    verdict: Verdict | None = None
    run_id: str | None = None
    approval_id: str | None = None
    decision: Decision | None = None
    actor: str | None = None
    note: str = ""
    justification: str = ""


class AuditList(Struct, frozen=True):
    """A page of verdicts and answers."""

    audits: list[AuditRow]
    next: str | None


class PermissionAudit(Page, frozen=True, kw_only=True):
    """Params of ``permission.audit``: of one session, of one of its runs, or of all that one may read."""

    session_id: Id | None = None
    run_id: Id | None = None
    order: Literal["oldest", "newest"] = "newest"


_PLACE = (SessionNotFound, RunNotFound, AgentNotFound, AgentForbidden)

WHY = Method(
    "permission.why",
    "query",
    PermissionWhy,
    Explanation,
    "Explain, line by line, how a call would be judged now.",
    errors=_PLACE,
)
LIST = Method(
    "permission.list",
    "query",
    PermissionListParams,
    PermissionList,
    "Show every rule and grant that counts in a place, broadest first.",
    errors=_PLACE,
)
UPDATE = Method(
    "permission.update",
    "mutation",
    PermissionUpdate,
    Layered,
    "Add and remove rules, revoke grants; from the next judgement on.",
    scope="approve",
    errors=(
        SessionNotFound,
        RunNotFound,
        SessionAlreadyEnded,
        RunAlreadyEnded,
        GrantNotFound,
        ScopeWouldWiden,
        InputTooLarge,
        StorageFull,
    ),
)
AUDIT = Method(
    "permission.audit",
    "query",
    PermissionAudit,
    AuditList,
    "Read how calls were judged and who approved, newest first.",
    errors=(SessionNotFound, RunNotFound),
)

METHODS = (WHY, LIST, UPDATE, AUDIT)
