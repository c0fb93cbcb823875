"""The two published protocols as event streams: OpenAI chat completions and Anthropic messages.

A behavior yields moves (:class:`Say`, :class:`Think`, :class:`Call`, :class:`Stop`); a wire turns each into
the bytes of server-sent events.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

IDENTITY = "chatcmpl-123"
MESSAGE = "msg_0123456789"


@dataclass(frozen=True, slots=True)
class Say:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A whole tool call; the wire cuts its arguments into pieces."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Stop:
    """A regular end: ``end``, ``length``, ``tool_calls`` or ``refusal``."""

    reason: str = "end"
    input_tokens: int = 12
    output_tokens: int = 7


Move = Say | Think | Call | Stop


class Wire(Protocol):
    """One published protocol."""

    def start(self, model: str) -> bytes:
        """Return the bytes before the first piece."""
        ...

    def move(self, model: str, move: Move) -> bytes:
        """Return the events of one move."""
        ...

    def whole(self, model: str, moves: list[Move]) -> bytes:
        """Return the same answer as one JSON object, for servers that do not stream."""
        ...

    def error(self, kind: str, message: str) -> bytes:
        """Return an error object as a body."""
        ...

    def error_event(self, kind: str, message: str) -> bytes:
        """Return an error object inside the stream."""
        ...


class OpenAI:
    """The wire of ``chat.completion.chunk``. Each answer has its own wire, which numbers the tool calls."""

    REASONS = {"end": "stop", "length": "length", "tool_calls": "tool_calls", "refusal": "content_filter"}

    def __init__(self) -> None:
        self._calls = 0

    def start(self, model: str) -> bytes:
        """Return the first chunk: the role, with empty content."""
        return self._delta(model, {"role": "assistant", "content": ""})

    def move(self, model: str, move: Move) -> bytes:
        """Return one chunk per piece, three per tool call, and an end with usage and ``[DONE]``."""
        match move:
            case Say(text):
                return self._delta(model, {"content": text})
            case Think(text):
                return self._delta(model, {"reasoning_content": text})
            case Call():
                return b"".join(self._call(model, move))
            case Stop():
                end = self._delta(model, {}, self.REASONS[move.reason])
                usage = {**self._head(model), "choices": [], "usage": self.usage(move)}
                return end + event(usage) + b"data: [DONE]\n\n"

    def whole(self, model: str, moves: list[Move]) -> bytes:
        """Return a ``chat.completion``."""
        text = "".join(move.text for move in moves if isinstance(move, Say))
        stop = next(move for move in moves if isinstance(move, Stop))
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self.REASONS[stop.reason]}
        head = {**self._head(model), "object": "chat.completion"}
        return msgspec.json.encode({**head, "choices": [choice], "usage": self.usage(stop)})

    def error(self, kind: str, message: str) -> bytes:
        """Return ``{"error": {...}}``."""
        return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": kind}})

    def error_event(self, kind: str, message: str) -> bytes:
        """Return the error object as the data of an event, as compatible servers send it."""
        return b"data: " + self.error(kind, message) + b"\n\n"

    def usage(self, stop: Stop) -> dict[str, Any]:
        """Return the usage object."""
        return {
            "prompt_tokens": stop.input_tokens,
            "completion_tokens": stop.output_tokens,
            "total_tokens": stop.input_tokens + stop.output_tokens,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 2, "audio_tokens": 0},
        }

    def _head(self, model: str) -> dict[str, Any]:
        return {
            "id": IDENTITY,
            "object": "chat.completion.chunk",
            "created": 1694268190,
            "model": model,
            "system_fingerprint": "fp_44709d6fcb",
        }

    def _delta(self, model: str, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**self._head(model), "choices": [choice]})

    def _call(self, model: str, call: Call) -> Iterator[bytes]:
        index, self._calls = self._calls, self._calls + 1
        function: dict[str, Any] = {"name": call.name, "arguments": ""}
        first = {"index": index, "id": call.call_id, "type": "function", "function": function}
        yield self._delta(model, {"tool_calls": [first]})
        for piece in _halves(call.arguments):
            yield self._delta(model, {"tool_calls": [{"index": index, "function": {"arguments": piece}}]})


class Anthropic:
    """The wire from ``message_start`` to ``message_stop``. One per answer, to number the blocks."""

    REASONS = {
        "end": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "pause": "pause_turn",
        "refusal": "refusal",
    }

    def __init__(self) -> None:
        self.signature = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg=="
        self._index = -1
        self._open: type[Move] | None = None

    def start(self, model: str) -> bytes:
        """Return ``message_start`` and a ping, as published."""
        message: dict[str, Any] = {
            "id": MESSAGE,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": 8,
                "cache_creation_input_tokens": 1,
                "cache_read_input_tokens": 3,
                "output_tokens": 1,
            },
        }
        return named_event({"type": "message_start", "message": message}) + named_event({"type": "ping"})

    def move(self, model: str, move: Move) -> bytes:
        """Return deltas in content blocks that open and close as the kind changes, then the end."""
        match move:
            case Say(text):
                opened = self._block(Say, {"type": "text", "text": ""})
                return opened + self._delta({"type": "text_delta", "text": text})
            case Think(text):
                opened = self._block(Think, {"type": "thinking", "thinking": "", "signature": ""})
                return opened + self._delta({"type": "thinking_delta", "thinking": text})
            case Call():
                return self._call(move)
            case Stop():
                return self._close() + self._end(move)

    def whole(self, model: str, moves: list[Move]) -> bytes:
        """Return a ``message``."""
        text = "".join(move.text for move in moves if isinstance(move, Say))
        stop = next(move for move in moves if isinstance(move, Stop))
        return msgspec.json.encode(
            {
                "id": MESSAGE,
                "type": "message",
                "role": "assistant",
                "model": model,
                "content": [{"type": "text", "text": text}],
                "stop_reason": self.REASONS[stop.reason],
                "stop_sequence": None,
                "usage": {"input_tokens": stop.input_tokens, "output_tokens": stop.output_tokens},
            }
        )

    def error(self, kind: str, message: str) -> bytes:
        """Return ``{"type": "error", "error": {...}}``."""
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})

    def error_event(self, kind: str, message: str) -> bytes:
        """Return an ``error`` event."""
        return b"event: error\ndata: " + self.error(kind, message) + b"\n\n"

    def _block(self, kind: type[Move], block: dict[str, Any]) -> bytes:
        if self._open is kind:
            return b""
        closed = self._close()
        self._index, self._open = self._index + 1, kind
        return closed + named_event(
            {"type": "content_block_start", "index": self._index, "content_block": block}
        )

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        signed = b""
        if self._open is Think:
            signed = self._delta({"type": "signature_delta", "signature": self.signature})
        self._open = None
        return signed + named_event({"type": "content_block_stop", "index": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return named_event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _call(self, call: Call) -> bytes:
        closed = self._close()
        block = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
        opened = self._block(Call, block)
        pieces = (
            self._delta({"type": "input_json_delta", "partial_json": piece})
            for piece in ("", *_halves(call.arguments))
        )
        return closed + opened + b"".join(pieces)

    def _end(self, stop: Stop) -> bytes:
        delta = {"stop_reason": self.REASONS[stop.reason], "stop_sequence": None}
        usage = {"output_tokens": stop.output_tokens}
        return named_event({"type": "message_delta", "delta": delta, "usage": usage}) + named_event(
            {"type": "message_stop"}
        )


def event(data: dict[str, Any]) -> bytes:
    """Return an event without a name."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def named_event(data: dict[str, Any]) -> bytes:
    """Return an event whose name is its ``type``."""
    return f"event: {data['type']}\n".encode() + event(data)


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    return text[:middle], text[middle:]
