"""An approval: a tool call that a person must allow or deny. Stored first, presented second.

Its audience may answer: by default any client with the right. The first answer counts, and the others learn
who gave it; where several people must agree, each has one vote. An approval survives restarts and may expire.
The approval of a file change is bound to the file as it was shown.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.audience import Audience, Person, Vote
from protocol.errors.approval import (
    AlreadyVoted,
    ApprovalAlreadyResolved,
    ApprovalExpired,
    ApprovalNotFound,
    NotInAudience,
    ToolInputInvalid,
)
from protocol.errors.conversation import SenderForbidden, SenderInvalid
from protocol.errors.run import RunNotFound
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.permission import MAX_GRANT_USES, MAX_RESOLUTIONS
from protocol.objects.permission import CallFacts
from protocol.rpc.method import Method, Mutation, Page, Params

ApprovalStatus = Literal["pending", "allowed", "denied", "expired", "withdrawn"]
"""``withdrawn``: the run ended before anyone answered."""
Remember = Literal["once", "run", "session"]


class Preview(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The effect of a call, for a person: a diff, a command line, or a sentence.

    The approval is bound to ``binding`` (the digest of the files shown): if it has changed when the call is
    about to run, the person is asked again. ``truncated``: ``text`` is incomplete and ``blob`` names the
    complete text. ``facts`` are the circumstances that ``text`` shows; a remembered answer is for these.
    """

    kind: Literal["diff", "command", "text"]
    text: str
    binding: str | None = None
    truncated: bool = False
    blob: str | None = None
    facts: CallFacts | None = None


class Approval(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An approval as stored.

    ``created_cursor`` is the cursor of the request, ``message_cursor`` that of the message with the call, and
    ``index`` the position of the call in that message, from 0. Texts for people are in the journal at these
    cursors. ``audience`` null: anyone with the right may answer. ``votes`` are those of an audience that must
    agree; ``resolved_by`` then names the people who decided. ``input_cursor`` is the cursor of the
    earlier approval, or of the hook, that changed the arguments of the call.
    """

    approval_id: Id
    session_id: Id
    run_id: Id
    call_id: str
    tool: str
    index: int
    status: ApprovalStatus
    requested_at_ms: int
    created_cursor: Cursor
    message_cursor: Cursor
    agent: str = ""
    sender: str | None = None
    subject: str = ""
    binding: str | None = None
    facts: CallFacts | None = None
    expires_at_ms: int | None = None
    resolved_at_ms: int | None = None
    resolved_cursor: Cursor | None = None
    resolved_by: str | None = None
    remember: Remember = "once"
    justification: str = ""
    denial_note: str = ""
    audience: Audience | None = None
    votes: list[Vote] = []
    input_cursor: Cursor | None = None


class ApprovalView(Approval, frozen=True, kw_only=True, omit_defaults=True):
    """An approval with everything needed to decide: the reason for asking, the call's input, the preview."""

    note: str = ""
    arguments: dict[str, Any] = {}
    updated_input: dict[str, Any] | None = None
    preview: Preview | None = None


class ApprovalList(Struct, frozen=True):
    """A page of approvals."""

    approvals: list[ApprovalView]
    next: str | None


class ApprovalRef(Params, frozen=True, kw_only=True):
    """Params that name an approval."""

    approval_id: Id


class ApprovalListParams(Page, frozen=True, kw_only=True):
    """Params of ``approval.list``: oldest first. ``status`` defaults to pending approvals."""

    session_id: Id | None = None
    run_id: Id | None = None
    status: ApprovalStatus | Literal["any"] = "pending"


class Resolution(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A person's answer to one approval.

    ``updated_input`` replaces the call's arguments. The model reads the ``note`` of a denial;
    ``justification`` is only recorded. ``remember`` applies the answer to later calls of the tool on the same
    subject, at most ``uses`` times; it cannot be combined with ``updated_input``.
    """

    approval_id: Id
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    remember: Remember = "once"
    uses: Annotated[int, Meta(ge=1, le=MAX_GRANT_USES)] | None = None


class ApprovalResolve(Mutation, frozen=True, kw_only=True):
    """Params of ``approval.resolve``: answers to approvals of one run; all or none are accepted.

    ``sender`` is the person for whom a caller answers whose rights name several senders.
    """

    resolutions: Annotated[list[Resolution], Meta(min_length=1, max_length=MAX_RESOLUTIONS)]
    sender: Person | None = None


class ApprovalsResolved(Struct, frozen=True, kw_only=True):
    """The answered approvals, and the number of the run's approvals that are still pending.

    One whose audience needs more votes is pending.
    """

    approvals: list[ApprovalView]
    run_id: str
    pending: int


LIST = Method(
    "approval.list",
    "query",
    ApprovalListParams,
    ApprovalList,
    "List approvals, oldest first; by default the pending ones.",
    errors=(SessionNotFound, RunNotFound),
)
GET = Method(
    "approval.get",
    "query",
    ApprovalRef,
    ApprovalView,
    "Show an approval with the call's input and preview.",
    errors=(ApprovalNotFound,),
)
RESOLVE = Method(
    "approval.resolve",
    "mutation",
    ApprovalResolve,
    ApprovalsResolved,
    "Allow or deny calls of one run, or vote; the first answer counts.",
    scope="approve",
    errors=(
        ApprovalNotFound,
        ApprovalAlreadyResolved,
        ApprovalExpired,
        NotInAudience,
        AlreadyVoted,
        SenderForbidden,
        SenderInvalid,
        ToolInputInvalid,
        InputTooLarge,
        StorageFull,
    ),
    while_draining=True,
)

METHODS = (LIST, GET, RESOLVE)
