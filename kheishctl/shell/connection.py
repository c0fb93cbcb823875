"""The chat's connection: JSON-RPC over the Unix socket, on asyncio, the event loop of prompt-toolkit.

Notifications are delivered at once and in order, while an answer resumes its caller in a later step of the
loop. Therefore the client chooses the id of a subscription: its first events may precede its answer.
"""

import asyncio
import json
import os
from collections.abc import Callable
from typing import Any, Self

from kheishctl.client import MAX_MESSAGE_BYTES, ConnectionLost, NotADaemon, RequestRefused, dial
from kheishctl.contract import Json


class ChatConnection(asyncio.Protocol):
    """A connection to the daemon. ``on_lost`` is called once, before the pending calls fail."""

    def __init__(self, on_notification: Callable[[str, Json], None], on_lost: Callable[[], None]) -> None:
        self._on_notification = on_notification
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._calls_made = 0
        # Ids of requests are unique, so that one finds the events and log lines that it led to.
        self._id_head = os.urandom(6).hex()

    @classmethod
    async def dial(
        cls, path: str, on_notification: Callable[[str, Json], None], on_lost: Callable[[], None]
    ) -> Self:
        """Connect to a socket. Errors: NoDaemon, SocketForbidden."""
        sock = dial(path)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: cls(on_notification, on_lost), sock=sock)
        return connection

    async def call(self, method: str, params: Json | None = None) -> Any:
        """Call a method and wait for its answer. Errors: RequestRefused, ConnectionLost."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionLost("the connection to the daemon is lost")
        self._calls_made += 1
        request_id = f"{self._id_head}-{self._calls_made}"
        request = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}
        future = self._calls[request_id] = asyncio.get_running_loop().create_future()
        self._transport.write(json.dumps(request).encode() + b"\n")
        return await future

    def close(self) -> None:
        """Close the connection; ``on_lost`` is called later."""
        if self._transport is not None:
            self._transport.close()

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Dispatch every complete line; close the connection if a line is too long."""
        searched = len(self._buffer)
        self._buffer += data
        while (end := self._buffer.find(b"\n", searched)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            searched = 0
            self._dispatch(line)
        if len(self._buffer) > MAX_MESSAGE_BYTES:
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, then fail the pending calls."""
        self._transport = None
        self._on_lost()
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(ConnectionLost("the daemon closed the connection"))

    def _dispatch(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            if "method" in message:
                self._on_notification(str(message["method"]), message["params"])
                return
            # An error about an unreadable request has no id; it belongs to the oldest pending call.
            request_id = message["id"] if message["id"] is not None else next(iter(self._calls))
            future = self._calls.pop(request_id)
        except (ValueError, KeyError, TypeError, StopIteration, RecursionError):
            return  # A daemon of a later version may send messages that this version does not know.
        if future.done():
            return
        if "error" in message:
            error = message["error"]
            future.set_exception(RequestRefused(error) if isinstance(error, dict) else NotADaemon())
        else:
            future.set_result(message.get("result"))
