"""An MCP server on HTTP with an authorization server, both of the official library, in a thread."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenError,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

PATIENCE_S = 20.0


class Authority(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """An authorization server whose person agrees to everything.

    ``life_s`` is the life of new tokens. ``renewals`` counts; with ``refuses_renewal`` each is refused.
    """

    def __init__(self) -> None:
        self.life_s = 3600
        self.renewals = 0
        self.refuses_renewal = False
        self._clients: dict[str, OAuthClientInformationFull] = {}
        self._codes: dict[str, AuthorizationCode] = {}
        self._refresh: dict[str, RefreshToken] = {}
        self._resources: dict[str, str | None] = {}
        self.access: dict[str, AccessToken] = {}
        self.revoked: list[str] = []

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        """Return a client."""
        return self._clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        """Register a client."""
        self._clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        """Agree."""
        code = secrets.token_urlsafe(24)
        self._codes[code] = AuthorizationCode(
            code=code,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        """Return a code."""
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        """Exchange a code."""
        del self._codes[authorization_code.code]
        return self._issue(client, authorization_code.resource)

    def _issue(self, client: OAuthClientInformationFull, resource: str | None) -> OAuthToken:
        access, refresh = f"access-{secrets.token_urlsafe(24)}", f"refresh-{secrets.token_urlsafe(24)}"
        self.access[access] = AccessToken(
            token=access,
            client_id=client.client_id,
            scopes=[],
            expires_at=int(time.time()) + 3600,
            resource=resource,
        )
        self._resources[refresh] = resource
        self._refresh[refresh] = RefreshToken(token=refresh, client_id=client.client_id, scopes=[])
        return OAuthToken(access_token=access, expires_in=self.life_s, refresh_token=refresh)

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> RefreshToken | None:
        """Return a refresh token."""
        return self._refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        """Renew the tokens; the previous refresh token is worthless then."""
        if self.refuses_renewal:
            raise TokenError("invalid_grant", "revoked by the person")
        self.renewals += 1
        del self._refresh[refresh_token.token]
        return self._issue(client, self._resources[refresh_token.token])

    async def load_access_token(self, token: str) -> AccessToken | None:
        """Return an access token."""
        return self.access.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        """Revoke a token."""
        self.revoked.append(token.token)
        self.access.pop(token.token, None)
        self._refresh.pop(token.token, None)

    async def exchange_identity_assertion(self, client: Any, params: Any) -> OAuthToken:
        """Refuse."""
        raise TokenError("unsupported_grant_type")


class OAuthServer:
    """The running server: its URL, and its authority."""

    def __init__(self, url: str, authority: Authority) -> None:
        self.url = url
        self.authority = authority

    @staticmethod
    def visit(url: str) -> dict[str, str]:
        """Open the address of a login as a browser; return the parameters that it brings back."""
        response = httpx2.get(url, follow_redirects=False)
        return dict(parse_qsl(urlsplit(response.headers["location"]).query))


class _Runner(uvicorn.Server):
    """A server that tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start."""
        await super().startup(sockets)
        self.has_started.set()


@contextmanager
def run_oauth_server() -> Iterator[OAuthServer]:
    """Provide a server with the tool ``echo``."""
    authority = Authority()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        origin = f"http://127.0.0.1:{listening.getsockname()[1]}"
        auth = AuthSettings.model_validate(
            {
                "issuer_url": origin,
                "resource_server_url": f"{origin}/mcp",
                "validate_token_resource": True,
                "client_registration_options": ClientRegistrationOptions(enabled=True),
                "revocation_options": RevocationOptions(enabled=True),
            }
        )
        server = MCPServer("guarded", auth_server_provider=authority, auth=auth)

        @server.tool()
        def echo(text: str) -> str:
            """Return the text."""
            return text

        config = uvicorn.Config(server.streamable_http_app(), log_level="critical", lifespan="on")
        runner = _Runner(config)
        thread = threading.Thread(target=runner.run, args=([listening],), daemon=True)
        thread.start()
        assert runner.has_started.wait(PATIENCE_S), "the server does not start"
        try:
            yield OAuthServer(f"{origin}/mcp", authority)
        finally:
            runner.should_exit = runner.force_exit = True
            thread.join(PATIENCE_S)
