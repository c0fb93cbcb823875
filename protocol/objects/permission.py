"""Permissions: rules, modes and verdicts.

Every layer judges a call, from the broadest to the narrowest: ``managed`` (the daemon's configuration),
``daemon`` (changed live), then for the root session and each session below it the ``definition`` of its agent
and its own rules (``parent``; the last one ``session``) with those of its active skills (``skill``), and
``run``. Each layer says deny, ask, allow or
nothing. Deny beats ask beats allow, and no narrower layer loosens a broader one: the strictest opinion is the
verdict. If no layer says anything, the tool's default applies. The mode may then replace an ask, and a grant
(a remembered approval) may answer it.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.audience import Audience
from protocol.errors.definition import AgentForbidden, AgentNotFound
from protocol.errors.permission import GrantNotFound
from protocol.errors.run import RunAlreadyEnded, RunNotFound
from protocol.errors.session import InputTooLarge, SessionAlreadyEnded, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.ids import IDENTITY, Cursor, Id, shaped
from protocol.limits.call import MAX_SUBJECT_BYTES, MAX_TOOL_BYTES
from protocol.limits.names import MAX_AGENT_BYTES, MAX_ITEM_BYTES, MAX_REASON_BYTES
from protocol.limits.permission import MAX_RULES
from protocol.rpc.method import Method, Mutation, Page, Params
from protocol.transcript import InputOrigin

Decision = Literal["allow", "ask", "deny"]
PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
MODES: tuple[PermissionMode, ...] = ("plan", "dontAsk", "default", "acceptEdits", "bypassPermissions")
"""All modes, from the narrowest to the widest."""
Layer = Literal["managed", "daemon", "definition", "parent", "session", "skill", "run"]
"""The owner of a rule, from the broadest to the narrowest; ``parent``: a session further up.

The allow rules of an active ``skill`` allow nothing by themselves: they deny the tool for other subjects.
"""
ItemKind = Literal[
    "tool",
    "skill",
    "member",
    "mcp_server",
    "route",
    "connector",
    "connector_credential",
    "mcp_credential",
]
"""The kinds of items that scopes list by name."""
ModeEffect = Literal["edit_allowed", "ask_allowed", "ask_denied", "denied_in_plan"]
"""The effect of the mode on a verdict: that of acceptEdits, bypassPermissions, dontAsk and plan, in this
order.
"""

# The lookahead, as "$" alone also matches before a newline at the end.
PATTERN = r"^(\*|[^*\s]+\*?)$(?!\n)"

Pattern = Annotated[
    str,
    shaped(
        PATTERN,
        "a tool's name, a prefix followed by '*', or '*'",
        max_length=MAX_TOOL_BYTES,
        description="A tool's name, a prefix followed by '*', or '*'.",
    ),
]
Subject = Annotated[
    str,
    Meta(
        max_length=MAX_SUBJECT_BYTES,
        extra=IDENTITY,
        description="The object of the call: a path, a command, a host. In a rule, '*' matches anything.",
    ),
]


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One rule: the decision on calls of the matching tools. ``subject`` null: any subject.

    ``origin``: a deny or an ask is only for runs that have read an input of this origin; an allow is only
    for runs that have read nothing less trusted.

    An ask may name the people who answer it. No permission mode turns such an ask into an allow.
    """

    tool: Pattern
    decision: Decision
    subject: Subject | None = None
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    origin: InputOrigin | None = None
    audience: Audience | None = None


class RuleRef(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The identity of a rule within its layer: a layer has at most one rule per tool, subject and origin."""

    tool: Pattern
    subject: Subject | None = None
    origin: InputOrigin | None = None


ClaimKind = Literal["call", "command", "network"]
"""The kinds of a call's claims: the call itself, a command of its line, a destination to connect to."""


class CallFacts(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The circumstances of a call that a person is shown with it: an approval is for exactly these.

    ``workdir`` is the directory of a command, ``sandbox`` its confinement and ``network`` the destinations
    that it may connect to, as ``net:HOST:PORT``. ``other`` holds those of other tools.
    """

    workdir: str | None = None
    background: bool = False
    sandbox: str | None = None
    network: list[str] = []
    other: list[str] = []


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A remembered approval: it answers asks about a tool and a subject in the same circumstances.

    Both match literally, including a ``*``; ``subject`` null matches only calls without one. ``facts`` are
    the circumstances that were shown; null: there were none.
    ``remaining_uses`` null: unlimited. ``approval_id`` is the approval that created it. ``audience`` is the
    audience of that approval: the grant answers only asks of the same audience or a wider one.
    """

    grant_id: str
    tool: str
    granted_by: str
    subject: str | None = None
    facts: CallFacts | None = None
    remaining_uses: int | None = None
    approval_id: str | None = None
    audience: Audience | None = None


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The verdict on one call: ``base`` by the rules, ``decision`` after mode, grants and hooks.

    ``why`` names the deciding rule, such as ``managed rule bash deny``; ``mode_effect`` is set if the mode
    changed the verdict. A long ``subject`` is truncated. ``binding`` is the state that a grant approved it in
    (see ``Preview``). ``approval_id`` is the approval that is requested, or the one that created the grant.
    ``parallel``, ``repeatable`` and ``waits`` (for other runs) are facts of the tool at that time.
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
    binding: str | None = None
    parallel: bool = False
    repeatable: bool = False
    waits: bool = False


class ExplanationLine(Struct, frozen=True, kw_only=True):
    """One line of an explanation: the opinion of a layer, the mode, a grant or the tool.

    ``says`` is its decision; null: it decides nothing. ``source`` is a layer with its name, ``tool``,
    ``hook``, ``mode`` or ``grant``.
    """

    source: str
    says: Decision | None
    text: str


class ClaimExplanation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The decision of the rules about one claim of a call; the strictest of all claims counts.

    ``words`` are those of a command as they were read, and ``problem`` is why no allow with a ``*`` holds.
    """

    kind: ClaimKind
    subject: str
    says: Decision
    why: str
    words: list[str] = []
    problem: str | None = None


class Explanation(Struct, frozen=True, kw_only=True):
    """An explanation of a verdict: the verdict, and every line that led to it, in order.

    ``claims`` lists the parts of a call that consists of several. Hooks are not included: their opinion
    depends on the call's arguments. ``audience`` are the people who may answer an ask; null: anyone with the
    right.
    """

    decision: Decision
    base: Decision
    why: str
    note: str
    mode: PermissionMode
    mode_effect: ModeEffect | None
    grant_id: str | None
    lines: list[ExplanationLine]
    claims: list[ClaimExplanation] = []
    audience: Audience | None = None


class LayerRules(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules and grants of one layer. ``name`` is that of the agent, session or run.

    ``mode`` is the widest mode that the layer permits; the narrowest of all layers is in force.
    """

    layer: Layer
    rules: list[Rule]
    name: str | None = None
    mode: PermissionMode | None = None
    grants: list[Grant] = []


class PermissionList(Struct, frozen=True):
    """A page of the layers that judge a call, broadest first."""

    permissions: list[LayerRules]
    next: str | None


AgentName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_AGENT_BYTES,
        description="Judge for a new session of this agent, if no session and no run is named.",
    ),
]


class PermissionWhy(Params, frozen=True, kw_only=True):
    """Params of ``permission.why``: a call and the session or run that would make it.

    Without a session and a run, the call is judged in a new session of ``agent``, or of the default agent.
    ``mode`` replaces the session's mode, within its limits. A ``subject`` of the form ``net:HOST:PORT`` is a
    connection of a running call. ``facts`` are the call's circumstances, without which no grant answers.
    ``origins`` are those of further inputs that the run is supposed to have read. The explanation begins with
    the links that hide the item: definition, session, profile, parent.
    """

    tool: Annotated[
        str,
        Meta(min_length=1, max_length=MAX_ITEM_BYTES, description="A tool's name, or that of another item."),
    ]
    subject: Annotated[str, Meta(max_length=MAX_SUBJECT_BYTES)] = ""
    item_kind: Annotated[ItemKind, Meta(description="The kind of the item.")] = "tool"
    session_id: Id | None = None
    run_id: Id | None = None
    agent: AgentName | None = None
    mode: PermissionMode | None = None
    facts: CallFacts | None = None
    origins: Annotated[list[InputOrigin], Meta(max_length=8)] = []


class PermissionListParams(Page, frozen=True, kw_only=True):
    """Params of ``permission.list``: a session, a run or an agent, as in ``permission.why``."""

    session_id: Id | None = None
    run_id: Id | None = None
    agent: AgentName | None = None


class PermissionUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``permission.update``, for the whole daemon, one session or one run.

    ``add`` adds rules and replaces those of the same tool, subject and origin; ``remove`` removes rules by
    these; ``revoke`` removes grants. The change is effective from the next tool call.
    """

    session_id: Id | None = None
    run_id: Id | None = None
    add: Annotated[list[Rule], Meta(max_length=MAX_RULES)] = []
    remove: Annotated[list[RuleRef], Meta(max_length=MAX_RULES)] = []
    revoke: Annotated[list[Id], Meta(max_length=MAX_RULES)] = []


class AuditRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One verdict in the journal, or the answer to an approval; an expiry has the actor ``daemon``.

    ``is_vote``: one of several votes, after the last of which the answer follows.
    """

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
    is_vote: bool = False


class AuditList(Struct, frozen=True):
    """A page of verdicts and answers."""

    audits: list[AuditRow]
    next: str | None


class PermissionAudit(Page, frozen=True, kw_only=True):
    """Params of ``permission.audit``: one session, one run, or everything that the caller may read."""

    session_id: Id | None = None
    run_id: Id | None = None
    order: Literal["oldest", "newest"] = "newest"


_LOOKUP_ERRORS = (SessionNotFound, RunNotFound, AgentNotFound, AgentForbidden)

WHY = Method(
    "permission.why",
    "query",
    PermissionWhy,
    Explanation,
    "Explain line by line how a call would be judged.",
    errors=_LOOKUP_ERRORS,
)
LIST = Method(
    "permission.list",
    "query",
    PermissionListParams,
    PermissionList,
    "List every rule and grant in force for a call, broadest layer first.",
    errors=_LOOKUP_ERRORS,
)
UPDATE = Method(
    "permission.update",
    "mutation",
    PermissionUpdate,
    LayerRules,
    "Add and remove rules, revoke grants; effective from the next tool call.",
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
    "Read verdicts and answers to approvals, newest first.",
    errors=(SessionNotFound, RunNotFound),
)

METHODS = (WHY, LIST, UPDATE, AUDIT)
