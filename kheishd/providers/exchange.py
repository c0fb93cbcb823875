"""One HTTP exchange with a provider: sends a request and yields its answer as model events.

It runs in the caller's task: leaving the ``async with`` block early, or a cancellation, closes the connection
immediately, and no error arrives in an exception group.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from kheishd.core.text import sse
from kheishd.kernel.captures import NO_CAPTURE
from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure
from kheishd.providers.address import find_server, path_of
from kheishd.providers.answer_reader import is_error_data
from kheishd.providers.driver import AnswerReader, HttpRequest, SendObserver, malformed_answer
from kheishd.providers.error_report import MAX_BODY_BYTES
from kheishd.providers.http_errors import failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import TracebackType

    from kheishd.config.sections.runs import RunsSection
    from kheishd.kernel.captures import Capture
    from kheishd.providers.failures import FailureFactory
    from kheishd.providers.http import HttpReply, Pool

T = TypeVar("T")

# An answer in one JSON object: the longest stored answer, escaped, with its envelope.
MAX_WHOLE_BYTES = 4 * 1024 * 1024

# The wait for the end of the HTTP message after the end of the answer, to reuse the connection.
MAX_TAIL_SECONDS = 0.05


# The wait for side information, such as the usage, after the end of the answer: some servers keep the
# connection open and send nothing more.
MAX_SETTLED_SECONDS = 1.5


class CallTimeouts:
    """The two timeouts of one call, counted from its creation."""

    def __init__(self, limits: RunsSection) -> None:
        self._limits = limits
        self._deadline = trio.current_time() + limits.stream_timeout_s

    async def wait(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step that waits for the model. Errors: ModelFailure ``timed_out``."""
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
        pools: ConnectionPools,
        post: HttpRequest,
        reader: AnswerReader,
        failures: FailureFactory,
        timeouts: CallTimeouts,
        capture: Capture = NO_CAPTURE,
    ) -> None:
        self._pools = pools
        self._post = post
        self._reader = reader
        self._failures = failures
        self._timeouts = timeouts
        self._capture = capture
        self._path = path_of(post.url)
        self._body = AnswerBody(reader, self._path)
        self._events: deque[ModelEvent] = deque()
        self._reply: HttpReply | None = None
        self._answer: ModelAnswer | None = None
        self._failure: ModelFailure | None = None
        self._settled_at: float | None = None

    async def __aenter__(self) -> AsyncIterator[ModelEvent]:
        try:
            await self._translate_errors(self._send)
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
            await self._read_more()
        return self._events.popleft()

    async def _send(self) -> None:
        # Without a capture, a long body is not joined.
        sending = None if self._capture is NO_CAPTURE else self._capture.record_request
        self._reply = reply = await self._pools.send(self._post, sending)
        self._capture.record_reply(reply.status, reply.headers)
        if not 200 <= reply.status <= 299:
            body = b""
            while len(body) < MAX_BODY_BYTES and (received := await reply.read()):
                body += received
            self._capture.record_body(body)
            raise self._failures.by_status(reply.status, reply.headers, body, time.time(), self._path)
        encoding = reply.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise self._failures.broke(f"the answer is compressed ({encoding}) unasked", "bad_response")

    async def _read_more(self) -> None:
        assert self._reply is not None, "iterate it after entering it"
        try:
            received = await self._read()
            if received is None:
                self._end()
                return
            self._capture.record_body(received)
            self._body.feed(received)
            if self._reply.ended:
                self._body.finish()
        except ModelFailure as failure:
            # Deltas before the failure are returned first, and a complete answer stays an answer.
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
            # The end may have completed a character, or explained a refusal.
            self._events += self._reader.take()
            self._events.append(self._answer)
        elif self._failure is None:
            self._failure = self._failures.broke("the connection ended before the answer")

    async def _read(self) -> bytes | None:
        """Read; None if the answer is settled, and nothing more came in time. Errors: ModelFailure."""
        assert self._reply is not None, "iterate it after entering it"
        if received := self._reply.take():
            # One network read may be many such parts: other tasks run between them.
            await trio.lowlevel.checkpoint()
            return received
        if not self._reader.settled:
            return await self._translate_errors(self._reply.read)
        if self._settled_at is None:
            self._settled_at = trio.current_time()
        with trio.move_on_at(self._settled_at + MAX_SETTLED_SECONDS):
            return await self._translate_errors(self._reply.read)
        return None

    async def _translate_errors(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run a step that waits for the network. Errors: ModelFailure."""
        try:
            return await self._timeouts.wait(step)
        except ModelFailure:
            raise
        except Exception as error:
            failure = failure_of(error, self._failures)
            if failure is None:
                raise
            raise failure from None

    async def _read_tail(self) -> None:
        """Read to the end of the HTTP message, so that its connection can be reused."""
        assert self._reply is not None, "an answer came from a reply"
        if self._reply.ended:
            return
        with trio.move_on_after(MAX_TAIL_SECONDS):
            try:
                while not self._reply.ended:
                    await self._reply.read()
            except Exception as error:
                if failure_of(error, self._failures) is None:
                    raise

    async def _close(self) -> None:
        if self._reply is not None:
            await self._reply.aclose()


class AnswerBody:
    """The parser of a successful body: events, or one JSON object from a server that does not stream.

    The message about another body names the requested ``path``.
    """

    def __init__(self, reader: AnswerReader, path: str = "/") -> None:
        self._reader = reader
        self._path = path
        self._decoder = sse.EventDecoder()
        self._start = b""
        self._whole: bytearray | None = None
        self._events = 0

    def feed(self, received: bytes) -> None:
        """Process received bytes. Errors: ModelFailure."""
        if self._whole is not None:
            self._append_object(received)
            return
        if not self._events and self._is_object(received):
            self._whole = bytearray()
            self._append_object(received)
            return
        try:
            events = self._decoder.feed(received)
        except sse.EventTooLarge:
            raise malformed_answer(f"an event of more than {sse.MAX_EVENT_BYTES} bytes") from None
        self._take(events)

    def finish(self) -> None:
        """Process the end of the body. Errors: ModelFailure if the body is not an answer."""
        if self._whole is not None:
            self._reader.whole(bytes(self._whole))
            return
        try:
            self._take(self._decoder.finish())
        except ModelFailure:
            if self._reader.failed:
                raise
            # The last event is incomplete: the connection broke inside it.
            return
        if not self._events and self._start.strip():
            content = "a web page" if self._start.startswith(b"<") else "no event stream"
            raise malformed_answer(
                f"{content}; the request went to {self._path}: check the route's base_url and driver"
            )

    def _take(self, events: list[bytes]) -> None:
        if {*map(type, events)} == {bytes}:
            self._events += len(events)
            self._reader.events(events)
            return
        for event in events:
            if type(event) is sse.StrayData:
                if is_error_data(event) and not self._reader.done:
                    self._reader.fail_event(event)
                continue
            self._events += 1
            if self._reader.done:
                return
            if type(event) is sse.ErrorEventData:
                self._reader.fail_event(event)
            self._reader.event(event)

    def _is_object(self, received: bytes) -> bool:
        # A JSON object begins with a brace and a list of errors with a bracket; no line of a stream does.
        if len(self._start) < 16:
            self._start = (self._start + received[:16]).lstrip()
        return self._start.startswith((b"{", b"["))

    def _append_object(self, received: bytes) -> None:
        assert self._whole is not None, "nothing is appended before an object begins"
        self._whole += received
        if len(self._whole) > MAX_WHOLE_BYTES:
            raise malformed_answer(f"an answer of more than {MAX_WHOLE_BYTES} bytes")


class ConnectionPools:
    """Pools of connections, one per server and set of certificate authorities, created at first use.

    Google's URLs name the model, which a client may choose: a pool per URL would be one per model.
    ``in_thread`` runs slow work: importing the library and reading the system's certificates.
    """

    def __init__(self, max_connections: int, in_thread: Callable[..., Awaitable[Any]] | None = None) -> None:
        self._max_connections = max_connections
        self._in_thread = in_thread or trio.to_thread.run_sync
        self._pools: dict[tuple[str, str | None], Pool] = {}
        self._making = trio.Lock()

    async def send(self, post: HttpRequest, sending: SendObserver | None = None) -> HttpReply:
        """Send a request. Errors: those of ``http_errors``."""
        key = (find_server(post.url), post.ca_file)
        pool = self._pools.get(key) or await self._make(key)
        return await pool.send(post, sending)

    async def aclose(self) -> None:
        """Close idle connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.aclose()

    async def _make(self, key: tuple[str, str | None]) -> Pool:
        async with self._making:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = await self._in_thread(_make_pool, *key, self._max_connections)
            return pool


def _make_pool(url: str, ca_file: str | None, max_connections: int) -> Pool:
    from kheishd.providers.http import make_pool

    return make_pool(url, max_connections, ca_file)
