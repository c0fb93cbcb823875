"""An in-doubt call: the daemon crashed while the call ran, and its effect is unknown.

The call is never run again silently and never lost silently: the model is told plainly, and an operator (or
the tool's own probe) resolves it as done or not done.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from protocol.errors.indoubt import IndoubtAlreadyResolved, IndoubtNotFound
from protocol.errors.run import RunNotFound
from protocol.errors.session import SessionNotFound
from protocol.errors.store import StorageFull
from protocol.ids import Cursor, Id
from protocol.limits.names import MAX_REASON_BYTES
from protocol.rpc.method import Method, Mutation, Page, Params

IndoubtStatus = Literal["open", "done", "not_done"]


class Indoubt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An in-doubt call as stored.

    ``evidence`` was collected before and during the call, and after the crash. ``resolved_by`` is the
    operator, or ``probe``.
    """

    indoubt_id: Id
    session_id: Id
    run_id: Id
    call_id: str
    tool: str
    status: IndoubtStatus
    called_at_ms: int
    found_at_ms: int
    created_cursor: Cursor
    message_cursor: Cursor
    index: int
    agent: str = ""
    sender: str | None = None
    note: str = ""
    evidence: dict[str, Any] = {}
    resolved_at_ms: int | None = None
    resolved_by: str | None = None
    justification: str = ""


class IndoubtView(Indoubt, frozen=True, kw_only=True, omit_defaults=True):
    """An in-doubt call with its arguments."""

    arguments: dict[str, Any] = {}


class IndoubtList(Struct, frozen=True):
    """A page of in-doubt calls."""

    indoubts: list[IndoubtView]
    next: str | None


class IndoubtRef(Params, frozen=True, kw_only=True):
    """Params that name an in-doubt call."""

    indoubt_id: Id


class IndoubtListParams(Page, frozen=True, kw_only=True):
    """Params of ``indoubt.list``: open ones unless ``status`` says otherwise, oldest first."""

    session_id: Id | None = None
    run_id: Id | None = None
    status: IndoubtStatus | Literal["any"] = "open"


class IndoubtResolve(Mutation, frozen=True, kw_only=True):
    """Params of ``indoubt.resolve``. The model reads the outcome before its next answer."""

    indoubt_id: Id
    outcome: Literal["done", "not_done"]
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


LIST = Method(
    "indoubt.list",
    "query",
    IndoubtListParams,
    IndoubtList,
    "List in-doubt calls: calls whose outcome is unknown.",
    errors=(SessionNotFound, RunNotFound),
)
GET = Method(
    "indoubt.get",
    "query",
    IndoubtRef,
    IndoubtView,
    "Show an in-doubt call with its evidence.",
    errors=(IndoubtNotFound,),
)
RESOLVE = Method(
    "indoubt.resolve",
    "mutation",
    IndoubtResolve,
    IndoubtView,
    "Record whether an in-doubt call took effect; the model is told.",
    scope="operate",
    errors=(IndoubtNotFound, IndoubtAlreadyResolved, StorageFull),
    while_draining=True,
)

METHODS = (LIST, GET, RESOLVE)
