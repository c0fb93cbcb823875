"""Tokens, pure: a record as the fold of its events, what is stored of a secret, and narrowing."""

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
"""What every secret begins with, so that scanners for leaked credentials can know it."""
SECRET_BYTES = 32

EVERYTHING = TokenGrant(scopes=list(SCOPES))
"""What the daemon's own user may do."""


def make_secret(randomness: bytes) -> str:
    """A bearer secret. Errors: ValueError unless there are 256 bits of randomness."""
    if len(randomness) != SECRET_BYTES:
        raise ValueError(f"a secret takes exactly {SECRET_BYTES} bytes of randomness")
    return SECRET_PREFIX + urlsafe_b64encode(randomness).rstrip(b"=").decode()


def digest_of(secret: str) -> str:
    """What is stored of a secret. It is random, so a fast hash is as good as a slow one."""
    return hashlib.sha256(secret.encode()).hexdigest()


def alive(token: Token, now_ms: int) -> bool:
    """Whether a token opens anything now."""
    expires_at_ms = token.grant.expires_at_ms
    return token.revoked_at_ms is None and (expires_at_ms is None or now_ms < expires_at_ms)


def evolve(token: Token | None, envelope: Envelope, event: JournalEvent) -> Token | None:
    """The token after an event of the daemon's stream; events about anything else leave it as it is."""
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


def narrowed(held: TokenGrant, wanted: TokenGrant) -> TokenGrant:
    """``wanted``, if it allows nothing that ``held`` does not, in any field.

    Errors: ScopeWouldWiden, naming the field.
    """
    beyond = [scope for scope in wanted.scopes if scope not in held.scopes]
    if beyond:
        raise ScopeWouldWiden(f"the scope '{beyond[0]}' is not held", field="$.params.scopes", hint=beyond[0])
    _covered(held.agents, wanted.agents, "agents")
    _covered(held.senders, wanted.senders, "senders")
    if held.expires_at_ms is not None and (
        wanted.expires_at_ms is None or wanted.expires_at_ms > held.expires_at_ms
    ):
        raise ScopeWouldWiden("it would outlive what is held", field="$.params.expires_in_s")
    return wanted


def _covered(held: Names, wanted: Names, field: str) -> None:
    """Errors: ScopeWouldWiden unless every name wanted is held; null is every name."""
    if held is None:
        return
    if wanted is None:
        raise ScopeWouldWiden(f"the {field} are limited and stay so", field=f"$.params.{field}")
    beyond = [name for name in wanted if name not in held]
    if beyond:
        raise ScopeWouldWiden(f"'{beyond[0]}' is not among the {field} held", field=f"$.params.{field}")
