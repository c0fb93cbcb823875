"""Relaying bytes between two connections."""

import socket

import trio
from trio.testing import MockClock

from kheishd.hooks.network.relay import MAX_IDLE_SECONDS, Incoming, relay


def connected() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two ends of a connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listening.getsockname())
    server, _ = listening.accept()
    listening.close()
    first, second = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (client, server))
    return first, second


async def test_half_closed() -> None:
    """After the end of one direction, the other one goes on; bytes read before come first."""
    client, inner = connected()
    outer, server = connected()
    incoming = Incoming(inner)
    incoming.buffer = b"first "
    async with client, inner, outer, server, trio.open_nursery() as nursery:
        nursery.start_soon(relay, incoming, outer)
        await client.send_all(b"second")
        await client.send_eof()
        received = b""
        while data := await server.receive_some():
            received += data
        assert received == b"first second"
        await server.send_all(b"late")
        assert await client.receive_some() == b"late"
        await server.send_eof()
        assert await client.receive_some() == b""


async def test_a_broken_connection_ends_both() -> None:
    """If one side is reset, the other is given up at once."""
    client, inner = connected()
    outer, server = connected()
    async with client, inner, outer, server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await server.aclose()
        with trio.fail_after(10):
            await relay(Incoming(inner), outer)


async def test_idle_connections_end(autojump_clock: MockClock) -> None:
    """A connection that carries nothing in either direction ends."""
    client, inner = connected()
    outer, server = connected()
    async with client, inner, outer, server:
        began = trio.current_time()
        await relay(Incoming(inner), outer)
        assert trio.current_time() - began >= MAX_IDLE_SECONDS


async def test_a_slow_reader_slows_its_writer_down() -> None:
    """While a peer reads nothing, no more than some buffers are taken from the other one."""
    client, inner = connected()
    outer, server = connected()
    sent = 0
    async with client, inner, outer, server, trio.open_nursery() as nursery:
        nursery.start_soon(relay, Incoming(inner), outer)
        with trio.move_on_after(0.3):
            while True:
                await client.send_all(bytes(65_536))
                sent += 65_536
        assert sent < 64 * 1024 * 1024
        nursery.cancel_scope.cancel()
