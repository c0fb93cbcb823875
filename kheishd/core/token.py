"""Tokens: a record as the projection of its events, secrets and their hashes, and narrowing. Pure."""

import hashlib
from base64 import urlsafe_b64encode

from msgspec.structs import replace

from protocol.errors.token import ScopeWouldWiden
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import Envelope
from protocol.journal.line import JournalEvent
from protocol.objects.token import Names, Token, TokenGrant
from protocol.rpc.method import SCOPES

SECRET_PREFIX = "kht_"
"""The prefix of every secret, for scanners that search for leaked credentials."""
SECRET_BYTES = 32

EVERYTHING = TokenGrant(scopes=list(SCOPES))
"""The rights of the daemon's own user."""


def make_secret(randomness: bytes) -> str:
    """Make a bearer secret. Errors: ValueError unless there are 256 bits of randomness."""
    if len(randomness) != SECRET_BYTES:
        raise ValueError(f"a secret takes exactly {SECRET_BYTES} bytes of randomness")
    return SECRET_PREFIX + urlsafe_b64encode(randomness).rstrip(b"=").decode()


def hash_secret(secret: str) -> str:
    """Return the stored hash of a secret. Secrets are random, so a fast hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).hexdigest()


def is_alive(token: Token, now_ms: int) -> bool:
    """Whether a token is neither revoked nor expired."""
    expires_at_ms = token.grant.expires_at_ms
    return token.revoked_at_ms is None and (expires_at_ms is None or now_ms < expires_at_ms)


def evolve(token: Token | None, envelope: Envelope, event: JournalEvent) -> Token | None:
    """Return the token after an event of the daemon's stream; other events do not change it."""
    match event:
        case TokenCreated():
            return Token(
                token_id=event.token_id,
                name=event.name,
                grant=event.grant,
                created_at_ms=envelope.at_ms,
                created_by=envelope.actor,
                parent_token_id=event.parent_token_id,
            )
        case TokenRevoked() if token is not None:
            return replace(token, revoked_at_ms=envelope.at_ms)
        case _:
            return token


def narrow_grant(current: TokenGrant, requested: TokenGrant) -> TokenGrant:
    """Return the requested rights if the current rights include them, in every field.

    Errors: ScopeWouldWiden, naming the field.
    """
    beyond = [scope for scope in requested.scopes if scope not in current.scopes]
    if beyond:
        raise ScopeWouldWiden(
            f"the token does not have the scope '{beyond[0]}'", field="$.params.scopes", hint=beyond[0]
        )
    _require_included(current.agents, requested.agents, "agents")
    _require_included(current.senders, requested.senders, "senders")
    if current.origin is not None and requested.origin != current.origin:
        raise ScopeWouldWiden(
            f"everything that the token sends has the origin '{current.origin}', and that stays so",
            field="$.params.origin",
        )
    if current.expires_at_ms is not None and (
        requested.expires_at_ms is None or requested.expires_at_ms > current.expires_at_ms
    ):
        raise ScopeWouldWiden("it would outlive the caller's own token", field="$.params.expires_in_s")
    return requested


def _require_included(current: Names, requested: Names, field: str) -> None:
    """Require that the current names include all requested ones; null means every name."""
    if current is None:
        return
    if requested is None:
        raise ScopeWouldWiden(f"the {field} of the token are limited and stay so", field=f"$.params.{field}")
    beyond = [name for name in requested if name not in current]
    if beyond:
        raise ScopeWouldWiden(
            f"'{beyond[0]}' is not among the {field} of the caller's token", field=f"$.params.{field}"
        )
