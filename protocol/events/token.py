"""Events of bearer tokens."""

from protocol.journal.envelope import Event
from protocol.objects.token import TokenGrant


class TokenCreated(Event, frozen=True, tag="token_created"):
    """A bearer token was created. ``digest`` is the SHA-256 of its secret, in hex."""

    token_id: str
    digest: str
    grant: TokenGrant
    name: str = ""
    parent_token_id: str | None = None


class TokenRevoked(Event, frozen=True, tag="token_revoked"):
    """A bearer token was revoked."""

    token_id: str
    note: str = ""
