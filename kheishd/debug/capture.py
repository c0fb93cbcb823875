"""The capture of one model call, as the event loop sees it: queues the steps of a recorder thread."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelFailure, ModelRequest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from kheishd.debug.queue import WriteQueue
    from kheishd.debug.recorder import CallRecorder

# The overhead of an event, in addition to its text: its part of the events that one read returned.
EVENT_OVERHEAD_BYTES: Final = 256


class CallCapture:
    """The capture of one model call. Its methods never fail and never wait."""

    def __init__(self, queue: WriteQueue, recorder: CallRecorder, request: ModelRequest) -> None:
        self._queue = queue
        self._recorder = recorder
        self._request = request
        self._started = trio.current_time()
        self._overflowed = False
        self._answer: ModelAnswer | None = None

    def __enter__(self) -> CallCapture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = error if isinstance(error, ModelFailure) else None
        # Of size 0, so that it is queued even after an overflow.
        self._put(0, self._recorder.finish, self._elapsed_ms(), self._answer, failure, self._overflowed)

    def record_request(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Record the request and its headers as sent."""
        elapsed_ms = self._elapsed_ms()
        self._started = trio.current_time()
        head = {"method": "POST", "url": url, "headers": dict(headers)}
        self._put(len(body), self._recorder.record_request, head, body, elapsed_ms)

    def record_local_request(self) -> None:
        """Record a request that is not sent anywhere."""
        body = _encode_request(self._request)
        self._put(len(body), self._recorder.record_request, {"driver": self._request.pinned.driver}, body)

    def record_reply(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the status and the headers of the reply."""
        self._put(
            EVENT_OVERHEAD_BYTES, self._recorder.record_reply, self._elapsed_ms(), status, dict(headers)
        )

    def record_body(self, data: bytes) -> None:
        """Record a part of the reply's body."""
        self._put(len(data) + EVENT_OVERHEAD_BYTES, self._recorder.record_body, self._elapsed_ms(), data)

    def record_event(self, event: ModelEvent) -> None:
        """Record an event that the caller receives; the offline route has no other events."""
        if isinstance(event, ModelAnswer):
            self._answer = event
        elif self._request.pinned.driver == "offline":
            size = len(event.text) + EVENT_OVERHEAD_BYTES
            self._put(size, self._recorder.record_delta, self._elapsed_ms(), event)

    def _elapsed_ms(self) -> int:
        return round((trio.current_time() - self._started) * 1000)

    def _put(self, size: int, step: Any, *args: Any) -> None:
        # After a gap, further steps would have lost their beginning.
        if size and self._overflowed:
            return
        write = partial(self._recorder.perform, step, *args)
        self._overflowed = not self._queue.put(self._request.run_id, size, write) or self._overflowed


def _encode_request(request: ModelRequest) -> bytes:
    return msgspec.json.encode(
        {
            "model": request.pinned.model,
            "instructions": request.instructions,
            "messages": request.messages,
            "situation": request.situation,
            "tools": [
                {"name": tool.name, "description": tool.description, "input_schema": tool.model_schema}
                for tool in request.tools
            ],
        }
    )
