"""Connections to one server: kept after a response, and used again for the next request.

**The bytes of one network read are returned together**, however many chunks they came in: fifty tokens that
arrive together cost one turn of the scheduler.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from kheishd.providers.address import target_of
from kheishd.providers.http_errors import (
    MAX_CONNECT_SECONDS,
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
)
from kheishd.providers.http_message import ResponseParser, encode_request, make_headers
from protocol.structs import Value

if TYPE_CHECKING:
    import ssl

    from kheishd.providers.driver import HttpRequest, SendObserver

    Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

# Idle connections and their lifetime; providers close theirs after a minute or more.
MAX_IDLE_CONNECTIONS = 64
MAX_IDLE_SECONDS = 30.0

# Pieces of one read that are returned together: first the head of an answer and its first words, then as
# many as decode in a few milliseconds, about 10 microseconds each.
MAX_FIRST_PIECES = 4
MAX_PIECES = 256

# Bytes that are returned together: a hostile piece may be thousands of tiny events.
MAX_PART_BYTES = 16 * 1024

_MAX_READ_BYTES = 64 * 1024


class ServerAddress(Value, frozen=True):
    """The address of a server: a host and a port, or the path of a Unix socket.

    ``authority`` is the host and the port as the URL has them.
    """

    host: str
    port: int
    authority: str
    socket: str | None = None


class ConnectionPool:
    """The connections to one server, at most ``max_connections``; ``tls`` are its settings, None without.

    The idle ones are a stack: the newest is used first, and the oldest expire unused.
    """

    def __init__(self, address: ServerAddress, max_connections: int, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._tls = tls
        self._slots = trio.Semaphore(max_connections)
        self._idle: deque[tuple[float, Stream]] = deque()
        self._max_idle = MAX_IDLE_CONNECTIONS

    async def send(self, post: HttpRequest, sending: SendObserver | None = None) -> DirectReply:
        """Send a request and wait for the head of its answer.

        Errors: UnsendableRequest, ConnectTimeout, ConnectFailed, ConnectionBroken.
        """
        headers = make_headers(self._address.authority, post.headers, sum(map(len, post.parts)))
        writes = encode_request(target_of(post.url), headers, post.parts)
        if sending is not None:
            sending(post.url, headers, post.body)
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            await self._slots.acquire()
        stream = None
        try:
            stream = self._take_idle() or await self._connect()
            # A server that rejects a request early does not read it, but answers.
            with suppress(trio.BrokenResourceError):
                for write in writes:
                    await _write_all(stream, write)
            parser = ResponseParser()
            while not parser.has_head:
                await receive(stream, parser)
        except BaseException:
            if stream is not None:
                _close(stream)
            self._slots.release()
            raise
        return DirectReply(self, stream, parser)

    def release(self, stream: Stream, *, may_reuse: bool) -> None:
        """Keep the connection of a response for the next request if it may be reused, else close it."""
        self._slots.release()
        if may_reuse and not _has_unread_bytes(stream):
            self._idle.append((trio.current_time() + MAX_IDLE_SECONDS, stream))
        else:
            _close(stream)
        self._close_idle(self._max_idle)

    async def aclose(self) -> None:
        """Close the idle connections now, and the others when their responses are closed."""
        self._max_idle = 0
        self._close_idle(0)
        await trio.lowlevel.checkpoint()

    def _take_idle(self) -> Stream | None:
        self._close_idle(self._max_idle)
        while self._idle:
            _, stream = self._idle.pop()
            # A server that sends something unasked has closed the connection, or desynchronized it.
            if not _socket(stream).is_readable():
                return stream
            _close(stream)
        return None

    def _close_idle(self, max_idle: int) -> None:
        """Close the expired connections, and the oldest ones beyond a maximum."""
        now = trio.current_time()
        while self._idle and (len(self._idle) > max_idle or self._idle[0][0] <= now):
            _close(self._idle.popleft()[1])

    async def _connect(self) -> Stream:
        address, stream = self._address, None
        try:
            with trio.fail_after(MAX_CONNECT_SECONDS):
                if address.socket is not None:
                    stream = await trio.open_unix_socket(address.socket)
                else:
                    stream = await trio.open_tcp_stream(address.host, address.port)
                if self._tls is None:
                    # An answer to no request would be that of this one, and the real one that of the next.
                    # With TLS, honest servers send tickets at this moment.
                    if stream.socket.is_readable():
                        raise ConnectFailed("the server closed it, or sent an answer, before the request")
                    return stream
                secure = trio.SSLStream(
                    stream, self._tls, server_hostname=address.host, https_compatible=True
                )
                await secure.do_handshake()
                return secure
        except BaseException as error:
            if stream is not None:
                _close(stream)
            if isinstance(error, trio.TooSlowError):
                raise ConnectTimeout from error
            if isinstance(error, OSError | trio.BrokenResourceError):
                raise ConnectFailed(str(error)) from error
            raise


class DirectReply:
    """The reply to one request: its status and headers, then its body, one network read at a time."""

    def __init__(self, pool: ConnectionPool, stream: Stream, parser: ResponseParser) -> None:
        self.status = parser.status
        self.headers = parser.headers
        self._pool: ConnectionPool | None = pool
        self._stream = stream
        self._parser = parser
        self._max_pieces = MAX_FIRST_PIECES

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end."""
        return self._parser.is_complete and not self._parser.pieces

    def take(self) -> bytes:
        """Return received bytes that need no waiting; empty if there are none.

        The first time these are only a few pieces, so that a waiting reader sees the first words at once.
        """
        pieces = self._parser.pieces
        if not pieces:
            return b""
        max_pieces, self._max_pieces = self._max_pieces, MAX_PIECES
        received = b"".join(pieces[:max_pieces])
        pieces[:max_pieces] = [received[MAX_PART_BYTES:]] if len(received) > MAX_PART_BYTES else []
        return received[:MAX_PART_BYTES]

    async def read(self) -> bytes:
        """Return the received bytes, waiting if there are none; empty at the end.

        Errors: ConnectionBroken; bytes received before an error are returned first.
        """
        while not self._parser.pieces and not self._parser.is_complete:
            await receive(self._stream, self._parser)
        return self.take()

    async def aclose(self) -> None:
        """Close the body; the connection is reused if the body was read completely."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.release(self._stream, may_reuse=self.ended and self._parser.may_reuse)


async def receive(stream: Stream, parser: ResponseParser) -> None:
    """Parse the next bytes of a connection; a cancellation closes it. Errors: ConnectionBroken."""
    if parser.error is not None:
        raise parser.error
    try:
        data = await _read_some(stream)
    except trio.Cancelled:
        _close(stream)
        parser.error = ConnectionBroken("a read was cancelled")
        raise
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        raise ConnectionBroken(str(error)) from error
    parser.feed(data)


async def _write_all(stream: Stream, data: bytes | memoryview) -> None:
    """Write all bytes. Errors: BrokenResourceError."""
    sent = 0
    if not isinstance(stream, trio.SSLStream):
        # trio's own stream ends each write with a round of the scheduler. A read follows, which has one.
        try:
            sent = os.write(stream.socket.fileno(), data)
        except BlockingIOError:
            pass
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
    if sent < len(data):
        await stream.send_all(memoryview(data)[sent:])


async def _read_some(stream: Stream) -> bytes:
    """Wait for bytes and return them; empty at the end. Errors: BrokenResourceError, OSError."""
    if isinstance(stream, trio.SSLStream):
        return bytes(await stream.receive_some(_MAX_READ_BYTES))
    # trio's own stream tries to read before it waits. A model's next piece is rarely there yet, and the
    # failed attempt costs more than the wait.
    while True:
        await trio.lowlevel.wait_readable(stream.socket)
        try:
            return os.read(stream.socket.fileno(), _MAX_READ_BYTES)
        except BlockingIOError:
            pass


def _socket(stream: Stream) -> trio.socket.SocketType:
    transport = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    return transport.socket


def _close(stream: Stream) -> None:
    # The end of a TLS connection is not announced, which HTTP does not need.
    _socket(stream).close()


def _has_unread_bytes(stream: Stream) -> bool:
    """Whether TLS holds bytes after the response, which the socket does not show."""
    if not isinstance(stream, trio.SSLStream):
        return False
    # Bytes that are not decrypted yet are in a buffer to which trio has no public access.
    return stream.pending() > 0 or stream._incoming.pending > 0
