"""A bearer token: its scopes, optionally the agents and senders it covers, and its expiry."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden, TokenLimit, TokenNotFound
from protocol.ids import IDENTITY, Id
from protocol.rpc.method import Method, Mutation, Page, Scope
from protocol.transcript import DeclaredOrigin

Names = Annotated[list[str], Meta(max_length=256, extra=IDENTITY)] | None
"""Names that a token covers: null means every name, an empty list none."""


class TokenGrant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rights of a token. Narrowing creates a token with no more rights in any field.

    ``origin`` is the origin of every input that the token sends; null: it may declare one.
    """

    scopes: list[Scope]
    agents: Names = None
    senders: Names = None
    expires_at_ms: int | None = None
    origin: DeclaredOrigin | None = None


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token as stored and listed, without its secret."""

    token_id: Id
    name: str
    grant: TokenGrant
    created_at_ms: int
    created_by: str
    parent_token_id: str | None = None
    revoked_at_ms: int | None = None


class NewToken(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A new token; ``secret`` is shown only here."""

    token: Token
    secret: str


class TokenList(Struct, frozen=True):
    """A page of tokens, oldest first."""

    tokens: list[Token]
    next: str | None


class TokenCreate(Mutation, frozen=True, kw_only=True):
    """Params of ``token.create``."""

    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=5)]
    name: Annotated[str, Meta(max_length=128)] = ""
    agents: Names = None
    senders: Names = None
    expires_in_s: Annotated[int, Meta(ge=1, le=10 * 366 * 24 * 3600)] | None = None
    origin: DeclaredOrigin | None = None


class TokenNarrow(Mutation, frozen=True, kw_only=True):
    """Params of ``token.narrow``: a new token with no more rights than ``token_id``.

    A caller that authenticated with a token may omit ``token_id`` to narrow its own, and needs no scope.
    """

    token_id: Id | None = None
    name: Annotated[str, Meta(max_length=128)] = ""
    scopes: Annotated[list[Scope], Meta(max_length=5)] | None = None
    agents: Names = None
    senders: Names = None
    expires_in_s: Annotated[int, Meta(ge=1, le=10 * 366 * 24 * 3600)] | None = None
    origin: DeclaredOrigin | None = None


class TokenListParams(Page, frozen=True, kw_only=True):
    """Params of ``token.list``."""

    revoked: Annotated[bool, Meta(description="Include revoked and expired tokens.")] = False


class TokenRevoke(Mutation, frozen=True, kw_only=True):
    """Params of ``token.revoke``: the token, all tokens narrowed from it and their connections end."""

    token_id: Id
    note: Annotated[str, Meta(max_length=512)] = ""


CREATE = Method(
    "token.create",
    "mutation",
    TokenCreate,
    NewToken,
    "Create a bearer token; its secret is shown once.",
    scope="admin",
    errors=(ScopeWouldWiden, TokenLimit, StorageFull),
    secret="secret",
)
NARROW = Method(
    "token.narrow",
    "mutation",
    TokenNarrow,
    NewToken,
    "Create a token with fewer rights from another token.",
    scope=None,
    errors=(TokenNotFound, ScopeWouldWiden, TokenLimit, StorageFull),
    secret="secret",
)
LIST = Method("token.list", "query", TokenListParams, TokenList, "List tokens, oldest first.", scope="admin")
REVOKE = Method(
    "token.revoke",
    "mutation",
    TokenRevoke,
    Token,
    "Revoke a token and close its connections.",
    scope="admin",
    errors=(TokenNotFound, StorageFull),
    while_draining=True,
)

METHODS = (CREATE, NARROW, LIST, REVOKE)
