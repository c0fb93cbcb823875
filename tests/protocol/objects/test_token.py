"""Bearer tokens: what they cover, and what is never shown."""

import msgspec
import pytest

from protocol.errors.token import TokenLimit
from protocol.objects.token import (
    METHODS,
    NewToken,
    Token,
    TokenCreate,
    TokenGrant,
    TokenNarrow,
    TokenRevoke,
)
from tests.support.samples import refuse, take


def test_every_name_and_no_name_differ() -> None:
    """A grant without agents covers all of them, one with an empty list none, also once stored."""
    for grant in (TokenGrant(scopes=["read"]), TokenGrant(scopes=["read"], agents=[], senders=["ada"])):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(grant), type=TokenGrant) == grant
        assert msgspec.json.decode(msgspec.json.encode(grant), type=TokenGrant) == grant


def test_secret_is_shown_by_its_making_only() -> None:
    """A token as listed has no secret and no digest."""
    assert not {"secret", "digest"} & set(Token.__struct_fields__)
    assert "secret" in NewToken.__struct_fields__
    assert {row.name for row in METHODS if row.secret} == {"token.create", "token.narrow"}


@pytest.mark.parametrize(
    ("kind", "params", "field"),
    [
        (TokenCreate, {}, "$.params.scopes"),
        (TokenCreate, {"scopes": []}, "$.params.scopes"),
        (TokenCreate, {"scopes": ["root"]}, "$.params.scopes[0]"),
        (TokenCreate, {"scopes": ["read"] * 6}, "$.params.scopes"),
        (TokenCreate, {"scopes": ["read"], "expires_in_s": 0}, "$.params.expires_in_s"),
        (TokenCreate, {"scopes": ["read"], "expires_in_s": 10**12}, "$.params.expires_in_s"),
        (TokenCreate, {"scopes": ["read"], "agents": "all"}, "$.params.agents"),
        (TokenCreate, {"scopes": ["read"], "name": "x" * 129}, "$.params.name"),
        (TokenNarrow, {"senders": ["x"] * 257}, "$.params.senders"),
        (TokenRevoke, {}, "$.params.token_id"),
    ],
)
def test_refused(kind: type, params: dict[str, object], field: str) -> None:
    """What has the wrong shape is refused by its path."""
    assert refuse(kind, params) == field


def test_a_token_narrows_itself() -> None:
    """A token needs no right, nor its own id, to make a weaker one."""
    (narrow,) = (row for row in METHODS if row.name == "token.narrow")
    assert narrow.scope is None
    assert take(TokenNarrow, {}).token_id is None


def test_too_many_tokens_do_not_pass_by_waiting() -> None:
    """Trying again does not help; revoking does."""
    assert TokenLimit.retryable is False
