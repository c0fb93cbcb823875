"""HTTP as the providers need it: pools of connections, one request, its body read by read.

Importing this imports the HTTP library, which takes a while: it is done in a thread, when first needed.

**What one network read brought is given at once.** The library gives a body piece by piece, fifty pieces
for fifty tokens even if they came together, and does not say whether the next piece is there already. The
way to know it: asking for the next piece is a coroutine, and the stream under it is ours. While the stream
is set to announce, it yields a mark before it waits for the network. Whoever drives the coroutine by hand
sees the mark before anything of trio has begun, can leave the coroutine parked there, hand over what has
come so far, and await the coroutine later. The other way, a task that reads and a channel, costs two more
turns of the scheduler for every token: 40 microseconds of the 150 that a token may take.
"""

from __future__ import annotations

import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore2
import trio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Coroutine, Generator, Iterable

    from kheishd.kernel.runtime import ModelFailure
    from kheishd.providers.failures import Refusing
    from kheishd.providers.wire import Post, SendObserver

# Idle connections kept for the next call, and for how long. Before each call the pool looks at every idle
# one, 2 microseconds each; providers close theirs after a minute or more.
MAX_IDLE_CONNECTIONS = 64
MAX_IDLE_SECONDS = 30.0

# A place that does not even answer the network within this is not there.
MAX_CONNECT_SECONDS = 30.0

# How many pieces that arrived together are handed on together: the head of an answer and its first words,
# and then as many as take a few milliseconds to take apart, some 10 microseconds each.
MAX_FIRST_PIECES = 4
MAX_PIECES = 256

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
    """Drive ``step`` until it is done or announces that it will wait: then None, and it is parked there.

    Whatever else it yields is for trio and handed through.
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
def _go_on(step: Coroutine[Any, Any, bytes]) -> Generator[Any, Any, bytes]:
    """Await a step that may have been parked; ``await`` itself takes only what has not begun."""
    return (yield from step.__await__())


class Stream(httpcore2.AsyncNetworkStream):
    """A network stream that can announce when it is about to wait for something to read.

    It gathers what is written until then: the library writes the head of a request and its body apart,
    and a server that is woken by the one and then waits for the other costs half a millisecond.
    """

    def __init__(self, inner: httpcore2.AsyncNetworkStream) -> None:
        self._inner = inner
        self._announcing = False
        self._unsent: list[bytes] = []

    async def ahead(self, step: Coroutine[Any, Any, bytes]) -> bytes | None:
        """What ``step`` gives if it can without waiting for this stream; None if it is parked."""
        self._announcing = True
        try:
            return await _until_waiting(step)
        finally:
            self._announcing = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - the library's own signature.
        """Read what there is, waiting for it if need be; what is to be written is written before."""
        if self._unsent:
            unsent, self._unsent = b"".join(self._unsent), []
            # As the library does: a server that refuses early does not read, but it has answered.
            with suppress(httpcore2.WriteError):
                await self._inner.write(unsent, timeout)
        if self._announcing:
            await _announce()
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Have all of the buffer written by the next read: the head of a request goes out with its body."""
        self._unsent.append(buffer)

    async def aclose(self) -> None:
        """Close it."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> Stream:
        """The same connection, encrypted."""
        return Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What the library asks about the connection."""
        return self._inner.get_extra_info(info)


class Backend(httpcore2.AsyncNetworkBackend):
    """Trio's connections, as streams that announce."""

    def __init__(self) -> None:
        self._inner = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> Stream:
        """Connect."""
        inner = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options or ())
        return Stream(inner)


Pool = httpcore2.AsyncConnectionPool


def make_pool(base_url: str, max_connections: int) -> Pool:
    """A pool of connections to one place, by the proxy that the environment names for it, if any.

    Errors: UnsupportedProtocol if the URL, or that of the proxy, is of a kind that cannot be used.
    """
    url = _split(base_url)
    secure = httpcore2.default_ssl_context() if url.scheme == "https" else None
    return httpcore2.AsyncConnectionPool(
        ssl_context=secure,
        proxy=_proxy(url.scheme, url.hostname or ""),
        max_connections=max_connections,
        max_keepalive_connections=MAX_IDLE_CONNECTIONS,
        keepalive_expiry=MAX_IDLE_SECONDS,
        network_backend=Backend(),
    )


def _proxy(scheme: str, host: str) -> httpcore2.Proxy | None:
    proxies = getproxies()
    named = proxies.get(scheme) or proxies.get("all")
    if not named or proxy_bypass(host):
        return None
    try:
        url = _split(named if "://" in named else f"http://{named}")
    except httpcore2.UnsupportedProtocol:
        # What is wrong with it quotes it, and a password may stand in it: '#' in one cuts an URL short.
        raise httpcore2.UnsupportedProtocol(
            "the proxy that the environment names is not a URL; in a password, '#' is written '%23'"
        ) from None
    if url.scheme not in ("http", "https"):
        raise httpcore2.UnsupportedProtocol("the proxy that the environment names is no HTTP proxy")
    port = url.port or (443 if url.scheme == "https" else 8080)
    auth = (unquote(url.username), unquote(url.password or "")) if url.username else None
    return httpcore2.Proxy(f"{url.scheme}://{url.hostname}:{port}", auth=auth)


def _split(url: str) -> SplitResult:
    try:
        split = urlsplit(url)
        _ = split.port, url.encode("ascii")
    except ValueError as error:
        raise httpcore2.UnsupportedProtocol(f"not a URL: {error}") from None
    if not split.hostname:
        raise httpcore2.UnsupportedProtocol("a URL without a host")
    return split


class Reply:
    """The answer to one request: its status and headers, then its body, read by read."""

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
        self._stream: Stream = response.extensions["network_stream"]

    async def read(self) -> bytes:
        """What has arrived, waiting for it if there is nothing; empty at the end.

        The first time a few pieces are enough: whoever waits for the answer to begin need not wait until
        all is taken apart that came with its first words.
        Errors: those of the library; what arrived before one is given first.
        """
        if self._error is not None:
            raise self._error
        parts: list[bytes] = []
        max_pieces, self._max_pieces = self._max_pieces, MAX_PIECES
        step, self._parked = self._parked or self._next(), None
        try:
            parts.append(await _go_on(step))
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
        """Close the body; the connection is kept if the body was read to its end."""
        with trio.CancelScope(shield=True):
            await self._response.aclose()
            if self._parked is not None:
                # Its connection is closed, so it ends at once.
                with suppress(StopAsyncIteration, *_ERRORS):
                    await _go_on(self._parked)
            await self._pieces.aclose()

    def _next(self) -> Coroutine[Any, Any, bytes]:
        return self._pieces.__anext__()


async def send(pool: Pool, post: Post, sending: SendObserver | None = None) -> Reply:
    """Send a request and wait for the head of its answer. Errors: those of the library."""
    url = httpcore2.URL(post.url)
    headers = {
        "host": _host(url),
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
    return Reply(await pool.handle_async_request(request))


def _host(url: httpcore2.URL) -> str:
    host = url.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"


def failure(error: Exception, refusing: Refusing) -> ModelFailure | None:
    """What the library or the network raised, as a failure; None if it is a fault of ours."""
    match error:
        case httpcore2.UnsupportedProtocol() | httpcore2.LocalProtocolError():
            return refusing.broke(f"the request cannot be sent: {_told(error)}", "bad_request")
        case httpcore2.ConnectTimeout():
            return refusing.broke(f"no connection within {MAX_CONNECT_SECONDS:g} s")
        case httpcore2.ConnectError() | httpcore2.ProxyError():
            return refusing.broke(f"no connection: {_told(error)}")
        case httpcore2.NetworkError() | httpcore2.ProtocolError() | httpcore2.TimeoutException() | OSError():
            return refusing.broke(f"the connection broke: {_told(error)}")
        case _:
            return None


def _told(error: BaseException) -> str:
    """What an error says, or the one behind it that says something: a certificate's, for one."""
    cause: BaseException | None = error
    while cause is not None:
        if str(cause):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
