"""Refusals about who is calling: tokens, scopes, origins."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, NotFound, Refused, TooMany, Unauthenticated


class TokenMissing(Unauthenticated, reason="token_missing"):
    """This listener needs a bearer token; make one with 'kheishctl token create'."""


class TokenInvalid(Unauthenticated, reason="token_invalid"):
    """The bearer token is unknown, expired or revoked; make one with 'kheishctl token create'."""


class PeerUnknown(Unauthenticated, reason="peer_unknown"):
    """This socket serves only the daemon's own user; ask its operator for a grant on a shared one."""


class ScopeMissing(Forbidden, reason="scope_missing"):
    """The caller lacks the scope this method needs."""


class OriginForbidden(Forbidden, reason="origin_forbidden"):
    """Requests from web pages of other origins are refused."""


class TokenNotFound(NotFound, reason="token_not_found"):
    """No token has that id; 'kheishctl token list' shows those there are."""


class ScopeWouldWiden(Refused, reason="scope_would_widen"):
    """Rights only ever narrow; ask for no more than what is held."""


class TokenLimit(TooMany, reason="token_limit"):
    """There are as many tokens as there may be; revoke some."""

    retryable = False
