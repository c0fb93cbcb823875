"""A method is one row. The dispatcher, the client, OpenRPC, the man pages and the tests all read it."""

from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from protocol.errors import Refusal
from protocol.limits import (
    IDEMPOTENCY_KEY_BYTES_MAX,
    PAGE_ROWS_DEFAULT,
    PAGE_ROWS_MAX,
    PARAMS_BYTES_MAX,
)

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
                max_length=IDEMPOTENCY_KEY_BYTES_MAX,
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

    limit: Annotated[int, Meta(ge=1, le=PAGE_ROWS_MAX, description="Rows at most.")] = PAGE_ROWS_DEFAULT
    after: Annotated[str, Meta(max_length=1024, description="The ``next`` of the page before.")] | None = None


@dataclass(frozen=True, slots=True)
class Method(Generic[P, R]):
    """One method of the contract.

    ``uncompared`` names the params that an idempotency key does not cover (how to wait, not what to
    do). ``secret`` names the result field that is shown once: a repeated request is ``already_shown``.
    ``params_bytes_max`` is how long its params may be as they come. ``while_draining`` is for mutations
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
    params_bytes_max: int = PARAMS_BYTES_MAX
    while_draining: bool = False


AnyMethod = Method[Any, Any]
