"""Method rows: name, kind, params, result, scope and refusals of each method, read by daemon and client."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from msgspec import Meta, Struct

from protocol.errors.refusal import Refusal
from protocol.ids import PLAIN_TEXT
from protocol.limits.names import MAX_IDEMPOTENCY_KEY_BYTES
from protocol.limits.page import DEFAULT_PAGE_ROWS, MAX_PAGE_ROWS
from protocol.limits.rpc import MAX_PARAMS_BYTES
from protocol.structs import Value

Kind = Literal["query", "mutation", "control"]
"""``query``: answered inline, changes nothing. ``mutation``: one transaction, then an answer. ``control``:
acts on the running daemon or on this connection (cancel, reload, subscribe).
"""

Scope = Literal["read", "converse", "approve", "operate", "admin"]
"""A right that a method requires. No scope implies another."""

SCOPES: tuple[Scope, ...] = ("read", "converse", "approve", "operate", "admin")

P = TypeVar("P", bound="Params")
R = TypeVar("R")


class Params(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params of a query or a control: by name, unknown fields rejected."""


class NoParams(Params, frozen=True, kw_only=True):
    """Empty params."""


class Mutation(Params, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params that every mutation has besides its own."""

    idempotency_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=MAX_IDEMPOTENCY_KEY_BYTES,
                extra=PLAIN_TEXT,
                description="The same key with the same params returns the same result for 7 days; the "
                "method is executed once.",
            ),
        ]
        | None
    ) = None
    check: Annotated[bool, Meta(description="Dry run: report what would happen, change nothing.")] = False


class Page(Params, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The params of every list: the page size, and the end of the previous page."""

    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE_ROWS, description="Maximum rows per page.")] = (
        DEFAULT_PAGE_ROWS
    )
    after: Annotated[str, Meta(max_length=1024, description="The ``next`` of the previous page.")] | None = (
        None
    )


class Method(Value, Generic[P, R], frozen=True):
    """One method of the contract.

    ``uncompared`` names the params that an idempotency key does not cover (how to wait, not what to do).
    ``secret`` names the result field that is shown once: a repeated request is refused as ``already_shown``.
    ``max_params_bytes`` limits the encoded params. ``while_draining``: a mutation that creates no new work
    and is served during shutdown.
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
