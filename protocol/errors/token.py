"""Refusals about the caller: tokens, scopes, origins."""

from __future__ import annotations

from protocol.errors.refusal import Forbidden, LimitReached, NotFound, Unauthenticated, Unprocessable


class TokenMissing(Unauthenticated, reason="token_missing"):
    """This listener requires a bearer token; token.create makes one."""


class TokenInvalid(Unauthenticated, reason="token_invalid"):
    """The bearer token is unknown, expired or revoked; token.create makes a new one."""


class PeerUnknown(Unauthenticated, reason="peer_unknown"):
    """This socket serves only the daemon's own user; ask the operator for a grant on a shared socket."""


class ScopeMissing(Forbidden, reason="scope_missing"):
    """The caller lacks the scope that this method requires."""


class OriginForbidden(Forbidden, reason="origin_forbidden"):
    """Requests from web pages of other origins are rejected."""


class InputOriginForbidden(Forbidden, reason="input_origin_forbidden"):
    """The token fixes the origin of everything it sends; leave 'origin' out."""


class TokenNotFound(NotFound, reason="token_not_found"):
    """No token has that id; token.list shows all tokens."""


class ScopeWouldWiden(Unprocessable, reason="scope_would_widen"):
    """Rights can only be narrowed; request no more than the parent has."""


class TokenLimit(LimitReached, reason="token_limit"):
    """The maximum number of tokens exists; revoke some first."""

    retryable = False
