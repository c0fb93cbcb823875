"""Logins at MCP servers. The pool makes them; the tokens are in slots, and never leave the daemon."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from kheishd.kernel.call import Call, control, mutation, origin_of
from kheishd.kernel.mcp import servers_of
from kheishd.objects.node.mcp import require_unrestricted
from kheishd.store.tables import SECRETS
from protocol.errors.mcp import McpLoginNotFound, McpServerNotFound
from protocol.errors.rpc import InvalidParams
from protocol.objects import mcp_login as rows
from protocol.objects.mcp_login import McpLoggedOut, McpLogin, McpLoginBegun, McpLoginComplete, McpLogout

if TYPE_CHECKING:
    from kheishd.kernel.mcp import ServerSpec
    from kheishd.store.environment import Transaction
    from protocol.objects.mcp import McpServer

LOOPBACK: Final = r"http://(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}/[A-Za-z0-9/_-]{0,64}"


@control(rows.LOGIN)
async def begin_login(call: Call, params: McpLogin) -> McpLoginBegun:
    """Begin a login. Errors: McpLoginFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden."""
    require_unrestricted(call)
    if params.redirect_uri is not None and not re.fullmatch(LOOPBACK, params.redirect_uri):
        text = "expected http://127.0.0.1:PORT/PATH: the browser comes back to the machine of the client"
        raise InvalidParams(text, field="$.params.redirect_uri")
    # The daemon may have started just now.
    await call.services.mcp.adopted.wait()
    begun = await call.services.mcp.current.begin_login(params.server, params.redirect_uri)
    return McpLoginBegun(begun.login_id, begun.url, begun.expires_at_ms, begun.user_code)


@control(rows.COMPLETE)
async def complete_login(call: Call, params: McpLoginComplete) -> McpServer:
    """Complete a login.

    Errors: McpLoginFailed, McpLoginNotFound, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden, and
    those of storing a secret.
    """
    require_unrestricted(call)
    pool = call.services.mcp.current
    name = await pool.complete_login(params.login_id, params.code, params.state, params.iss)
    return next(view for view in pool.views() if view.name == name)


def prepare_logout(call: Call, params: McpLogout) -> ServerSpec:
    """Find the server. Errors: McpServerNotFound, ScopeWouldWiden."""
    require_unrestricted(call)
    spec = servers_of(call.runtime).get(params.server)
    if spec is None:
        raise McpServerNotFound(
            f"there is no MCP server '{params.server}'; secret.delete deletes the slot of a former one",
            field="$.params.server",
        )
    call.services.mcp.current.hold_login(spec)
    return spec


async def follow_logout(call: Call, params: McpLogout, result: McpLoggedOut) -> McpLoggedOut:
    """End the connection, and tell the authorization server."""
    pool = call.services.mcp.current
    result = replace(result, revoked=await pool.revoke_login(result.server))
    if any(view.name == result.server and view.state != "disabled" for view in pool.views()):
        await pool.restart(result.server)
    return result


@mutation(rows.LOGOUT, prepare=prepare_logout, follow=follow_logout)
def log_out(tx: Transaction, call: Call, spec: ServerSpec) -> McpLoggedOut:
    """Delete the tokens of a server. Errors: McpLoginNotFound."""
    if tx.get(SECRETS, spec.login_slot) is None:
        text = f"the MCP server '{spec.name}' has no tokens of a login"
        raise McpLoginNotFound(text, field="$.params.server")
    call.services.secrets.delete_slot(tx, spec.login_slot, origin=origin_of(call))
    return McpLoggedOut(spec.name)


HANDLERS = (begin_login, complete_login, log_out)
