"""Tokens over the socket: created, narrowed, listed and revoked, and never wider than their creator."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from kheishd.core.token import evolve, hash_secret
from kheishd.kernel.call import Caller
from kheishd.objects.node import journal, rpc
from kheishd.objects.node.token import MAX_NARROWED, is_valid, view_of
from kheishd.store.tables import TOKENS, TOKENS_BY_DIGEST
from protocol.errors.rpc import AlreadyShown, InvalidParams
from protocol.errors.token import ScopeMissing, ScopeWouldWiden, TokenLimit, TokenNotFound
from protocol.journal.envelope import DAEMON_STREAM
from protocol.journal.line import decode_envelope, decode_event
from protocol.rpc.method import Scope
from tests.support.rpc_server import Client, RpcServer, rpc_server

if TYPE_CHECKING:
    from protocol.objects.token import Token

ALL: list[Scope] = ["read", "converse", "approve", "operate", "admin"]
NOW_MS = 1_800_000_000_000


class Clock:
    """A wall clock that tests move."""

    now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """Return the clock of the server."""
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, clock: Clock) -> AsyncIterator[RpcServer]:
    """Serve the token methods."""
    async with rpc_server(tmp_path, [*rpc.HANDLERS, *journal.HANDLERS], clock=clock) as server:
        yield server


@pytest.fixture
async def client(server: RpcServer) -> Client:
    """Connect as the daemon's own user."""
    client = await server.connect()
    await client.call("rpc.ping")
    return client


def become(server: RpcServer, made: dict[str, Any]) -> None:
    """Let every later connection come with this token."""
    token = made["token"]
    grant = token["grant"]
    for connection in server.server.list_connections():
        connection.caller = Caller(
            f"token:{token['token_id']}",
            frozenset(grant["scopes"]),
            None if grant.get("agents") is None else frozenset(grant["agents"]),
            None if grant.get("senders") is None else frozenset(grant["senders"]),
            token["token_id"],
            grant.get("origin"),
        )


def require_records_equal_fold(server: RpcServer) -> None:
    """Require that every record equals the fold of its events."""
    with server.state.read() as store:
        folded: dict[str, Token] = {}
        for _, line in store.entries(DAEMON_STREAM):
            event: Any = decode_event(line)
            token = evolve(folded.get(event.token_id), decode_envelope(line), event)
            assert token is not None
            folded[event.token_id] = token
        assert {key[0]: record.token for key, record in store.scan(TOKENS)} == folded


# token.create


async def test_token_create_ok(server: RpcServer, client: Client) -> None:
    """The secret is shown once and only its digest is stored."""
    made = await client.call(
        "token.create", scopes=["read", "converse"], name="for a script", agents=["helper"], expires_in_s=60
    )
    token, secret = made["token"], made["secret"]
    assert secret.startswith("kht_")
    assert token["name"] == "for a script"
    assert token["grant"] == {
        "scopes": ["read", "converse"],
        "agents": ["helper"],
        "expires_at_ms": NOW_MS + 60_000,
    }
    with server.state.read() as store:
        assert store.get(TOKENS_BY_DIGEST, hash_secret(secret)) == token["token_id"]
        lines = b"".join(line for _, line in store.entries(DAEMON_STREAM))
    assert secret.encode() not in lines
    assert hash_secret(secret).encode() in lines
    require_records_equal_fold(server)


async def test_token_create_ok_once(client: Client) -> None:
    """A repeated request learns that the secret was shown; a check shows no working secret."""
    await client.call("token.create", scopes=["read"], idempotency_key="k")
    with pytest.raises(AlreadyShown):
        await client.call("token.create", scopes=["read"], idempotency_key="k")
    checked = await client.call("token.create", scopes=["read"], check=True)
    assert not checked["secret"].startswith("kht_")
    assert len((await client.call("token.list"))["tokens"]) == 1


async def test_token_create_scope_would_widen(server: RpcServer, client: Client) -> None:
    """A token creates no token that is wider than itself in any field."""
    parent = await client.call("token.create", scopes=["read", "admin"], agents=["a", "b"], expires_in_s=60)
    become(server, parent)
    for wider in (
        {"scopes": ["operate"], "agents": ["a"]},
        {"scopes": ["read"]},
        {"scopes": ["read"], "agents": ["a", "c"]},
        {"scopes": ["read"], "agents": ["a"], "expires_in_s": 61},
    ):
        with pytest.raises(ScopeWouldWiden):
            await client.call("token.create", **wider)
    made = await client.call("token.create", scopes=["read"], agents=["a"])
    assert made["token"]["parent_token_id"] == parent["token"]["token_id"]
    assert made["token"]["grant"]["expires_at_ms"] == parent["token"]["grant"]["expires_at_ms"]


async def test_token_create_token_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens have a maximum number; revoking one makes room."""
    monkeypatch.setattr("kheishd.objects.node.token.MAX_TOKENS", 2)
    first = await client.call("token.create", scopes=["read"])
    await client.call("token.create", scopes=["read"])
    with pytest.raises(TokenLimit):
        await client.call("token.create", scopes=["read"])
    await client.call("token.revoke", token_id=first["token"]["token_id"])
    await client.call("token.create", scopes=["read"])


async def test_dead_tokens_make_room(
    server: RpcServer, client: Client, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead tokens are removed for new ones, so revoking a token that was narrowed too often helps at once."""
    monkeypatch.setattr("kheishd.objects.node.token.MAX_TOKENS", 100)
    weak = await client.call("token.create", scopes=["read"])
    brief = await client.call("token.create", scopes=["read"], expires_in_s=1)
    for _ in range(98):
        await client.call("token.narrow", token_id=weak["token"]["token_id"], scopes=[])
    with pytest.raises(TokenLimit):
        await client.call("token.create", scopes=["read"])
    await client.call("token.revoke", token_id=weak["token"]["token_id"])
    clock.now_ms += 1000
    for _ in range(50):
        await client.call("token.create", scopes=["read"])
    with server.state.read() as store:
        assert store.count(TOKENS_BY_DIGEST) <= 100
        remaining = [token_id for _, token_id in store.scan(TOKENS_BY_DIGEST)]
        open_ = [key[0] for key, record in store.scan(TOKENS) if record.token.revoked_at_ms is None]
    assert sorted(remaining) == sorted(open_)
    listed = [row["token_id"] for row in (await client.call("token.list", limit=500))["tokens"]]
    assert len(listed) >= 50
    assert brief["token"]["token_id"] not in listed
    require_records_equal_fold(server)


async def test_only_admins_manage_tokens(server: RpcServer, client: Client) -> None:
    """Creating, listing and revoking tokens require the scope ``admin``."""
    become(server, await client.call("token.create", scopes=["read", "operate"]))
    for method, params in (
        ("token.create", {"scopes": ["read"]}),
        ("token.list", {}),
        ("token.revoke", {"token_id": "t"}),
    ):
        with pytest.raises(ScopeMissing):
            await client.call(method, **params)


# token.narrow


async def test_token_narrow_ok(server: RpcServer, client: Client) -> None:
    """Rights that the params leave out are unchanged; a token narrows itself without any scope."""
    parent = await client.call("token.create", scopes=["read", "converse"], senders=["ann", "bob"])
    narrower = await client.call(
        "token.narrow", token_id=parent["token"]["token_id"], scopes=["read"], name="less"
    )
    assert narrower["token"]["grant"] == {"scopes": ["read"], "senders": ["ann", "bob"]}
    assert narrower["token"]["parent_token_id"] == parent["token"]["token_id"]
    become(server, narrower)
    least = await client.call("token.narrow", scopes=[], senders=["ann"], agents=[], expires_in_s=5)
    assert least["token"]["grant"] == {
        "scopes": [],
        "senders": ["ann"],
        "agents": [],
        "expires_at_ms": NOW_MS + 5_000,
    }
    require_records_equal_fold(server)


async def test_token_narrow_token_not_found(client: Client, clock: Clock) -> None:
    """An unknown, revoked or expired token cannot be narrowed."""
    revoked = (await client.call("token.create", scopes=["read"]))["token"]["token_id"]
    await client.call("token.revoke", token_id=revoked)
    expired = (await client.call("token.create", scopes=["read"], expires_in_s=1))["token"]["token_id"]
    clock.now_ms += 1000
    for token_id in ("tok_unknown", revoked, expired):
        with pytest.raises(TokenNotFound):
            await client.call("token.narrow", token_id=token_id)


async def test_token_narrow_scope_would_widen(server: RpcServer, client: Client) -> None:
    """The new token exceeds neither its parent nor the caller."""
    parent = await client.call("token.create", scopes=["read"], agents=["a"])
    token_id = parent["token"]["token_id"]
    with pytest.raises(ScopeWouldWiden):
        await client.call("token.narrow", token_id=token_id, scopes=["read", "admin"])
    with pytest.raises(ScopeWouldWiden):
        await client.call("token.narrow", token_id=token_id, agents=["a", "b"])
    become(server, await client.call("token.create", scopes=["admin"]))
    with pytest.raises(ScopeWouldWiden):
        await client.call("token.narrow", token_id=token_id)


async def test_a_token_with_an_origin_keeps_it(server: RpcServer, client: Client) -> None:
    """Neither narrowing nor creating yields a token that sends as another origin."""
    bridge = await client.call("token.create", scopes=["admin", "converse"], origin="connector")
    assert bridge["token"]["grant"]["origin"] == "connector"
    free = await client.call("token.create", scopes=["converse"])
    become(server, bridge)
    for method, params in (
        ("token.narrow", {"origin": "person"}),
        ("token.create", {"scopes": ["converse"], "origin": "program"}),
        ("token.narrow", {"token_id": free["token"]["token_id"]}),
    ):
        with pytest.raises(ScopeWouldWiden):
            await client.call(method, **params)
    for method, params in (("token.narrow", {}), ("token.create", {"scopes": ["converse"]})):
        assert (await client.call(method, **params))["token"]["grant"]["origin"] == "connector"
    require_records_equal_fold(server)


async def test_a_token_narrows_only_its_descendants(server: RpcServer, client: Client) -> None:
    """A token cannot narrow a stranger's token: the child would outlive the caller's own."""
    stranger = await client.call("token.create", scopes=ALL)
    mine = await client.call("token.create", scopes=ALL)
    become(server, mine)
    with pytest.raises(ScopeWouldWiden) as caught:
        await client.call("token.narrow", token_id=stranger["token"]["token_id"])
    assert caught.value.field == "$.params.token_id"
    child = await client.call("token.create", scopes=["read", "converse"])
    grandchild = await client.call("token.narrow", token_id=child["token"]["token_id"], scopes=["read"])
    await client.call("token.revoke", token_id=mine["token"]["token_id"])
    with server.state.read() as store:
        record = store.get(TOKENS, grandchild["token"]["token_id"])
        assert record is not None
        assert not is_valid(store, record.token, NOW_MS)


async def test_token_narrow_token_limit(client: Client) -> None:
    """The number of tokens and the depth of narrowing are limited."""
    made = await client.call("token.create", scopes=["read"])
    for _ in range(MAX_NARROWED):
        made = await client.call("token.narrow", token_id=made["token"]["token_id"])
    with pytest.raises(TokenLimit, match="in a row"):
        await client.call("token.narrow", token_id=made["token"]["token_id"])


async def test_narrowing_another_s_token_needs_admin(server: RpcServer, client: Client) -> None:
    """Narrowing another token requires ``admin``; a caller without a token names the token."""
    with pytest.raises(InvalidParams) as caught:
        await client.call("token.narrow")
    assert caught.value.field == "$.params.token_id"
    stranger = await client.call("token.create", scopes=["read"])
    mine = await client.call("token.create", scopes=["read"])
    become(server, mine)
    with pytest.raises(ScopeMissing):
        await client.call("token.narrow", token_id=stranger["token"]["token_id"])
    await client.call("token.narrow", token_id=mine["token"]["token_id"])


# token.list


async def test_token_list_ok(client: Client, clock: Clock) -> None:
    """Live tokens are listed oldest first, in pages, and dead ones on request; a secret never is."""
    assert await client.call("token.list") == {"tokens": [], "next": None}
    ids = []
    for number in range(5):
        clock.now_ms += 1
        made = await client.call("token.create", scopes=["read"], name=f"number {number}")
        ids.append(made["token"]["token_id"])
    await client.call("token.revoke", token_id=ids[1])
    first = await client.call("token.list", limit=2)
    second = await client.call("token.list", limit=2, after=first["next"])
    assert [token["token_id"] for token in first["tokens"]] == [ids[0], ids[2]]
    assert [token["token_id"] for token in second["tokens"]] == [ids[3], ids[4]]
    everything = await client.call("token.list", revoked=True)
    assert [token["token_id"] for token in everything["tokens"]] == ids
    assert "secret" not in str(everything)


@pytest.mark.parametrize("token", ["", "x" * 1000, "a\0b"])
async def test_token_list_refuses_other_page_tokens(client: Client, token: str) -> None:
    """Only the ``next`` of a page is a page token."""
    with pytest.raises(InvalidParams) as caught:
        await client.call("token.list", after=token)
    assert caught.value.field == "$.params.after"


# token.revoke


async def test_token_revoke_ok(server: RpcServer, client: Client, clock: Clock) -> None:
    """Revoking a token revokes its descendants and no other; revoking it again changes nothing."""
    parent = await client.call("token.create", scopes=["read"])
    child = await client.call("token.narrow", token_id=parent["token"]["token_id"])
    unrelated = await client.call("token.create", scopes=["read"])
    clock.now_ms += 5
    revoked = await client.call("token.revoke", token_id=parent["token"]["token_id"], note="lost")
    assert revoked["revoked_at_ms"] == NOW_MS + 5
    clock.now_ms += 5
    assert await client.call("token.revoke", token_id=parent["token"]["token_id"]) == revoked
    listed = (await client.call("token.list"))["tokens"]
    assert [token["token_id"] for token in listed] == [unrelated["token"]["token_id"]]
    with server.state.read() as store:
        assert store.get(TOKENS_BY_DIGEST, hash_secret(parent["secret"])) is None
        records = {key[0]: record.token for key, record in store.scan(TOKENS)}
        narrowed = records[child["token"]["token_id"]]
        assert not is_valid(store, narrowed, NOW_MS)
        assert view_of(store, narrowed) == replace(narrowed, revoked_at_ms=NOW_MS + 5)
    require_records_equal_fold(server)


async def test_token_revoke_token_not_found(client: Client) -> None:
    """An unknown token is refused."""
    with pytest.raises(TokenNotFound):
        await client.call("token.revoke", token_id="tok_unknown")
