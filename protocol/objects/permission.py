"""Permissions: rules, modes and verdicts. Deny beats ask beats allow, and nothing narrower loosens.

A call is judged by every layer there is, from the broadest to the narrowest: ``managed`` (the daemon's
configuration), ``daemon`` (changed live), ``definition``, ``session`` and every session above it, ``run``.
Each layer says deny, ask, allow or nothing; the strictest of them is the verdict of the rules. Where no layer
says anything, the tool's own default stands. The mode then turns an ask into something else, and a grant (an
approval that was to be remembered) answers one.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from protocol.errors import (
    GrantNotFound,
    RunAlreadyEnded,
    RunNotFound,
    SessionEnded,
    SessionNotFound,
    StorageFull,
)
from protocol.ids import Cursor, Id
from protocol.limits import REASON_BYTES_MAX, RULES_MAX, SUBJECT_BYTES_MAX, TOOL_BYTES_MAX
from protocol.method import Method, Mutation, Page, Params

Decision = Literal["allow", "ask", "deny"]
PermissionMode = Literal["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]
Layer = Literal["managed", "daemon", "definition", "parent", "session", "run"]
"""Whose rule it is, from the broadest to the narrowest; ``parent``: a session further up."""

Pattern = Annotated[
    str,
    Meta(min_length=1, max_length=TOOL_BYTES_MAX, description="A tool's name, a prefix and '*', or '*'."),
]
Subject = Annotated[
    str,
    Meta(
        max_length=SUBJECT_BYTES_MAX,
        description="What the tool works on: a path, a command line, a host. '*' stands for anything.",
    ),
]


class Rule(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One rule: what is decided about calls of these tools on these subjects. ``subject`` null: on any."""

    tool: Pattern
    decision: Decision
    subject: Subject | None = None
    reason: Annotated[str, Meta(max_length=REASON_BYTES_MAX)] = ""


class Grant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An approval that is remembered: it answers asks about a tool, on a subject, so many times.

    ``left`` null: any number of times. ``approval_id`` is the approval it was given with.
    """

    grant_id: str
    tool: str
    by: str
    subject: str | None = None
    left: int | None = None
    approval_id: str | None = None


class Verdict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one call was judged: ``base`` by the rules, ``decision`` once mode, grants and hooks had their say.

    ``why`` names what decided, such as ``managed rule bash deny``; ``mode_effect`` is set where the mode
    changed something. ``parallel`` and ``repeatable`` are what the tool said of itself at that time.
    """

    call_id: str
    tool: str
    decision: Decision
    base: Decision
    why: str
    reason: str = ""
    mode: PermissionMode = "default"
    mode_effect: str | None = None
    grant_id: str | None = None
    approval_id: str | None = None
    question_id: str | None = None
    parallel: bool = False
    repeatable: bool = False


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of an explanation: what a layer, the mode, a grant or the tool itself says."""

    source: str
    says: Decision | None
    text: str


class Explanation(Struct, frozen=True, kw_only=True):
    """Why a call would be judged as it would: every line that was looked at, and the end of it."""

    decision: Decision
    mode: PermissionMode
    steps: list[Step]


class Layered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules and grants of one layer. ``name`` is the agent's, session's or run's."""

    layer: Layer
    rules: list[Rule]
    name: str | None = None
    mode: PermissionMode | None = None
    grants: list[Grant] = []


class PermissionList(Struct, frozen=True, kw_only=True):
    """Every layer that a call in a place would be judged by, broadest first, and the mode in force."""

    layers: list[Layered]
    mode: PermissionMode


class PermissionWhy(Params, frozen=True, kw_only=True):
    """Params of ``permission.why``: a tool, and where it would be called; nowhere: a new session's."""

    tool: Annotated[str, Meta(min_length=1, max_length=TOOL_BYTES_MAX)]
    subject: Subject = ""
    session_id: Id | None = None
    run_id: Id | None = None
    mode: PermissionMode | None = None


class PermissionListParams(Params, frozen=True, kw_only=True):
    """Params of ``permission.list``."""

    session_id: Id | None = None
    run_id: Id | None = None


class PermissionUpdate(Mutation, frozen=True, kw_only=True):
    """Params of ``permission.update``: for the whole daemon, or one session, or one run.

    ``add`` puts rules in place, replacing those of the same tool and subject; ``remove`` takes rules of
    these tools and subjects away; ``revoke`` takes grants away. It counts from the next judgement on.
    """

    session_id: Id | None = None
    run_id: Id | None = None
    add: Annotated[list[Rule], Meta(max_length=RULES_MAX)] = []
    remove: Annotated[list[Rule], Meta(max_length=RULES_MAX)] = []
    revoke: Annotated[list[Id], Meta(max_length=RULES_MAX)] = []


class AuditRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One verdict in the journal, or one person's answer to an ask (``by`` is who)."""

    cursor: Cursor
    at_ms: int
    session_id: str
    verdict: Verdict | None = None
    run_id: str | None = None
    approval_id: str | None = None
    decision: Decision | None = None
    by: str | None = None
    reason: str = ""
    justification: str = ""


class AuditList(Struct, frozen=True):
    """A page of verdicts and answers."""

    audits: list[AuditRow]
    next: str | None


class PermissionAudit(Page, frozen=True, kw_only=True):
    """Params of ``permission.audit``: of one session, or of one of its runs."""

    session_id: Id | None = None
    run_id: Id | None = None
    order: Literal["oldest", "newest"] = "newest"


_PLACE = (SessionNotFound, RunNotFound)

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
    PermissionList,
    "Add and remove rules, revoke grants; from the next judgement on.",
    scope="approve",
    errors=(
        SessionNotFound,
        RunNotFound,
        SessionEnded,
        RunAlreadyEnded,
        GrantNotFound,
        StorageFull,
    ),
)
AUDIT = Method(
    "permission.audit",
    "query",
    PermissionAudit,
    AuditList,
    "Read how calls were judged and who approved, newest first.",
    errors=_PLACE,
)

METHODS = (WHY, LIST, UPDATE, AUDIT)
