"""Format the messages of a transcript as text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kheishctl.contract import Json
from kheishctl.render.calls import summarize_arguments
from kheishctl.render.layout import Display, fit, paint, wrap
from kheishctl.render.results import read_result
from kheishctl.render.units import format_local, format_utc
from protocol.text import one_line, sanitize

STOP_NOTES = {
    "length": "the answer was cut off at its length limit",
    "refusal": "the model refused to continue",
}
"""Notes on incomplete answers, by stop reason."""


def format_item(item: Mapping[str, Any]) -> str:
    """Format one item of a message; empty for reasoning. Not yet sanitized."""
    match item.get("kind"):
        case "text":
            return str(item.get("text", ""))
        case "tool_call":
            arguments = json.dumps(item.get("arguments"), ensure_ascii=False)
            return f"[calls {item.get('name')} {arguments}]"
        case "tool_result":
            label = "error from" if item.get("is_error") else "result of"
            return f"[{label} {item.get('name')}] {item.get('text', '')}"
        case "asset":
            return f"[asset {item.get('asset_id')}]"
        case "thinking":
            return ""
        case kind:
            return f"[{kind}]"


def format_message(message: Mapping[str, Any]) -> str:
    """Format a message without its reasoning. Not yet sanitized."""
    return "\n".join(filter(None, map(format_item, message.get("items", ()))))


def join_answer_text(message: Mapping[str, Any]) -> str:
    """Join the text items of an answer, exactly as the daemon streamed them."""
    return "".join(str(item["text"]) for item in message.get("items", ()) if item.get("kind") == "text")


def name_author(name: str, message: Mapping[str, Any]) -> str:
    """Return the name of an input's author, with a mark if no person wrote it."""
    origin = message.get("origin", "person")
    if origin == "person":
        return name
    source = f" {message['source']}" if message.get("source") else ""
    return f"{name} [{str(origin).replace('_', ' ')}{source}]".lstrip()


def format_transcript(entries: Sequence[Json], columns: int) -> str:
    """Format messages in full for a viewer: lines of at most ``columns``, with calls and their results."""
    lines: list[str] = []
    for entry in entries:
        message = entry["message"]
        name = name_author(str(message.get("agent") or entry.get("sender") or message["role"]), message)
        if message["role"] != "tool":
            lines += ["", fit(f"{one_line(name)} · {format_local(entry['at_ms'])}", columns)]
        for item in message.get("items", ()):
            match item.get("kind"):
                case "tool_call":
                    summary = summarize_arguments(item.get("arguments"))
                    lines += wrap(one_line(f"→ {item.get('name')}  {summary}"), columns, 2)
                case "tool_result":
                    result = read_result(str(item.get("text", "")))
                    end = " ".join(filter(None, (result.end, "failed" if item.get("is_error") else "")))
                    lines.append(fit(one_line(f"← {item.get('name')}  {end}"), columns))
                    room = max(1, columns - 2)
                    lines += (f"  {part}" for line in result.lines for part in wrap(line, room))
                case _:
                    lines += wrap(sanitize(format_item(item)), columns)
    return "\n".join(lines)


def format_history(messages: Sequence[Json], display: Display) -> str:
    """Format messages as a conversation, in order; for a pipe, as one tab-separated line per message."""
    lines = []
    for entry in messages:
        message, role = entry["message"], entry["message"]["role"]
        body = sanitize(format_message(message))
        if display.width is None:
            speaker = one_line(name_author(role, message))
            lines.append(f"{format_utc(entry['at_ms'])}\t{speaker}\t{one_line(body)}")
            continue
        name = one_line(name_author(str(message.get("agent") or entry.get("sender") or role), message))
        speaker = paint(name, "green" if role == "user" else "blue", display.color)
        time = paint(format_local(entry["at_ms"]), "dim", display.color)
        note = " (stopped)" if entry.get("stop_reason") == "cancelled" else ""
        note += " (unread)" if entry.get("unread") else ""
        lines.append(f"{speaker} {time}{note}\n{body}\n")
    return "\n".join(lines)
