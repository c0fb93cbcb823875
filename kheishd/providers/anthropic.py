"""Anthropic messages, streamed (https://platform.claude.com/docs/en/build-with-claude/streaming).

Thinking is given back with its signature, unchanged, as the provider demands; redacted thinking keeps its
data where the signature is. Options of a route go into the request as they are, but for ``headers`` (added
to the head, ``anthropic-beta`` for one); ``max_tokens`` has a default, because the wire asks for it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from kheishd.providers.draft import Block, Draft
from kheishd.providers.wire import Post, at_most, body_options, encode, malformed, shown, tokens
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage

if TYPE_CHECKING:
    from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest
    from kheishd.providers.failures import Refusing

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"

# What every model of the provider that is still offered can give.
MAX_TOKENS = 8192

STOP_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}
"""What is not here (``end_turn``, ``stop_sequence``, ``pause_turn``) is an ordinary end."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


# The request.


def post(request: ModelRequest, base_url: str, secret: str | None) -> Post:
    """The request to send."""
    options, extra = body_options(request)
    body: dict[str, Any] = {
        **options,
        "max_tokens": at_most(options.get("max_tokens", MAX_TOKENS), request.max_answer_tokens),
        "model": request.pinned.model,
        "messages": messages(request.messages),
        "stream": True,
    }
    if tools := _tools(request):
        body["tools"] = tools
        if request.withheld:
            body["tool_choice"] = {"type": "none"}
    if request.instructions:
        body["system"] = request.instructions
    headers = {"anthropic-version": VERSION, **extra}
    if secret is not None:
        headers["x-api-key"] = secret
    base = base_url.rstrip("/").removesuffix("/v1")
    return Post(f"{base}/v1/messages", headers, encode(body))


def _tools(request: ModelRequest) -> list[dict[str, Any]]:
    """The tools, and those that the transcript speaks of and that are gone: none may be undefined."""
    defined = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.model_schema}
        for tool in request.tools
    ]
    names = {tool.name for tool in request.tools}
    gone = {
        item.name: None
        for message in request.messages
        for item in message.items
        if isinstance(item, ToolCall) and item.name not in names
    }
    text = "This tool is not there any more."
    return [*defined, *({"name": n, "description": text, "input_schema": {"type": "object"}} for n in gone)]


def messages(transcript: list[Message]) -> list[dict[str, Any]]:
    """A transcript as messages of users and assistants in turn; a tool's result is a user's."""
    out: list[dict[str, Any]] = []
    for message in transcript:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if not blocks:
            continue
        if out and out[-1]["role"] == role:
            out[-1]["content"] += blocks
        else:
            out.append({"role": role, "content": blocks})
    return out


def _blocks(message: Message) -> list[dict[str, Any]]:
    match message.role:
        case "user":
            # A text of nothing but space is refused.
            return [{"type": "text", "text": text} for text in shown(message.items) if text.strip()]
        case "assistant":
            return [block for item in message.items if (block := _said(item)) is not None]
        case "tool":
            return [_result(item) for item in message.items if isinstance(item, ToolResult)]


def _said(item: Item) -> dict[str, Any] | None:
    match item:
        case Text(text) if text.strip():
            return {"type": "text", "text": text}
        case Thinking(_, signature, True) if signature:
            return {"type": "redacted_thinking", "data": signature}
        case Thinking(text, signature, False) if signature:
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCall(call_id, name, arguments):
            return {"type": "tool_use", "id": _call_id(call_id), "name": name, "input": arguments}
        case _:
            # Another provider's reasoning has no signature, and none without it is accepted.
            return None


def _result(result: ToolResult) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": _call_id(result.call_id), "content": result.text}
    return {**block, "is_error": True} if result.is_error else block


def _call_id(call_id: str) -> str:
    """An id in the characters this provider allows; a conversation may come from another one."""
    return _FOREIGN.sub("_", call_id)


# The answer.


class Counted(Struct):
    """The usage object; ``input_tokens`` leaves out what was read from or written to the cache."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None


class Content(Struct):
    """A content block, at its start or whole."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None


class Delta(Struct):
    """A piece of a content block, or of the message itself."""

    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None


class MessageHead(Struct):
    """The message as ``message_start`` gives it, or whole."""

    model: str | None = None
    content: list[Content] | None = None
    usage: Counted | None = None
    stop_reason: str | None = None


class Event(MessageHead):
    """Any event; each type fills some of the fields. A whole message has those of its base."""

    type: str = ""
    index: int = 0
    message: MessageHead | None = None
    content_block: Content | None = None
    delta: Delta | None = None
    error: Any = None


_event = msgspec.json.Decoder(Event)


def reader(refusing: Refusing) -> Reader:
    """A reader for one answer."""
    return Reader(refusing)


class Reader:
    """Reads one answer: ``message_start``, content blocks, ``message_delta``, ``message_stop``."""

    def __init__(self, refusing: Refusing) -> None:
        self.done = False
        self._refusing = refusing
        self._draft = Draft()
        self._open: dict[int, Block] = {}
        self._counted = Counted()
        self._model: str | None = None
        self._stop: str | None = None

    def event(self, data: bytes) -> None:
        """Take in the data of one event. Errors: ModelFailure."""
        event = _decoded(data)
        match event.type:
            case "content_block_delta":
                self._delta(event)
            case "content_block_start":
                self._start(event)
            case "message_start":
                self._head(event.message or MessageHead())
            case "message_delta":
                self._message_delta(event)
            case "message_stop":
                self._stop, self.done = self._stop or "end", True
            case "error":
                raise self._refusing.by_error(event.error)
            case _:
                # A ping, the end of a block, or what later versions add.
                pass
        if self._draft.full:
            self.done = True

    def whole(self, body: bytes) -> None:
        """Take in an answer that came as one JSON object. Errors: ModelFailure."""
        message = _decoded(body)
        if message.error is not None:
            raise self._refusing.by_error(message.error)
        self._head(message)
        self.done = True

    def take(self) -> list[ModelEvent]:
        """The deltas since the last time."""
        return self._draft.take()

    def end(self) -> ModelAnswer | None:
        """The answer; None if its end never came. Errors: ModelFailure."""
        if self._stop is None and not self._draft.full:
            return None
        return self._draft.finish(self._stop or "length", _usage(self._counted), self._model)

    def _head(self, message: MessageHead) -> None:
        self._model = message.model or self._model
        self._count(message.usage)
        for index, content in enumerate(message.content or ()):
            self._block(index, content)
        self._stopped(message.stop_reason)

    def _start(self, event: Event) -> None:
        if event.content_block is not None:
            self._block(event.index, event.content_block)

    def _block(self, index: int, content: Content) -> None:
        match content.type:
            case "text":
                block = self._begin(index, Block("text"))
                self._draft.extend(block, content.text or "")
            case "thinking":
                block = self._begin(index, Block("thinking"))
                self._draft.extend(block, content.thinking or "")
                self._draft.sign(block, content.signature or "")
            case "redacted_thinking":
                block = self._begin(index, Block("thinking", redacted=True))
                self._draft.sign(block, content.data or "")
            case "tool_use":
                call = Block("call", call_id=content.id or f"call_{index}", name=content.name or "")
                block = self._begin(index, call)
                if content.input:
                    self._draft.extend(block, encode(content.input).decode())
            case _:
                # What the provider's own tools did on its side is not part of our transcript.
                pass

    def _begin(self, index: int, block: Block) -> Block:
        self._open[index] = block
        return self._draft.open(block)

    def _delta(self, event: Event) -> None:
        block, delta = self._open.get(event.index), event.delta
        if block is None or delta is None:
            return
        for piece in (delta.text, delta.thinking, delta.partial_json):
            if piece:
                self._draft.extend(block, piece)
        if delta.signature:
            self._draft.sign(block, delta.signature)

    def _message_delta(self, event: Event) -> None:
        self._count(event.usage)
        if event.delta is not None:
            self._stopped(event.delta.stop_reason)

    def _stopped(self, reason: str | None) -> None:
        if reason:
            self._stop = STOP_REASONS.get(reason, "end")

    def _count(self, counted: Counted | None) -> None:
        """Counts are running totals: a later one replaces an earlier one, a missing one does not."""
        if counted is not None:
            for name in Counted.__struct_fields__:
                value = getattr(counted, name)
                if value is not None:
                    setattr(self._counted, name, value)


def _decoded(data: bytes) -> Event:
    try:
        return _event.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise malformed("something that is no event of the messages API") from None


def _usage(counted: Counted) -> Usage:
    read, written = tokens(counted.cache_read_input_tokens), tokens(counted.cache_creation_input_tokens)
    return Usage(
        input_tokens=tokens(counted.input_tokens) + read + written,
        output_tokens=tokens(counted.output_tokens),
        cached_input_tokens=read,
        cache_write_tokens=written,
    )
