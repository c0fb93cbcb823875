"""An approval: a call that waits for a person's yes or no. Stored first, asked second.

Any client with the right may answer; the first answer wins and the others learn who gave it. It survives
restarts, may expire, and where it shows a file's change it is bound to that file as it was shown.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors.approval import (
    ApprovalAlreadyResolved,
    ApprovalExpired,
    ApprovalNotFound,
    ToolInputInvalid,
)
from protocol.errors.run import RunNotFound
from protocol.errors.session import InputTooLarge, SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.names import MAX_REASON_BYTES
from protocol.limits.permission import MAX_GRANT_USES, MAX_RESOLUTIONS
from protocol.rpc.method import Method, Mutation, Page, Params

ApprovalStatus = Literal["pending", "allowed", "denied", "expired", "withdrawn"]
"""``withdrawn``: the run ended before anybody answered."""
Remember = Literal["once", "run", "session"]


class Preview(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a call would do, as a person is to see it: a diff, a command line, or a sentence.

    ``binding`` is what the approval holds for (the digest of the files shown): were it another when the call
    is about to run, the person is asked again. ``truncated``: there is more than ``text`` shows; all of it
    is what ``blob`` names.
    """

    kind: Literal["diff", "command", "text"]
    text: str
    binding: str | None = None
    truncated: bool = False
    blob: str | None = None


class Approval(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An approval as it is kept. ``created_cursor`` is where it was asked for, ``message_cursor`` where the
    call is.

    ``index`` is which call of that message, from 0. ``resolved_by`` is who answered. What is only read by
    people stands in the journal at these cursors.
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
    expires_at_ms: int | None = None
    resolved_at_ms: int | None = None
    resolved_cursor: Cursor | None = None
    resolved_by: str | None = None
    remember: Remember = "once"
    justification: str = ""
    denial_note: str = ""


class ApprovalView(Approval, frozen=True, kw_only=True, omit_defaults=True):
    """An approval with what is to be decided: why a person is asked, the call's input, what it would do."""

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
    """Params of ``approval.list``: those that wait, oldest first, unless ``status`` says otherwise."""

    session_id: Id | None = None
    run_id: Id | None = None
    status: ApprovalStatus | Literal["any"] = "pending"


class Resolution(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A person's answer to one approval.

    ``updated_input`` replaces the call's arguments; ``note`` of a denial reaches the model, the
    ``justification`` is only recorded. ``remember`` lets the answer hold for further calls of the tool on
    the same subject, ``uses`` of them at most; not one that changes the input.
    """

    approval_id: Id
    decision: Literal["allow", "deny"]
    updated_input: dict[str, Any] | None = None
    note: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""
    remember: Remember = "once"
    uses: Annotated[int, Meta(ge=1, le=MAX_GRANT_USES)] | None = None


class ApprovalResolve(Mutation, frozen=True, kw_only=True):
    """Params of ``approval.resolve``: answers to approvals of one run, all of them or none taken."""

    resolutions: Annotated[list[Resolution], Meta(min_length=1, max_length=MAX_RESOLUTIONS)]


class ApprovalsResolved(Struct, frozen=True, kw_only=True):
    """The approvals as they are now, and how many of the run still wait."""

    approvals: list[ApprovalView]
    run_id: str
    pending: int


LIST = Method(
    "approval.list",
    "query",
    ApprovalListParams,
    ApprovalList,
    "List approvals: those that wait for a person, oldest first.",
    errors=(SessionNotFound, RunNotFound),
)
GET = Method(
    "approval.get",
    "query",
    ApprovalRef,
    ApprovalView,
    "Show an approval with what it would allow.",
    errors=(ApprovalNotFound,),
)
RESOLVE = Method(
    "approval.resolve",
    "mutation",
    ApprovalResolve,
    ApprovalsResolved,
    "Allow or deny calls of one run; the first answer wins.",
    scope="approve",
    errors=(
        ApprovalNotFound,
        ApprovalAlreadyResolved,
        ApprovalExpired,
        ToolInputInvalid,
        InputTooLarge,
        StorageFull,
    ),
    while_draining=True,
)

METHODS = (LIST, GET, RESOLVE)
