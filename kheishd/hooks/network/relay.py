"""Byte streams of the proxy: reading the beginning of a connection, and relaying the rest."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK_BYTES: Final = 64 * 1024

# How long a connection may carry nothing in either direction. Servers of long polls answer within minutes.
MAX_IDLE_SECONDS: Final = 900.0

# A peer that still sends while its connection is closed would lose the answer: the rest is read for a moment.
MAX_LINGER_SECONDS: Final = 1.0
MAX_LINGER_BYTES: Final = 1024 * 1024


class Incoming:
    """A connection from a command, and the bytes that were read from it and not used yet."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def read_exactly(self, size: int) -> bytes:
        """Return the next bytes. Errors: EndOfStream."""
        while len(self.buffer) < size:
            await self.fill()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def fill(self) -> None:
        """Read more bytes into the buffer. Errors: EndOfStream."""
        data = await self.stream.receive_some(CHUNK_BYTES)
        if not data:
            raise EndOfStream
        self.buffer += data

    async def finish(self, answer: bytes) -> None:
        """Send a last answer, so that the peer can read it even if it still sends."""
        with trio.move_on_after(MAX_LINGER_SECONDS):
            await self.stream.send_all(answer)
            await self.stream.send_eof()
            read = 0
            while read < MAX_LINGER_BYTES and (data := await self.stream.receive_some(CHUNK_BYTES)):
                read += len(data)


class EndOfStream(Exception):
    """The peer ended its connection too early."""


async def relay(incoming: Incoming, outgoing: trio.SocketStream) -> None:
    """Relay bytes in both directions until both have ended, one is broken, or nothing was sent for long.

    A direction that ends is shut down, and the other one goes on. A slow reader slows its writer down.
    """
    with trio.CancelScope() as scope:

        def note_activity() -> None:
            scope.deadline = trio.current_time() + MAX_IDLE_SECONDS

        note_activity()
        first, incoming.buffer = incoming.buffer, b""
        async with trio.open_nursery() as nursery:
            pump = partial(_pump, note_activity=note_activity, give_up=nursery.cancel_scope.cancel)
            nursery.start_soon(pump, incoming.stream, outgoing, first)
            nursery.start_soon(pump, outgoing, incoming.stream, b"")


async def _pump(
    source: trio.SocketStream,
    sink: trio.SocketStream,
    data: bytes,
    note_activity: Callable[[], None],
    give_up: Callable[[], None],
) -> None:
    try:
        if data:
            await sink.send_all(data)
        while data := await source.receive_some(CHUNK_BYTES):
            note_activity()
            await sink.send_all(data)
            note_activity()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        give_up()
        return
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await sink.send_eof()
