"""Tokens: the record, secrets, and narrowing that never widens."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.token import (
    EVERYTHING,
    SECRET_BYTES,
    SECRET_PREFIX,
    evolve,
    hash_secret,
    is_alive,
    make_secret,
    narrow_grant,
)
from protocol.errors.token import ScopeWouldWiden
from protocol.events.daemon import DaemonStopped
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import Envelope
from protocol.objects.token import Names, Token, TokenGrant
from protocol.rpc.method import SCOPES

CREATED = TokenCreated(token_id="tok_1", digest="d", grant=TokenGrant(scopes=["read"]), name="for tests")


def envelope(cursor: int, at_ms: int) -> Envelope:
    """Make an envelope of the daemon's stream."""
    return Envelope(cursor=cursor, at_ms=at_ms, actor="uid:7")


def test_evolve() -> None:
    """A token is created, then revoked; other events change nothing."""
    made = evolve(None, envelope(1, 1000), CREATED)
    assert made == Token(
        token_id="tok_1",
        name="for tests",
        grant=TokenGrant(scopes=["read"]),
        created_at_ms=1000,
        created_by="uid:7",
    )
    assert evolve(made, envelope(2, 1500), DaemonStopped(note="x")) == made
    revoked = evolve(made, envelope(3, 2000), TokenRevoked(token_id="tok_1"))
    assert revoked is not None
    assert revoked.revoked_at_ms == 2000


def test_evolve_is_total() -> None:
    """Revoking an unknown token, as in a damaged journal, has no effect."""
    assert evolve(None, envelope(1, 1000), TokenRevoked(token_id="tok_1")) is None


def test_make_secret() -> None:
    """Secrets have the prefix and differ in each bit of randomness; too little is an error."""
    secrets = {make_secret(bytes([number] * SECRET_BYTES)) for number in range(256)}
    assert len(secrets) == 256
    assert all(secret.startswith(SECRET_PREFIX) and "=" not in secret for secret in secrets)
    with pytest.raises(ValueError, match="exactly 32"):
        make_secret(b"short")


def test_hash_secret() -> None:
    """The stored hash is the SHA-256 of the whole secret, in hex."""
    assert hash_secret("kht_x") == hashlib.sha256(b"kht_x").hexdigest()


@pytest.mark.parametrize(
    ("expires_at_ms", "revoked_at_ms", "now_ms", "expected"),
    [
        (None, None, 10, True),
        (11, None, 10, True),
        (10, None, 10, False),
        (None, 5, 10, False),
        (11, 5, 10, False),
    ],
)
def test_is_alive(expires_at_ms: int | None, revoked_at_ms: int | None, now_ms: int, expected: bool) -> None:
    """A token is alive until it expires or is revoked."""
    token = Token(
        token_id="tok_1",
        name="",
        grant=TokenGrant(scopes=[], expires_at_ms=expires_at_ms),
        created_at_ms=0,
        created_by="uid:0",
        revoked_at_ms=revoked_at_ms,
    )
    assert is_alive(token, now_ms) is expected


@pytest.mark.parametrize(
    ("current", "requested", "field"),
    [
        (TokenGrant(scopes=["read"]), TokenGrant(scopes=["read", "admin"]), "scopes"),
        (TokenGrant(scopes=["read"], agents=["a"]), TokenGrant(scopes=[]), "agents"),
        (TokenGrant(scopes=["read"], agents=["a"]), TokenGrant(scopes=[], agents=["a", "b"]), "agents"),
        (TokenGrant(scopes=["read"], senders=[]), TokenGrant(scopes=[], senders=["x"]), "senders"),
        (TokenGrant(scopes=[], expires_at_ms=5), TokenGrant(scopes=[]), "expires_in_s"),
        (TokenGrant(scopes=[], origin="event"), TokenGrant(scopes=[]), "origin"),
        (TokenGrant(scopes=[], origin="event"), TokenGrant(scopes=[], origin="connector"), "origin"),
        (TokenGrant(scopes=[], expires_at_ms=5), TokenGrant(scopes=[], expires_at_ms=6), "expires_in_s"),
    ],
)
def test_narrow_widening(current: TokenGrant, requested: TokenGrant, field: str) -> None:
    """Widening any field is refused with that field."""
    with pytest.raises(ScopeWouldWiden) as caught:
        narrow_grant(current, requested)
    assert caught.value.field == f"$.params.{field}"


NAMES = ["a", "b", "c"]
names: st.SearchStrategy[Names] = st.none() | st.lists(st.sampled_from(NAMES), unique=True)
grants = st.builds(
    TokenGrant,
    scopes=st.lists(st.sampled_from(SCOPES), unique=True),
    agents=names,
    senders=names,
    expires_at_ms=st.none() | st.integers(0, 5),
)


def spell_out(grant: TokenGrant) -> set[tuple[str, str, str, int]]:
    """Return all rights of a grant: each scope, agent and sender at each moment."""
    end = 6 if grant.expires_at_ms is None else grant.expires_at_ms
    every = [*NAMES, "another"]
    return {
        (scope, agent, sender, moment)
        for scope in grant.scopes
        for agent in (every if grant.agents is None else grant.agents)
        for sender in (every if grant.senders is None else grant.senders)
        for moment in range(end)
    }


@given(st.lists(grants, min_size=1, max_size=5))
def test_no_chain_of_narrowing_widens(chain: list[TokenGrant]) -> None:
    """No chain of narrowing adds a right."""
    current = EVERYTHING
    for requested in chain:
        try:
            granted = narrow_grant(current, requested)
        except ScopeWouldWiden:
            continue
        assert spell_out(granted) <= spell_out(current)
        current = granted


@given(grants)
def test_a_grant_narrows_to_itself(grant: TokenGrant) -> None:
    """A grant narrows to itself."""
    assert narrow_grant(grant, grant) == grant
