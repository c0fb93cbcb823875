"""A call that is in doubt: the daemon died while it ran, and it may or may not have taken effect.

It is never run again in silence and never lost in silence: the model is told plainly, and an operator (or
the tool's own probe) settles it as done or not done.
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
    """A call in doubt as it is kept: what was called, when, and what is known about it.

    ``evidence`` is what was noted before and while it ran, and what was found afterwards. ``resolved_by`` is
    who settled it; ``probe`` if the tool itself did.
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
    """A call in doubt with its arguments."""

    arguments: dict[str, Any] = {}


class IndoubtList(Struct, frozen=True):
    """A page of calls in doubt."""

    indoubts: list[IndoubtView]
    next: str | None


class IndoubtRef(Params, frozen=True, kw_only=True):
    """Params that name a call in doubt."""

    indoubt_id: Id


class IndoubtListParams(Page, frozen=True, kw_only=True):
    """Params of ``indoubt.list``: the open ones, oldest first, unless ``status`` says otherwise."""

    session_id: Id | None = None
    run_id: Id | None = None
    status: IndoubtStatus | Literal["any"] = "open"


class IndoubtResolve(Mutation, frozen=True, kw_only=True):
    """Params of ``indoubt.resolve``: what became of the call; the model is told before its next answer."""

    indoubt_id: Id
    outcome: Literal["done", "not_done"]
    justification: Annotated[str, Meta(max_length=MAX_REASON_BYTES)] = ""


LIST = Method(
    "indoubt.list",
    "query",
    IndoubtListParams,
    IndoubtList,
    "List calls of which nobody knows whether they took effect.",
    errors=(SessionNotFound, RunNotFound),
)
GET = Method(
    "indoubt.get",
    "query",
    IndoubtRef,
    IndoubtView,
    "Show a call in doubt with its evidence.",
    errors=(IndoubtNotFound,),
)
RESOLVE = Method(
    "indoubt.resolve",
    "mutation",
    IndoubtResolve,
    IndoubtView,
    "Say what became of a call in doubt; the model is told.",
    scope="operate",
    errors=(IndoubtNotFound, IndoubtAlreadyResolved, StorageFull),
    while_draining=True,
)

METHODS = (LIST, GET, RESOLVE)
