"""The recorder of one capture, in a thread: decodes streams, redacts texts and scrubs credentials.

The artifacts of a call are

* ``request.json``: the URL, the headers, and the body as sent; for the offline route, which sends nothing,
  the conversation as the daemon holds it.
* ``events.jsonl``: the status and the headers of the reply, then each event, each with the milliseconds since
  the request. A body that is not a stream of events is one line, ``body``; content that is not JSON is
  ``text``.
* ``answer.json``: the decoded answer, the failure, or a note that the caller left before the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from kheishd.core.text import sse
from kheishd.core.text.redaction import redact_headers, redact_url
from kheishd.core.text.stream import ValueStreamScrubber, scrub_value
from kheishd.kernel.runtime import TextDelta

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.core.text.redaction import Redactor
    from kheishd.core.text.scrub import Scrubber
    from kheishd.debug.directories import ArtifactKind
    from kheishd.debug.files import CallArtifacts, CaptureFiles
    from kheishd.kernel.runtime import ModelAnswer, ModelFailure, ModelRequest, ThinkingDelta

_PREFIXES: Final = {"answer": "", "summary": "compaction-", "title": "title-", "judge": "judge-"}

# The last event of a stream on OpenAI's wire; not JSON.
_DONE: Final = b"[DONE]"

_encode = msgspec.json.Encoder().encode


class CallRecorder:
    """A recorder of one model call; its steps run in one thread, in order.

    ``scrubber`` returns the current scrubber; without a ``redactor``, texts are kept.
    """

    def __init__(
        self,
        files: CaptureFiles,
        scrubber: Callable[[], Scrubber],
        redactor: Redactor | None,
        request: ModelRequest,
    ) -> None:
        self._files = files
        self._scrubber = scrubber
        self._redactor = redactor
        self._run_id = request.run_id
        self._stem = f"{_PREFIXES[request.purpose]}turn-{request.turn:04d}-attempt-{request.attempt:04d}"
        self._artifacts: CallArtifacts | None = None
        self._failed = False
        self._start_stream()

    def _start_stream(self) -> None:
        """Expect the events of a new reply."""
        self._stream = ValueStreamScrubber()
        self._decoder: sse.EventDecoder | None = sse.EventDecoder()
        self._beginning = bytearray()
        self._events = 0
        self._truncated = False

    def perform(self, step: Callable[..., None], *args: Any) -> None:
        """Perform a step, unless an earlier one failed. Errors: those of the step."""
        if self._failed:
            return
        try:
            step(*args)
        except BaseException:
            self._failed = True
            self._close()
            raise

    def record_request(self, head: dict[str, Any], body: bytes, ms: int = 0) -> None:
        """Write the request. If it follows a refused one of the same call, it has its own artifacts."""
        if self._artifacts is not None:
            self._write_rest(ms, overflowed=False)
            self._close()
            self._start_stream()
        if "headers" in head:
            headers = redact_headers(head["headers"], self._redactor)
            head = {**head, "url": redact_url(head["url"]), "headers": headers}
        self._write("request", {**head, "body_bytes": len(body)}, "body", body)

    def record_reply(self, ms: int, status: int, headers: dict[str, str]) -> None:
        """Write the status and the headers of the reply."""
        self._append({"ms": ms, "status": status, "headers": redact_headers(headers, self._redactor)})

    def record_body(self, ms: int, data: bytes) -> None:
        """Write the events that a part of the body completes."""
        if not self._events:
            # Keep the beginning of the body, in case it is not a stream of events.
            space = self._files.limits.artifact_bytes // 2 - len(self._beginning)
            self._beginning += data[:space]
            self._truncated = self._truncated or len(data) > space
        if self._decoder is None:
            return
        try:
            events = self._decoder.feed(data)
        except sse.EventTooLarge:
            self._decoder, self._truncated = None, self._truncated or self._events > 0
            return
        for event in events:
            self._append_event(ms, event)

    def record_delta(self, ms: int, event: TextDelta | ThinkingDelta) -> None:
        """Write an event of the offline route."""
        kind = "text" if isinstance(event, TextDelta) else "thinking"
        self._append({"ms": ms, "data": self._redact({"type": kind, "text": event.text})})

    def finish(
        self, ms: int, answer: ModelAnswer | None, failure: ModelFailure | None, overflowed: bool
    ) -> None:
        """Write the rest of the events and the outcome, and close the artifacts."""
        self._write_rest(ms, overflowed=overflowed)
        if failure is not None:
            self._write("answer", {"ms": ms, "outcome": "failed"}, "failure", _encode_failure(failure))
        else:
            outcome = "left" if answer is None else "answered"
            self._write("answer", {"ms": ms, "outcome": outcome}, "answer", _encode(answer))
        self._close()

    def _write_rest(self, ms: int, *, overflowed: bool) -> None:
        """Write the rest of the events."""
        if self._decoder is not None and not overflowed:
            for event in self._decoder.finish():
                self._append_event(ms, event)
        if self._beginning and not self._events:
            self._append({"ms": ms, **self._decode("body", bytes(self._beginning))})
        self._append_lines(self._stream.finish(self._scrubber()))
        if overflowed or self._truncated:
            self._open().truncate()

    def _append_event(self, ms: int, event: bytes) -> None:
        if not self._events:
            self._beginning.clear()
            self._truncated = False
        self._events += 1
        self._append({"ms": ms, **self._decode("data", event)})

    def _decode(self, name: str, content: bytes) -> dict[str, Any]:
        """Return the content as JSON named ``name``, or as a text."""
        if content == _DONE:
            return {"text": _DONE.decode()}
        try:
            return {name: self._redact(msgspec.json.decode(content))}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {"text": self._redact(content.decode(errors="replace"))}

    def _redact(self, value: Any) -> Any:
        return value if self._redactor is None else self._redactor.redact_value(value)

    def _append(self, entry: dict[str, Any]) -> None:
        self._append_lines(self._stream.feed(entry, self._scrubber()))

    def _append_lines(self, entries: list[Any]) -> None:
        for entry in entries:
            self._open().append_line(_encode(entry) + b"\n")

    def _write(self, kind: ArtifactKind, head: dict[str, Any], name: str, body: bytes) -> None:
        """Write a whole artifact; if it is too long, its body is the beginning of a text.

        A body without secrets is written byte for byte.
        """
        scrubber = self._scrubber()
        if self._redactor is not None or scrubber.find_spans(body.decode("latin-1")):
            body = _encode(scrub_value(self._redact(msgspec.json.decode(body)), scrubber))
        head = scrub_value(head, scrubber)
        content = _encode({**head, name: msgspec.Raw(body)})
        length = max_bytes = self._files.limits.artifact_bytes
        while len(content) > max_bytes and length:
            length = length * 3 // 4
            text = body[:length].decode(errors="ignore")
            content = _encode({"truncated": True, **head, name: text} if length else {"truncated": True})
        self._open().write_whole(kind, content)

    def _open(self) -> CallArtifacts:
        if self._artifacts is None:
            self._artifacts = self._files.open_call(self._run_id, self._stem)
        return self._artifacts

    def _close(self) -> None:
        artifacts, self._artifacts = self._artifacts, None
        if artifacts is not None:
            artifacts.close()


def _encode_failure(failure: ModelFailure) -> bytes:
    return _encode(
        {
            "reason": failure.reason,
            "message": failure.message,
            "retryable": failure.retryable,
            "status": failure.status,
            "retry_after_s": failure.retry_after_s,
        }
    )
