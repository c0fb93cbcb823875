"""The transport of Unix sockets: a stream socket and the line codec."""

import select
import socket

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from kheishd.kernel.call import Caller
from kheishd.server.connection import ClientConnection, EndReason, ServerContext
from protocol.rpc.codec import Codec

# One read. A larger one makes a pipelining client's turn longer, a smaller one costs more turns.
READ_BYTES = 64 * 1024
WRITE_BYTES = 256 * 1024
# The portion of a read that is decoded at once: the shortest lines take three microseconds for two bytes.
FEED_BYTES = 8 * 1024
# The interval at which a half-closed client is checked for having closed completely.
GONE_CHECK_S = 5.0


class LineConnection(ClientConnection):
    """A client on a stream socket, which must be non-blocking."""

    __slots__ = ("_codec", "_socket", "_stopped", "_unsent")

    def __init__(self, shared: ServerContext, caller: Caller, stream: socket.socket) -> None:
        super().__init__(shared, caller)
        self._socket = stream
        self._codec = Codec()
        self._stopped: EndReason | None = None
        self._unsent: bytearray | None = None

    async def run(self) -> None:
        """Serve the client until it has finished, has disconnected, or is stopped."""
        try:
            await self._read()
            await self._finish()
        finally:
            self.close()

    async def _read(self) -> None:
        """Read until the end of input, or ``stop``."""
        while self._stopped is None:
            try:
                await wait_readable(self._socket)
                data = self._socket.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except (OSError, trio.ClosedResourceError):
                return
            if not data:
                await self.receive(self._codec.eof())
                return
            # Decode and dispatch in portions, because many small messages together take long.
            portions = (data[start : start + FEED_BYTES] for start in range(0, len(data), FEED_BYTES))
            await self.receive(value for portion in portions for value in self._codec.feed(portion))
            self.note_unfinished(self._codec.buffered_bytes)

    async def _finish(self) -> None:
        """Answer open requests and send the answers, unless the client is gone."""
        if self._stopped is not None:
            self.give_up(self._stopped)
        self.end_endless()
        while (self.pending or self.unsent_bytes) and not self.ended and not self._is_gone():
            with trio.move_on_after(GONE_CHECK_S):
                await self.change()

    def _is_gone(self) -> bool:
        """Whether the client closed both directions."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(flags & (select.POLLHUP | select.POLLERR) for _, flags in poll.poll(0))

    def _transmit(self, messages: list[bytes]) -> None:
        frame = self._codec.frame
        data = frame(messages[0]) if len(messages) == 1 else b"".join(map(frame, messages))
        if self._unsent is not None:
            self._unsent += data
            self.unsent_bytes = len(self._unsent)
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._end()
            return
        if sent < len(data):
            self._unsent = bytearray(memoryview(data)[sent:])
            self.unsent_bytes = len(self._unsent)
            self.start(self._drain)

    async def _drain(self) -> None:
        """Send the kept bytes as the client takes them."""
        while self._unsent and not self.ended:
            try:
                await wait_writable(self._socket)
                if self._unsent is None:
                    # The connection was closed in the same turn of the loop.
                    break
                with memoryview(self._unsent) as unsent:
                    sent = self._socket.send(unsent[:WRITE_BYTES])
            except (BlockingIOError, InterruptedError, trio.ClosedResourceError):
                # ClosedResourceError: reading was stopped, but unsent bytes are still sent.
                continue
            except OSError:
                self._end()
                break
            del self._unsent[:sent]
            self.unsent_bytes = len(self._unsent)
        self._unsent = None
        self.unsent_bytes = 0
        self.wake()

    def _end(self) -> None:
        """Handle a client that takes no more data."""
        self.ended = True
        self.stop("unsubscribed")

    def stop(self, reason: EndReason) -> None:
        """Stop reading; the connection's task then answers open requests and closes."""
        self._stopped = reason
        self._codec.clear()
        if self._socket.fileno() >= 0:
            notify_closing(self._socket)
        self.wake()

    def close(self) -> None:
        """Release everything."""
        self.finished()
        self._unsent = None
        if self._socket.fileno() >= 0:
            notify_closing(self._socket)
        self._socket.close()
