"""Logins at MCP servers over RPC."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kheishd.config.sections.mcp import McpSection
from kheishd.kernel.call import Caller
from kheishd.objects.node.mcp_login import begin_login, complete_login, log_out
from kheishd.objects.node.secret import find_users
from kheishd.store.tables import SECRET_VALUES, SECRETS
from protocol.errors.mcp import (
    McpLoginFailed,
    McpLoginNotFound,
    McpServerNotFound,
    McpServerUnavailable,
)
from protocol.errors.refusal import Refusal
from protocol.errors.rpc import InvalidParams
from protocol.errors.secret import MasterKeyUnusable, SecretLimit, SecretUnreadable
from protocol.errors.token import ScopeWouldWiden
from protocol.objects.mcp_login import McpLogin, McpLoginComplete, McpLogout
from tests.support.desk import OPERATOR, Desk, open_desk
from tests.support.mcp_servers import FakePool, spec_of

REDIRECT = "http://127.0.0.1:4000/callback"
NARROW = Caller("narrow", frozenset(("admin",)), agents=frozenset(("x",)))


@pytest.fixture
def pool() -> FakePool:
    """Return a server."""
    return FakePool(spec_of("a"))


@pytest.fixture
async def desk(tmp_path: Path, pool: FakePool) -> AsyncIterator[Desk]:
    """Provide a desk with the server."""
    section = McpSection(url="https://a.example/mcp", oauth=True)
    async with open_desk(tmp_path, threaded=True, mcp={"a": section}) as desk:
        desk.services.mcp.current = pool
        desk.services.mcp.adopted.set()
        yield desk


async def begin(desk: Desk, server: str = "a", caller: Caller = OPERATOR) -> Any:
    """Begin a login."""
    return await begin_login.act(desk.call(caller), McpLogin(server=server, redirect_uri=REDIRECT))


async def complete(desk: Desk, login_id: str = "login-a", caller: Caller = OPERATOR) -> Any:
    """Complete a login."""
    return await complete_login.act(
        desk.call(caller), McpLoginComplete(login_id=login_id, code="c", state="s")
    )


async def test_mcp_login_ok(desk: Desk) -> None:
    """A login has an id and an address."""
    begun = await begin(desk)
    assert (begun.login_id, begun.url) == ("login-a", REDIRECT)


@pytest.mark.parametrize(
    "uri",
    ["https://x.example/callback", "http://127.0.0.1.x.example:1/", "http://127.0.0.1:1@x.example:1/"],
)
async def test_the_redirect_is_on_this_machine(desk: Desk, uri: str) -> None:
    """The browser is sent back to the machine of the client only."""
    with pytest.raises(InvalidParams, match="the machine of the client"):
        await begin_login.act(desk.call(), McpLogin(server="a", redirect_uri=uri))


async def test_mcp_login_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    with pytest.raises(McpServerNotFound):
        await begin(desk, "z")


@pytest.mark.parametrize("refusal", [McpLoginFailed, McpServerUnavailable])
async def test_mcp_login_mcp_login_failed(desk: Desk, pool: FakePool, refusal: type[Refusal]) -> None:
    """A login whose authorization server cannot be used is refused."""
    pool.refusal = refusal("no")
    with pytest.raises(refusal):
        await begin(desk)


async def test_mcp_login_mcp_server_unavailable(desk: Desk, pool: FakePool) -> None:
    """A disabled server is refused."""
    pool.refusal = McpServerUnavailable("it is disabled")
    with pytest.raises(McpServerUnavailable):
        await begin(desk)


async def test_mcp_login_scope_would_widen(desk: Desk) -> None:
    """A token that covers some agents must not log in for all of them."""
    with pytest.raises(ScopeWouldWiden):
        await begin(desk, caller=NARROW)


async def test_mcp_login_complete_ok(desk: Desk) -> None:
    """The server is returned with its state, and no token."""
    view = await complete(desk)
    assert (view.name, view.state) == ("a", "ready")


async def test_mcp_login_complete_mcp_login_not_found(desk: Desk) -> None:
    """An unknown login is refused, also by a daemon without servers."""
    with pytest.raises(McpLoginNotFound):
        await complete(desk, "login-z")


async def refuse_completion(desk: Desk, pool: FakePool, refusal: Refusal) -> None:
    """Complete a login that is refused."""
    pool.refusal = refusal
    with pytest.raises(type(refusal)):
        await complete(desk)


async def test_mcp_login_complete_mcp_login_failed(desk: Desk, pool: FakePool) -> None:
    """A code that is not exchanged is refused."""
    await refuse_completion(desk, pool, McpLoginFailed("no"))


async def test_mcp_login_complete_mcp_server_not_found(desk: Desk, pool: FakePool) -> None:
    """A server that was deleted meanwhile is refused."""
    await refuse_completion(desk, pool, McpServerNotFound("no"))


async def test_mcp_login_complete_mcp_server_unavailable(desk: Desk, pool: FakePool) -> None:
    """A server that was disabled meanwhile is refused."""
    await refuse_completion(desk, pool, McpServerUnavailable("no"))


async def test_mcp_login_complete_master_key_unusable(desk: Desk, pool: FakePool) -> None:
    """Tokens are not stored without a key."""
    await refuse_completion(desk, pool, MasterKeyUnusable("no"))


async def test_mcp_login_complete_secret_limit(desk: Desk, pool: FakePool) -> None:
    """Tokens need a slot."""
    await refuse_completion(desk, pool, SecretLimit("no"))


async def test_mcp_login_complete_secret_unreadable(desk: Desk, pool: FakePool) -> None:
    """Tokens are not sealed by another key than other slots."""
    await refuse_completion(desk, pool, SecretUnreadable("no"))


async def test_mcp_login_complete_scope_would_widen(desk: Desk) -> None:
    """A token that covers some agents must not log in for all of them."""
    with pytest.raises(ScopeWouldWiden):
        await complete(desk, caller=NARROW)


async def log_out_of(desk: Desk, server: str = "a", caller: Caller = OPERATOR) -> Any:
    """Log out."""
    return await desk.do(log_out, McpLogout(server=server), caller=caller)


async def test_mcp_login_ok_while_the_daemon_starts(desk: Desk) -> None:
    """A login waits until the daemon knows its servers."""
    desk.services.mcp.expect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(begin, desk)
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        desk.services.mcp.adopted.set()


async def test_mcp_login_ok_by_a_code(desk: Desk) -> None:
    """Without a redirect, the login has a code, and is completed without the parameters of one."""
    begun = await begin_login.act(desk.call(), McpLogin(server="a"))
    assert (begun.url, begun.user_code) == ("https://as.example/device", "ABCD-EFGH")
    view = await complete_login.act(desk.call(), McpLoginComplete(login_id=begun.login_id))
    assert view.name == "a"


async def test_mcp_logout_ok(desk: Desk, pool: FakePool) -> None:
    """A logout deletes the slot and its value, and ends the connection; until then, the slot is in use."""
    desk.services.secrets.prepare("mcp.oauth.a")
    await desk.state.update(
        lambda tx: desk.services.secrets.put_slot(tx, "mcp.oauth.a", "the value of it", "oauth")
    )
    assert find_users(desk.call().runtime, "mcp.oauth.a") == ["MCP server a"]
    done = await log_out_of(desk)
    assert (done.server, done.revoked, pool.held) == ("a", True, [])
    with desk.state.read() as store:
        assert (store.count(SECRETS), store.count(SECRET_VALUES)) == (0, 0)
    assert pool.restarted == ["a"]


async def test_mcp_logout_mcp_login_not_found(desk: Desk) -> None:
    """A server without tokens is refused."""
    with pytest.raises(McpLoginNotFound):
        await log_out_of(desk)


async def test_mcp_logout_mcp_server_not_found(desk: Desk) -> None:
    """An unknown server is refused."""
    with pytest.raises(McpServerNotFound):
        await log_out_of(desk, "z")


async def test_mcp_logout_scope_would_widen(desk: Desk) -> None:
    """A token that covers some agents must not log out for all of them."""
    with pytest.raises(ScopeWouldWiden):
        await log_out_of(desk, caller=NARROW)
