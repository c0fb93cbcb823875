"""One model call as it is captured: what was sent, what came back and when, and what came of it.

A :class:`Capture` is told on the loop and only hands over; a :class:`Sheet` does the rest in a thread: taking
streams apart, taking out texts where they are not wanted, and always credentials. The artifacts are

* ``request.json``: where it went, with what headers, and the body as it was sent; for the offline stand-in,
  to which nothing is sent, the conversation as we hold it.
* ``events.jsonl``: the status and headers, then each event, each with the milliseconds since the request. A
  body that is no stream of events is one line, ``body``; what is not JSON is ``text``.
* ``answer.json``: what was made of it, why it failed, or that nobody waited for its end.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from kheishd.core.text.redaction import redact_headers, redact_url
from kheishd.core.text.stream import ValueStreamScrubber, scrub_value
from kheishd.kernel.runtime import (
    ModelAnswer,
    ModelEvent,
    ModelFailure,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
)
from kheishd.providers import sse
from kheishd.providers.wire import HttpRequest, encode

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

    from kheishd.kernel.capture_files import CallArtifacts, Kind
    from kheishd.kernel.captures import Captures

_PREFIXES: Final = {"answer": "", "summary": "compaction-", "title": "title-"}

# What says only that a stream is over.
_END: Final = b"[DONE]"

# What an event takes besides its text: the rest of a batch of events that is one read.
_EVENT_BYTES: Final = 256


def capture_of(captures: Captures | None, request: ModelRequest) -> Capture | None:
    """The capture of a call, if its run is captured."""
    if request.pinned.debug == "off" or captures is None or not request.run_id:
        return None
    return Capture(captures, request)


class Capture:
    """What one model call tells. Enter it around the call; nothing of it ever fails or waits."""

    def __init__(self, captures: Captures, request: ModelRequest) -> None:
        self._captures = captures
        self._request = request
        self._sheet = Sheet(captures, request)
        self._began = trio.current_time()
        self._lost = False
        self._answer: ModelAnswer | None = None

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error if isinstance(error, ModelFailure) else None
        # Without a size, so that it is taken even where nothing else was.
        self._put(0, self._sheet.end, self._ms(), self._answer, failure, self._lost)

    def sending(self, post: HttpRequest, headers: Mapping[str, str]) -> None:
        """The request, and its headers as they go out."""
        self._began = trio.current_time()
        head = {"method": "POST", "url": post.url, "headers": dict(headers)}
        self._put(len(post.body), self._sheet.request, head, post.body)

    def asking(self) -> None:
        """The request where it is not sent anywhere."""
        body = _as_json(self._request)
        self._put(len(body), self._sheet.request, {"driver": self._request.pinned.driver}, body)

    def replied(self, status: int, headers: Mapping[str, str]) -> None:
        """The head of the answer."""
        self._put(_EVENT_BYTES, self._sheet.replied, self._ms(), status, dict(headers))

    def received(self, data: bytes) -> None:
        """A part of the body."""
        self._put(len(data) + _EVENT_BYTES, self._sheet.received, self._ms(), data)

    def heard(self, event: ModelEvent) -> None:
        """An event that is told on. Where nothing is received, these are all that came."""
        if isinstance(event, ModelAnswer):
            self._answer = event
        elif self._request.pinned.driver == "offline":
            self._put(len(event.text) + _EVENT_BYTES, self._sheet.delta, self._ms(), event)

    def _ms(self) -> int:
        return round((trio.current_time() - self._began) * 1000)

    def _put(self, size: int, step: Any, *args: Any) -> None:
        # Once something was not taken, what follows has lost its beginning.
        if size and self._lost:
            return
        job = partial(self._sheet.do, step, *args)
        self._lost = not self._captures.put(self._request.run_id, size, job) or self._lost


class Heard:
    """Events on their way, of which a capture is told."""

    def __init__(self, events: AsyncIterator[ModelEvent], capture: Capture) -> None:
        self._events = events
        self._capture = capture

    def __aiter__(self) -> AsyncIterator[ModelEvent]:
        return self

    async def __anext__(self) -> ModelEvent:
        event = await anext(self._events)
        self._capture.heard(event)
        return event


class Sheet:
    """What is written of one model call. Only in the thread, one step after another."""

    def __init__(self, captures: Captures, request: ModelRequest) -> None:
        self._captures = captures
        self._run_id = request.run_id
        self._stem = f"{_PREFIXES[request.purpose]}turn-{request.turn:04d}-attempt-{request.attempt:04d}"
        self._veil = captures.veil if request.pinned.debug == "redacted" else None
        self._sheaf: CallArtifacts | None = None
        self._failed = False
        self._seams = ValueStreamScrubber()
        self._decoder: sse.EventDecoder | None = sse.EventDecoder()
        self._start = bytearray()
        self._events = 0
        self._cut = False

    def do(self, step: Any, *args: Any) -> None:
        """Do a step, unless one before it failed. Errors: whatever keeps it from being done."""
        if self._failed:
            return
        try:
            step(*args)
        except BaseException:
            self._failed = True
            self._close()
            raise

    def request(self, head: dict[str, Any], body: bytes) -> None:
        """Write the request."""
        if "headers" in head:
            head = {
                **head,
                "url": redact_url(head["url"]),
                "headers": redact_headers(head["headers"], self._veil),
            }
        self._write("request", {**head, "body_bytes": len(body)}, "body", self._body(body))

    def replied(self, ms: int, status: int, headers: dict[str, str]) -> None:
        """Write the head of the answer."""
        self._tell({"ms": ms, "status": status, "headers": redact_headers(headers, self._veil)})

    def received(self, ms: int, data: bytes) -> None:
        """Write the events that a part of the body completes."""
        if not self._events:
            self._gather(data)
        if self._decoder is None:
            return
        try:
            events = self._decoder.feed(data)
        except sse.EventTooLarge:
            self._decoder, self._cut = None, self._cut or self._events > 0
            return
        for event in events:
            self._event(ms, event)

    def delta(self, ms: int, event: TextDelta | ThinkingDelta) -> None:
        """Write an event of ours."""
        kind = "text" if isinstance(event, TextDelta) else "thinking"
        self._tell({"ms": ms, "data": self._veiled({"type": kind, "text": event.text})})

    def end(self, ms: int, answer: ModelAnswer | None, failure: ModelFailure | None, lost: bool) -> None:
        """Write what came of it, and close."""
        if self._decoder is not None and not lost:
            for event in self._decoder.finish():
                self._event(ms, event)
        if self._start and not self._events:
            self._tell({"ms": ms, **self._value("body", bytes(self._start))})
        self._lines(self._seams.finish(self._captures.scrubber))
        if lost or self._cut:
            self._open().truncate()
        if failure is not None:
            self._write("answer", {"ms": ms, "outcome": "failed"}, "failure", self._body(_told(failure)))
        else:
            outcome = "left" if answer is None else "answered"
            self._write("answer", {"ms": ms, "outcome": outcome}, "answer", self._body(encode(answer)))
        self._close()

    # What is written.

    def _gather(self, data: bytes) -> None:
        """Keep the beginning, until it is known to be one of events."""
        room = self._captures.limits.artifact_bytes // 2 - len(self._start)
        self._start += data[:room]
        self._cut = self._cut or len(data) > room

    def _event(self, ms: int, event: bytes) -> None:
        if not self._events:
            self._start.clear()
            self._cut = False
        self._events += 1
        self._tell({"ms": ms, **self._value("data", event)})

    def _value(self, name: str, content: bytes) -> dict[str, Any]:
        """What came, as the JSON that it is, else as a text."""
        if content == _END:
            return {"text": _END.decode()}
        try:
            return {name: self._veiled(msgspec.json.decode(content))}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {"text": self._veiled(content.decode(errors="replace"))}

    def _veiled(self, value: Any) -> Any:
        return value if self._veil is None else self._veil.redact_value(value)

    def _tell(self, entry: dict[str, Any]) -> None:
        self._lines(self._seams.feed(entry, self._captures.scrubber))

    def _lines(self, entries: list[Any]) -> None:
        for entry in entries:
            self._open().line(encode(entry) + b"\n")

    def _body(self, body: bytes) -> bytes:
        """A body that we made: the very same bytes where nothing is to be taken out of it."""
        scrubber = self._captures.scrubber
        if self._veil is None and not scrubber.find_spans(body.decode("latin-1")):
            return body
        return encode(scrub_value(self._veiled(msgspec.json.decode(body)), scrubber))

    def _write(self, kind: Kind, head: dict[str, Any], name: str, body: bytes) -> None:
        """Write a whole artifact; where it is too long, its body is the beginning of a text."""
        head = scrub_value(head, self._captures.scrubber)
        content = encode({**head, name: msgspec.Raw(body)})
        kept = max_bytes = self._captures.limits.artifact_bytes
        while len(content) > max_bytes and kept:
            kept = kept * 3 // 4
            text = body[:kept].decode(errors="ignore")
            content = encode({"truncated": True, **head, name: text} if kept else {"truncated": True})
        self._open().write(kind, content)

    def _open(self) -> CallArtifacts:
        if self._sheaf is None:
            self._sheaf = self._captures.open(self._run_id, self._stem)
        return self._sheaf

    def _close(self) -> None:
        sheaf, self._sheaf = self._sheaf, None
        if sheaf is not None:
            sheaf.close()


def _told(failure: ModelFailure) -> bytes:
    return encode(
        {
            "reason": failure.reason,
            "message": failure.message,
            "retryable": failure.retryable,
            "status": failure.status,
            "retry_after_s": failure.retry_after_s,
        }
    )


def _as_json(request: ModelRequest) -> bytes:
    """A request that has no wire."""
    return encode(
        {
            "model": request.pinned.model,
            "instructions": request.instructions,
            "messages": request.messages,
            "tools": [
                {"name": tool.name, "description": tool.description, "input_schema": tool.model_schema}
                for tool in request.tools
            ],
        }
    )
