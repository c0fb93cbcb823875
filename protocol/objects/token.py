"""A bearer token: scopes, optionally the agents and senders it may speak as and read, an end."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden, TokenLimit, TokenNotFound
from protocol.ids import Id
from protocol.rpc.method import Method, Mutation, Page, Scope

Names = Annotated[list[str], Meta(max_length=256)] | None
"""Names a token covers: null is every name, an empty list none."""


class TokenGrant(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a token allows. Narrowing gives one that allows no more, in any field."""

    scopes: list[Scope]
    agents: Names = None
    senders: Names = None
    expires_at_ms: int | None = None


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token as it is kept and listed: never its secret."""

    token_id: Id
    name: str
    grant: TokenGrant
    created_at_ms: int
    created_by: str
    parent_token_id: str | None = None
    revoked_at_ms: int | None = None


class TokenMade(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A new token; ``secret`` is shown this once."""

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


class TokenNarrow(Mutation, frozen=True, kw_only=True):
    """Params of ``token.narrow``: a new token that allows no more than ``token_id`` does.

    A caller that is itself a token narrows itself when ``token_id`` is left out, and needs no scope.
    """

    token_id: Id | None = None
    name: Annotated[str, Meta(max_length=128)] = ""
    scopes: Annotated[list[Scope], Meta(max_length=5)] | None = None
    agents: Names = None
    senders: Names = None
    expires_in_s: Annotated[int, Meta(ge=1, le=10 * 366 * 24 * 3600)] | None = None


class TokenListParams(Page, frozen=True, kw_only=True):
    """Params of ``token.list``."""

    revoked: Annotated[bool, Meta(description="Also list revoked and expired ones.")] = False


class TokenRevoke(Mutation, frozen=True, kw_only=True):
    """Params of ``token.revoke``: the token, those narrowed from it, and their live connections end."""

    token_id: Id
    note: Annotated[str, Meta(max_length=512)] = ""


CREATE = Method(
    "token.create",
    "mutation",
    TokenCreate,
    TokenMade,
    "Make a bearer token; its secret is shown once.",
    scope="admin",
    errors=(ScopeWouldWiden, TokenLimit, StorageFull),
    secret="secret",
)
NARROW = Method(
    "token.narrow",
    "mutation",
    TokenNarrow,
    TokenMade,
    "Make a weaker token from one.",
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
