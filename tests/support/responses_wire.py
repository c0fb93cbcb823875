"""The Responses API as an event stream, and its input as the messages that behaviors read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.model_wire import Call, Move, Say, Stop, Think, named_event

if TYPE_CHECKING:
    from collections.abc import Iterator

RESPONSE = "resp_0123456789"


class Responses:
    """The wire from ``response.created`` to ``response.completed``. One per answer, to number the items."""

    REASONS = {"length": "max_output_tokens", "refusal": "content_filter"}

    def __init__(self) -> None:
        self._output: list[dict[str, Any]] = []
        self._item: dict[str, Any] | None = None
        self._pieces: list[str] = []
        self._sequence = 0

    def start(self, model: str) -> bytes:
        """Return the events before the first item."""
        response = self._response(model, "in_progress")
        return self.event("response.created", response=response) + self.event(
            "response.in_progress", response=response
        )

    def move(self, model: str, move: Move) -> bytes:
        """Return deltas in items that begin and end as the kind changes, then the end."""
        match move:
            case Say(text):
                return self._piece("message", "response.output_text.delta", text, content_index=0)
            case Think(text):
                name = "response.reasoning_summary_text.delta"
                return self._piece("reasoning", name, text, summary_index=0)
            case Call():
                return self.close() + b"".join(self._call(move))
            case Stop():
                return self.close() + self.end(model, move)

    def whole(self, model: str, moves: list[Move]) -> bytes:
        """Return a ``response``."""
        for move in moves:
            if not isinstance(move, Stop):
                self.move(model, move)
        self.close()
        stop = next(move for move in moves if isinstance(move, Stop))
        return msgspec.json.encode(self._response(model, self._status(stop), stop))

    def error(self, kind: str, message: str) -> bytes:
        """Return ``{"error": {...}}``."""
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": kind}})

    def error_event(self, kind: str, message: str) -> bytes:
        """Return an ``error`` event, and the end that follows it."""
        error = {"code": kind, "message": message}
        response = {**self._response("", "failed"), "error": error}
        return self.event("error", **error, param=None) + self.event("response.failed", response=response)

    def event(self, kind: str, **fields: Any) -> bytes:
        """Return an event with the next number."""
        self._sequence += 1
        return named_event({"type": kind, "sequence_number": self._sequence, **fields})

    def item(self, item: dict[str, Any]) -> bytes:
        """Return the events of an item that is announced and then complete, without pieces."""
        begun = {"type": item["type"], "id": item.get("id"), "status": "in_progress"}
        return self.close() + self._announce(begun) + self._finish(item)

    def close(self) -> bytes:
        """Return the end of the item that is in progress, if there is one."""
        item, self._item = self._item, None
        if item is None:
            return b""
        text, self._pieces = "".join(self._pieces), []
        if item["type"] == "reasoning":
            sealed = hashlib.sha256(text.encode()).hexdigest()
            summary = {"type": "summary_text", "text": text}
            done = self._about("response.reasoning_summary_text.done", item, summary_index=0, text=text)
            done += self._about("response.reasoning_summary_part.done", item, summary_index=0, part=summary)
            return done + self._finish({**item, "encrypted_content": sealed, "summary": [summary]})
        part = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
        done = self._about("response.output_text.done", item, content_index=0, text=text)
        done += self._about("response.content_part.done", item, content_index=0, part=part)
        return done + self._finish({**item, "status": "completed", "content": [part]})

    def end(self, model: str, stop: Stop) -> bytes:
        """Return the last event."""
        status = self._status(stop)
        return self.event(f"response.{status}", response=self._response(model, status, stop))

    def _piece(self, kind: str, name: str, text: str, **index: int) -> bytes:
        opened = b""
        if self._item is None or self._item["type"] != kind:
            opened = self.close()
            number = len(self._output)
            part: dict[str, Any] = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
            begun = "response.content_part.added"
            if kind == "reasoning":
                part, begun = {"type": "summary_text", "text": ""}, "response.reasoning_summary_part.added"
                self._item = {"id": f"rs_{number}", "type": kind, "summary": []}
            else:
                self._item = {"id": f"msg_{number}", "type": kind, "role": "assistant", "content": []}
                self._item["status"] = "in_progress"
            opened += self._announce(self._item) + self._about(begun, self._item, **index, part=part)
        self._pieces.append(text)
        return opened + self._about(name, self._item, **index, delta=text)

    def _call(self, call: Call) -> Iterator[bytes]:
        item: dict[str, Any] = {"id": f"fc_{len(self._output)}", "type": "function_call"}
        item |= {"status": "in_progress", "call_id": call.call_id, "name": call.name, "arguments": ""}
        yield self._announce(item)
        middle = len(call.arguments) // 2
        for piece in (call.arguments[:middle], call.arguments[middle:]):
            yield self._about("response.function_call_arguments.delta", item, delta=piece)
        yield self._about("response.function_call_arguments.done", item, arguments=call.arguments)
        yield self._finish({**item, "status": "completed", "arguments": call.arguments})

    def _announce(self, item: dict[str, Any]) -> bytes:
        return self.event("response.output_item.added", output_index=len(self._output), item=item)

    def _finish(self, item: dict[str, Any]) -> bytes:
        self._output.append(item)
        return self.event("response.output_item.done", output_index=len(self._output) - 1, item=item)

    def _about(self, kind: str, item: dict[str, Any], **fields: Any) -> bytes:
        return self.event(kind, item_id=item["id"], output_index=len(self._output), **fields)

    def _status(self, stop: Stop) -> str:
        return "incomplete" if stop.reason in self.REASONS else "completed"

    def _response(self, model: str, status: str, stop: Stop | None = None) -> dict[str, Any]:
        reason = self.REASONS.get(stop.reason) if stop is not None else None
        return {
            "id": RESPONSE,
            "object": "response",
            "created_at": 1741290958,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "model": model,
            "output": self._output,
            "store": False,
            "usage": _usage(stop) if stop is not None else None,
        }


def _usage(stop: Stop) -> dict[str, Any]:
    return {
        "input_tokens": stop.input_tokens,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": stop.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": stop.input_tokens + stop.output_tokens,
    }


def read_input(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return input items as chat messages: each answer with its calls is one message."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if item.get("type") == "function_call_output":
            messages.append({"role": "tool", "content": item["output"]})
        elif item.get("role") == "user":
            messages.append({"role": "user", "content": item["content"]})
        elif not messages or messages[-1]["role"] != "assistant":
            messages.append({"role": "assistant", "content": item.get("content")})
    return messages
