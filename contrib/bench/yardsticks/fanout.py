"""Send the same lines to every connection: with plain sockets, or with a channel and a task for each.

    python -m contrib.bench.yardsticks.fanout SOCKET plain|channel PIECES BYTES

Every connection announces itself; the first ``go`` starts a burst.
"""

import select
import socket
import sys
from collections.abc import Iterator
from functools import partial

import msgspec
import trio

END = b'{"jsonrpc":"2.0","method":"journal.event","params":{"event":{"type":"run_ended"}}}\n'


def pieces(count: int, size: int) -> Iterator[dict[str, object]]:
    """Yield deltas as the daemon sends them, without the subscription."""
    for number in range(count):
        yield {
            "run_id": "run_01K0BENCH0000000000000000000",
            "item_id": "item_01K0BENCH000000000000000000",
            "attempt": 1,
            "offset": number * size,
            "kind": "text",
            "text": "x" * size,
        }


def line(piece: dict[str, object], subscription: str) -> bytes:
    """Return one notification."""
    params = {"subscription": subscription, **piece}
    return msgspec.json.encode({"jsonrpc": "2.0", "method": "journal.delta", "params": params}) + b"\n"


def plain(path: str, count: int, size: int) -> None:
    """Encode once and write to one socket after another; wait only for a full socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(256)
    connections: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([listener, *connections], [], [])
        for connection in ready:
            if connection is listener:
                connections.append(connection.accept()[0])
                continue
            received = connection.recv(64)
            if received == b"go\n":
                for piece in pieces(count, size):
                    to_all(connections, line(piece, "subscription_1"))
                to_all(connections, END)
            elif received:
                connection.sendall(b"ok\n")
            else:
                connections.remove(connection)


def to_all(connections: list[socket.socket], data: bytes) -> None:
    """Write to every connection."""
    for connection in connections:
        connection.sendall(data)


class Channels:
    """A channel and a task per client, the usual first implementation."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.clients: list[trio.MemorySendChannel[dict[str, object] | None]] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection: a task writes from its channel, and this one reads."""
        send, receive = trio.open_memory_channel[dict[str, object] | None](1_000)
        self.clients.append(send)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self.write, stream, receive, f"subscription_{len(self.clients)}")
            while received := await stream.receive_some(64):
                if received == b"go\n":
                    await self.burst()
                else:
                    await stream.send_all(b"ok\n")
            self.clients.remove(send)
            nursery.cancel_scope.cancel()

    async def burst(self) -> None:
        """Send every piece to every channel."""
        for piece in (*pieces(self.count, self.size), None):
            for client in self.clients:
                await client.send(piece)

    async def write(
        self,
        stream: trio.SocketStream,
        receive: trio.MemoryReceiveChannel[dict[str, object] | None],
        subscription: str,
    ) -> None:
        """Encode and send the pieces of a channel."""
        async for piece in receive:
            await stream.send_all(END if piece is None else line(piece, subscription))


async def channel(path: str, count: int, size: int) -> None:
    """Serve with channels."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen(256)
    await trio.serve_listeners(Channels(count, size).serve, [trio.SocketListener(listener)])


if __name__ == "__main__":
    path, mode, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if mode == "plain":
        plain(path, count, size)
    else:
        trio.run(partial(channel, path, count, size))
