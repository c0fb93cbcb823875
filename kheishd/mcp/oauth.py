"""OAuth of HTTP servers: a login by a person, and tokens that are renewed before they expire.

All that a server says about its authorization is the text of a stranger: each document is bounded, no
redirect is followed, and only the server itself and configured hosts may have private addresses. Without TLS
nothing is sent but to this machine.
Tokens are bound to the server's URL, and go to nowhere else; they are renewed at the token endpoint that was
found at the login, whatever an answer of the server names later.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections import defaultdict
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpcore2
import httpx2
import msgspec
import trio
from mcp.client.auth import OAuthFlowError, OAuthRegistrationError
from mcp.client.auth import utils as flow
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url
from msgspec import Meta, Struct
from msgspec.structs import replace

from kheishd.core.text.scrub import cut_text
from kheishd.core.text.spellings import MIN_SECRET_CHARACTERS
from kheishd.hooks.network.addresses import is_public
from kheishd.hooks.network.connector import AddressForbidden
from kheishd.hooks.web.fetch import PinnedBackend
from kheishd.kernel.credentials import CredentialMissing
from kheishd.kernel.mcp import BegunLogin, LoginNeeded
from protocol import __version__
from protocol.errors.mcp import McpLoginFailed, McpLoginNotFound
from protocol.errors.refusal import Refusal
from protocol.limits.mcp import (
    MAX_LOGIN_SECONDS,
    MAX_LOGINS,
    MAX_OAUTH_ADDRESS_BYTES,
    MAX_OAUTH_DOCUMENT_BYTES,
    MAX_SERVER_ERROR_BYTES,
    MAX_TOKEN_BYTES,
    MAX_USER_CODE_CHARACTERS,
)
from protocol.structs import Value
from protocol.text import sanitize, truncate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from mcp.shared.auth import OAuthMetadata

    from kheishd.hooks.network.addresses import Address
    from kheishd.kernel.mcp import ServerSpec

log = logging.getLogger("kheishd.mcp")

# One request, and all requests of one step together.
REQUEST_SECONDS: Final = 15.0
STEP_SECONDS: Final = 60.0

# A login by a code: the least time between two questions, and what is added to it if the server wants that.
MIN_POLL_SECONDS: Final = 1.0
MAX_POLL_SECONDS: Final = 60.0
SLOW_DOWN_SECONDS: Final = 5.0
DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

# The answers to a request for a token that another request does not change.
REFUSED: Final = (400, 401, 403)

# A client is registered with a redirect, also if it uses none.
NO_REDIRECT: Final = "http://127.0.0.1/callback"

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")

# A token is renewed this long before it expires, or when a fifth of its life is left if that is shorter.
RENEW_SECONDS: Final = 300.0

# After a renewal that failed for now, and at the latest: the clock may have been set, or have slept.
RENEW_AGAIN_SECONDS: Final = 30.0
LOOK_AGAIN_SECONDS: Final = 600.0

# The answer 401 to a request reaches its caller before the connection ends.
GRACE_SECONDS: Final = 0.1

LONGEST_LIFE_SECONDS: Final = 10 * 366 * 24 * 3600


class OAuthFailed(Exception):
    """A step that did not succeed for now; the message says which."""


class Tokens(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The tokens of a login, as they are kept in a slot, with all that a renewal needs.

    ``client_secret`` is that of a client that the daemon has registered.
    """

    server_url: str
    token_endpoint: str
    revocation_endpoint: str | None = None
    client_id: str
    client_secret: str | None = None
    auth_method: str = "none"
    resource: str
    access_token: str
    refresh_token: str | None = None
    issued_at_ms: int
    expires_at_ms: int | None = None

    @property
    def renew_at_ms(self) -> int | None:
        """The time from which the access token is renewed; None if it does not expire."""
        if self.expires_at_ms is None:
            return None
        life_ms = self.expires_at_ms - self.issued_at_ms
        return self.expires_at_ms - round(min(RENEW_SECONDS * 1000, life_ms / 5))


class _Authority(Value, frozen=True):
    """The authorization server of a server, the resource that its tokens are for, and the scopes."""

    metadata: OAuthMetadata
    resource: str
    scope: str | None
    device_endpoint: str | None


class _Pending(Value, frozen=True):
    """A login that has begun: in a browser that comes back, or by the code of a device."""

    spec: ServerSpec
    redirect_uri: str | None
    state: str
    verifier: str
    authority: _Authority
    client: OAuthClientInformationFull
    expires_at_ms: int
    device_code: str = ""
    interval_s: float = 0.0


class _DeviceCode(Struct, frozen=True):
    """The answer of an authorization server to a login by a code (RFC 8628)."""

    device_code: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_BYTES)]
    user_code: Annotated[str, Meta(min_length=1, max_length=MAX_USER_CODE_CHARACTERS)]
    verification_uri: Annotated[str, Meta(max_length=MAX_OAUTH_ADDRESS_BYTES)]
    expires_in: Annotated[float, Meta(gt=0)]
    interval: Annotated[float, Meta(ge=0, le=300)] = 5.0


class _TokenError(Struct, frozen=True):
    """The refusal of a token."""

    error: str = ""


class Logins:
    """The logins of all servers, and their tokens.

    ``read`` returns the value of a slot, ``save`` stores one, and ``resolve`` returns the credential of a
    reference. Logins that have begun are in memory: after a restart of the daemon, a person begins again.
    """

    def __init__(
        self,
        read: Callable[[str], str | None],
        save: Callable[[str, str], Awaitable[None]],
        now_ms: Callable[[], int],
        resolve: Callable[[str], str] = str,
        scrub_cut: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self._read = read
        self._save = save
        self._now_ms = now_ms
        self._resolve = resolve
        self._held: dict[str, tuple[ServerSpec, Tokens]] = {}
        self._scrub_cut = scrub_cut
        self._pending: dict[str, _Pending] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)

    # The login.

    async def begin(self, spec: ServerSpec, redirect_uri: str | None) -> BegunLogin:
        """Find the authorization server, and register as its client. Errors: McpLoginFailed.

        Without a redirect, the person types a code.
        """
        device: _DeviceCode | None = None
        try:
            with trio.fail_after(STEP_SECONDS):
                authority = await _discover(spec)
                if redirect_uri is None and authority.device_endpoint is None:
                    raise OAuthFailed("its authorization server offers no login by a code; use a browser")
                client = await _register(spec, authority, redirect_uri)
                if redirect_uri is None:
                    device = await self._request_code(spec, authority, client)
        except trio.TooSlowError:
            raise McpLoginFailed(f"finding out how to log in took more than {STEP_SECONDS:g} s") from None
        except OAuthFailed as failure:
            raise McpLoginFailed(str(failure)) from None
        now_ms = self._now_ms()
        for login_id, pending in list(self._pending.items()):
            if pending.expires_at_ms <= now_ms or len(self._pending) >= MAX_LOGINS:
                del self._pending[login_id]
        login_id, state = secrets.token_hex(16), secrets.token_urlsafe(32)
        verifier, expires_at_ms = secrets.token_urlsafe(64), now_ms + MAX_LOGIN_SECONDS * 1000
        pending = _Pending(spec, redirect_uri, state, verifier, authority, client, expires_at_ms)
        if device is not None:
            # The server's time first: a large one is no number of milliseconds.
            expires_at_ms = now_ms + round(min(device.expires_in, MAX_LOGIN_SECONDS) * 1000)
            self._pending[login_id] = replace(
                pending,
                expires_at_ms=expires_at_ms,
                device_code=device.device_code,
                interval_s=max(device.interval, MIN_POLL_SECONDS),
            )
            return BegunLogin(login_id, device.verification_uri, expires_at_ms, device.user_code)
        self._pending[login_id] = pending
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        query = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": redirect_uri,
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": authority.resource,
            **({} if authority.scope is None else {"scope": authority.scope}),
        }
        endpoint = str(authority.metadata.authorization_endpoint)
        separator = "&" if urlsplit(endpoint).query else "?"
        return BegunLogin(login_id, f"{endpoint}{separator}{urlencode(query)}", expires_at_ms)

    async def complete(
        self,
        login_id: str,
        code: str | None,
        state: str | None,
        iss: str | None,
        current: Callable[[str], ServerSpec],
    ) -> str:
        """Exchange the code of a login for tokens, once; return the name of the server.

        Without a code, wait until the person has typed that of the login. ``current`` returns a server as it
        is configured now. Errors: McpLoginFailed, McpLoginNotFound, and those of ``current`` and of storing
        the tokens.
        """
        pending = self._pending.get(login_id)
        if pending is not None and pending.device_code and code is None:
            # It may be asked again if the client goes away meanwhile.
            tokens = await self._poll(login_id, pending)
            return await self._finish(pending, tokens, current)
        pending = self._pending.pop(login_id, None)
        if pending is None or pending.expires_at_ms <= self._now_ms():
            text = "there is no such login, or it was completed or has expired: begin another one"
            raise McpLoginNotFound(text, field="$.params.login_id")
        if pending.device_code or not secrets.compare_digest(
            pending.state.encode(), (state or "").encode(errors="replace")
        ):
            text = "the state is not that of the login, which has ended now: begin another one"
            raise McpLoginFailed(text, field="$.params.state")
        try:
            flow.validate_authorization_response_iss(iss, pending.authority.metadata)
        except OAuthFlowError as error:
            raise McpLoginFailed(_quote(str(error)), field="$.params.iss") from None
        self._require_unchanged(pending, current)
        form = {
            "grant_type": "authorization_code",
            "code": code or "",
            "redirect_uri": pending.redirect_uri or "",
            "code_verifier": pending.verifier,
        }
        try:
            tokens = await self._fetch_tokens(
                pending.spec, _blank_tokens(pending.spec, pending.authority, pending.client), form
            )
        except (OAuthFailed, LoginNeeded) as failure:
            raise McpLoginFailed(f"the code was not exchanged for a token: {failure}") from None
        return await self._finish(pending, tokens, current)

    @staticmethod
    def _require_unchanged(pending: _Pending, current: Callable[[str], ServerSpec]) -> None:
        """Require that the server is configured as at the beginning. Errors: McpLoginFailed."""
        if current(pending.spec.name).digest != pending.spec.digest:
            raise McpLoginFailed("the server was configured anew meanwhile: begin another login")

    async def _finish(self, pending: _Pending, tokens: Tokens, current: Callable[[str], ServerSpec]) -> str:
        """Store the tokens of a login; return the name of the server."""
        self._require_unchanged(pending, current)
        spec = pending.spec
        async with self._locks[spec.login_slot]:
            await self._save(spec.login_slot, msgspec.json.encode(tokens).decode())
        return spec.name

    async def _request_code(
        self, spec: ServerSpec, authority: _Authority, client: OAuthClientInformationFull
    ) -> _DeviceCode:
        """Ask for a code that a person types. Errors: OAuthFailed."""
        form = {"resource": authority.resource}
        if authority.scope is not None:
            form["scope"] = authority.scope
        blank = _blank_tokens(spec, authority, client)
        response = await self._post(spec, blank, authority.device_endpoint or "", form)
        if response.status_code != 200:
            text = f"the status is {response.status_code}: {_quote(response.text)}"
            raise OAuthFailed(f"the authorization server issued no code ({text})")
        try:
            device = msgspec.json.decode(response.content, type=_DeviceCode)
        except msgspec.DecodeError as error:
            raise OAuthFailed(f"the code of the authorization server is invalid: {error}") from None
        _find_privacy(spec, device.verification_uri)
        if not (device.verification_uri + device.user_code).isprintable():
            raise OAuthFailed("the code of the authorization server has characters that do not print")
        return device

    async def _poll(self, login_id: str, pending: _Pending) -> Tokens:
        """Ask for the tokens until the person has typed the code.

        Errors: McpLoginFailed, McpLoginNotFound.
        """
        spec, pause_s = pending.spec, pending.interval_s
        blank = _blank_tokens(spec, pending.authority, pending.client)
        form = {"grant_type": DEVICE_GRANT, "device_code": pending.device_code, "resource": blank.resource}
        while login_id in self._pending and self._now_ms() < pending.expires_at_ms:
            await trio.sleep(pause_s)
            requested_at_ms = self._now_ms()
            try:
                response = await self._post(spec, blank, blank.token_endpoint, dict(form))
                if response.status_code == 200:
                    # Another call of the same login may have got them.
                    self._pending.pop(login_id, None)
                    return self._take_tokens(blank, response, requested_at_ms)
                if response.status_code not in REFUSED:
                    raise OAuthFailed(f"the status is {response.status_code}")
            except OAuthFailed as failure:
                if login_id not in self._pending:
                    raise McpLoginFailed(str(failure)) from None
                log.info("a login is not completed yet: %s", failure, extra={"server": spec.name})
                pause_s = min(pause_s * 2, MAX_POLL_SECONDS)
                continue
            reason = ""
            with suppress(msgspec.DecodeError):
                reason = msgspec.json.decode(response.content, type=_TokenError).error
            if reason == "slow_down":
                pause_s += SLOW_DOWN_SECONDS
            elif reason != "authorization_pending":
                self._pending.pop(login_id, None)
                raise McpLoginFailed(f"the login was not completed: {_quote(reason or response.text)}")
        self._pending.pop(login_id, None)
        raise McpLoginNotFound(
            "the login has expired, or was completed by another call: begin another one",
            field="$.params.login_id",
        )

    # The tokens.

    async def get_token(self, spec: ServerSpec, refused: str | None = None) -> str:
        """Return the access token of a server; renew it if it expires soon, or is the ``refused`` one.

        Concurrent calls renew it once. Errors: LoginNeeded, OAuthFailed.
        """
        async with self._locks[spec.login_slot]:
            tokens, now_ms = self._load(spec), self._now_ms()
            is_refused = tokens.access_token == refused
            if not is_refused and (tokens.renew_at_ms is None or now_ms < tokens.renew_at_ms):
                return tokens.access_token
            is_usable = not is_refused and now_ms < (tokens.expires_at_ms or 0)
            if tokens.refresh_token is None:
                if is_usable:
                    return tokens.access_token
                raise LoginNeeded("its token was refused" if is_refused else "its token has expired")
            form = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token}
            try:
                tokens = await self._fetch_tokens(spec, tokens, form)
            except OAuthFailed as failure:
                if not is_usable:
                    raise
                log.warning("a token is not renewed yet: %s", failure, extra={"server": spec.name})
                return tokens.access_token
            try:
                # The previous ones may be worthless now, so a cancellation must not lose these.
                with trio.CancelScope(shield=True):
                    await self._save(spec.login_slot, msgspec.json.encode(tokens).decode())
            except Refusal as refusal:
                raise OAuthFailed(f"the new token cannot be stored: {refusal.message}") from None
            return tokens.access_token

    async def keep_fresh(self, spec: ServerSpec) -> None:
        """Renew the token of a server before it expires, until cancelled. Errors: LoginNeeded."""
        delay_s = 0.0
        while True:
            await trio.sleep(delay_s)
            try:
                await self.get_token(spec)
            except OAuthFailed as failure:
                log.warning("a token is not renewed: %s", failure, extra={"server": spec.name})
            renew_at_ms = self._load(spec).renew_at_ms
            delay_s = LOOK_AGAIN_SECONDS
            if renew_at_ms is not None:
                remaining_s = (renew_at_ms - self._now_ms()) / 1000
                delay_s = RENEW_AGAIN_SECONDS if remaining_s <= 0 else min(remaining_s, delay_s)

    def _load(self, spec: ServerSpec) -> Tokens:
        value = self._read(spec.login_slot)
        if value is None:
            raise LoginNeeded("nobody has logged in yet, or the slot of its tokens cannot be read")
        try:
            tokens = msgspec.json.decode(value, type=Tokens)
        except msgspec.DecodeError:
            raise LoginNeeded("the slot of its tokens holds something else") from None
        if tokens.server_url != spec.settings.url:
            raise LoginNeeded("its tokens are those of another URL")
        return tokens

    async def _fetch_tokens(self, spec: ServerSpec, tokens: Tokens, form: dict[str, str]) -> Tokens:
        """Return the tokens for a grant. Errors: LoginNeeded if it was refused, OAuthFailed."""
        requested_at_ms = self._now_ms()
        form |= {"resource": tokens.resource}
        response = await self._post(spec, tokens, tokens.token_endpoint, form)
        if response.status_code != 200:
            answer_text = " ".join(sanitize(response.text).split())
            quoted = cut_text(answer_text, MAX_SERVER_ERROR_BYTES // 4, self._scrub_cut)
            text = f"the status is {response.status_code}: {quoted}"
            if response.status_code in REFUSED:
                raise LoginNeeded(f"its authorization server refused a new token ({text})")
            raise OAuthFailed(f"the authorization server issued no token ({text})")
        return self._take_tokens(tokens, response, requested_at_ms)

    @staticmethod
    def _take_tokens(tokens: Tokens, response: httpx2.Response, requested_at_ms: int) -> Tokens:
        """Return the tokens of an answer. Errors: OAuthFailed."""
        try:
            answer = OAuthToken.model_validate_json(response.content)
        except ValueError:
            # The error of the library quotes the answer, and with it the tokens.
            raise OAuthFailed("the answer of the authorization server is no token") from None
        for token in (answer.access_token, *([answer.refresh_token] if answer.refresh_token else [])):
            is_sound = token.isascii() and token.isprintable() and " " not in token
            if not is_sound or not MIN_SECRET_CHARACTERS <= len(token) <= MAX_TOKEN_BYTES:
                raise OAuthFailed("the authorization server issued a token that no header can hold")
        life_s = answer.expires_in
        expires_at_ms = None
        if life_s is not None:
            expires_at_ms = requested_at_ms + 1000 * max(0, min(life_s, LONGEST_LIFE_SECONDS))
        return replace(
            tokens,
            access_token=answer.access_token,
            refresh_token=answer.refresh_token or tokens.refresh_token,
            issued_at_ms=requested_at_ms,
            expires_at_ms=expires_at_ms,
        )

    async def _post(
        self, spec: ServerSpec, tokens: Tokens, endpoint: str, form: dict[str, str]
    ) -> httpx2.Response:
        """Make a request as the client of the login. Errors: OAuthFailed."""
        form = {**form, "client_id": tokens.client_id}
        headers = {}
        reference = spec.settings.oauth_client_secret_ref
        try:
            secret = tokens.client_secret if reference is None else self._resolve(reference)
        except CredentialMissing as missing:
            raise OAuthFailed(f"the secret of the client is missing: {missing}") from None
        if secret is not None and tokens.auth_method == "client_secret_post":
            form["client_secret"] = secret
        elif secret is not None and tokens.auth_method == "client_secret_basic":
            pair = f"{quote(tokens.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        return await _send(spec, "POST", endpoint, headers, form=form)

    # The end of a login.

    def hold(self, spec: ServerSpec) -> None:
        """Remember the tokens of a login that is about to be deleted."""
        self._held.pop(spec.name, None)
        with suppress(LoginNeeded):
            self._held[spec.name] = (spec, self._load(spec))

    async def revoke(self, name: str) -> bool:
        """Revoke the tokens that are remembered, by RFC 7009; return whether the server has accepted that."""
        spec, tokens = self._held.pop(name, (None, None))
        if spec is None or tokens is None or tokens.revocation_endpoint is None:
            return False
        accepted = False
        hints = {"refresh_token": tokens.refresh_token, "access_token": tokens.access_token}
        with trio.move_on_after(REQUEST_SECONDS):
            try:
                for hint, token in hints.items():
                    if token is not None:
                        # An empty secret is as good as none (RFC 6749, 2.3.1), and some servers want one.
                        form = {"token": token, "token_type_hint": hint, "client_secret": ""}
                        response = await self._post(spec, tokens, tokens.revocation_endpoint, form)
                        accepted = response.status_code == 200
            except OAuthFailed as failure:
                log.warning("deleted tokens are not revoked: %s", failure, extra={"server": name})
                return False
        return accepted


class LoginAuth(httpx2.Auth):
    """The token of a login for each request of one connection.

    A request that the server refused (401) is sent once more, with a renewed token: it has done nothing. If
    that is refused, too, or there is none, the login is needed again: ``problem`` says why.
    """

    def __init__(self, logins: Logins, spec: ServerSpec) -> None:
        self.problem: LoginNeeded | None = None
        self._has_problem = trio.Event()
        self._logins = logins
        self._spec = spec

    async def async_auth_flow(self, request: httpx2.Request) -> Any:
        """Add the token to a request."""
        token = await self._get_token(None)
        request.headers["authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code != 401:
            return
        try:
            request.headers["authorization"] = f"Bearer {await self._get_token(token)}"
        except httpx2.RequestError:
            return
        response = yield request
        if response.status_code == 401:
            self._report(LoginNeeded("it refused a token that was just issued"))

    async def _get_token(self, refused: str | None) -> str:
        try:
            return await self._logins.get_token(self._spec, refused)
        except LoginNeeded as needed:
            self._report(needed)
            raise httpx2.RequestError(str(needed)) from None
        except OAuthFailed as failure:
            raise httpx2.RequestError(str(failure)) from None

    def _report(self, needed: LoginNeeded) -> None:
        self.problem = self.problem or needed
        self._has_problem.set()

    async def watch(self) -> None:
        """Keep the token fresh. Errors: LoginNeeded once a login is needed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._logins.keep_fresh, self._spec)
            await self._has_problem.wait()
            await trio.sleep(GRACE_SECONDS)
            assert self.problem is not None, "there is a problem"
            raise self.problem


# Steps of a login.


async def _discover(spec: ServerSpec) -> _Authority:
    """Return the authorization server of a server. Errors: OAuthFailed."""
    url = spec.settings.url or ""
    # Without a token, a server names the place of its metadata.
    probe = await _send(spec, "POST", url, json={"jsonrpc": "2.0", "id": 0, "method": "ping"}, has_body=False)
    named = flow.extract_resource_metadata_from_www_auth(probe)
    protected = None
    for place in flow.build_protected_resource_metadata_discovery_urls(named, url):
        try:
            response = await _send(spec, "GET", place)
        except OAuthFailed as failure:
            if place != named:
                raise
            log.warning("the metadata that an MCP server names are not read: %s", failure)
            continue
        protected = await flow.handle_protected_resource_response(response)
        if protected is not None:
            break
    resource, issuer = resource_url_from_server_url(url), None
    if protected is not None:
        claimed = str(protected.resource)
        if not check_resource_allowed(requested_resource=resource, configured_resource=claimed):
            raise OAuthFailed(f"its metadata are those of another server: {_quote(claimed)}")
        resource, issuer = claimed, str(protected.authorization_servers[0])
    metadata, device_endpoint = None, None
    for place in flow.build_oauth_authorization_server_metadata_discovery_urls(issuer, url):
        response = await _send(spec, "GET", place)
        is_answer, metadata = await flow.handle_auth_metadata_response(response)
        if metadata is not None:
            # The library does not know this one, and reads numbers that are no JSON.
            with suppress(msgspec.DecodeError):
                device_endpoint = msgspec.json.decode(response.content).get("device_authorization_endpoint")
        if metadata is not None or not is_answer:
            break
    if metadata is None:
        raise OAuthFailed("it has no authorization server whose metadata can be read")
    parts = urlsplit(url)
    if not flow.issuers_match(str(metadata.issuer), issuer or f"{parts.scheme}://{parts.netloc}"):
        raise OAuthFailed(f"the metadata are those of another issuer: {_quote(str(metadata.issuer))}")
    if "S256" not in (metadata.code_challenge_methods_supported or ()):
        raise OAuthFailed("its authorization server does not support PKCE with S256")
    for endpoint in (metadata.authorization_endpoint, metadata.token_endpoint):
        _find_privacy(spec, str(endpoint))
    grants = ["authorization_code", "refresh_token"]
    scope = flow.get_client_metadata_scopes(
        flow.extract_scope_from_www_auth(probe), protected, metadata, grants
    )
    if not isinstance(device_endpoint, str):
        device_endpoint = None
    return _Authority(metadata, resource, scope, device_endpoint)


async def _register(
    spec: ServerSpec, authority: _Authority, redirect_uri: str | None
) -> OAuthClientInformationFull:
    """Return the configured client, or register one at an authorization server. Errors: OAuthFailed."""
    metadata, redirect = authority.metadata, redirect_uri or NO_REDIRECT
    if spec.settings.oauth_client_id is not None:
        has_secret = spec.settings.oauth_client_secret_ref is not None
        offered = metadata.token_endpoint_auth_methods_supported or ["client_secret_basic"]
        method = "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"
        return OAuthClientInformationFull.model_validate(
            {
                "client_id": spec.settings.oauth_client_id,
                "redirect_uris": [redirect],
                "token_endpoint_auth_method": method if has_secret else "none",
            }
        )
    if metadata.registration_endpoint is None:
        raise OAuthFailed(
            "its authorization server lets no client register; set oauth_client_id to a client that was "
            "registered there, or use auth_ref with a token"
        )
    wish = OAuthClientMetadata.model_validate(
        {
            "redirect_uris": [redirect],
            "token_endpoint_auth_method": "none",
            "client_name": "kheish",
            "scope": authority.scope,
            **({"grant_types": [DEVICE_GRANT, "refresh_token"]} if redirect_uri is None else {}),
        }
    )
    content = wish.model_dump(by_alias=True, mode="json", exclude_none=True)
    response = await _send(spec, "POST", str(metadata.registration_endpoint), json=content)
    try:
        client = await flow.handle_registration_response(response)
    except OAuthRegistrationError as error:
        raise OAuthFailed(_quote(str(error))) from None
    if _choose_method(client) not in ("none", "client_secret_post", "client_secret_basic"):
        raise OAuthFailed(f"the client cannot authenticate itself by {_quote(_choose_method(client))}")
    if len(client.client_id) + len(client.client_secret or "") > MAX_TOKEN_BYTES:
        raise OAuthFailed("the id of the client is too long")
    return client


def _blank_tokens(spec: ServerSpec, authority: _Authority, client: OAuthClientInformationFull) -> Tokens:
    """Return what tokens of a login have besides the tokens themselves."""
    return Tokens(
        server_url=spec.settings.url or "",
        token_endpoint=str(authority.metadata.token_endpoint),
        revocation_endpoint=_choose_revocation(spec, authority.metadata),
        client_id=client.client_id,
        client_secret=client.client_secret,
        auth_method=_choose_method(client),
        resource=authority.resource,
        access_token="",
        issued_at_ms=0,
    )


def _choose_revocation(spec: ServerSpec, metadata: OAuthMetadata) -> str | None:
    """Return the place where tokens are revoked; None without one, or with one that must not get them."""
    if metadata.revocation_endpoint is None:
        return None
    try:
        _find_privacy(spec, str(metadata.revocation_endpoint))
    except OAuthFailed:
        return None
    return str(metadata.revocation_endpoint)


def _choose_method(client: OAuthClientInformationFull) -> str:
    """Return how a client authenticates itself."""
    default = "none" if client.client_secret is None else "client_secret_basic"
    return client.token_endpoint_auth_method or default


# Requests.


def _find_privacy(spec: ServerSpec, url: str) -> bool:
    """Whether a URL may have a private address. Errors: OAuthFailed without TLS, but on this machine."""
    if len(url) > MAX_OAUTH_ADDRESS_BYTES:
        raise OAuthFailed(f"an address has {len(url)} bytes; the limit is {MAX_OAUTH_ADDRESS_BYTES}")
    try:
        # Both check an address, and each accepts some that the other does not.
        parts, _ = urlsplit(url), httpx2.URL(url)
    except (ValueError, httpx2.InvalidURL):
        raise OAuthFailed(f"{_quote(url)} is no address") from None
    own = urlsplit(spec.settings.url or "")
    is_own = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
    is_private = is_own or (parts.hostname or "") in spec.settings.oauth_hosts
    is_local = parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS
    if parts.scheme != "https" and not is_local:
        raise OAuthFailed(f"{_quote(url)} has no TLS, so credentials would be sent in plain text")
    return is_private


async def _send(
    spec: ServerSpec,
    method: str,
    url: str,
    headers: Mapping[str, str] | None = None,
    *,
    form: Mapping[str, str] | None = None,
    json: Any = None,
    has_body: bool = True,
) -> httpx2.Response:
    """Make a request, without redirects and proxies. Errors: OAuthFailed."""
    is_private = _find_privacy(spec, url)

    def is_allowed(address: Address, port: int) -> bool:
        return is_private or is_public(address)

    fixed = {
        "accept": "application/json, text/event-stream" if json is not None else "application/json",
        "accept-encoding": "identity",
        "user-agent": f"kheish/{__version__}",
    }
    request = httpx2.Request(method, url, headers={**fixed, **(headers or {})}, data=form, json=json)
    secure = None
    if request.url.scheme == "https":
        secure = await trio.to_thread.run_sync(httpcore2.default_ssl_context)
    try:
        with trio.fail_after(REQUEST_SECONDS):
            async with (
                httpcore2.AsyncConnectionPool(
                    ssl_context=secure, network_backend=PinnedBackend(is_allowed), max_keepalive_connections=0
                ) as pool,
                pool.stream(
                    method, str(request.url), headers=request.headers.raw, content=request.content
                ) as response,
            ):
                body = await _read_body(response.aiter_stream()) if has_body else b""
                return httpx2.Response(
                    response.status,
                    headers=[
                        pair for pair in response.headers if not pair[0].lower().startswith(b"content-")
                    ],
                    content=body,
                    request=request,
                )
    except AddressForbidden as forbidden:
        text = f"{forbidden}; list the host in 'oauth_hosts' if that is meant"
        raise OAuthFailed(text) from None
    except trio.TooSlowError:
        raise OAuthFailed(f"no answer from {request.url.host} within {REQUEST_SECONDS:g} s") from None
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        text = str(error) or type(error).__name__
        raise OAuthFailed(f"no answer from {request.url.host}: {text}") from None


async def _read_body(stream: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async with aclosing(stream) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            body += piece
            if len(body) > MAX_OAUTH_DOCUMENT_BYTES:
                raise OAuthFailed(f"a document has more than {MAX_OAUTH_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _quote(text: str) -> str:
    """Return a text of a stranger on one line."""
    return truncate(" ".join(sanitize(text).split()), MAX_SERVER_ERROR_BYTES // 4)
