"""The limits of other users' connections."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
import trio

from kheishd.objects.node import rpc
from kheishd.server import guests
from kheishd.server.listeners import TcpListen
from protocol.limits.units import KIB
from tests.support.rpc_server import PATIENCE_S, UPGRADE, Messages, RpcServer, rpc_server
from tests.support.toys import Toys

HALF = b'{"jsonrpc":"2.0","id":1,"method":"' + b"a" * 40 * KIB


@pytest.fixture
async def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RpcServer]:
    """Run a server with small limits."""
    monkeypatch.setattr(guests, "MAX_CALLER_CONNECTIONS", 3)
    monkeypatch.setattr(guests, "MAX_UNFINISHED_BYTES", 100 * KIB)
    monkeypatch.setattr(guests, "MAX_SMALL_MESSAGE_BYTES", 10 * KIB)
    handlers = [*Toys().handlers(), *rpc.HANDLERS]
    async with rpc_server(tmp_path, handlers, tcp=TcpListen("127.0.0.1", 0)) as running:
        yield running


@pytest.fixture
async def streams(server: RpcServer) -> AsyncIterator[list[trio.SocketStream]]:
    """Three connections to the Unix socket, which the server has accepted in their order."""
    async with AsyncExitStack() as stack:
        opened: list[trio.SocketStream] = []
        for number in range(1, 4):
            stream = await trio.open_unix_socket(str(server.path))
            opened.append(await stack.enter_async_context(stream))
            await until(lambda number=number: server.server.connections == number)  # type: ignore[misc]
        yield opened


@pytest.fixture
def _as_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat this process as another user."""
    monkeypatch.setattr(guests, "is_own", lambda principal: False)


async def read_all(stream: trio.SocketStream) -> bytes:
    """Read until the daemon closes the connection."""
    data = b""
    with trio.fail_after(PATIENCE_S):
        while piece := bytes(await stream.receive_some()):
            data += piece
    return data


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.lowlevel.checkpoint()


async def finish(stream: trio.SocketStream) -> bytes:
    """Send the end of a message; return the answer."""
    await stream.send_all(b'"}\n')
    with trio.fail_after(PATIENCE_S):
        return bytes(await stream.receive_some())


@pytest.mark.usefixtures("_as_guest")
async def test_a_caller_has_a_number_of_connections(
    server: RpcServer, streams: list[trio.SocketStream]
) -> None:
    """One more is refused with the reason; one that ends makes room."""
    async with await trio.open_unix_socket(str(server.path)) as fourth:
        assert b"this caller has 3 connections already" in await read_all(fourth)
    await streams[0].aclose()
    await until(lambda: server.server.connections == 2)
    async with await server.connect() as client:
        assert await client.call("rpc.ping")


@pytest.mark.usefixtures("_as_guest")
async def test_unfinished_messages_have_a_total(streams: list[trio.SocketStream]) -> None:
    """Beyond it, the largest is given up with the reason; the others can end."""
    for stream in streams[:2]:
        await stream.send_all(HALF)
    await streams[2].send_all(HALF + b"a" * 10 * KIB)
    assert b"send this one again later" in await read_all(streams[2])
    for stream in streams[:2]:
        assert b"method_not_found" in await finish(stream)


async def test_tokens_are_limited_too(server: RpcServer) -> None:
    """The unfinished WebSocket messages of a token count, too."""
    _, secret = await server.token()
    # The beginning of a message of 60,000 bytes, masked with zeros.
    frame = b"\x81\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + b"a" * 50_000
    for _ in range(3):
        client = await server.connect_websocket(secret)
        assert isinstance(client.transport, Messages)
        with suppress(trio.BrokenResourceError):
            await client.transport.socket._stream.send_all(frame)
    await until(lambda: server.server.connections == 2)


async def test_a_rejected_message_is_not_kept(server: RpcServer) -> None:
    """A client that sends on after a rejection is cut off; small messages of others are answered."""
    _, secret = await server.token()
    small = await server.connect_websocket(secret)
    # The beginning of a fragmented message; each frame holds 60,000 bytes, masked with zeros.
    frame = b"\xfe" + (60_000).to_bytes(2, "big") + bytes(4) + b"a" * 60_000
    head = ["GET /rpc HTTP/1.1", f"Host: {server.tcp}", *UPGRADE, f"Authorization: Bearer {secret}", "", ""]
    address, _, port = str(server.tcp).rpartition(":")
    async with await trio.open_tcp_stream(address, int(port)) as large:
        await large.send_all("\r\n".join(head).encode() + b"\x01" + frame)
        with suppress(trio.BrokenResourceError):
            while True:
                await large.send_all(b"\x00" + frame)
                assert await small.call("rpc.ping")
    await until(lambda: server.server.connections == 1)
    assert await small.call("rpc.ping")


async def test_the_daemons_own_user_is_exempt(streams: list[trio.SocketStream]) -> None:
    """The daemon's own user has neither limit."""
    for stream in streams:
        await stream.send_all(HALF)
    for stream in streams:
        assert b"method_not_found" in await finish(stream)
