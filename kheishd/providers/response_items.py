"""A transcript as the input items of the Responses API, and the stored form of an answer's output items.

Source: https://developers.openai.com/api/docs/guides/conversation-state and
https://developers.openai.com/api/docs/guides/reasoning. The server stores nothing, so each request holds
the whole conversation: the output items of every answer, unchanged and in order, for example a reasoning item
before the call that it led to. OpenAI rejects a call with the id of an item whose reasoning is missing.
Therefore an answer goes back either with all of its items or, to another origin, as text and calls without
ids of items.

An answer's items are stored in one field of the message's provider data, ``output``. They refer to the
transcript for what that has already:

* A text is a pair of start and length in the message's text, or for reasoning in its thoughts.
* A ``function_call`` has no ``call_id``, ``name`` and ``arguments``: its place tells which call it is. It has
  ``arguments`` if the model formatted the JSON in another way than kheish does.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import msgspec

from kheishd.providers.attachments import own_fields
from kheishd.providers.call_ids import CallIdMap, form_for_openai
from kheishd.providers.draft import decode_arguments
from kheishd.providers.driver import encode, user_texts
from kheishd.providers.history import DriverHistory, follow
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kheishd.core.context.encodings import MessageEncodings

OUTPUT: Final = "output"
"""The field of a message's provider data that holds the output items of the answer."""

# The lists of parts in each type of item, whose texts are in the transcript.
_PARTS = {"message": ("content",), "reasoning": ("summary", "content")}
_TEXTS = ("text", "refusal")
_FROM_CALL = ("call_id", "name", "arguments")

# Calls that wait for a result of the client, whose tools only a route's own options can offer.
_CLIENT_CALLS = (
    "apply_patch_call",
    "computer_call",
    "custom_tool_call",
    "local_shell_call",
    "shell_call",
    "tool_search_call",
)

# Items that are input only: in an imported answer, a hidden message or a reference to another response.
_INPUT_ONLY = ("function_call_output", "item_reference")

# Longer arguments are not stored twice: they go back as kheish formats them.
MAX_RAW_ARGUMENTS_CHARACTERS: Final = 4096


# The stored form.


def pack_output(output: Sequence[dict[str, Any]], text: str, thoughts: str) -> list[dict[str, Any]]:
    """Return the stored form of an answer's output items; empty if they could not be sent back.

    ``text`` and ``thoughts`` are those of the transcript. Reasoning at the end is omitted: OpenAI rejects it
    without the item that follows from it.
    """
    if any(_awaits_output(item, output) for item in output):
        return []
    trailing = sum(1 for _ in takewhile(lambda item: item.get("type") == "reasoning", reversed(output)))
    texts = {"message": _TextIndex(text), "reasoning": _TextIndex(thoughts)}
    packed = [_pack_item(item, texts) for item in output[: len(output) - trailing]]
    return packed if all(map(_is_answer, packed)) else []


def _awaits_output(item: dict[str, Any], output: Sequence[dict[str, Any]]) -> bool:
    """Whether an item requests an action that kheish did not offer, so that its result will never be sent."""
    if item.get("type") == "mcp_approval_request":
        return True
    # The provider may have run it, as it does with a hosted shell.
    is_answered = any(other.get("call_id") == item.get("call_id") for other in output if other is not item)
    return item.get("type") in _CLIENT_CALLS and not is_answered


class _TextIndex:
    """The text of a message, in which the texts of items are found in order."""

    def __init__(self, content: str) -> None:
        self._content = content
        self._position = 0

    def refer(self, text: str) -> str | list[int]:
        """Return the start and the length of a text; the text itself if the message does not have it."""
        start = self._content.find(text, self._position)
        if start < 0:
            return text
        self._position = start + len(text)
        return [start, len(text)]


def _pack_item(item: dict[str, Any], texts: dict[str, _TextIndex]) -> dict[str, Any]:
    kind = item.get("type")
    if kind == "function_call":
        packed = {name: value for name, value in item.items() if name not in _FROM_CALL}
        arguments = item.get("arguments")
        if isinstance(arguments, str) and _is_formatted_otherwise(arguments):
            packed["arguments"] = arguments
        return packed
    packed = dict(item)
    for name in _PARTS.get(str(kind), ()):
        if isinstance(item.get(name), list):
            packed[name] = [_pack_part(part, texts[str(kind)]) for part in item[name]]
    return packed


def _pack_part(part: Any, index: _TextIndex) -> Any:
    if not isinstance(part, dict):
        return part
    return {
        name: index.refer(value) if name in _TEXTS and isinstance(value, str) and value else value
        for name, value in part.items()
    }


def _is_formatted_otherwise(arguments: str) -> bool:
    """Whether valid arguments differ from kheish's form of them, and are short."""
    if len(arguments) > MAX_RAW_ARGUMENTS_CHARACTERS:
        return False
    try:
        decoded = msgspec.json.decode(arguments)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(decoded, dict) and encode(decoded).decode() != arguments


def unpack_output(message: Message, origin: str, ids: CallIdMap) -> list[dict[str, Any]] | None:
    """Return the output items of an answer of this origin; None if they are unknown or do not fit it."""
    packed = own_fields(message, origin).get(OUTPUT)
    if not isinstance(packed, list):
        return None
    calls = [item for item in message.items if isinstance(item, ToolCall)]
    texts = {
        "message": "".join(item.text for item in message.items if isinstance(item, Text)),
        "reasoning": "".join(item.text for item in message.items if isinstance(item, Thinking)),
    }
    items: list[dict[str, Any]] = []
    for item in packed:
        if not _is_answer(item):
            return None
        kind = item["type"]
        if kind != "function_call":
            names = (name for name in _PARTS.get(kind, ()) if isinstance(item.get(name), list))
            parts = {name: [_unpack_part(part, texts[kind]) for part in item[name]] for name in names}
            items.append({**item, **parts})
        elif calls:
            items.append(_unpack_call(calls.pop(0), item, ids))
        else:
            return None
    # An answer whose calls were cut off has other calls than its output.
    return items if items and not calls else None


def _is_answer(item: Any) -> bool:
    """Whether a stored item is part of an answer. Imported data may be anything, and nobody sees it."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str) or item["type"] in _INPUT_ONLY:
        return False
    if item["type"] == "message":
        parts = item.get("content") or []
        if not isinstance(parts, list) or not all(_refers_to_transcript(part) for part in parts):
            return False
    return item.get("role") in (None, "assistant")


def _refers_to_transcript(part: Any) -> bool:
    """Whether all texts of a stored part are in the transcript."""
    texts = [part.get(name) for name in _TEXTS] if isinstance(part, dict) else [part]
    return all(not text or _is_reference(text) for text in texts)


def _is_reference(value: Any) -> bool:
    match value:
        case [int(), int()]:
            return True
        case _:
            return False


def _unpack_call(call: ToolCall, item: dict[str, Any], ids: CallIdMap) -> dict[str, Any]:
    """Return a call as its stored item; the transcript has its name and arguments."""
    plain = make_call(call, ids)
    fields = {name: value for name, value in item.items() if name not in _FROM_CALL}
    arguments = item.get("arguments")
    if isinstance(arguments, str) and decode_arguments(arguments) == call.arguments:
        fields["arguments"] = arguments
    return {**plain, **fields}


def _unpack_part(part: Any, content: str) -> Any:
    if not isinstance(part, dict):
        return part
    unpacked = dict(part)
    for name in _TEXTS:
        if _is_reference(part.get(name)):
            start, length = part[name]
            unpacked[name] = content[start : start + length]
    return unpacked


# The input.


def input_items(
    transcript: list[Message],
    origin: str = "",
    situation: str = "",
    *,
    with_output: bool = True,
    encodings: MessageEncodings | None = None,
) -> list[Any]:
    """Return a transcript as input items; consecutive user messages are merged, as templates require.

    The situation is the end of the last item, even if that is the result of a tool: some servers reject a
    user's message there.

    Args:   ``with_output`` is false for a server that refuses its own output items; ``encodings`` keeps the
            items as JSON.
    """
    form = "responses", origin, with_output
    history = follow(transcript, encodings, form, lambda: ItemHistory(origin, with_output=with_output))
    sent = [*history.sent]
    if situation and sent:
        # The last message may be kept: it is copied before it changes.
        sent[-1] = {**sent[-1]}
    has_result = bool(sent) and transcript[-1].role == "tool" and isinstance(sent[-1].get("output"), str)
    if situation and has_result:
        sent[-1]["output"] += f"\n\n{situation}"
    elif situation:
        _add_user(sent, [situation])
    return sent


class ItemHistory(DriverHistory):
    """The input items of one conversation."""

    def __init__(self, origin: str, *, with_output: bool) -> None:
        super().__init__()
        self._origin = origin
        self._with_output = with_output
        self._ids = CallIdMap(origin, form_for_openai)
        self._callers: dict[str, Any] = {}

    def learn(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
        """Learn the ids of the calls; return false if they change an earlier one."""
        return self._ids.add(calls)

    def add(self, message: Message) -> None:
        """Add a message of the transcript."""
        match message.role:
            case "user":
                _add_user(self.sent, user_texts(message.items))
            case "assistant":
                output = unpack_output(message, self._origin, self._ids) if self._with_output else None
                self.sent += _plain_items(message, self._ids) if output is None else output
                # A hosted program that called a tool is continued by the result that names it.
                self._callers |= {str(item.get("call_id")): item.get("caller") for item in output or ()}
            case "tool":
                for item in message.items:
                    if isinstance(item, ToolResult):
                        text = f"The tool failed: {item.text}" if item.is_error else item.text
                        call_id = self._ids[item.call_id]
                        result = {"type": "function_call_output", "call_id": call_id, "output": text}
                        caller = self._callers.get(call_id)
                        self.sent.append(result if caller is None else {**result, "caller": caller})


def _add_user(out: list[dict[str, Any]], texts: list[str]) -> None:
    content = "\n\n".join(texts)
    if out and out[-1].get("role") == "user" and isinstance(out[-1].get("content"), str):
        out[-1]["content"] += f"\n\n{content}"
    else:
        out.append({"type": "message", "role": "user", "content": content})


def _plain_items(message: Message, ids: CallIdMap) -> Iterator[dict[str, Any]]:
    """Yield an answer of any origin: its text, then its calls, without the ids of items."""
    text = "".join(item.text for item in message.items if isinstance(item, Text))
    if text:
        yield {"type": "message", "role": "assistant", "content": text}
    for item in message.items:
        if isinstance(item, ToolCall):
            yield make_call(item, ids)


def make_call(call: ToolCall, ids: CallIdMap) -> dict[str, Any]:
    """Return a call as an item without an id of its own."""
    arguments = encode(call.arguments).decode()
    return {
        "type": "function_call",
        "call_id": ids[call.call_id],
        "name": call.name,
        "arguments": arguments,
    }
