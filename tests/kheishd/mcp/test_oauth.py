"""Logins by OAuth, against an authorization server of the official library and against bad ones."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec
import pytest
import trio
from mcp.shared.auth import OAuthClientInformationFull

from kheishd.kernel.mcp import LoginNeeded, ServerFailure, ServerSpec
from kheishd.mcp import oauth
from kheishd.mcp.oauth import Logins, OAuthFailed, Tokens
from kheishd.mcp.pool import McpPool
from protocol.errors.mcp import McpLoginFailed, McpLoginNotFound
from protocol.limits.mcp import MAX_LOGIN_SECONDS, MAX_LOGINS, MAX_OAUTH_DOCUMENT_BYTES
from protocol.objects.mcp import McpServerSettings
from tests.support.mcp_servers import MemorySlots, open_pool, until
from tests.support.oauth_mcp_server import OAuthServer, run_oauth_server

REDIRECT = "http://127.0.0.1:1/callback"


class Clock:
    """The wall clock of a test."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        """Return the time."""
        return self.ms


@pytest.fixture(scope="module")
def shared_server() -> Iterator[OAuthServer]:
    """Provide a server for all tests."""
    with run_oauth_server() as server:
        yield server


@pytest.fixture
def server(shared_server: OAuthServer) -> OAuthServer:
    """Return the server with its first manners."""
    authority = shared_server.authority
    authority.life_s, authority.renewals, authority.refuses_renewal = 3600, 0, False
    authority.access.clear()
    authority.revoked.clear()
    return shared_server


def spec_for(url: str, name: str = "guarded", **settings: Any) -> ServerSpec:
    """Return a server with a login."""
    return ServerSpec(name, McpServerSettings(url=url, oauth=True, **settings))


async def log_in(pool: McpPool, server: OAuthServer, name: str = "guarded") -> None:
    """Log in as a person."""
    begun = await pool.begin_login(name, REDIRECT)
    answer = await trio.to_thread.run_sync(server.visit, begun.url)
    await pool.complete_login(begun.login_id, answer["code"], answer["state"], answer.get("iss"))


async def say(pool: McpPool) -> str:
    """Call the tool."""
    result = await pool.call("guarded", "echo", {"text": "hi"}, lambda line: None)
    return str(result.content[0]["text"])


def tokens_of(slots: MemorySlots) -> Tokens:
    """Return the tokens that are kept."""
    return msgspec.json.decode(slots.values["mcp.oauth.guarded"], type=Tokens)


async def test_a_login(server: OAuthServer) -> None:
    """A server needs a login; after it, its tools can be called, and another daemon uses the same tokens."""
    slots, spec = MemorySlots(), spec_for(server.url)
    async with open_pool(spec, slots=slots) as pool:
        (view,) = pool.views()
        assert (view.state, view.problem) == (
            "needs_login",
            "nobody has logged in yet, or the slot of its tokens cannot be read",
        )
        with pytest.raises(ServerFailure, match="needs a login"):
            await say(pool)
        await log_in(pool, server)
        assert await say(pool) == "hi"
        assert tokens_of(slots).access_token in server.authority.access
    async with open_pool(spec, slots=slots) as pool:
        assert await say(pool) == "hi"
        slots.values.clear()
        await pool.restart("guarded")
        assert pool.views()[0].state == "needs_login"
    assert server.authority.renewals == 0


async def test_a_login_is_single_use(server: OAuthServer) -> None:
    """A login is completed once, in time, with its own state, at the server as it was."""
    clock, spec = Clock(), spec_for(server.url)
    async with open_pool(spec, now_ms=clock) as pool:
        begun = await pool.begin_login("guarded", REDIRECT)
        answer = await trio.to_thread.run_sync(server.visit, begun.url)
        with pytest.raises(McpLoginFailed, match="the state is not that of the login"):
            await pool.complete_login(begun.login_id, answer["code"], "other", None)
        with pytest.raises(McpLoginNotFound):
            await pool.complete_login(begun.login_id, answer["code"], answer["state"], None)
        begun = await pool.begin_login("guarded", REDIRECT)
        clock.ms += MAX_LOGIN_SECONDS * 1000
        with pytest.raises(McpLoginNotFound, match="has expired"):
            await pool.complete_login(begun.login_id, "c", "s", None)
        begun = await pool.begin_login("guarded", REDIRECT)
        answer = await trio.to_thread.run_sync(server.visit, begun.url)
        with pytest.raises(McpLoginFailed, match="iss mismatch"):
            await pool.complete_login(begun.login_id, "c", answer["state"], "https://evil.example")
        begun = await pool.begin_login("guarded", REDIRECT)
        answer = await trio.to_thread.run_sync(server.visit, begun.url)
        with pytest.raises(McpLoginFailed, match="the code was not exchanged"):
            await pool.complete_login(begun.login_id, "wrong", answer["state"], answer.get("iss"))
        begun = await pool.begin_login("guarded", REDIRECT)
        answer = await trio.to_thread.run_sync(server.visit, begun.url)
        pool.adopt({"guarded": spec_for(server.url, tool_timeout_s=5.0)})
        with pytest.raises(McpLoginFailed, match="configured anew"):
            await pool.complete_login(begun.login_id, answer["code"], answer["state"], answer.get("iss"))
        first, *_ = [await pool.begin_login("guarded", REDIRECT) for _ in range(MAX_LOGINS + 1)]
        with pytest.raises(McpLoginNotFound):
            await pool.complete_login(first.login_id, "c", "s", None)


async def test_a_server_without_oauth(server: OAuthServer) -> None:
    """A login needs a server whose settings have one."""
    spec = ServerSpec("plain", McpServerSettings(url=server.url))
    async with open_pool(spec) as pool:
        with pytest.raises(McpLoginFailed, match="has no 'oauth'"):
            await pool.begin_login("plain", REDIRECT)


async def test_renewal_before_the_end(server: OAuthServer) -> None:
    """A token that expires soon is renewed once, however many calls use it, and is on the disk first."""
    clock, slots, spec = Clock(), MemorySlots(), spec_for(server.url)
    async with open_pool(spec, slots=slots, now_ms=clock) as pool:
        await log_in(pool, server)
        first = tokens_of(slots)
        clock.ms += 3_301_000
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(say, pool)
        assert server.authority.renewals == 1
        assert tokens_of(slots).access_token != first.access_token


async def test_renewal_by_a_timer(server: OAuthServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of a connection without any call is renewed, too."""
    monkeypatch.setattr(oauth, "LOOK_AGAIN_SECONDS", 0.01)
    clock, slots = Clock(), MemorySlots()
    async with open_pool(spec_for(server.url), slots=slots, now_ms=clock) as pool:
        await log_in(pool, server)
        clock.ms += 3_301_000
        await until(lambda: server.authority.renewals > 0)
        assert pool.views()[0].state == "ready"


async def test_a_token_that_is_refused_during_a_call(server: OAuthServer) -> None:
    """A token that the server refuses is renewed, and the call is sent once more."""
    slots = MemorySlots()
    async with open_pool(spec_for(server.url), slots=slots) as pool:
        await log_in(pool, server)
        server.authority.access.clear()
        assert await say(pool) == "hi"
        assert server.authority.renewals == 1


async def test_a_renewal_that_is_refused(server: OAuthServer) -> None:
    """If the renewal is refused, the server needs a login at once, and another login helps."""
    slots = MemorySlots()
    async with open_pool(spec_for(server.url), slots=slots) as pool:
        await log_in(pool, server)
        server.authority.access.clear()
        server.authority.refuses_renewal = True
        with pytest.raises(ServerFailure):
            await say(pool)
        await until(lambda: pool.views()[0].state == "needs_login")
        assert "revoked by the person" in (pool.views()[0].problem or "")
        await log_in(pool, server)
        assert await say(pool) == "hi"


async def test_tokens_stay_with_their_url(server: OAuthServer) -> None:
    """Tokens go to the URL for which they were issued only; a slot with something else is no login."""
    slots = MemorySlots()
    async with open_pool(spec_for(server.url), slots=slots) as pool:
        await log_in(pool, server)
    logins = Logins(slots.read, slots.save, lambda: 0)
    with pytest.raises(LoginNeeded, match="of another URL"):
        await logins.get_token(spec_for("https://other.example/mcp"))
    slots.values["mcp.oauth.guarded"] = "something"
    with pytest.raises(LoginNeeded, match="holds something else"):
        await logins.get_token(spec_for(server.url))


async def test_revocation(server: OAuthServer) -> None:
    """Tokens that are deleted are revoked at their server, once."""
    slots, spec = MemorySlots(), spec_for(server.url)
    async with open_pool(spec, slots=slots) as pool:
        pool.hold_login(spec)
        assert not await pool.revoke_login("guarded")
        await log_in(pool, server)
        tokens = tokens_of(slots)
        pool.hold_login(spec)
        slots.values.clear()
        assert await pool.revoke_login("guarded")
        assert server.authority.revoked == [tokens.refresh_token, tokens.access_token]
        assert not await pool.revoke_login("guarded")
        await log_in(pool, server)
        lost = msgspec.structs.replace(tokens_of(slots), revocation_endpoint="http://169.254.169.254/x")
        slots.values[spec.login_slot] = msgspec.json.encode(lost).decode()
        pool.hold_login(spec)
        assert not await pool.revoke_login("guarded")


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_a_client_that_is_registered_already(server: OAuthServer, method: str) -> None:
    """A configured client is used instead of a registration; its secret is read from its reference."""
    client = OAuthClientInformationFull.model_validate(
        {
            "client_id": "kheish-of-the-team",
            # The resolver of these tests.
            "client_secret": "value-of-slot:client",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": method,
        }
    )
    await server.authority.register_client(client)
    settings = {"oauth_client_id": "kheish-of-the-team", "oauth_client_secret_ref": "slot:client"}
    slots, clock, spec = MemorySlots(), Clock(), spec_for(server.url, **settings)
    assert "slot:client" in spec.references
    async with open_pool(spec, slots=slots, now_ms=clock) as pool:
        if method == "client_secret_basic":
            await log_in(pool, server)
            assert await say(pool) == "hi"
            assert "value-of" not in slots.values[spec.login_slot]
            clock.ms += 3_301_000
            assert await say(pool) == "hi"
            assert server.authority.renewals == 1
        else:
            # The server offers the other method, too, which is preferred.
            with pytest.raises(McpLoginFailed, match="the code was not exchanged"):
                await log_in(pool, server)


def test_slots_of_servers() -> None:
    """Each server has a slot of its own, also where names differ in the case of letters only."""
    names = [spec_for("http://x/", name).login_slot for name in ("a", "A", "ab", "aB", "a-b")]
    assert names == ["mcp.oauth.a", "mcp.oauth..a", "mcp.oauth.ab", "mcp.oauth.a.b", "mcp.oauth.a-b"]
    assert spec_for("http://x/").needs_credential


# Bad servers.


class BadServer:
    """A server whose documents are these, by path; ``{origin}`` is its origin."""

    def __init__(self, port: int, documents: dict[str, Any]) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.paths: list[str] = []
        self.documents = documents

    async def serve(self, stream: trio.SocketStream) -> None:
        """Answer one request."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        path = data.split()[1].decode()
        self.paths.append(path)
        document = self.documents.get(path, 404)
        if isinstance(document, list):
            document = document.pop(0)
        extra = ""
        if isinstance(document, tuple):
            document, extra = document
        is_refusal = isinstance(document, dict) and "error" in document
        status = document if isinstance(document, int) else 400 if is_refusal else 200
        body = b"" if isinstance(document, int) else msgspec.json.encode(document)
        body = body.replace(b"{origin}", self.origin.encode())
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}connection: close\r\n\r\n"
        with suppress(trio.BrokenResourceError):
            await stream.send_all(head.encode() + body)


METADATA = {
    "issuer": "{origin}",
    "authorization_endpoint": "{origin}/authorize",
    "token_endpoint": "{origin}/token",
    "registration_endpoint": "{origin}/register",
    "code_challenge_methods_supported": ["S256"],
}
PLACE = "/.well-known/oauth-authorization-server"
RESOURCE = "/.well-known/oauth-protected-resource/mcp"
CLIENT = {"client_id": "c", "redirect_uris": [REDIRECT]}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "no authorization server whose metadata can be read"),
    "bomb": ({PLACE: {"x": "y" * MAX_OAUTH_DOCUMENT_BYTES}}, "has more than 65536 bytes"),
    "private": (
        {RESOURCE: {"resource": "{origin}/mcp", "authorization_servers": ["https://127.0.0.2/"]}},
        "127.0.0.2 is not on the public internet",
    ),
    "no TLS": (
        {RESOURCE: {"resource": "{origin}/mcp", "authorization_servers": ["http://as.example/"]}},
        "http://as.example/.* has no TLS",
    ),
    "long address": (
        {PLACE: {**METADATA, "token_endpoint": "{origin}/" + "x" * 3_000}},
        "an address has 30.. bytes; the limit is 2048",
    ),
    "other resource": (
        {RESOURCE: {"resource": "https://bank.example/", "authorization_servers": ["{origin}"]}},
        "of another server: https://bank.example/",
    ),
    "issuer": ({PLACE: {**METADATA, "issuer": "https://bank.example"}}, "of another issuer"),
    "no PKCE": ({PLACE: {**METADATA, "code_challenge_methods_supported": ["plain"]}}, "PKCE"),
    "configured host": (
        {RESOURCE: {"resource": "{origin}/mcp", "authorization_servers": ["http://as.internal/"]}},
        "http://as.internal/.* has no TLS, so credentials would be sent in plain text",
    ),
    "endpoint": ({PLACE: {**METADATA, "token_endpoint": "http://169.254.169.254/x"}}, "has no TLS"),
    "script": ({PLACE: {**METADATA, "authorization_endpoint": "javascript:alert(1)"}}, "can be read"),
    "no registration": ({PLACE: {**METADATA, "registration_endpoint": None}}, "lets no client register"),
    "refused": ({PLACE: METADATA, "/register": 403}, "Registration failed: 403"),
    "method": (
        {PLACE: METADATA, "/register": {**CLIENT, "token_endpoint_auth_method": "tls_client_auth"}},
        "cannot authenticate itself by tls_client_auth",
    ),
    "redirect": ({PLACE: (302, "location: http://127.0.0.1:1/\r\n")}, "no authorization server"),
    "encoded": ({PLACE: METADATA, "/register": 500}, "Registration failed: 500"),
}


@pytest.mark.parametrize("case", CASES)
async def test_a_bad_authorization_server(case: str) -> None:
    """Metadata that lead elsewhere, are too long or lack something end the login with the reason."""
    documents, problem = CASES[case]
    async with trio.open_nursery() as nursery:
        bad = BadServer(0, documents)
        listeners = await nursery.start(trio.serve_tcp, bad.serve, 0)
        bad.origin = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        slots = MemorySlots()
        logins = Logins(slots.read, slots.save, lambda: 0)
        with pytest.raises(McpLoginFailed, match=problem):
            await logins.begin(spec_for(f"{bad.origin}/mcp", oauth_hosts=["as.internal"]), REDIRECT)
        nursery.cancel_scope.cancel()


async def test_a_header_that_lies() -> None:
    """The place that a server names is not followed to a private address; the usual places are read."""
    lie = 'www-authenticate: Bearer resource_metadata="http://169.254.169.254/latest", scope="a"\r\n'
    documents = {"/mcp": (401, lie), PLACE: METADATA, "/register": CLIENT}
    async with trio.open_nursery() as nursery:
        bad = BadServer(0, documents)
        listeners = await nursery.start(trio.serve_tcp, bad.serve, 0)
        bad.origin = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        slots = MemorySlots()
        logins = Logins(slots.read, slots.save, lambda: 0)
        begun = await logins.begin(spec_for(f"{bad.origin}/mcp"), REDIRECT)
        assert begun.url.startswith(f"{bad.origin}/authorize?")
        nursery.cancel_scope.cancel()


TOKEN = {"access_token": "a-token-of-some-length", "token_type": "Bearer"}

DEVICE = {
    "device_code": "a-code-of-the-device",
    "user_code": "ABCD-EFGH",
    "verification_uri": "{origin}/device",
    "expires_in": 300,
    "interval": 0,
}
DEVICE_METADATA = {**METADATA, "device_authorization_endpoint": "{origin}/code"}
PENDING = {"error": "authorization_pending"}


async def log_in_by_code(clock: Clock, **documents: Any) -> tuple[MemorySlots, str | None]:
    """Log in at a server with these documents by a code; return the slots, and the code that was shown."""
    slots = MemorySlots()
    async with trio.open_nursery() as nursery:
        bad = BadServer(0, {PLACE: DEVICE_METADATA, "/register": CLIENT, "/code": DEVICE})
        bad.documents.update({f"/{path}": document for path, document in documents.items()})
        listeners = await nursery.start(trio.serve_tcp, bad.serve, 0)
        bad.origin = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        spec = spec_for(f"{bad.origin}/mcp")
        logins = Logins(slots.read, slots.save, clock)
        begun = await logins.begin(spec, None)
        assert begun.url == f"{bad.origin}/device"
        assert await logins.complete(begun.login_id, None, None, None, lambda name: spec) == "guarded"
        with pytest.raises(McpLoginNotFound):
            await logins.complete(begun.login_id, None, None, None, lambda name: spec)
        nursery.cancel_scope.cancel()
    return slots, begun.user_code


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a login by a code be asked for without a pause."""
    monkeypatch.setattr(oauth, "MIN_POLL_SECONDS", 0.0)
    monkeypatch.setattr(oauth, "SLOW_DOWN_SECONDS", 0.01)


@pytest.mark.usefixtures("no_pause")
async def test_a_login_by_a_code() -> None:
    """The tokens are asked for until the person has typed the code; the server may ask for longer pauses."""
    token = [PENDING, {"error": "slow_down"}, 503, PENDING, TOKEN]
    slots, code = await log_in_by_code(Clock(), token=token)
    assert (code, tokens_of(slots).access_token) == ("ABCD-EFGH", TOKEN["access_token"])


@pytest.mark.usefixtures("no_pause")
@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        ({"token": [PENDING, {"error": "access_denied"}]}, "was not completed: access_denied"),
        ({"token": [{"error": "expired_token"}]}, "was not completed: expired_token"),
        ({"token": [{"token_type": "Bearer"}]}, "is no token"),
        ({"code": 403}, "issued no code"),
        ({"code": {"device_code": "x"}}, "is invalid"),
        ({"code": {**DEVICE, "user_code": "A\x1b[2J"}}, "do not print"),
        ({"code": {**DEVICE, "user_code": "A" * 65}}, "is invalid"),
        ({"code": {**DEVICE, "verification_uri": "http://bank.example/"}}, "has no TLS"),
        ({"code": {**DEVICE, "verification_uri": "javascript:alert(1)"}}, "has no TLS"),
        ({"code": {**DEVICE, "verification_uri": "https://[bank.example/"}}, "is no address"),
        ({"code": {**DEVICE, "verification_uri": "https://bank.example:port/"}}, "is no address"),
        ({PLACE[1:]: METADATA}, "offers no login by a code"),
        ({PLACE[1:]: {**DEVICE_METADATA, "device_authorization_endpoint": "https://[x/"}}, "is no address"),
        ({PLACE[1:]: {**DEVICE_METADATA, "extra": msgspec.Raw(b"NaN")}}, "offers no login by a code"),
    ],
)
async def test_a_code_that_leads_nowhere(documents: dict[str, Any], problem: str) -> None:
    """A refusal of the person, and an answer that is no code or no token, end the login with the reason."""
    with pytest.RaisesGroup(
        pytest.RaisesExc(McpLoginFailed, check=lambda error: problem in str(error)), flatten_subgroups=True
    ):
        await log_in_by_code(Clock(), **documents)


@pytest.mark.usefixtures("no_pause")
async def test_a_code_that_never_expires() -> None:
    """A code whose time is no number of milliseconds is used like any other."""
    slots, _ = await log_in_by_code(Clock(), code={**DEVICE, "expires_in": 1e308}, token=[TOKEN])
    assert tokens_of(slots).access_token == TOKEN["access_token"]


@pytest.mark.usefixtures("no_pause")
async def test_a_code_that_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A login whose code was not typed in time has expired."""
    clock = Clock()
    original = oauth._send

    async def send(*args: Any, **kwargs: Any) -> Any:
        clock.ms += 60_000
        return await original(*args, **kwargs)

    monkeypatch.setattr(oauth, "_send", send)
    with pytest.RaisesGroup(pytest.RaisesExc(McpLoginNotFound, match="has expired"), flatten_subgroups=True):
        await log_in_by_code(clock, token=[PENDING] * 20)


async def test_a_code_is_no_redirect() -> None:
    """A login by a code cannot be completed by the parameters of a redirect."""
    async with trio.open_nursery() as nursery:
        bad = BadServer(0, {PLACE: DEVICE_METADATA, "/register": CLIENT, "/code": DEVICE})
        listeners = await nursery.start(trio.serve_tcp, bad.serve, 0)
        bad.origin = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        spec, slots = spec_for(f"{bad.origin}/mcp"), MemorySlots()
        logins = Logins(slots.read, slots.save, lambda: 0)
        begun = await logins.begin(spec, None)
        with pytest.raises(McpLoginFailed, match="the state is not that"):
            await logins.complete(begun.login_id, "c", "", None, lambda name: spec)
        begun = await logins.begin(spec, REDIRECT)
        with pytest.raises(McpLoginFailed, match="the state is not that"):
            await logins.complete(begun.login_id, None, None, None, lambda name: spec)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"access_token": "a\nb" * 8, "token_type": "Bearer"}, "no header can hold"),
        ({"access_token": "short", "token_type": "Bearer"}, "no header can hold"),
        ({"token_type": "Bearer", "secret": "s"}, "is no token"),
        ({**TOKEN, "token_type": "mac"}, "is no token"),
        (503, "the status is 503"),
    ],
)
async def test_a_bad_token(answer: Any, problem: str) -> None:
    """An answer that is no token fails for now; the refresh token is kept, and the error quotes no token."""
    async with trio.open_nursery() as nursery:
        bad = BadServer(0, {"/token": answer})
        listeners = await nursery.start(trio.serve_tcp, bad.serve, 0)
        bad.origin = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        spec, slots = spec_for(f"{bad.origin}/mcp"), MemorySlots()
        kept = Tokens(
            server_url=f"{bad.origin}/mcp",
            token_endpoint=f"{bad.origin}/token",
            client_id="c",
            client_secret="the-secret-of-c",
            auth_method="client_secret_basic",
            resource=f"{bad.origin}/mcp",
            access_token="the-token-before",
            refresh_token="the-refresh-token",
            issued_at_ms=0,
            expires_at_ms=1000,
        )
        slots.values[spec.login_slot] = value = msgspec.json.encode(kept).decode()
        now_ms = 900
        logins = Logins(slots.read, slots.save, lambda: now_ms)
        assert await logins.get_token(spec) == "the-token-before"
        now_ms = 1000
        with pytest.raises(OAuthFailed, match=problem):
            await logins.get_token(spec)
        assert slots.values[spec.login_slot] == value
        nursery.cancel_scope.cancel()
