"""Logins at MCP servers by OAuth: a person allows the daemon to use a server."""

from typing import Annotated

from msgspec import Meta, Struct

from protocol.errors.mcp import McpLoginFailed, McpLoginNotFound, McpServerNotFound, McpServerUnavailable
from protocol.errors.secret import MasterKeyUnusable, SecretLimit, SecretUnreadable
from protocol.errors.store import StorageFull
from protocol.errors.token import ScopeWouldWiden
from protocol.limits.mcp import MAX_LOGIN_ANSWER_BYTES
from protocol.objects.mcp import McpServer, ServerName
from protocol.rpc.method import Method, Mutation, Params

LoginAnswer = Annotated[str, Meta(min_length=1, max_length=MAX_LOGIN_ANSWER_BYTES)]


class McpLogin(Params, frozen=True, kw_only=True):
    """Params of ``mcp.login``: the browser is sent back to ``redirect_uri``, on the client's machine.

    Without ``redirect_uri`` the person types a code, in a browser on any device.
    """

    server: ServerName
    redirect_uri: (
        Annotated[str, Meta(max_length=256, description="http://127.0.0.1:PORT/PATH, or localhost or [::1].")]
        | None
    ) = None


class McpLoginBegun(Struct, frozen=True, omit_defaults=True):
    """A login that has begun. A person opens ``url`` in a browser, until ``expires_at_ms``.

    ``user_code`` is the code that the person types there, of a login without a redirect.
    """

    login_id: str
    url: str
    expires_at_ms: int
    user_code: str | None = None


class McpLoginComplete(Params, frozen=True, kw_only=True):
    """Params of ``mcp.login_complete``: the parameters that the browser brings back, each as it came.

    Without them, the answer to a login by a code comes when the person has typed it.
    """

    login_id: LoginAnswer
    code: LoginAnswer | None = None
    state: LoginAnswer | None = None
    iss: LoginAnswer | None = None


class McpLogout(Mutation, frozen=True, kw_only=True):
    """Params of ``mcp.logout``."""

    server: ServerName


class McpLoggedOut(Struct, frozen=True, omit_defaults=True):
    """The name of a server whose tokens were deleted; with ``revoked`` its authorization server knows."""

    server: str
    revoked: bool = False


LOGIN = Method(
    "mcp.login",
    "control",
    McpLogin,
    McpLoginBegun,
    "Begin a login at an MCP server with OAuth: find its authorization server, and return the URL.",
    scope="admin",
    errors=(McpLoginFailed, McpServerNotFound, McpServerUnavailable, ScopeWouldWiden),
)
COMPLETE = Method(
    "mcp.login_complete",
    "control",
    McpLoginComplete,
    McpServer,
    "Complete a login: exchange its code for tokens, store them, and connect to the server.",
    scope="admin",
    errors=(
        McpLoginFailed,
        McpLoginNotFound,
        McpServerNotFound,
        McpServerUnavailable,
        MasterKeyUnusable,
        ScopeWouldWiden,
        SecretLimit,
        SecretUnreadable,
        StorageFull,
    ),
)
LOGOUT = Method(
    "mcp.logout",
    "mutation",
    McpLogout,
    McpLoggedOut,
    "Delete the tokens of an MCP server, revoke them at its authorization server, and close the connection.",
    scope="admin",
    errors=(McpLoginNotFound, McpServerNotFound, ScopeWouldWiden, StorageFull),
)

METHODS = (LOGIN, COMPLETE, LOGOUT)
