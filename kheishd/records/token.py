"""Records of bearer tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kheishd.core import token as token_rules
from kheishd.records.projection import IndexRow, Projection, key_in
from kheishd.store.records import TokenRecord
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import DAEMON_STREAM

if TYPE_CHECKING:
    from protocol.journal.envelope import Envelope


def evolve(record: TokenRecord | None, envelope: Envelope, event: TokenCreated | TokenRevoked) -> TokenRecord:
    """Return the record of a token after an event. Errors: AssertionError for one that was never created."""
    token = token_rules.evolve(record.token if record is not None else None, envelope, event)
    assert token is not None, "a token is created before it is revoked"
    if isinstance(event, TokenCreated):
        return TokenRecord(token=token, digest=event.digest, created_cursor=envelope.cursor)
    assert record is not None
    return TokenRecord(token=token, digest=record.digest, created_cursor=record.created_cursor)


def is_final(record: TokenRecord) -> bool:
    """Whether the token was revoked."""
    return record.token.revoked_at_ms is not None


def index_rows(record: TokenRecord) -> frozenset[IndexRow]:
    """Return the index row by which a secret leads to the token."""
    # The secret of a revoked token opens nothing any more.
    if is_final(record):
        return frozenset()
    return frozenset((IndexRow(TOKENS_BY_DIGEST, (record.digest,), record.token.token_id),))


TOKEN_RECORDS: Final = Projection(
    kind="token",
    table=TOKENS,
    begins=TokenCreated,
    events=(TokenCreated, TokenRevoked),
    key=key_in("token_id"),
    evolve=evolve,
    source=lambda store, key, record: (DAEMON_STREAM, record.created_cursor),
    stream=DAEMON_STREAM,
    final=is_final,
    rows=index_rows,
    indexes=(TOKENS_BY_DIGEST,),
    bounded=True,
)
