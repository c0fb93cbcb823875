"""Clients that exchange bytes with a running daemon, over either transport."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, open_websocket_url

PATIENCE_SECONDS = 30.0


class Peer(Protocol):
    """A connection that sends and receives messages as text."""

    async def say(self, text: bytes) -> None:
        """Send one message."""
        ...

    async def hear(self) -> Any:
        """Return the next message, decoded. Errors: EOFError when the connection has ended."""
        ...


class LinePeer:
    """A peer on the Unix socket: a message is a line."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._unread = bytearray()

    async def say(self, text: bytes) -> None:
        """Send one line."""
        await self.stream.send_all(text + b"\n")

    async def hear(self) -> Any:
        """Return the next line, decoded. Errors: EOFError."""
        with trio.fail_after(PATIENCE_SECONDS):
            while b"\n" not in self._unread:
                piece = await self.stream.receive_some()
                if not piece:
                    raise EOFError
                self._unread += piece
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread = bytearray(rest)
        return json.loads(line)


class WebSocketPeer:
    """A peer on TCP: a message is a text message."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    async def say(self, text: bytes) -> None:
        """Send one text message."""
        await self.connection.send_message(text.decode())

    async def hear(self) -> Any:
        """Return the next text message, decoded. Errors: EOFError."""
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                return json.loads(await self.connection.get_message())
            except ConnectionClosed as closed:
                raise EOFError from closed


async def call(peer: Peer, method: str, **params: Any) -> Any:
    """Send a request and return its result. Errors: AssertionError for an error response."""
    answer = await respond(peer, method, **params)
    assert "error" not in answer, answer
    return answer["result"]


async def respond(peer: Peer, method: str, **params: Any) -> Any:
    """Send a request and return its whole response, skipping notifications."""
    request = {"jsonrpc": "2.0", "id": f"call {method}", "method": method, "params": params}
    await peer.say(json.dumps(request).encode())
    while True:
        answer = await peer.hear()
        if isinstance(answer, dict) and answer.get("id") == request["id"]:
            return answer


@asynccontextmanager
async def unix_peer(home: Path) -> AsyncIterator[LinePeer]:
    """Connect to the private socket of the daemon in ``home``."""
    stream = await trio.open_unix_socket(str(home / "run" / "kheishd.sock"))
    async with stream:
        yield LinePeer(stream)


@asynccontextmanager
async def websocket_peer(home: Path, secret: str, **headers: str) -> AsyncIterator[WebSocketPeer]:
    """Connect to the TCP listener of the daemon in ``home``, with a bearer token."""
    address = (home / "run" / "tcp").read_text().strip()
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    extra.append((b"Authorization", b"Bearer " + secret.encode()))
    async with open_websocket_url(
        f"ws://{address}/rpc", extra_headers=extra, max_message_size=2**25, disconnect_timeout=math.inf
    ) as connection:
        yield WebSocketPeer(connection)
    # The library leaves its socket open when the other side closed in the middle of a send.
    await trio.aclose_forcefully(connection._stream)
