"""Records of tokens and their index rows."""

import pytest

from kheishd.records.token import TOKEN_RECORDS
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.objects.token import TokenGrant
from tests.support.records import fold_record, index_rows

CREATED = TokenCreated(token_id="tok_1", digest="d1", grant=TokenGrant(scopes=["read"]))
REVOKED = TokenRevoked(token_id="tok_1")


def test_a_secret_leads_to_its_token_until_it_is_revoked() -> None:
    """A revoked token has no row for its secret, and its record is final."""
    assert index_rows(TOKEN_RECORDS, CREATED) == {"tokens_by_digest": [("d1",)]}
    assert index_rows(TOKEN_RECORDS, CREATED, REVOKED) == {}
    record = fold_record(TOKEN_RECORDS, CREATED, REVOKED)
    assert (record.digest, record.created_cursor, record.token.revoked_at_ms) == ("d1", 1, 2000)
    assert TOKEN_RECORDS.final(record)
    assert not TOKEN_RECORDS.final(fold_record(TOKEN_RECORDS, CREATED))


def test_a_token_is_created_before_it_is_revoked() -> None:
    """Revoking a token that was never created is damage."""
    with pytest.raises(AssertionError, match="created before"):
        fold_record(TOKEN_RECORDS, REVOKED)
