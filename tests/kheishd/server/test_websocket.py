"""The TCP transport: authentication, closing, and close codes."""

import ssl
import struct
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from trio_websocket import open_websocket_url

from kheishd.objects.node import journal, rpc
from kheishd.server.listeners import ListenerUnusable, TcpListen
from kheishd.server.websocket import load_certificate, renew_certificate
from protocol.errors.definition import AgentForbidden
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.limits.rpc import MAX_LINE_BYTES
from tests.support.rpc_server import UPGRADE, Client, Messages, RpcServer, rpc_server
from tests.support.stories import add_session
from tests.support.toys import Toys

TCP = TcpListen("127.0.0.1", 0, hosts=("kheish.example",), origins=("https://app.example",))


class Clock:
    """A wall clock that tests set."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def toys() -> Toys:
    """Provide the toy handlers."""
    return Toys()


@pytest.fixture
def clock() -> Clock:
    """Provide the server's time of day."""
    return Clock()


@pytest.fixture
async def server(tmp_path: Path, toys: Toys, clock: Clock) -> AsyncIterator[RpcServer]:
    """Provide a server with a TCP listener."""
    handlers = [*toys.handlers(), *rpc.HANDLERS, *journal.HANDLERS]
    async with rpc_server(tmp_path, handlers, tcp=TCP, clock=clock) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def closed(client: Client) -> int:
    """Return the code with which the server closes."""
    while True:
        try:
            await client.line()
        except EOFError:
            break
    assert isinstance(client.transport, Messages)
    reason = client.transport.socket.closed
    assert reason is not None
    return int(reason.code)


def frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked with zeros, for frames that the library does not send."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + struct.pack(">Q", size)
    return head + bytes(4) + payload


async def send_raw(client: Client, data: bytes) -> None:
    """Send bytes past the library."""
    assert isinstance(client.transport, Messages)
    await client.transport.socket._stream.send_all(data)


# The head of the request.


async def test_a_bearer_gets_in(server: RpcServer) -> None:
    """A client with a token is served."""
    _, secret = await server.token()
    client = await server.connect_websocket(secret)
    assert await client.call("toy.echo", value="é") == {"value": "é", "size": 0, "items": []}
    assert server.server.connections >= 1


async def test_without_a_token_there_is_no_way_in(server: RpcServer) -> None:
    """A client without a token gets 401 before any message, also from this machine."""
    status, answer = await server.handshake()
    assert status == 401
    assert "WWW-Authenticate: Bearer" in answer
    assert "token_missing" in answer


@pytest.mark.parametrize("secret", ["unknown", "kht_unknown", "é"])
async def test_a_wrong_token_is_no_way_in(server: RpcServer, secret: str) -> None:
    """An invalid token gets 401."""
    status, answer = await server.handshake(f"Authorization: Bearer {secret}")
    assert status in (400, 401)
    assert ("token_invalid" in answer) is (status == 401)


async def test_revoked_and_expired_tokens_are_no_way_in(server: RpcServer, clock: Clock) -> None:
    """Revoked and expired tokens, and those narrowed from them, get 401."""
    parent, _ = await server.token()
    async with await server.connect() as client:
        child = (await client.call("token.narrow", token_id=parent))["secret"]
        assert (await server.handshake(f"Authorization: Bearer {child}"))[0] == 101
        await client.call("token.revoke", token_id=parent)
        assert (await server.handshake(f"Authorization: Bearer {child}"))[0] == 401
    _, brief = await server.token(expires_in_s=60)
    clock.now_ms += 60_000
    assert (await server.handshake(f"Authorization: Bearer {brief}"))[0] == 401


@pytest.mark.parametrize(
    ("host", "headers", "status"),
    [
        (None, [], 101),
        ("kheish.example:7707", [], 101),
        ("evil.example:7707", [], 403),
        (None, ["Origin: http://evil.example"], 403),
        (None, ["Origin: null"], 403),
        (None, ["Origin: https://app.example"], 101),
    ],
)
async def test_pages_of_other_sites_are_kept_out(
    server: RpcServer, host: str | None, headers: list[str], status: int
) -> None:
    """A page of another site gets 403, even with a token."""
    _, secret = await server.token()
    found, answer = await server.handshake(f"Authorization: Bearer {secret}", *headers, host=host)
    assert found == status
    assert ("origin_forbidden" in answer) is (status == 403)


async def test_a_foreign_page_learns_nothing_about_tokens(server: RpcServer) -> None:
    """The origin is checked before the token."""
    assert (await server.handshake("Origin: http://evil.example"))[0] == 403


async def test_only_one_path_is_served(server: RpcServer) -> None:
    """Only one path is served; a query string is ignored."""
    _, secret = await server.token()
    bearer = f"Authorization: Bearer {secret}"
    assert (await server.handshake(bearer, path="/rpc?x=1"))[0] == 101
    assert (await server.handshake(bearer, path="/"))[0] == 404
    assert (await server.handshake(path="/"))[0] == 401


@pytest.mark.parametrize("request_bytes", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"hello\r\n\r\n"])
async def test_what_is_not_http_is_refused(server: RpcServer, request_bytes: bytes) -> None:
    """Bytes that are not HTTP are refused without a log entry."""
    assert (await server.raw_http(request_bytes))[0] == 400


async def test_headers_that_are_not_ascii_are_refused(
    server: RpcServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Headers that are not ASCII are refused before the library reads them."""
    _, secret = await server.token()
    assert (await server.handshake(f"Authorization: Bearer {secret}", "Connection: é"))[0] == 400
    assert caplog.text == ""


@pytest.mark.parametrize(
    "headers",
    [
        ("Authorization: Bearer x",),
        ("Origin: http://{tcp}", "Origin: http://evil.example"),
        ("Origin: http://evil.example", "Origin: http://{tcp}"),
        ("Host: {tcp}",),
        ("Content-Length: 5",),
        ("Transfer-Encoding: chunked",),
        ("Content-Length: 0", "Transfer-Encoding: chunked"),
    ],
)
async def test_a_head_that_two_readers_could_read_differently_is_refused(
    server: RpcServer, headers: tuple[str, ...]
) -> None:
    """A repeated checked header or a body is refused."""
    _, secret = await server.token()
    bearer = f"Authorization: Bearer {secret}"
    filled = [header.replace("{tcp}", str(server.tcp)) for header in headers]
    assert (await server.handshake(bearer, *filled))[0] == 400
    assert (await server.handshake(bearer, "Content-Length: 0"))[0] == 101


async def test_an_endless_head_is_refused(server: RpcServer) -> None:
    """A head of more than sixteen kibibytes is refused."""
    assert (await server.raw_http(b"GET /rpc HTTP/1.1\r\nX: " + b"x" * 40_000))[0] == 400


async def test_what_is_no_upgrade_is_refused(server: RpcServer) -> None:
    """A request that is no upgrade is refused."""
    _, secret = await server.token()
    head = f"GET /rpc HTTP/1.1\r\nHost: {server.tcp}\r\nAuthorization: Bearer {secret}\r\n\r\n"
    assert (await server.raw_http(head.encode()))[0] == 400
    assert (await server.raw_http(head.replace("GET", "POST").encode()))[0] == 400


async def test_a_peer_that_says_nothing_is_let_go(server: RpcServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing is disconnected after the handshake timeout."""
    monkeypatch.setattr("kheishd.server.handshakes.HANDSHAKE_S", 0.01)
    address, _, port = str(server.tcp).rpartition(":")
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(address, int(port)) as stream:
            assert await stream.receive_some() == b""


# Messages.


async def connect(server: RpcServer, **grant: Any) -> Client:
    """Connect with a token of the test's own."""
    _, secret = await server.token(**grant)
    return await server.connect_websocket(secret)


async def test_answers_may_be_long_and_many(server: RpcServer) -> None:
    """A client that takes answers slowly is not read meanwhile and loses nothing."""
    client = await connect(server)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            for _ in range(20):
                await client.request("toy.large", size=300 * 1024)

        for number in range(20):
            assert len(await client.answer(number + 1)) == 300 * 1024


async def test_binary_messages_are_refused(server: RpcServer) -> None:
    """A binary message closes the connection with 1003."""
    client = await connect(server)
    await send_raw(client, frame(2, b'{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}'))
    assert await closed(client) == 1003


async def test_text_that_is_not_utf8_closes(server: RpcServer) -> None:
    """Text that is not UTF-8 closes the connection with 1007."""
    client = await connect(server)
    await send_raw(client, frame(1, b'"\xff\xfe"'))
    assert await closed(client) == 1007


@pytest.mark.parametrize("text", [b"x" * (MAX_LINE_BYTES + 1), "é".encode() * (MAX_LINE_BYTES // 2 + 1)])
async def test_a_message_over_the_limit_closes(server: RpcServer, text: bytes) -> None:
    """A message over the limit, in bytes, closes the connection with 1009."""
    client = await connect(server)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            try:
                await send_raw(client, frame(1, text))
            except trio.BrokenResourceError:
                return

        assert await closed(client) == 1009


async def test_a_message_of_the_limit_is_taken(server: RpcServer) -> None:
    """A message of exactly the limit is accepted."""
    client = await connect(server)
    head, tail = b'{"jsonrpc":"2.0","id":1,"method":"toy.echo","params":{"value":"', b'"}}'
    room = MAX_LINE_BYTES - len(head) - len(tail)
    await client.send(head + b"x" * room + tail)
    assert len((await client.read())["result"]["value"]) == room


async def test_a_peer_that_closes_is_forgotten(server: RpcServer, toys: Toys) -> None:
    """A closed connection ends its waits."""
    client = await connect(server)
    await client.request("toy.wait")
    await until(lambda: toys.waiting == 1)
    await client.transport.aclose()
    await until(lambda: toys.waiting == 0)


async def test_a_peer_that_vanishes_is_forgotten(server: RpcServer, toys: Toys) -> None:
    """A client that vanishes without closing is forgotten."""
    client = await connect(server)
    await client.request("toy.wait")
    await until(lambda: toys.waiting == 1)
    assert isinstance(client.transport, Messages)
    await trio.aclose_forcefully(client.transport.socket._stream)
    await until(lambda: toys.waiting == 0)


# Tokens and their connections.


async def test_revoking_a_token_closes_its_connections(server: RpcServer) -> None:
    """Revoking a token closes its connections and those of tokens narrowed from it."""
    parent, secret = await server.token()
    one = await server.connect_websocket(secret)
    child = await server.connect_websocket((await one.call("token.narrow"))["secret"])
    other = await connect(server)
    await child.call("journal.subscribe", subscription="s")
    waiting = await child.request("toy.wait")
    owner = await server.connect()
    assert (await owner.call("token.revoke", token_id=parent))["revoked_at_ms"]
    messages = [await child.read() for _ in range(4)]
    assert {"subscription": "s", "reason": "revoked"} in [message.get("params") for message in messages]
    (refusal,) = [message for message in messages if message.get("id") == waiting]
    assert refusal["error"]["data"]["reason"] == "token_invalid"
    assert await closed(child) == await closed(one) == 1008
    assert await other.call("toy.read") is True


async def test_a_connection_ends_with_its_token(server: RpcServer, clock: Clock) -> None:
    """A connection ends when its token expires."""
    clock.now_ms -= 59_990
    _, secret = await server.token(expires_in_s=60)
    clock.now_ms += 59_990
    client = await server.connect_websocket(secret)
    assert await closed(client) == 1008


async def test_a_token_s_limits_hold(server: RpcServer) -> None:
    """The scopes, agents and senders of a token apply, and tokens made with it are no wider."""
    await server.state.update(lambda tx: add_session(tx, "ses_1", "other"))
    client = await connect(server, scopes=["read", "admin"], agents=["helper"])
    assert (await client.call("journal.read"))["events"] == []
    with pytest.raises(ScopeWouldWiden):
        await client.call("token.create", scopes=["read"])
    (caller,) = [each.caller for each in server.server.list_connections() if each.caller.token_id is not None]
    with pytest.raises(AgentForbidden):
        caller.require_agent("other")
    reader = await connect(server, scopes=["read"])
    with pytest.raises(ScopeMissing):
        await reader.call("token.list")


async def test_draining_says_that_the_daemon_goes_away(server: RpcServer) -> None:
    """Draining closes connections with 1001."""
    client = await connect(server)
    await client.call("rpc.ping")
    await server.server.drain(10)
    assert await closed(client) == 1001


# TLS.


async def test_tls_is_spoken_with_a_certificate(tmp_path: Path, toys: Toys) -> None:
    """With a certificate only TLS is served, and a plaintext client affects nobody."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    spec = TcpListen("127.0.0.1", 0, certificate, key)
    async with rpc_server(tmp_path, [*toys.handlers(), *rpc.HANDLERS], tcp=spec) as server:
        _, secret = await server.token()
        address, _, port = str(server.tcp).rpartition(":")
        async with await trio.open_tcp_stream(address, int(port)) as plain:
            await plain.send_all(b"GET /rpc HTTP/1.1\r\n" + "\r\n".join(UPGRADE).encode() + b"\r\n\r\n")
            with trio.fail_after(10):
                while await plain.receive_some():
                    pass
        headers = [(b"Authorization", f"Bearer {secret}".encode())]
        async with open_websocket_url(f"wss://{server.tcp}/rpc", context, extra_headers=headers) as socket:
            await socket.send_message('{"jsonrpc":"2.0","id":1,"method":"rpc.ping"}')
            assert msgspec.json.decode(await socket.get_message())["id"] == 1


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    """A key with a passphrase is refused with its setting, also at a renewal, without a prompt."""
    issued = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    spec = TcpListen("127.0.0.1", 0, certificate, key)
    context = load_certificate(spec)
    assert context is not None
    private = load_pem_private_key(key.read_bytes(), None)
    encryption = BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    loads: list[Callable[[], object]] = [
        partial(load_certificate, spec),
        partial(renew_certificate, context, spec),
    ]
    for load in loads:
        with pytest.raises(ListenerUnusable, match=r"key\.pem is encrypted; name a key") as refused:
            load()
        assert refused.value.key == ("listen", "tcp", "key")


async def test_a_certificate_that_cannot_be_used_is_an_error(tmp_path: Path, toys: Toys) -> None:
    """An unusable certificate raises an error before the first client."""
    spec = TcpListen("127.0.0.1", 0, tmp_path / "missing.pem", tmp_path / "missing.pem")
    with pytest.RaisesGroup(ListenerUnusable, flatten_subgroups=True):
        async with rpc_server(tmp_path, toys.handlers(), tcp=spec):
            raise AssertionError("it must not start")
