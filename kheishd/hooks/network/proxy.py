"""The proxy of one command: HTTP and SOCKS 5 on one port of the command's own network.

The sandbox of a command has no network but its own loopback interface. The keeper opens a port there and
hands it to the daemon, which serves it: so the daemon resolves all names, and the rules judge every
connection. The port exists in this sandbox only, thus no command reaches the proxy of another.

A connection is told apart by its first byte. Errors of a peer end its own connection only.
"""

from __future__ import annotations

import logging
import resource
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Final

import trio

from kheishd.hooks.network import socks
from kheishd.hooks.network.relay import EndOfStream, Incoming
from protocol.limits.network import MAX_COMMAND_CONNECTIONS, MAX_PROXY_CONNECTIONS

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from kheishd.hooks.network.gate import Gate

log = logging.getLogger("kheishd.network")

PORT: Final = 808
"""The port in the sandbox. Commands have no right to listen below 1024, so it never conflicts with theirs."""

URL: Final = f"http://127.0.0.1:{PORT}"

# How long the head of a request may take.
MAX_HEAD_SECONDS: Final = 20.0

# Accepting fails while the daemon has no descriptor left.
RETRY_SECONDS: Final = 0.2

# At most this part of the descriptors is for connections of commands; each takes two.
DESCRIPTORS_PART: Final = 4


def _count_connections() -> int:
    """Return how many connections all commands together may have."""
    # The daemon raises its own limit to the hard one.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return MAX_PROXY_CONNECTIONS
    return max(min(MAX_PROXY_CONNECTIONS, limit // DESCRIPTORS_PART // 2), 1)


_connections: Final = trio.Semaphore(_count_connections())


def proxy_variables() -> dict[str, str]:
    """Return the variables by which programs find the proxy.

    curl reads ``http_proxy`` in lower case only, Go and others the upper case. ``all_proxy`` names the HTTP
    side, too: clients in Python fail at a SOCKS proxy without an additional package. Node needs to be told.
    """
    names = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), URL)
    names["no_proxy"] = "localhost,127.0.0.1,::1"
    return {**names, **{name.upper(): value for name, value in names.items()}, "NODE_USE_ENV_PROXY": "1"}


@asynccontextmanager
async def serving(listening: socket.socket | None, gate: Gate) -> AsyncIterator[None]:
    """Serve a command's port while the block runs; its end closes all connections. None: there is no port."""
    if listening is None:
        yield
        return
    gate.is_served = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_accept, trio.socket.from_stdlib_socket(listening), gate)
        yield
        nursery.cancel_scope.cancel()


async def _accept(listening: trio.socket.SocketType, gate: Gate) -> None:
    slots = trio.Semaphore(MAX_COMMAND_CONNECTIONS)
    with listening:
        async with trio.open_nursery() as nursery:
            while True:
                await slots.acquire()
                try:
                    connection, _ = await listening.accept()
                except OSError as error:
                    slots.release()
                    log.warning("a connection of a command was not accepted: %s", error)
                    await trio.sleep(RETRY_SECONDS)
                    continue
                nursery.start_soon(_serve, trio.SocketStream(connection), gate, slots)


async def _serve(stream: trio.SocketStream, gate: Gate, slots: trio.Semaphore) -> None:
    """Serve one connection."""
    try:
        async with stream, _connections:
            with suppress(EndOfStream, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await _answer(Incoming(stream), gate)
    except Exception:
        log.exception("serving a connection of a command failed")
    finally:
        slots.release()


async def _answer(incoming: Incoming, gate: Gate) -> None:
    """Read a request, and relay what it asks for. Errors: EndOfStream, TooSlowError, BrokenResourceError."""
    with trio.fail_after(MAX_HEAD_SECONDS):
        await incoming.fill()
        is_socks = incoming.buffer[0] == socks.VERSION
        if is_socks:
            destination = await socks.read_request(incoming)
        else:
            # The library of HTTP is imported when a command first needs it.
            http = await trio.to_thread.run_sync(import_module, "kheishd.hooks.network.http")
            request = await http.read_request(incoming)
    if is_socks and destination is not None:
        await socks.serve_socks(incoming, destination, gate)
    elif not is_socks and request is not None:
        await http.serve_http(incoming, request, gate)
