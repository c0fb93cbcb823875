"""One HTTP exchange with a provider: a request out, what it streams back as model events.

A task reads from the network and hands on what it gets; whoever iterates takes all of it at once, so that
events which arrived together are told together, and a reader who is slow lets them gather. That task is
the only one, and it ends with the ``async with`` block: leaving early closes the connection at once.
"""

import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import trio

from kheishd.kernel.runtime import ModelEvent, ModelFailure, RunLimits
from kheishd.providers import sse
from kheishd.providers.failures import BODY_BYTES_MAX, Refusing
from kheishd.providers.wire import Post, Reader, malformed

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import httpx2

T = TypeVar("T")

# Chunks read and not yet taken: a network read of 64 KiB rarely has more, and together they are at most
# as many times 64 KiB. Then the network waits.
CHUNKS_MAX = 64

# An answer in one JSON object: the longest that is kept (128 KiB), escaped, with all that surrounds it.
WHOLE_BYTES_MAX = 4 * 1024 * 1024

# Idle connections kept for the next call, and for how long. Before each call the pool looks at every idle
# one, 2 microseconds each; providers close theirs after a minute or more.
IDLE_CONNECTIONS_MAX = 64
IDLE_SECONDS_MAX = 30.0

# A place that does not even answer the network within this is not there.
CONNECT_SECONDS_MAX = 30.0

# How long the end of the HTTP message may come after the end of the answer, for the connection to be kept.
TAIL_SECONDS_MAX = 0.05


class Patience:
    """Both timeouts of one call, counted from when it is made."""

    def __init__(self, limits: RunLimits) -> None:
        self._limits = limits
        self._deadline = trio.current_time() + limits.stream_timeout_s

    async def wait(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do what waits for the model. Errors: ModelFailure ``timed_out``."""
        quiet_until = trio.current_time() + self._limits.inactivity_timeout_s
        with trio.move_on_at(min(self._deadline, quiet_until)):
            return await step()
        if self._deadline < quiet_until:
            message = f"the answer was not complete after {self._limits.stream_timeout_s:g} s"
        else:
            message = f"the model sent nothing for {self._limits.inactivity_timeout_s:g} s"
        raise ModelFailure("timed_out", message, retryable=True)


class Exchange:
    """A request and its answer: enter it to send, iterate it to read, leave it to close."""

    def __init__(
        self,
        client: Callable[[], Awaitable["httpx2.AsyncClient"]],
        post: Post,
        reader: Reader,
        refusing: Refusing,
        patience: Patience,
    ) -> None:
        self._client = client
        self._post = post
        self._reader = reader
        self._refusing = refusing
        self._patience = patience
        self._events: deque[ModelEvent] = deque()
        self._over = False
        self._error: Exception | None = None
        self._failure: ModelFailure | None = None
        self._read_all = trio.Event()
        self._body = Body(reader)
        self._give, self._get = trio.open_memory_channel[bytes](CHUNKS_MAX)
        self._nurseries: AbstractAsyncContextManager[trio.Nursery] = trio.open_nursery()
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        self._nursery = await self._nurseries.__aenter__()
        self._nursery.start_soon(self._talk)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None, "left without having been entered"
        if kind is None and self._over:
            with trio.move_on_after(TAIL_SECONDS_MAX):
                await self._read_all.wait()
        self._nursery.cancel_scope.cancel()
        # The block's own error is not told to the nursery, which would wrap it in a group. A cancellation
        # from outside, which the nursery wraps too, comes out of the block itself or at its next checkpoint.
        try:
            await self._nurseries.__aexit__(None, None, None)
        except* trio.Cancelled:
            pass

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self._over:
                raise StopAsyncIteration
            await self._more()
        return self._events.popleft()

    async def _more(self) -> None:
        try:
            received = [await self._patience.wait(self._get.receive)]
        except trio.EndOfChannel:
            self._end()
            return
        try:
            while True:
                received.append(self._get.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        try:
            self._body.feed(b"".join(received))
        except ModelFailure as failure:
            # What came before it in the same read is told first.
            self._failure = failure
        self._events += self._reader.take()
        if self._reader.done:
            self._answer()

    def _end(self) -> None:
        """Nothing more comes. What is complete is an answer even if the connection broke after it."""
        if self._error is None:
            self._body.finish()
            self._events += self._reader.take()
        if not self._answer():
            raise self._error or self._refusing.broke("the connection ended before the answer did")

    def _answer(self) -> bool:
        answer = self._reader.end()
        if answer is not None:
            self._events.append(answer)
            self._over = True
        return answer is not None

    # In the task that reads.

    async def _talk(self) -> None:
        with self._give:
            try:
                await self._send()
            except Exception as error:
                self._error = _failure(error, self._refusing)
        self._read_all.set()

    async def _send(self) -> None:
        client = await self._client()
        post = self._post
        async with client.stream("POST", post.url, headers=post.headers, content=post.body) as response:
            # We ask for no compression; a server that compresses all the same is understood.
            packed = "content-encoding" in response.headers
            chunks = response.aiter_bytes() if packed else response.aiter_raw()
            if not response.is_success:
                body = await _first(chunks, BODY_BYTES_MAX)
                raise self._refusing.by_status(response.status_code, response.headers, body, time.time())
            async for chunk in chunks:
                try:
                    self._give.send_nowait(chunk)
                except trio.WouldBlock:
                    await self._give.send(chunk)


class Body:
    """The body of a success: events, or one JSON object from a server that does not stream."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._decoder = sse.Decoder()
        self._start = b""
        self._whole: bytearray | None = None
        self._events = 0

    def feed(self, received: bytes) -> None:
        """Take in what arrived. Errors: ModelFailure."""
        if self._whole is not None:
            self._gather(received)
            return
        if not self._events and self._is_object(received):
            self._whole = bytearray()
            self._gather(received)
            return
        try:
            events = self._decoder.feed(received)
        except sse.EventTooLarge:
            raise malformed(f"an event of more than {sse.EVENT_BYTES_MAX} bytes") from None
        self._take(events)

    def finish(self) -> None:
        """The body has ended. Errors: ModelFailure if it is something else altogether."""
        if self._whole is not None:
            self._reader.whole(bytes(self._whole))
            return
        try:
            self._take(self._decoder.finish())
        except ModelFailure:
            # The last event is a torso: the connection was cut inside it.
            return
        if not self._events and self._start.strip():
            raise malformed("something that is no stream of events")

    def _take(self, events: list[bytes]) -> None:
        self._events += len(events)
        for event in events:
            if self._reader.done:
                return
            self._reader.event(event)

    def _is_object(self, received: bytes) -> bool:
        # No line of an event stream begins with a brace, and no JSON object without one.
        if len(self._start) < 16:
            self._start = (self._start + received[:16]).lstrip()
        return self._start.startswith(b"{")

    def _gather(self, received: bytes) -> None:
        assert self._whole is not None, "gathering begins with an object"
        self._whole += received
        if len(self._whole) > WHOLE_BYTES_MAX:
            raise malformed(f"an answer of more than {WHOLE_BYTES_MAX} bytes")


class Clients:
    """One HTTP client for each place, made when it is first needed.

    ``in_thread`` runs what takes long: importing the library and reading the certificates of the system.
    """

    def __init__(
        self, limits: RunLimits, in_thread: Callable[..., Awaitable["httpx2.AsyncClient"]] | None = None
    ) -> None:
        self._limits = limits
        self._in_thread = in_thread or trio.to_thread.run_sync
        self._clients: dict[str, httpx2.AsyncClient] = {}
        self._making = trio.Lock()

    async def get(self, base_url: str) -> "httpx2.AsyncClient":
        """The client for a place."""
        client = self._clients.get(base_url)
        if client is not None:
            return client
        async with self._making:
            if base_url not in self._clients:
                self._clients[base_url] = await self._in_thread(_make_client, self._limits.active_max)
            return self._clients[base_url]

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.aclose()


def host_of(url: str) -> str:
    """The host and port of an URL, for messages: without user, password or path."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the provider"
    except ValueError:
        return "the provider"


def _make_client(connections_max: int) -> "httpx2.AsyncClient":
    from http.cookiejar import CookieJar, DefaultCookiePolicy

    import httpx2

    return httpx2.AsyncClient(
        headers={"accept": "text/event-stream, application/json", "accept-encoding": "identity"},
        # No cookie is kept: routes with different credentials may share a place.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS_MAX),
        follow_redirects=False,
        limits=httpx2.Limits(
            max_connections=connections_max,
            max_keepalive_connections=IDLE_CONNECTIONS_MAX,
            keepalive_expiry=IDLE_SECONDS_MAX,
        ),
    )


async def _first(chunks: AsyncIterator[bytes], size: int) -> bytes:
    """The beginning of a body; the rest is not read."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) >= size:
            break
    return body[:size]


def _failure(error: Exception, refusing: Refusing) -> Exception:
    """What the HTTP library raises, as a failure; anything else is a fault of ours and stays what it is."""
    import httpx2

    match error:
        case httpx2.InvalidURL() | httpx2.UnsupportedProtocol() | httpx2.LocalProtocolError():
            return refusing.broke(f"the request cannot be sent: {error}", "bad_request")
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.ProxyError():
            return refusing.broke(f"no connection: {error}")
        case httpx2.DecodingError():
            return refusing.broke(f"its compression cannot be read: {error}", "bad_response")
        case httpx2.HTTPError() | httpx2.StreamError():
            return refusing.broke(f"the connection broke: {error}")
        case _:
            return error
