"""Requests through an HTTP proxy, which a library makes: it is imported for a proxy only.

**The bytes of one network read are returned together.** The library yields a body piece by piece, fifty
pieces for fifty tokens even if they came together, and does not tell whether the next piece is already there.
But requesting the next piece is a coroutine, and the stream below it is ours: while the stream is set to
announce, it yields a mark before it waits for the network. Driving the coroutine by hand, we see the mark
before trio does anything, can leave the coroutine parked there, return the pieces so far, and await the
coroutine later. The alternative, a task that reads and a channel, costs two more turns of the scheduler per
token: 40 of the 150 microseconds that a token may take.
"""

from __future__ import annotations

import types
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import httpcore2
import trio

from kheishd.providers.http_errors import (
    MAX_CONNECT_SECONDS,
    ConnectFailed,
    ConnectionBroken,
    ConnectTimeout,
    UnsendableRequest,
)
from kheishd.providers.http_message import make_headers
from kheishd.providers.http_pool import (
    MAX_FIRST_PIECES,
    MAX_IDLE_CONNECTIONS,
    MAX_IDLE_SECONDS,
    MAX_PIECES,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Generator, Iterable, Iterator

    from kheishd.providers.driver import HttpRequest, SendObserver
    from kheishd.providers.proxies import HttpProxy

_WAITING = object()
_ERRORS = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
)


@types.coroutine
def _announce() -> Generator[Any, Any, None]:
    yield _WAITING


@types.coroutine
def _until_waiting(step: Coroutine[Any, Any, bytes]) -> Generator[Any, Any, bytes | None]:
    """Drive ``step`` until it is done, or parked before waiting: then return None.

    Everything else that it yields is for trio and passed through.
    """
    try:
        yielded = step.send(None)
        while yielded is not _WAITING:
            try:
                value = yield yielded
            except BaseException as error:
                yielded = step.throw(error)
            else:
                yielded = step.send(value)
    except StopIteration as done:
        piece: bytes = done.value
        return piece
    return None


@types.coroutine
def _resume(step: Coroutine[Any, Any, bytes]) -> Generator[Any, Any, bytes]:
    """Await a step that may be parked; ``await`` itself accepts only a new one."""
    return (yield from step.__await__())


class AnnouncingStream(httpcore2.AsyncNetworkStream):
    """A network stream that can announce when it is about to wait for data.

    It buffers writes until then: the library writes the head and the body of a request separately, and a
    server that wakes for the head and then waits for the body costs half a millisecond.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self._announcing = False
        self._unsent: list[bytes] = []

    async def ahead(self, step: Coroutine[Any, Any, bytes]) -> bytes | None:
        """Return the result of ``step`` if it does not wait for this stream; None if it is parked."""
        self._announcing = True
        try:
            return await _until_waiting(step)
        finally:
            self._announcing = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's own signature.
        """Write buffered data, then read, waiting if necessary."""
        if self._unsent:
            unsent, self._unsent = b"".join(self._unsent), []
            # Like the library: a server that rejects a request early does not read it, but answers.
            with suppress(httpcore2.WriteError):
                await self._inner.write(unsent, timeout)
        if self._announcing:
            await _announce()
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Buffer data until the next read, so that the head of a request is sent with its body."""
        self._unsent.append(buffer)

    async def aclose(self) -> None:
        """Close the stream."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> AnnouncingStream:
        """Return the connection with TLS."""
        return AnnouncingStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return the library's information about the connection."""
        return self._inner.get_extra_info(info)


class AnnouncingBackend(httpcore2.AsyncNetworkBackend):
    """The network backend whose connections are announcing streams."""

    def __init__(self) -> None:
        self._inner = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AnnouncingStream:
        """Connect."""
        inner = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options or ())
        return AnnouncingStream(inner)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> AnnouncingStream:
        """Connect to a Unix socket."""
        inner = await self._inner.connect_unix_socket(path, timeout, socket_options or ())
        return AnnouncingStream(inner)


class ProxyPool:
    """A pool of connections to one server through a proxy; ``authority`` is the server's host and port."""

    def __init__(
        self, proxy: HttpProxy, authority: str, max_connections: int, tls: ssl.SSLContext | None
    ) -> None:
        self._authority = authority
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls,
            proxy=httpcore2.Proxy(proxy.url, auth=proxy.auth),
            max_connections=max_connections,
            max_keepalive_connections=MAX_IDLE_CONNECTIONS,
            keepalive_expiry=MAX_IDLE_SECONDS,
            network_backend=AnnouncingBackend(),
        )

    async def send(self, post: HttpRequest, sending: SendObserver | None = None) -> ProxyReply:
        """Send a request and wait for the head of its answer.

        Errors: UnsendableRequest, ConnectTimeout, ConnectFailed, ConnectionBroken.
        """
        body = post.body
        headers = make_headers(self._authority, post.headers, len(body))
        if sending is not None:
            sending(post.url, headers, body)
        extensions = {"timeout": {"connect": MAX_CONNECT_SECONDS}}
        with translated():
            request = httpcore2.Request(
                "POST", post.url, headers=list(headers.items()), content=body, extensions=extensions
            )
            return ProxyReply(await self._pool.handle_async_request(request))

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._pool.aclose()


@contextmanager
def translated() -> Iterator[None]:
    """Raise the library's errors as those of ``http_errors``."""
    try:
        yield
    except (httpcore2.UnsupportedProtocol, httpcore2.LocalProtocolError) as error:
        raise UnsendableRequest(str(error)) from error
    except httpcore2.ConnectTimeout as error:
        raise ConnectTimeout from error
    except (httpcore2.ConnectError, httpcore2.ProxyError) as error:
        raise ConnectFailed(str(error)) from error
    except _ERRORS as error:
        raise ConnectionBroken(str(error)) from error


class ProxyReply:
    """The reply to one request: its status and headers, then its body, one network read at a time."""

    def __init__(self, response: httpcore2.Response) -> None:
        self.status = response.status
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers
        }
        self.ended = False
        self._response = response
        self._pieces = response.aiter_stream()
        self._parked: Coroutine[Any, Any, bytes] | None = None
        self._max_pieces = MAX_FIRST_PIECES
        self._error: Exception | None = None
        self._stream: AnnouncingStream = response.extensions["network_stream"]

    def take(self) -> bytes:
        """Return nothing: whether there are received bytes is not known without reading."""
        return b""

    async def read(self) -> bytes:
        """Return the received bytes, waiting if there are none; empty at the end.

        The first read returns after a few pieces, so that a waiting reader sees the first words at once.

        Errors: ConnectionBroken; bytes received before an error are returned first.
        """
        with translated():
            return await self._read()

    async def _read(self) -> bytes:
        if self._error is not None:
            raise self._error
        parts: list[bytes] = []
        max_pieces, self._max_pieces = self._max_pieces, MAX_PIECES
        step, self._parked = self._parked or self._next(), None
        try:
            parts.append(await _resume(step))
            while len(parts) < max_pieces:
                step = self._next()
                piece = await self._stream.ahead(step)
                if piece is None:
                    self._parked = step
                    break
                parts.append(piece)
        except StopAsyncIteration:
            self.ended = True
        except _ERRORS as error:
            if not parts:
                raise
            self._error = error
        return b"".join(parts)

    async def aclose(self) -> None:
        """Close the body; the connection is reused if the body was read completely."""
        with trio.CancelScope(shield=True):
            await self._response.aclose()
            parked, self._parked = self._parked, None
            if parked is not None:
                # The connection is closed, so the step ends at once.
                with suppress(StopAsyncIteration, *_ERRORS):
                    await _resume(parked)
            await self._pieces.aclose()

    def _next(self) -> Coroutine[Any, Any, bytes]:
        return self._pieces.__anext__()
