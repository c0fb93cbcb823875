"""Send the same lines to every connection: with plain sockets, or by a channel and a task for each.

    python -m contrib.bench.yardsticks.fanout SOCKET plain|channel PIECES BYTES

Every connection says that it is there; the first that says ``go`` sets off a burst.
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
    """Deltas as the daemon sends them, but for the subscription."""
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
    """One notification."""
    params = {"subscription": subscription, **piece}
    return msgspec.json.encode({"jsonrpc": "2.0", "method": "journal.delta", "params": params}) + b"\n"


def plain(path: str, count: int, size: int) -> None:
    """Encode once and write to one socket after another; wait only for one that is full."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(256)
    connections: list[socket.socket] = []
    while True:
        ready, _, _ = select.select([listener, *connections], [], [])
        for one in ready:
            if one is listener:
                connections.append(one.accept()[0])
                continue
            said = one.recv(64)
            if said == b"go\n":
                for piece in pieces(count, size):
                    to_all(connections, line(piece, "subscription_1"))
                to_all(connections, END)
            elif said:
                one.sendall(b"ok\n")
            else:
                connections.remove(one)


def to_all(connections: list[socket.socket], data: bytes) -> None:
    """Write to every connection."""
    for connection in connections:
        connection.sendall(data)


class Channels:
    """A channel and a task for every client, as one writes it first."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size
        self.clients: list[trio.MemorySendChannel[dict[str, object] | None]] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection: a task that writes what comes by its channel, and this one that reads."""
        send, receive = trio.open_memory_channel[dict[str, object] | None](1_000)
        self.clients.append(send)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(self.write, stream, receive, f"subscription_{len(self.clients)}")
            while said := await stream.receive_some(64):
                if said == b"go\n":
                    await self.burst()
                else:
                    await stream.send_all(b"ok\n")
            self.clients.remove(send)
            nursery.cancel_scope.cancel()

    async def burst(self) -> None:
        """Every piece into every channel."""
        for piece in (*pieces(self.count, self.size), None):
            for client in self.clients:
                await client.send(piece)

    async def write(
        self,
        stream: trio.SocketStream,
        receive: trio.MemoryReceiveChannel[dict[str, object] | None],
        subscription: str,
    ) -> None:
        """Encode and send what comes."""
        async for piece in receive:
            await stream.send_all(END if piece is None else line(piece, subscription))


async def channel(path: str, count: int, size: int) -> None:
    """Serve with channels."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(path)
    listener.listen(256)
    await trio.serve_listeners(Channels(count, size).serve, [trio.SocketListener(listener)])


if __name__ == "__main__":
    where, mode, pieces_wanted, piece_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if mode == "plain":
        plain(where, pieces_wanted, piece_bytes)
    else:
        trio.run(partial(channel, where, pieces_wanted, piece_bytes))
