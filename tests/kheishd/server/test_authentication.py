"""Authentication: identities and their rights."""

import os
import socket
from typing import Any

import pytest

from kheishd.kernel.state import State
from kheishd.server.authentication import (
    SocketGrant,
    SocketPeer,
    find_private_caller,
    find_shared_caller,
    find_token_caller,
    peer_of,
    require_allowed_origin,
)
from kheishd.store.environment import Transaction
from kheishd.store.records import TokenRecord
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.errors.token import OriginForbidden, PeerUnknown, TokenInvalid, TokenMissing
from protocol.objects.token import Token, TokenGrant
from protocol.rpc.method import SCOPES

OTHER_UID = 54_321


def test_the_kernel_says_who_connected() -> None:
    """The kernel names the process, user and group of the other end."""
    one, other = socket.socketpair()
    with one, other:
        assert peer_of(one) == SocketPeer(os.getpid(), os.getuid(), os.getgid())


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_the_daemon_s_own_user_and_root_may_do_everything(uid: int) -> None:
    """The daemon's user and root have every right on the private socket."""
    caller = find_private_caller(SocketPeer(1, uid, 1))
    assert caller.principal == f"uid:{uid}"
    assert caller.scopes == frozenset(SCOPES)
    assert caller.is_unrestricted


def test_others_may_do_nothing_on_the_private_socket() -> None:
    """Other users are refused on the private socket, with their uid in the hint."""
    with pytest.raises(PeerUnknown) as caught:
        find_private_caller(SocketPeer(1, OTHER_UID, 1))
    assert caught.value.hint == f"uid {OTHER_UID}"


GRANTS = (
    SocketGrant(gid=50, scopes=("read",)),
    SocketGrant(uid=7, scopes=("read", "operate"), agents=frozenset(("helper",)), senders=frozenset()),
    SocketGrant(uid=7, scopes=("admin",)),
)


def test_a_grant_of_the_user_comes_before_one_of_the_group() -> None:
    """A grant of the user precedes one of the group; the first of each applies."""
    caller = find_shared_caller(SocketPeer(1, 7, 50), GRANTS)
    assert caller.scopes == frozenset(("read", "operate"))
    assert (caller.agents, caller.senders) == (frozenset(("helper",)), frozenset())
    assert find_shared_caller(SocketPeer(1, 8, 50), GRANTS).scopes == frozenset(("read",))


def test_a_grant_can_fix_the_origin() -> None:
    """Everything that the user sends on the shared socket has it."""
    bridge = SocketGrant(uid=9, origin="connector")
    assert find_shared_caller(SocketPeer(1, 9, 50), (bridge,)).origin == "connector"
    assert find_shared_caller(SocketPeer(1, 7, 50), GRANTS).origin is None


@pytest.mark.parametrize("uid", [0, 8])
def test_without_a_grant_nobody_may_use_the_shared_socket(uid: int) -> None:
    """A user without a grant is refused on the shared socket, even root."""
    with pytest.raises(PeerUnknown):
        find_shared_caller(SocketPeer(1, uid, 51), GRANTS)


def keep(tx: Transaction, token_id: str, digest: str, parent: str | None = None, **grant: Any) -> None:
    """Put a token where it belongs; its events are not needed here."""
    token = Token(
        token_id=token_id,
        name="",
        grant=TokenGrant(**({"scopes": ["read"]} | grant)),
        created_at_ms=0,
        created_by="uid:0",
        parent_token_id=parent,
        revoked_at_ms=5 if token_id == "tok_revoked" else None,
    )
    tx.put(TOKENS, token_id, value=TokenRecord(token=token, digest=digest, created_cursor=1))
    tx.put(TOKENS_BY_DIGEST, digest, value=token_id)


@pytest.fixture
async def tokens(inline_state: State, monkeypatch: pytest.MonkeyPatch) -> State:
    """Provide a store with tokens whose digests are their secrets."""
    monkeypatch.setattr("kheishd.server.authentication.hash_secret", lambda secret: secret)

    def fill(tx: Transaction) -> None:
        keep(tx, "tok_good", "good", agents=["helper"], senders=["ann"], expires_at_ms=1000)
        keep(tx, "tok_revoked", "revoked")
        keep(tx, "tok_child", "child", parent="tok_revoked")

    await inline_state.update(fill)
    return inline_state


async def test_a_token_says_what_its_bearer_may_do(tokens: State) -> None:
    """A token determines scopes, agents, senders and expiry."""
    with tokens.read() as store:
        caller, expires_at_ms = find_token_caller(store, "Bearer good", 999)
    assert caller.principal == "token:tok_good"
    assert caller.token_id == "tok_good"
    assert caller.scopes == frozenset(("read",))
    assert (caller.agents, caller.senders) == (frozenset(("helper",)), frozenset(("ann",)))
    assert expires_at_ms == 1000


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic good", "good"])
async def test_no_token_is_missing(tokens: State, header: str | None) -> None:
    """A header without a bearer token is refused as missing."""
    with tokens.read() as store, pytest.raises(TokenMissing):
        find_token_caller(store, header, 0)


@pytest.mark.parametrize(("secret", "now_ms"), [("unknown", 0), ("good", 1000), ("revoked", 0), ("child", 0)])
async def test_a_bad_token_is_invalid(tokens: State, secret: str, now_ms: int) -> None:
    """Unknown, expired and revoked tokens, and those narrowed from revoked ones, get the same refusal."""
    with tokens.read() as store, pytest.raises(TokenInvalid) as caught:
        find_token_caller(store, f"bearer {secret}", now_ms)
    assert caught.value.hint is None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:7707", None),
        ("localhost:7707", None),
        ("LOCALHOST", None),
        ("[::1]:7707", None),
        ("kheish.example:443", None),
        ("127.0.0.1:7707", "http://127.0.0.1:7707"),
        ("127.0.0.1:7707", "https://app.example"),
    ],
)
def test_known_hosts_and_origins_pass(host: str, origin: str | None) -> None:
    """Addresses, localhost, configured hosts, configured origins and requests without an origin pass."""
    require_allowed_origin(host, origin, hosts=("kheish.example",), origins=("https://app.example",))


@pytest.mark.parametrize(
    ("host", "origin", "hint"),
    [
        (None, None, "[listen.tcp] hosts"),
        ("", None, "[listen.tcp] hosts"),
        ("evil.example:7707", None, "[listen.tcp] hosts"),
        ("localhost.evil.example", None, "[listen.tcp] hosts"),
        ("127.0.0.1:7707", "http://evil.example", "[listen.tcp] origins"),
        ("127.0.0.1:7707", "http://127.0.0.1:8080", "[listen.tcp] origins"),
        ("127.0.0.1:7707", "null", "[listen.tcp] origins"),
        ("127.0.0.1:7707", "", "[listen.tcp] origins"),
        ("127.0.0.1:7707", "http://[", "[listen.tcp] origins"),
        ("[", None, "[listen.tcp] hosts"),
    ],
)
def test_foreign_hosts_and_origins_do_not(host: str | None, origin: str | None, hint: str) -> None:
    """Foreign host names, foreign origins and malformed values are refused."""
    with pytest.raises(OriginForbidden) as caught:
        require_allowed_origin(host, origin, hosts=("kheish.example",), origins=("https://app.example",))
    assert caught.value.hint == hint
