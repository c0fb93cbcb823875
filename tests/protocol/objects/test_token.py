"""Bearer tokens: their rights, and the values that are never shown."""

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
    """A grant without agents covers all, one with an empty list none, also after encoding."""
    for grant in (TokenGrant(scopes=["read"]), TokenGrant(scopes=["read"], agents=[], senders=["ada"])):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(grant), type=TokenGrant) == grant
        assert msgspec.json.decode(msgspec.json.encode(grant), type=TokenGrant) == grant


def test_secret_is_shown_by_its_making_only() -> None:
    """A listed token has neither its secret nor the digest."""
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
    """A value of the wrong shape is refused, and the refusal names its path."""
    assert refuse(kind, params) == field


def test_a_token_narrows_itself() -> None:
    """A token needs neither a scope nor its own id to narrow itself."""
    (narrow,) = (row for row in METHODS if row.name == "token.narrow")
    assert narrow.scope is None
    assert take(TokenNarrow, {}).token_id is None


def test_too_many_tokens_do_not_pass_by_waiting() -> None:
    """The refusal at the maximum of tokens is not retryable."""
    assert TokenLimit.retryable is False
