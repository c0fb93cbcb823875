"""Proxies of commands for tests, without a command: a client connects to the port directly."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from kheishd.hooks.network.gate import Gate
from kheishd.hooks.network.proxy import serving


@asynccontextmanager
async def open_proxy(gate: Gate) -> AsyncIterator[int]:
    """Provide the port of a proxy on the loopback interface."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port: int = listening.getsockname()[1]
    async with serving(listening, gate):
        yield port


async def read_all(stream: trio.SocketStream, timeout_s: float = 10) -> bytes:
    """Return everything that a peer sends until it ends the connection."""
    data = b""
    with trio.fail_after(timeout_s):
        while piece := await stream.receive_some(65_536):
            data += piece
    return data


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Provide the port of a server that sends everything back, and then ``bye``."""

    async def echo(stream: trio.SocketStream) -> None:
        async with stream:
            while data := await stream.receive_some(65_536):
                await stream.send_all(data)
            await stream.send_all(b"bye")

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()
