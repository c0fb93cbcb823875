"""Tokens, pure: folding, secrets, and that narrowing never widens."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.core.token import (
    EVERYTHING,
    SECRET_BYTES,
    SECRET_PREFIX,
    alive,
    digest_of,
    evolve,
    make_secret,
    narrowed,
)
from protocol.errors.token import ScopeWouldWiden
from protocol.events.daemon import DaemonStopped
from protocol.events.token import TokenCreated, TokenRevoked
from protocol.journal.envelope import Envelope
from protocol.objects.token import Names, Token, TokenGrant
from protocol.rpc.method import SCOPES

CREATED = TokenCreated(token_id="tok_1", digest="d", grant=TokenGrant(scopes=["read"]), name="for tests")


def envelope(cursor: int, at_ms: int) -> Envelope:
    """An envelope of the daemon's stream."""
    return Envelope(cursor=cursor, at_ms=at_ms, actor="uid:7")


def test_a_token_is_the_fold_of_its_events() -> None:
    """Created, then revoked; what is about something else changes nothing."""
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


def test_folding_is_total() -> None:
    """A revocation of nothing, as a damaged journal could hold, gives nothing."""
    assert evolve(None, envelope(1, 1000), TokenRevoked(token_id="tok_1")) is None


def test_a_secret_has_a_prefix_and_all_its_randomness() -> None:
    """Two that differ in one bit are two secrets; too little randomness is refused."""
    secrets = {make_secret(bytes([number] * SECRET_BYTES)) for number in range(256)}
    assert len(secrets) == 256
    assert all(secret.startswith(SECRET_PREFIX) and "=" not in secret for secret in secrets)
    with pytest.raises(ValueError, match="exactly 32"):
        make_secret(b"short")


def test_what_is_stored_is_the_sha_256() -> None:
    """In hex, of the whole secret."""
    assert digest_of("kht_x") == hashlib.sha256(b"kht_x").hexdigest()


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
def test_a_token_lives_until_it_ends(
    expires_at_ms: int | None, revoked_at_ms: int | None, now_ms: int, expected: bool
) -> None:
    """From the moment it expires, or is revoked, it opens nothing."""
    token = Token(
        token_id="tok_1",
        name="",
        grant=TokenGrant(scopes=[], expires_at_ms=expires_at_ms),
        created_at_ms=0,
        created_by="uid:0",
        revoked_at_ms=revoked_at_ms,
    )
    assert alive(token, now_ms) is expected


@pytest.mark.parametrize(
    ("held", "wanted", "field"),
    [
        (TokenGrant(scopes=["read"]), TokenGrant(scopes=["read", "admin"]), "scopes"),
        (TokenGrant(scopes=["read"], agents=["a"]), TokenGrant(scopes=[]), "agents"),
        (TokenGrant(scopes=["read"], agents=["a"]), TokenGrant(scopes=[], agents=["a", "b"]), "agents"),
        (TokenGrant(scopes=["read"], senders=[]), TokenGrant(scopes=[], senders=["x"]), "senders"),
        (TokenGrant(scopes=[], expires_at_ms=5), TokenGrant(scopes=[]), "expires_in_s"),
        (TokenGrant(scopes=[], expires_at_ms=5), TokenGrant(scopes=[], expires_at_ms=6), "expires_in_s"),
    ],
)
def test_widening_is_refused_and_named(held: TokenGrant, wanted: TokenGrant, field: str) -> None:
    """In any field, whatever the others say."""
    with pytest.raises(ScopeWouldWiden) as caught:
        narrowed(held, wanted)
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


def rights(grant: TokenGrant) -> set[tuple[str, str, str, int]]:
    """Everything a grant allows, spelled out: each scope, agent and sender at each moment."""
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
def test_no_chain_of_narrowing_gives_a_right_the_first_lacked(chain: list[TokenGrant]) -> None:
    """Whatever is asked for, what is given allows nothing that any before it did not."""
    held = EVERYTHING
    for wanted in chain:
        try:
            given_ = narrowed(held, wanted)
        except ScopeWouldWiden:
            continue
        assert rights(given_) <= rights(held)
        held = given_


@given(grants)
def test_the_same_again_is_not_wider(grant: TokenGrant) -> None:
    """A grant narrows to itself."""
    assert narrowed(grant, grant) == grant
