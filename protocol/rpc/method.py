"""A method is one row. The dispatcher, the client, OpenRPC, the man pages and the tests all read it."""

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from protocol.errors.refusal import Refusal
from protocol.limits.names import MAX_IDEMPOTENCY_KEY_BYTES
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.limits.rpc import MAX_PARAMS_BYTES

Kind = Literal["query", "mutation", "control"]
"""``query``: answered inline, changes nothing. ``mutation``: one transaction, then an answer.
``control``: acts on the running daemon or this connection (cancel, reload, subscribe)."""

Scope = Literal["read", "converse", "approve", "operate", "admin"]
"""The right a caller needs. None of them implies another."""

SCOPES: tuple[Scope, ...] = ("read", "converse", "approve", "operate", "admin")

P = TypeVar("P", bound="Params")
R = TypeVar("R")


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params of a query or a control: by name, nothing unknown."""


class Mutation(Params, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params every mutation has besides its own."""

    idempotency_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_IDEMPOTENCY_KEY_BYTES,
                description="The same key with the same params gives the same result, once done, for 7 days.",
            ),
        ]
        | None
    ) = None
    check: Annotated[
        bool, Meta(description="Only say whether it would succeed and what it would give; change nothing.")
    ] = False


class Page(Params, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params every list has besides its own."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ROWS, description="Rows at most.")] = DEFAULT_PAGE_ROWS
    after: Annotated[str, Meta(max_length=1024, description="The ``next`` of the page before.")] | None = None


@dataclass(frozen=True, slots=True)
class Method(Generic[P, R]):
    """One method of the contract.

    ``uncompared`` names the params that an idempotency key does not cover (how to wait, not what to
    do). ``secret`` names the result field that is shown once: a repeated request is ``already_shown``.
    ``max_params_bytes`` is how long its params may be as they come. ``while_draining`` is for mutations
    that make no new work: they are served while the daemon stops, too.
    """

    name: str
    kind: Kind
    params: type[P]
    result: type[R]
    summary: str
    scope: Scope | None = "read"
    errors: tuple[type[Refusal], ...] = ()
    since: str = "0.1"
    uncompared: tuple[str, ...] = ()
    secret: str | None = None
    max_params_bytes: int = MAX_PARAMS_BYTES
    while_draining: bool = False


AnyMethod = Method[Any, Any]
