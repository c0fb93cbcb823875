"""The chat's connection: JSON-RPC over the Unix socket, on asyncio, which prompt-toolkit runs anyway.

Notifications are handed on in the order they come and at once; an answer wakes whoever asked. So a
subscription's id is chosen by us: its first events may come before its answer is looked at.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

from kheishctl.client import MAX_MESSAGE_BYTES, ConnectionLost, NotADaemon, RequestRefused, dial
from kheishctl.contract import Json


class Link(asyncio.Protocol):
    """One connection. ``on_lost`` is called once, before any waiting request fails."""

    def __init__(self, on_notification: Callable[[str, Json], None], on_lost: Callable[[], None]) -> None:
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0

    @classmethod
    async def dial(
        cls, path: str, on_notification: Callable[[str, Json], None], on_lost: Callable[[], None]
    ) -> Self:
        """Connect. Errors: NoDaemon, NotPermitted."""
        connection = dial(path)
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: cls(on_notification, on_lost), sock=connection)
        return link

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Ask and wait for the answer. Errors: Refused, Lost."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLost("the connection to the daemon is lost")
        self._next_id += 1
        request = {"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params or {}}
        future = self._waiting[self._next_id] = asyncio.get_running_loop().create_future()
        self._transport.write(json.dumps(request).encode() + b"\n")
        return await future

    def close(self) -> None:
        """Hang up; ``on_lost`` follows."""
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take in what came: every whole line is a message."""
        searched = len(self._buffer)
        self._buffer += data
        while (end := self._buffer.find(b"\n", searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            self._message(line)
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner first, then everybody who waits."""
        self._transport = None
        self._on_lost()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ConnectionLost("the daemon closed the connection"))

    def _message(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if "method" in message:
                self._on_notification(str(message["method"]), message["params"])
                return
            # What could not be read is answered without its id; it is the oldest that is waited for.
            answered = message["id"] if message["id"] is not None else next(iter(self._waiting))
            future = self._waiting.pop(answered)
        except (ValueError, KeyError, TypeError, StopIteration, RecursionError):
            return  # Not ours to understand: the daemon may be of a later version.
        if future.done():
            return
        if "error" in message:
            error = message["error"]
            future.set_exception(RequestRefused(error) if isinstance(error, dict) else NotADaemon())
        else:
            future.set_result(message.get("result"))
