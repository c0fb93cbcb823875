"""One HTTP exchange with a provider: a request out, what it streams back as model events.

It belongs to the task that asked: leaving the ``async with`` block early closes the connection at once, a
cancellation does the same, and there is no other task whose errors could arrive in a group.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import trio

from kheishd.core.text import sse
from kheishd.kernel.captures import NO_CAPTURE
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure
from kheishd.providers.failures import MAX_BODY_BYTES, Refusing
from kheishd.providers.wire import Post, Reader, SendObserver, malformed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from kheishd.config.sections.runs import RunsSection
    from kheishd.kernel.captures import Capture
    from kheishd.providers.network import Pool, Reply

T = TypeVar("T")

# An answer in one JSON object: the longest that is kept (128 KiB), escaped, with all that surrounds it.
MAX_WHOLE_BYTES = 4 * 1024 * 1024

# How long the end of the HTTP message may come after the end of the answer, for the connection to be kept.
MAX_TAIL_SECONDS = 0.05


class Patience:
    """Both timeouts of one call, counted from when it is made."""

    def __init__(self, limits: RunsSection) -> None:
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
        places: Places,
        post: Post,
        reader: Reader,
        refusing: Refusing,
        patience: Patience,
        capture: Capture = NO_CAPTURE,
    ) -> None:
        self._places = places
        self._post = post
        self._reader = reader
        self._refusing = refusing
        self._patience = patience
        self._capture = capture
        self._body = Body(reader)
        self._events: deque[ModelEvent] = deque()
        self._reply: Reply | None = None
        self._answer: ModelAnswer | None = None
        self._failure: ModelFailure | None = None

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        try:
            await self._guarded(self._send)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._answer is not None and self._answer.stop_reason != "length":
                await self._read_tail()
        finally:
            await self._close()

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if self._answer is not None:
                raise StopAsyncIteration
            await self._more()
        return self._events.popleft()

    async def _send(self) -> None:
        self._reply = reply = await self._places.send(self._post, self._capture.record_request)
        self._capture.record_reply(reply.status, reply.headers)
        if not 200 <= reply.status <= 299:
            body = b""
            while len(body) < MAX_BODY_BYTES and (received := await reply.read()):
                body += received
            self._capture.record_body(body)
            raise self._refusing.by_status(reply.status, reply.headers, body, time.time())
        packed = reply.headers.get("content-encoding", "identity")
        if packed != "identity":
            raise self._refusing.broke(f"the answer is compressed ({packed}) unasked", "bad_response")

    async def _more(self) -> None:
        assert self._reply is not None, "iterated without having been entered"
        try:
            received = await self._guarded(self._reply.read)
            self._capture.record_body(received)
            self._body.feed(received)
            if self._reply.ended:
                self._body.finish()
        except ModelFailure as failure:
            # What came before it is told first; what is complete is an answer whatever came after it.
            self._failure = failure
        self._events += self._reader.take()
        if self._reader.done or self._reply.ended or self._failure is not None:
            self._end()

    def _end(self) -> None:
        try:
            self._answer = self._reader.end()
        except ModelFailure as failure:
            self._failure = failure
            return
        if self._answer is not None:
            self._failure = None
            self._events.append(self._answer)
        elif self._failure is None:
            self._failure = self._refusing.broke("the connection ended before the answer did")

    async def _guarded(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do what waits for the network. Errors: ModelFailure."""
        try:
            return await self._patience.wait(step)
        except ModelFailure:
            raise
        except Exception as error:
            failure = self._places.failure(error, self._refusing)
            if failure is None:
                raise
            raise failure from None

    async def _read_tail(self) -> None:
        """Read to the end of the HTTP message, so that its connection can be used again."""
        assert self._reply is not None, "an answer came from a reply"
        with trio.move_on_after(MAX_TAIL_SECONDS):
            try:
                while not self._reply.ended:
                    await self._reply.read()
            except Exception as error:
                if self._places.failure(error, self._refusing) is None:
                    raise

    async def _close(self) -> None:
        if self._reply is not None:
            await self._reply.aclose()


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
            raise malformed(f"an event of more than {sse.MAX_EVENT_BYTES} bytes") from None
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
            raise malformed("something that is no stream of events; is the route's base_url right?")

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
        if len(self._whole) > MAX_WHOLE_BYTES:
            raise malformed(f"an answer of more than {MAX_WHOLE_BYTES} bytes")


class Places:
    """A pool of connections for each place, made when it is first needed.

    ``in_thread`` runs what takes long: importing the library and reading the system's certificates.
    """

    def __init__(self, max_connections: int, in_thread: Callable[..., Awaitable[Any]] | None = None) -> None:
        self._max_connections = max_connections
        self._in_thread = in_thread or trio.to_thread.run_sync
        self._pools: dict[str, Pool] = {}
        self._making = trio.Lock()

    async def send(self, post: Post, sending: SendObserver | None = None) -> Reply:
        """Send a request. Errors: those that ``failure`` translates."""
        place = post.url.partition("?")[0]
        pool = self._pools.get(place) or await self._make(place)
        from kheishd.providers.network import send

        return await send(pool, post, sending)

    def failure(self, error: Exception, refusing: Refusing) -> ModelFailure | None:
        """What sending or reading raised, as a failure; None if it is a fault of ours."""
        from kheishd.providers.network import failure

        return failure(error, refusing)

    async def aclose(self) -> None:
        """Close the connections that are kept."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _make(self, place: str) -> Pool:
        async with self._making:
            pool = self._pools.get(place)
            if pool is None:
                pool = self._pools[place] = await self._in_thread(_make_pool, place, self._max_connections)
            return pool


def host_of(url: str) -> str:
    """The host and port of an URL, for messages: without user, password or path."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the provider"
    except ValueError:
        return "the provider"


def _make_pool(place: str, max_connections: int) -> Pool:
    from kheishd.providers.network import make_pool

    return make_pool(place, max_connections)
