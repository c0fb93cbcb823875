"""Anthropic messages, streamed (https://platform.claude.com/docs/en/build-with-claude/streaming).

Thinking is sent back with its signature, unchanged, as the provider requires; redacted thinking keeps its
data in place of the signature. Calls and results of tools that the provider runs itself, and the citations of
texts, are sent back as they came. All of this goes only to the provider and the model that made it: they
reject the signatures of others. A turn that is not finished names the container in which these tools run.

Newer models bind a thought to all that they read before it, and reject or drop it once that has changed. So
the situation stays where it was stated as long as a later thought is sent back: it is kept with the answer,
and stated again when it has changed. What else changes the prompt (tools, instructions, compaction) makes
earlier thoughts invalid (https://platform.claude.com/docs/en/build-with-claude/preserved-thinking).

A turn that the provider paused is continued by its own content alone, without a message of the user
(https://platform.claude.com/docs/en/agents-and-tools/tool-use/server-tools).

Options of a route go into the request unchanged, except ``headers`` (added to the head,
such as ``anthropic-beta``), ``tools`` (added to kheish's own) and ``cache_control`` (see ``prompt_cache``);
``max_tokens`` has a default, because the API requires it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from kheishd.config.presets import BASE_URLS
from kheishd.core.context.situation import PAST_SITUATION
from kheishd.core.contract import RESUME
from kheishd.core.text.surrogates import join_surrogates
from kheishd.providers.address import join_path
from kheishd.providers.answer_reader import DraftReader
from kheishd.providers.attachments import is_origin, origin_of, own_fields
from kheishd.providers.call_ids import CallIdMap, form_for_anthropic
from kheishd.providers.draft import PLACED, Block, decode_arguments
from kheishd.providers.driver import (
    GONE,
    HttpRequest,
    body_options,
    encode,
    encode_body,
    find_gone_tools,
    lower_limit,
    merge_tools,
    token_count,
    user_texts,
)
from kheishd.providers.error_report import is_error
from kheishd.providers.history import DriverHistory, follow
from kheishd.providers.lenient import LenientDecoder, SideInformation, convert
from kheishd.providers.prompt_cache import MAX_MARKED_MESSAGES, mark_prompt
from kheishd.providers.traits import OUTPUT_ITEMS, USUAL_TRAITS, Traits
from protocol.limits.model import MAX_PROVIDER_DATA_BYTES
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kheishd.core.context.encodings import MessageEncodings
    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelAnswer, ModelRequest
    from kheishd.providers.failures import FailureFactory

BASE_URL = BASE_URLS["anthropic"]
VERSION = "2023-06-01"

BINDING_BETA = "thinking-binding-controls-2026-08-01"
"""The name of the feature by which the provider drops invalid thoughts, instead of rejecting them."""

# The output limit of a route without one, within which files can be written: an eighth of the context, at
# least that of older models and at most the lowest one of the provider's models since 2025.
MIN_OUTPUT_TOKENS = 8_192
MAX_OUTPUT_TOKENS = 32_000

STOP_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "pause",
    "refusal": "refusal",
}
"""Stop reasons with a meaning of their own; all others (``end_turn``, ...) are an ordinary end."""

SITUATION = "situation"
"""The field of a message with the situation that was stated before its thoughts."""

THOUGHTS = ("thinking", "redacted_thinking")
OWN_TYPES = ("text", *THOUGHTS, "tool_use", "tool_result")
"""The types of blocks that are items of a transcript; all others are opaque."""


# The request.


def post(
    request: ModelRequest, base_url: str, secret: str | None, traits: Traits = USUAL_TRAITS
) -> HttpRequest:
    """Return the request to send to a server with these traits."""
    options, extra = body_options(request, traits)
    limit = traits.adjust_limit(request.max_answer_tokens)
    origin = origin_of(request.pinned, base_url)
    cache_control = options.pop("cache_control", None)
    history = read_messages(
        request.messages, origin, request.encodings, sends_thoughts=OUTPUT_ITEMS not in traits.omitted
    )
    tools = merge_tools(_tools(request.tools, history.called), options)
    body: dict[str, Any] = {
        **options,
        "max_tokens": lower_limit(options.get("max_tokens", _find_default_limit(request, options)), limit),
        "model": request.pinned.model,
        "messages": history.finish(),
        "stream": True,
    }
    if tools:
        body["tools"] = tools
        if request.withheld:
            body["tool_choice"] = {"type": "none"}
    if request.instructions:
        body["system"] = request.instructions
    container, own = _find_container(request.messages, origin), options.get("container")
    if container is not None and not isinstance(own, str):
        body["container"] = {**own, "id": container} if isinstance(own, dict) else container
    if request.purpose == "answer" and "cache_control" not in traits.omitted:
        mark_prompt(body, cache_control)
    situation = _choose_situation(request, history.stated)
    # A paused turn of the model takes nothing more.
    if situation and body["messages"] and body["messages"][-1]["role"] == "user":
        last = body["messages"][-1]
        body["messages"][-1] = {**last, "content": [*last["content"], {"type": "text", "text": situation}]}
    else:
        situation = ""
    _configure_thinking(body, extra, traits)
    headers = {"anthropic-version": VERSION, **extra, **traits.make_auth_headers(secret, "x-api-key")}
    parts = urlsplit(base_url)
    base = parts._replace(path=parts.path.rstrip("/").removesuffix("/v1")).geturl()
    return HttpRequest(join_path(base, "/v1/messages"), headers, encode_body(body, "messages"), situation)


def _choose_situation(request: ModelRequest, stated: str) -> str:
    """Return the situation to state at the end; empty if it is the one that the transcript states last."""
    if not stated or request.purpose != "answer":
        return request.situation
    situation = request.situation or PAST_SITUATION
    return situation if situation != stated else ""


def _find_situation(message: Message, origin: str) -> str:
    """Return the situation that was stated before an answer of this origin; empty without."""
    situation = own_fields(message, origin).get(SITUATION)
    return situation if isinstance(situation, str) else ""


def _configure_thinking(body: dict[str, Any], headers: dict[str, str], traits: Traits) -> None:
    """Adapt the option ``thinking`` to what the server refused."""
    if "thinking" in traits.omitted:
        body.pop("thinking", None)
    if traits.drops_thinking:
        own = body.get("thinking")
        own = own if isinstance(own, dict) else {"type": "adaptive"}
        body["thinking"] = {**own, "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
        own_betas = headers.get("anthropic-beta", "").split(",")
        headers["anthropic-beta"] = ",".join([*filter(None, own_betas), BINDING_BETA])


def _tools(offered: Sequence[Tool], called: Iterable[str]) -> list[dict[str, Any]]:
    """Return the tools, and those that only the transcript mentions: each must be defined."""
    defined = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.model_json}
        for tool in offered
    ]
    gone = (
        {"name": name, "description": GONE, "input_schema": {"type": "object"}}
        for name in find_gone_tools(offered, called)
    )
    return [*defined, *gone]


def _find_default_limit(request: ModelRequest, options: dict[str, Any]) -> int:
    """Return the output limit of a route that sets none: an eighth of the context, and the thinking."""
    room = max(MIN_OUTPUT_TOKENS, min(request.pinned.context_tokens // 8, MAX_OUTPUT_TOKENS))
    thinking = options.get("thinking")
    budget = thinking.get("budget_tokens") if isinstance(thinking, dict) else None
    return room + budget if isinstance(budget, int) else room


def _find_container(transcript: list[Message], origin: str) -> str | None:
    """Return the id of the container in which an unfinished turn runs the provider's tools; None without."""
    for message in reversed(transcript):
        if message.role == "assistant":
            container = own_fields(message, origin).get("container")
            return container if isinstance(container, str) else None
        if message.role == "user" and message.items != [Text(RESUME)]:
            break
    return None


class PlacedData(Struct):
    """Data among the items of a message: an opaque block before an item, or further fields of a text."""

    index: int
    block: dict[str, Any] | None = None
    text: dict[str, Any] | None = None


def read_messages(
    transcript: list[Message], origin: str, encodings: MessageEncodings | None, *, sends_thoughts: bool
) -> MessageHistory:
    """Return a transcript as alternating messages of user and assistant; ``encodings`` keeps them as JSON."""
    form = "anthropic", origin, sends_thoughts
    return follow(transcript, encodings, form, lambda: MessageHistory(origin, sends_thoughts=sends_thoughts))


class MessageHistory(DriverHistory):
    """The alternating messages of one conversation; a tool's result is a user's.

    ``stated`` is the situation that was stated last, before an answer of this origin.
    """

    OPEN = MAX_MARKED_MESSAGES

    def __init__(self, origin: str, *, sends_thoughts: bool) -> None:
        super().__init__()
        self.stated = ""
        self._origin = origin
        self._sends_thoughts = sends_thoughts
        self._ids = CallIdMap(origin, form_for_anthropic)
        self._has_placed = False

    def learn(self, messages: Sequence[Message], calls: Sequence[ToolCall]) -> bool:
        """Learn the ids of the calls; return false if they change an earlier one."""
        return self._ids.add(calls)

    def add(self, message: Message) -> None:
        """Add a message of the transcript."""
        sent = self.sent
        situation = _find_situation(message, self._origin)
        if message.role == "assistant":
            self.stated = situation or self.stated
        role = "assistant" if message.role == "assistant" else "user"
        placed = _find_placed(message, self._origin)
        self._has_placed = self._has_placed or bool(placed)
        blocks = _blocks(message, placed, self._origin, self._ids)
        if not self._sends_thoughts:
            blocks = [block for block in blocks if block["type"] not in THOUGHTS]
        # A paused turn ends with a block that only the provider understands, and continues by itself.
        is_paused = bool(sent) and sent[-1]["content"][-1]["type"] not in OWN_TYPES
        if not blocks or (is_paused and message.items == [Text(RESUME)]):
            return
        if situation and sent and sent[-1]["role"] == "user":
            sent[-1]["content"].append({"type": "text", "text": situation})
        if sent and sent[-1]["role"] == role:
            sent[-1]["content"] += blocks
        else:
            sent.append({"role": role, "content": blocks})

    def encode(self) -> None:
        """Encode the messages that do not change any more: none once a later one may drop opaque blocks."""
        if not self._has_placed:
            super().encode()

    def finish(self) -> list[Any]:
        """Return the messages of a request, which may replace them, but must not change them."""
        return _drop_unpaired(self.sent) if self._has_placed and self.sent else [*self.sent]


def _find_placed(message: Message, origin: str) -> list[PlacedData]:
    """Return the opaque blocks and citations of a message of this origin; none of an unusable import.

    In an imported message, a block of the transcript's own types would be a hidden text.
    """
    try:
        placed = msgspec.convert(own_fields(message, origin).get(PLACED, []), list[PlacedData])
    except msgspec.ValidationError:
        return []
    return [data for data in placed if data.block is None or _is_opaque(data.block)]


def _is_opaque(block: dict[str, Any]) -> bool:
    return isinstance(block.get("type"), str) and block["type"] not in OWN_TYPES


def _drop_unpaired(sent: list[Any]) -> list[Any]:
    """Return the messages without unpaired calls and results of the provider's tools: it rejects them.

    The last calls stay: the provider runs them when it continues a paused turn, or gets the results of the
    other calls of their message. Encoded messages have none of them.
    """
    answers = [message for message in sent if isinstance(message, dict) and message["role"] == "assistant"]
    blocks = [block for message in answers for block in message["content"]]
    answered = {str(block["tool_use_id"]) for block in blocks if "tool_use_id" in block}
    called = {str(block["id"]) for block in blocks if _is_provider_call(block)}
    has_results = sent[-1]["content"][0]["type"] == "tool_result" and len(sent) > 1
    continued = sent[-1] if sent[-1]["role"] == "assistant" else sent[-2] if has_results else None
    kept: list[Any] = []
    for message in sent:
        if isinstance(message, dict) and message["role"] == "assistant":
            content = [
                block
                for block in message["content"]
                if (message is continued or not _is_provider_call(block) or str(block["id"]) in answered)
                and ("tool_use_id" not in block or str(block["tool_use_id"]) in called)
            ]
            if content:
                kept.append({**message, "content": content})
        else:
            kept.append(message)
    return kept


def _is_provider_call(block: dict[str, Any]) -> bool:
    return str(block["type"]).endswith("_tool_use") and "id" in block


def _blocks(message: Message, placed: list[PlacedData], origin: str, ids: CallIdMap) -> list[dict[str, Any]]:
    match message.role:
        case "user":
            return [{"type": "text", "text": text} for text in user_texts(message.items)]
        case "assistant":
            # Signed thinking of an earlier version names no origin; this driver made it.
            is_own = message.provider_data is None or is_origin(message.provider_data, origin)
            blocks: list[dict[str, Any] | None] = []
            by_index: dict[int, list[PlacedData]] = {}
            for data in placed:
                by_index.setdefault(data.index, []).append(data)
            for index, item in enumerate([*message.items, None]):
                block = _block_of(item, origin, ids, is_own=is_own) if item is not None else None
                for data in by_index.get(index, ()):
                    if data.block is not None:
                        blocks.append(data.block)
                    elif data.text and block is not None:
                        block = {**data.text, **block}
                blocks.append(block)
            return [block for block in blocks if block is not None]
        case "tool":
            return [_result(item, ids) for item in message.items if isinstance(item, ToolResult)]


def _block_of(item: Item, origin: str, ids: CallIdMap, *, is_own: bool) -> dict[str, Any] | None:
    match item:
        case Text(text) if text.strip():
            return {"type": "text", "text": text}
        case Thinking(_, signature, True) if signature and is_own:
            return {"type": "redacted_thinking", "data": signature}
        case Thinking(text, signature, False) if signature and is_own:
            return {"type": "thinking", "thinking": text, "signature": signature}
        case ToolCall(call_id, name, arguments):
            block: dict[str, Any] = {"type": "tool_use", "id": ids[call_id], "name": name, "input": arguments}
            caller = own_fields(item, origin).get("caller")
            return block if caller is None else {**block, "caller": caller}
        case _:
            # Reasoning of other providers and models has no valid signature here.
            return None


def _result(result: ToolResult, ids: CallIdMap) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": ids[result.call_id], "content": result.text}
    return {**block, "is_error": True} if result.is_error else block


# The answer.


class MessagesUsage(SideInformation):
    """The usage object; ``input_tokens`` excludes tokens read from or written to the cache."""

    input_tokens: float | None = None
    output_tokens: float | None = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None


class StopDetails(SideInformation):
    """The details of a stop reason, such as the explanation of a refusal."""

    explanation: str | None = None


class Content(Struct):
    """A content block, at its start or complete."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Any = None
    citations: Any = None
    caller: Any = None


class MessagesDelta(Struct):
    """A piece of a content block, or of the message itself."""

    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    citation: Any = None
    content: Any = None
    container: Any = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class MessageHead(Struct):
    """The message in ``message_start``, or complete."""

    model: str | None = None
    content: list[dict[str, Any]] | None = None
    usage: MessagesUsage | None = None
    container: Any = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class MessagesEvent(MessageHead):
    """Any event; each type fills some of the fields. A complete message fills those of its base."""

    type: str = ""
    index: int = 0
    message: MessageHead | None = None
    content_block: dict[str, Any] | None = None
    delta: MessagesDelta | None = None
    error: Any = None


_event = LenientDecoder(MessagesEvent)


def reader(failures: FailureFactory, origin: str = "") -> MessagesReader:
    """Return a reader for one answer of this origin."""
    return MessagesReader(failures, origin)


class MessagesReader(DraftReader):
    """Reader of one answer: ``message_start``, content blocks, ``message_delta``, ``message_stop``."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        super().__init__(failures, origin)
        self._open: dict[int, Block] = {}
        self._citations: dict[int, list[Any]] = {}
        self._cited_bytes = 0
        self._whole_inputs: set[int] = set()
        self._counted = MessagesUsage()
        self._has_started = False

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        event = self._decode(data)
        match event.type:
            case "content_block_delta":
                self._delta(event)
            case "content_block_start":
                # Pieces of a block that is not known do not belong to an earlier one.
                self._close(event.index)
                self._open.pop(event.index, None)
                if event.content_block is not None:
                    self._block(event.index, event.content_block)
            case "message_start":
                self._restart()
                self._head(event.message or MessageHead())
            case "message_delta":
                self._count(event.usage)
                self._stop_for(event.delta or MessagesDelta())
            case "message_stop":
                self._stop, self.done = self._stop or "end", True
            case "content_block_stop":
                self._close(event.index)
            case "ping":
                pass
            case _:
                self._check_unknown(data)
        if self._draft.full:
            self.done = True

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON object. Errors: ModelFailure."""
        message = self._decode(body)
        if message.content is None:
            self._check_unknown(body)
        self._head(message)
        if self._stop is None and not self._draft.empty:
            self._stop = "end"
        self.done = True

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        for index in self._open:
            self._close(index)
        self._usage = _usage(self._counted)
        if self.situation and self._draft.has_thoughts:
            self._draft.attached.add(SITUATION, self.situation)
        return super().end()

    def _decode(self, data: bytes) -> MessagesEvent:
        try:
            event: MessagesEvent = _event.decode(data)
        except ValueError:
            if not data.strip():
                return MessagesEvent(type="ping")
            raise self._malformed("something that is no event of the messages API", data) from None
        if event.error is not None and is_error(event.error):
            self.fail_event(data)
        return event

    def _restart(self) -> None:
        """Drop the first half of an answer that its server began again."""
        if self._has_started:
            self._restart_draft()
            self._counted = MessagesUsage()
            self._open, self._citations, self._whole_inputs = {}, {}, set()
        self._has_started = True

    def _head(self, message: MessageHead) -> None:
        self._understood = True
        self._model = message.model or self._model
        self._count(message.usage)
        for index, content in enumerate(message.content or ()):
            self._block(index, content)
        self._stop_for(message)

    def _block(self, index: int, raw: dict[str, Any]) -> None:
        """Process a block, at its start or complete."""
        try:
            content: Content = convert(raw, Content)
        except ValueError:
            raise self._malformed("a content block of an unknown form", encode(raw)) from None
        match content.type:
            case "text":
                block = self._begin(index, Block("text"))
                self._draft.extend(block, content.text or "")
                self._citations[index] = []
                for citation in content.citations if isinstance(content.citations, list) else ():
                    self._cite(index, citation)
            case "thinking":
                block = self._begin(index, Block("thinking"))
                self._draft.extend(block, content.thinking or "")
                self._draft.sign(block, content.signature or "")
            case "redacted_thinking":
                block = self._begin(index, Block("thinking", redacted=True))
                self._draft.sign(block, content.data or "")
            case "tool_use":
                call_id = content.id or f"call_{index}"
                call = Block("call", call_id=call_id, name=content.name or "", provider_id=content.id or "")
                block = self._begin(index, call)
                if content.input:
                    self._whole_inputs.add(index)
                    self._draft.extend(block, encode(content.input).decode())
                if isinstance(content.caller, dict) and content.caller.get("type") != "direct":
                    block.attached.add("caller", content.caller)
            case "":
                pass
            case _:
                # Such as a call of the provider's own tool, or its result.
                self._draft.place(self._begin(index, Block("opaque")), "block", raw)

    def _begin(self, index: int, block: Block) -> Block:
        self._understood = True
        self._open[index] = block
        return self._draft.open(block)

    def _close(self, index: int) -> None:
        """Complete a block with the data that came in pieces."""
        block = self._open.get(index)
        if block is None:
            return
        if citations := self._citations.pop(index, None):
            self._draft.place(block, "text", {"citations": citations})
        if block.kind == "opaque" and block.parts:
            arguments = decode_arguments(block.content)
            block.parts = []
            if arguments is None:
                self._draft.drop_placed()
            else:
                self._draft.place(block, "block", {"input": arguments})

    def _cite(self, index: int, citation: Any) -> None:
        """Keep a citation of a text, as long as the message's data can be stored."""
        self._cited_bytes += len(encode(citation))
        if self._cited_bytes > MAX_PROVIDER_DATA_BYTES:
            self._citations = {}
            self._draft.drop_placed()
            return
        self._citations.setdefault(index, []).append(citation)

    def _delta(self, event: MessagesEvent) -> None:
        block, delta = self._open.get(event.index), event.delta
        if block is None or delta is None:
            return
        if delta.citation is not None:
            self._cite(event.index, delta.citation)
        if block.kind == "opaque":
            text = join_surrogates(delta.text) if delta.text is not None else None
            pieces = {"content": delta.content, "text": text}
            self._draft.place(
                block, "block", {name: piece for name, piece in pieces.items() if piece is not None}
            )
            self._draft.extend(block, delta.partial_json or "")
            return
        if delta.text:
            self._draft.extend(block, delta.text)
        if delta.thinking:
            self._draft.extend(block, delta.thinking)
        if delta.partial_json:
            if event.index in self._whole_inputs:
                # The pieces repeat arguments that came with the start.
                self._whole_inputs.discard(event.index)
                block.parts.clear()
            self._draft.extend(block, delta.partial_json)
        if delta.signature:
            if delta.signature.startswith(block.signature):
                # A whole signature, which its start had, too; the provider's own clients keep the last one.
                block.signature = ""
            self._draft.sign(block, delta.signature)

    def _stop_for(self, message: MessageHead | MessagesDelta) -> None:
        if message.stop_reason:
            self._stop = STOP_REASONS.get(message.stop_reason, "end")
        if message.stop_details is not None:
            self._explanation = message.stop_details.explanation or self._explanation
        if isinstance(message.container, dict) and isinstance(message.container.get("id"), str):
            self._draft.attached.add("container", message.container["id"])

    def _count(self, counted: MessagesUsage | None) -> None:
        """Merge running totals: a later count replaces an earlier one, a missing one does not."""
        if counted is not None:
            for name in MessagesUsage.__struct_fields__:
                value = getattr(counted, name)
                if value is not None:
                    setattr(self._counted, name, value)


def _usage(counted: MessagesUsage) -> Usage:
    read, written = (
        token_count(counted.cache_read_input_tokens),
        token_count(counted.cache_creation_input_tokens),
    )
    return Usage(
        input_tokens=token_count(counted.input_tokens) + read + written,
        output_tokens=token_count(counted.output_tokens),
        cached_input_tokens=read,
        cache_write_tokens=written,
    )
