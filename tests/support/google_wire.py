"""Google's generateContent as an event stream, and its contents as the messages that behaviors read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from tests.support.model_wire import Call, Move, Say, Stop, Think

if TYPE_CHECKING:
    from collections.abc import Iterator

METHOD = ":streamGenerateContent"
SIGNATURE = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg=="


class Google:
    """The wire of response chunks, each with the usage until then. One per answer, to count the calls."""

    REASONS = {
        "end": "STOP",
        "length": "MAX_TOKENS",
        "tool_calls": "STOP",
        "pause": "TOO_MANY_TOOL_CALLS",
        "refusal": "SAFETY",
    }

    def __init__(self) -> None:
        self._calls = 0

    def start(self, model: str) -> bytes:
        """Return nothing: the first chunk has the first piece."""
        return b""

    def move(self, model: str, move: Move) -> bytes:
        """Return a chunk per piece, one for a whole call, and a last one with the finish reason."""
        return google_event(self._chunk(model, [self.part(move)], move if isinstance(move, Stop) else None))

    def whole(self, model: str, moves: list[Move]) -> bytes:
        """Return a response."""
        stop = next(move for move in moves if isinstance(move, Stop))
        text = "".join(move.text for move in moves if isinstance(move, Say))
        return msgspec.json.encode(self._chunk(model, [{"text": text}], stop))

    def error(self, kind: str, message: str) -> bytes:
        """Return ``{"error": {...}}``."""
        return msgspec.json.encode({"error": {"message": message, "status": kind.upper()}})

    def error_event(self, kind: str, message: str) -> bytes:
        """Return an error object on lines without a field name, as Google ends a broken stream."""
        return msgspec.json.format(self.error(kind, message)).replace(b"\n", b"\r\n") + b"\r\n"

    def part(self, move: Move) -> dict[str, Any]:
        """Return the part of a move; the first call and the last part have a signature."""
        match move:
            case Say(text):
                return {"text": text}
            case Think(text):
                return {"text": text, "thought": True}
            case Call(call_id, name, arguments):
                self._calls += 1
                call = {**({"id": call_id} if call_id else {}), "name": name, **_args(arguments)}
                signed = {"thoughtSignature": SIGNATURE} if self._calls == 1 else {}
                return {"functionCall": call, **signed}
            case Stop():
                return {"text": "", **({} if self._calls else {"thoughtSignature": SIGNATURE})}

    def _chunk(self, model: str, parts: list[dict[str, Any]], stop: Stop | None) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        usage = {"promptTokenCount": 12, "totalTokenCount": 12}
        if stop is not None:
            candidate["finishReason"] = self.REASONS[stop.reason]
            usage = {
                "promptTokenCount": stop.input_tokens,
                "candidatesTokenCount": max(stop.output_tokens - 2, 0),
                "totalTokenCount": stop.input_tokens + stop.output_tokens,
                "cachedContentTokenCount": 4,
                "thoughtsTokenCount": min(stop.output_tokens, 2),
            }
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": model,
            "responseId": "qLx1aZ3_Bp-kdkEP0tK4",
        }


def google_event(data: dict[str, Any]) -> bytes:
    """Return an event as Google sends it."""
    return b"data: " + msgspec.json.encode(data) + b"\r\n\r\n"


def _args(arguments: str) -> dict[str, Any]:
    """Return the field of a call's arguments, which are always an object and absent if it is empty."""
    try:
        args = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        args = {"invalid": arguments}
    if not isinstance(args, dict):
        args = {"invalid": args}
    return {"args": args} if args else {}


def read_model(path: str) -> str:
    """Return the model of a request's path."""
    return unquote(path.partition("?")[0].removesuffix(METHOD).rpartition("/models/")[2])


def read_contents(contents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the contents as messages of texts and results."""
    for content in contents:
        parts = [
            {"type": "text", "text": part.get("text", "")}
            if not part.keys() & {"functionResponse", "function_response"}
            else {"type": "tool_result"}
            for part in content["parts"]
        ]
        yield {"role": "assistant" if content["role"] == "model" else "user", "content": parts}
