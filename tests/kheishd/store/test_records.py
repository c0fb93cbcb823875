"""Stored structs that never cross the wire."""

import msgspec

from kheishd.store.records import Binding, Receipt, TokenRecord
from protocol.objects.token import Token, TokenGrant

TOKEN = Token(
    token_id="tok_1",
    name="n",
    grant=TokenGrant(scopes=["read"]),
    created_at_ms=1,
    created_by="uid:0",
)


def test_records_come_back() -> None:
    """Every record is equal after it was stored as MessagePack."""
    for record in (
        Binding(session_id="ses_1", bound_at_ms=1, bound_cursor=1),
        TokenRecord(token=TOKEN, digest="00", created_cursor=1),
        Receipt(params_digest=b"\x00\xff", result=b'{"a":1}', at_ms=1),
    ):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record)) == record


def test_a_record_of_a_newer_version_is_read() -> None:
    """Unknown fields of a newer version are ignored."""
    newer = msgspec.msgpack.encode(
        {"session_id": "ses_1", "bound_at_ms": 1, "bound_cursor": 1, "color": "blue"}
    )
    assert msgspec.msgpack.decode(newer, type=Binding) == Binding(
        session_id="ses_1", bound_at_ms=1, bound_cursor=1
    )
