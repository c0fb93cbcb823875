"""The HTTP client for providers: connection pools, requests, and bodies in network reads.

Import this module in a thread, at first use, because importing the HTTP library takes a while.

**The bytes of one network read are returned together.** The library yields a body piece by piece, fifty
pieces for fifty tokens even if they came together, and does not tell whether the next piece is already there.
But requesting the next piece is a coroutine, and the stream below it is ours: while the stream is set to
announce, it yields a mark before it waits for the network. Driving the coroutine by hand, we see the mark
before trio does anything, can leave the coroutine parked there, return the pieces so far, and await the
coroutine later. The alternative, a task that reads and a channel, costs two more turns of the scheduler per
token: 40 of the 150 microseconds that a token may take.
"""

from __future__ import annotations

import os
import ssl
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import httpcore2
import trio

from kheishd.providers.address import split_socket
from kheishd.providers.certificates import make_tls_context
from kheishd.providers.proxies import find_proxy

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator, Iterable

    from kheishd.kernel.runtime import ModelFailure
    from kheishd.providers.driver import HttpRequest, SendObserver
    from kheishd.providers.failures import FailureFactory

# Idle connections and their lifetime. Each call checks every idle one, 2 microseconds each; providers close
# theirs after a minute or more.
MAX_IDLE_CONNECTIONS = 64
MAX_IDLE_SECONDS = 30.0

# A host that does not accept a connection within this time is unreachable.
MAX_CONNECT_SECONDS = 30.0

# Pieces of one read that are returned together: first the head of an answer and its first words, then as
# many as decode in a few milliseconds, about 10 microseconds each.
MAX_FIRST_PIECES = 4
MAX_PIECES = 256

# The reasons of OpenSSL for an answer that is no TLS, such as an error page of an HTTP server.
_ANSWERS_WITHOUT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")

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


Pool = httpcore2.AsyncConnectionPool


def make_pool(base_url: str, max_connections: int, ca_file: str | None = None) -> Pool:
    """Return a pool of connections to one URL, through the environment's proxy, if any.

    Errors: UnsupportedProtocol if the URL, that of the proxy, or the file of authorities is unusable.
    """
    socket, base_url = split_socket(base_url)
    url = _split(base_url)
    return httpcore2.AsyncConnectionPool(
        ssl_context=make_tls_context(ca_file) if url.scheme == "https" else None,
        proxy=find_proxy(url) if socket is None else None,
        uds=socket,
        max_connections=max_connections,
        max_keepalive_connections=MAX_IDLE_CONNECTIONS,
        keepalive_expiry=MAX_IDLE_SECONDS,
        network_backend=AnnouncingBackend(),
    )


def _split(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        _ = split.port, url.encode("ascii")
    except ValueError as error:
        raise httpcore2.UnsupportedProtocol(f"not a URL: {error}") from None
    if not split.hostname:
        raise httpcore2.UnsupportedProtocol("a URL without host")
    return split


class HttpReply:
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

    async def read(self) -> bytes:
        """Return the received bytes, waiting if there are none; empty at the end.

        The first read returns after a few pieces, so that a waiting reader sees the first words at once.

        Errors: those of the library; bytes received before an error are returned first.
        """
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


async def send(pool: Pool, post: HttpRequest, sending: SendObserver | None = None) -> HttpReply:
    """Send a request and wait for the head of its answer. Errors: those of the library."""
    _, requested = split_socket(post.url)
    url = httpcore2.URL(requested)
    host = url.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    headers = {
        "host": host if url.port is None else f"{host}:{url.port}",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": str(len(post.body)),
        **post.headers,
    }
    if sending is not None:
        sending(post.url, headers, post.body)
    extensions = {"timeout": {"connect": MAX_CONNECT_SECONDS}}
    request = httpcore2.Request(
        "POST", url, headers=list(headers.items()), content=post.body, extensions=extensions
    )
    return HttpReply(await pool.handle_async_request(request))


def failure(error: Exception, failures: FailureFactory) -> ModelFailure | None:
    """Return an error of the library or the network as a failure; None for a fault of the daemon."""
    match error:
        case httpcore2.UnsupportedProtocol() | httpcore2.LocalProtocolError():
            return failures.broke(f"the request cannot be sent: {error}", "bad_request")
        case httpcore2.ConnectTimeout():
            return failures.broke(f"no connection within {MAX_CONNECT_SECONDS:g} s")
        case httpcore2.ConnectError() | httpcore2.ProxyError():
            return failures.broke(f"no connection: {_find_message(error)}")
        case httpcore2.NetworkError() | httpcore2.ProtocolError() | httpcore2.TimeoutException() | OSError():
            return failures.broke(f"the connection broke: {_find_message(error)}")
        case _:
            return None


def _find_message(error: BaseException) -> str:
    """Return the message of the operating system or of TLS below an error of the library, else its own."""
    message = ""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, BaseExceptionGroup):
            # The attempts to connect to several addresses of one host.
            cause = cause.exceptions[0]
        message = message or str(cause)
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted ({cause.verify_message}); see the route's ca_file"
            case ssl.SSLError() if cause.reason in _ANSWERS_WITHOUT_TLS:
                return "the server does not speak TLS; check the https:// of the route's base_url"
            case OSError() if not isinstance(cause, ssl.SSLError) and cause.errno is not None:
                # The negative codes are those of name resolution.
                return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
            case _:
                cause = cause.__cause__ or cause.__context__
    return message or type(error).__name__
