"""Reference parsers of all streams: short, slow, and written independently of the drivers.

Each reads a whole stream and returns the text and the calls of its answer, or None if it has no complete one.
They understand regular streams, and events without data, which are heartbeats.
"""

import json
import re
from typing import Any

Answer = tuple[str, list[tuple[str, Any]]]
"""The text of an answer, and the name and arguments of each call; None in the place of invalid arguments."""


def parse_chat(stream: bytes) -> Answer | None:
    """Return the answer of a stream of chat completion chunks."""
    text, calls, has_ended = "", dict[int, list[str]](), False
    for data in _split_events(stream):
        if data == b"[DONE]":
            has_ended = True
            break
        chunk = _decode(data)
        if chunk is None:
            # Data that cannot be decoded ends the answer.
            break
        if chunk.get("error"):
            return None
        for choice in chunk.get("choices") or []:
            if choice.get("index"):
                continue
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            for piece in delta.get("tool_calls") or []:
                function = piece.get("function") or {}
                call = calls.setdefault(piece.get("index") or 0, ["", ""])
                call[0] = call[0] or function.get("name") or ""
                call[1] += function.get("arguments") or ""
            has_ended = has_ended or bool(choice.get("finish_reason"))
    return _finish(text, list(calls.values())) if has_ended else None


def parse_messages(stream: bytes) -> Answer | None:
    """Return the answer of a stream of the messages API."""
    blocks, places, has_ended = list[dict[str, str]](), dict[int, dict[str, str]](), False
    for data in _split_events(stream):
        event = _decode(data)
        if event is None:
            break
        kind, index = event.get("type"), event.get("index") or 0
        if event.get("error") or kind == "error":
            return None
        if kind == "content_block_start":
            content = event.get("content_block") or {}
            block = {"type": str(content.get("type")), "name": str(content.get("name") or ""), "text": ""}
            block["text"] = content.get("text") or ""
            places[index] = block
            blocks.append(block)
        elif kind == "content_block_delta" and index in places:
            delta = event.get("delta") or {}
            places[index]["text"] += (delta.get("text") or "") + (delta.get("partial_json") or "")
        elif kind == "message_delta":
            has_ended = has_ended or bool((event.get("delta") or {}).get("stop_reason"))
        elif kind == "message_stop":
            has_ended = True
            break
    if not has_ended:
        return None
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    return _finish(text, [[block["name"], block["text"]] for block in blocks if block["type"] == "tool_use"])


_PIECES = {
    "response.output_text.delta": "message",
    "response.refusal.delta": "message",
    "response.function_call_arguments.delta": "function_call",
}


def parse_responses(stream: bytes) -> Answer | None:
    """Return the answer of a stream of the Responses API, whose items come one after the other."""
    items, has_ended = list[dict[str, Any]](), False
    for data in _split_events(stream):
        event = _decode(data)
        if event is None:
            break
        kind = event.get("type")
        response = event.get("response") or {}
        if kind in ("error", "response.failed") or event.get("error"):
            return None
        if kind in _PIECES:
            item = _find_open(items, _PIECES[kind], event.get("item_id"))
            item["text"] += "" if item["is_whole"] else event.get("delta") or ""
        elif kind in ("response.output_item.added", "response.output_item.done"):
            _take_item(items, event.get("item") or {}, is_whole=kind.endswith("done"))
        elif kind == "response.completed":
            if response.get("error"):
                return None
            _take_output(items, response.get("output") or [])
            has_ended = True
            break
    if not has_ended:
        return None
    text = "".join(item["text"] for item in items if item["type"] == "message")
    calls = [[item["name"], item["text"]] for item in items if item["type"] == "function_call"]
    return _finish(text, calls)


def _find_open(items: list[dict[str, Any]], kind: str, item_id: Any = None) -> dict[str, Any]:
    """Return the item with an id, else the last one of a type that is not whole, else a new one."""
    same = (item for item in items if item["type"] == kind and item_id and item["id"] == item_id)
    unfinished = (item for item in reversed(items) if item["type"] == kind and not item["is_whole"])
    present = next(same, None) or next(unfinished, None)
    if present is not None:
        return present
    opened = {"type": kind, "id": item_id, "name": "", "text": "", "is_whole": False}
    items.append(opened)
    return opened


def _take_output(items: list[dict[str, Any]], output: list[dict[str, Any]]) -> None:
    """Take the missing items from the complete output: the n-th of a type is the n-th of that type."""
    for kind in ("message", "function_call"):
        present = [item for item in items if item["type"] == kind]
        for index, item in enumerate(item for item in output if item.get("type") == kind):
            if index >= len(present):
                _take_item(items, item, is_whole=True)
            elif not present[index]["is_whole"]:
                present[index]["id"] = item.get("id") or id(item)
                _take_item(items, {**item, "id": present[index]["id"]}, is_whole=True)


def _take_item(items: list[dict[str, Any]], item: dict[str, Any], *, is_whole: bool) -> None:
    kind = item.get("type")
    if kind not in ("message", "function_call"):
        return
    taken = _find_open(items, kind, item.get("id"))
    if taken["is_whole"]:
        return
    parts = item.get("content") or []
    text = item.get("arguments") or "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    taken["id"], taken["name"] = item.get("id"), item.get("name") or taken["name"]
    taken["text"] = text or taken["text"] if is_whole else taken["text"]
    taken["is_whole"] = is_whole


def parse_google(stream: bytes) -> Answer | None:
    """Return the answer of a stream of generateContent; that of a blocked prompt or a refusal says so."""
    text, calls, reason, explanation = "", list[list[str]](), "", ""
    for data in _split_events(stream):
        if data == b"[DONE]":
            break
        chunk = _decode(data)
        if chunk is None or chunk.get("error"):
            return None
        candidates = chunk.get("candidates") or []
        feedback = chunk.get("promptFeedback") or {}
        if not candidates and feedback.get("blockReason"):
            reason = "BLOCKED"
            default = f"The provider blocked the prompt ({feedback['blockReason']})."
            explanation = feedback.get("blockReasonMessage") or default
        for candidate in candidates:
            if candidate.get("index"):
                continue
            for part in (candidate.get("content") or {}).get("parts") or []:
                call = part.get("functionCall")
                if reason not in _REFUSALS and (part.get("text") or call is not None):
                    # Content after a finish reason: it was not the last one.
                    reason = ""
                if call is not None:
                    args = call.get("args")
                    calls.append([call.get("name") or "", json.dumps({} if args is None else args)])
                elif not part.get("thought"):
                    text += part.get("text") or ""
            reason = candidate.get("finishReason") or reason
            if reason in _REFUSALS and reason != "BLOCKED":
                explanation = candidate.get("finishMessage") or f"The model refused to answer ({reason})."
            break
    if not reason or reason in _FAILURES:
        return None
    if explanation:
        return (f"{text}\n\n{explanation}" if text.strip() else explanation), []
    return _finish(text, calls)


_REFUSALS = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "IMAGE_SAFETY")
_FAILURES = ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OTHER", "MISSING_THOUGHT_SIGNATURE")


def _finish(text: str, calls: list[list[str]]) -> Answer | None:
    if not text.strip() and not calls:
        return None
    return text, [(name, _decode(arguments.encode() or b"{}")) for name, arguments in calls]


def _decode(data: bytes) -> dict[str, Any] | None:
    try:
        decoded = json.loads(data.decode())
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _split_events(stream: bytes) -> list[bytes]:
    lines = re.split(rb"\r\n|\r|\n", stream)
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*lines, b""]:
        if not line and data:
            events += [joined] if (joined := b"\n".join(data)).strip() else []
            data = []
        elif line.startswith(b"data:"):
            data.append(line.removeprefix(b"data:").removeprefix(b" "))
    return events
