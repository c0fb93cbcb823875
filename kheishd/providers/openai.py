"""OpenAI chat completions, streamed, as every compatible server speaks them.

Source: https://platform.openai.com/docs/api-reference/chat-streaming, and the extensions of llama.cpp,
Ollama, vLLM and OpenRouter. Every part of an answer may be missing or unknown without an error.

Options of a route go into the request unchanged, except ``headers`` (added to the head), ``tools`` (added to
kheish's own) and ``reasoning_content`` (true: the model's reasoning is sent back to it under that name).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from kheishd.providers.address import join_path
from kheishd.providers.draft import Block, Draft
from kheishd.providers.driver import (
    HttpRequest,
    body_options,
    encode,
    lower_limit,
    malformed_answer,
    merge_tools,
    token_count,
    user_texts,
)
from kheishd.providers.traits import TOKEN_LIMITS, USUAL_TRAITS, Traits
from protocol.transcript import Item, Message, Text, Thinking, ToolCall, ToolResult, Usage

if TYPE_CHECKING:
    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest
    from kheishd.providers.failures import FailureFactory

BASE_URL = "https://api.openai.com/v1"

STOP_REASONS = {
    "length": "length",
    "max_tokens": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refusal",
    "refusal": "refusal",
}
"""Finish reasons with a meaning of their own; all others (``stop``, ``eos``, ...) are an ordinary end."""


# The request.


def post(
    request: ModelRequest, base_url: str, secret: str | None, traits: Traits = USUAL_TRAITS
) -> HttpRequest:
    """Return the request to send to a server with these traits."""
    options, headers = body_options(request, traits)
    options |= _at_most(request, options, traits)
    give_back = options.pop("reasoning_content", False) is True
    tools = merge_tools([_function(tool) for tool in request.tools], options)
    body = {
        **({"stream_options": {"include_usage": True}} if traits.preset.stream_options else {}),
        **options,
        "model": request.pinned.model,
        # Some servers reject an empty list of tools.
        **({"tools": tools} if tools else {}),
        **({"tool_choice": "none"} if request.tools and request.withheld else {}),
        "messages": messages(request.instructions, request.messages, give_back_thinking=give_back),
        "stream": True,
    }
    if "stream_options" in traits.omitted:
        body.pop("stream_options", None)
    headers |= traits.make_auth_headers(secret, "authorization")
    return HttpRequest(join_path(base_url, "/chat/completions"), headers, encode(body))


def _at_most(request: ModelRequest, options: dict[str, Any], traits: Traits) -> dict[str, Any]:
    """Return the limit of the answer, if it has one, under the name that the server accepts.

    OpenAI's newer models reject the older name, ``max_tokens``, but compatible servers know only that one.
    """
    name = traits.name_token_limit(options)
    values = [options.pop(other) for other in TOKEN_LIMITS if other in options]
    limit = traits.raise_limit(request.max_answer_tokens)
    if not values:
        return {} if limit is None else {name: limit}
    return {name: lower_limit(values[0], limit)}


def _function(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.model_schema}
    return {"type": "function", "function": function}


def messages(
    instructions: str, transcript: list[Message], *, give_back_thinking: bool = False
) -> list[dict[str, Any]]:
    """Return a transcript as chat messages; consecutive user messages are merged, as templates require."""
    out: list[dict[str, Any]] = []
    if instructions:
        out.append({"role": "system", "content": instructions})
    for message in transcript:
        match message.role:
            case "user":
                _add_user(out, user_texts(message.items))
            case "assistant":
                _add_assistant(out, message.items, give_back_thinking=give_back_thinking)
            case "tool":
                for item in message.items:
                    if isinstance(item, ToolResult):
                        text = f"The tool failed: {item.text}" if item.is_error else item.text
                        out.append({"role": "tool", "tool_call_id": item.call_id, "content": text})
    return out


def _add_user(out: list[dict[str, Any]], texts: list[str]) -> None:
    if not texts:
        return
    content = "\n\n".join(texts)
    if out and out[-1]["role"] == "user":
        out[-1]["content"] += f"\n\n{content}"
    else:
        out.append({"role": "user", "content": content})


def _add_assistant(out: list[dict[str, Any]], items: list[Item], *, give_back_thinking: bool) -> None:
    text = "".join(item.text for item in items if isinstance(item, Text))
    thought = "".join(item.text for item in items if isinstance(item, Thinking))
    calls = [_call(item) for item in items if isinstance(item, ToolCall)]
    if not text and not calls:
        return
    message: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    if thought and give_back_thinking:
        message["reasoning_content"] = thought
    out.append(message)


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": encode(call.arguments).decode()}
    return {"id": call.call_id, "type": "function", "function": function}


# The answer.


class FunctionDelta(Struct):
    """A function's name and a piece of its arguments; some servers send the arguments as an object."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class CallDelta(Struct):
    """A piece of a tool call. Without ``index``, the id identifies the call."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class ContentPart(Struct):
    """A part of content that is sent as a list, as by Mistral."""

    text: str | None = None
    type: str | None = None


class ChatDelta(Struct):
    """A piece of the answer, or all of it."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[CallDelta] | None = None


class Choice(Struct):
    """The only requested choice."""

    delta: ChatDelta | None = None
    message: ChatDelta | None = None
    finish_reason: str | None = None
    error: Any = None


class PromptDetails(Struct):
    """Details of the request's tokens."""

    cached_tokens: float | None = None


class CompletionDetails(Struct):
    """Details of the answer's tokens."""

    reasoning_tokens: float | None = None


class ChatUsage(Struct):
    """The usage object. ``prompt_cache_hit_tokens`` is DeepSeek's name for cached tokens."""

    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: float | None = None


class Chunk(Struct):
    """A ``chat.completion.chunk``, or a ``chat.completion``."""

    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    model: str | None = None
    error: Any = None


_chunk = msgspec.json.Decoder(Chunk)


def reader(failures: FailureFactory) -> ChatReader:
    """Return a reader for one answer."""
    return ChatReader(failures)


class ChatReader:
    """Reader of one answer: deltas, then the finish reason, then the usage, then ``[DONE]``."""

    def __init__(self, failures: FailureFactory) -> None:
        self.done = False
        self._failures = failures
        self._draft = Draft()
        self._calls: dict[int, Block] = {}
        self._usage = Usage()
        self._model: str | None = None
        self._stop: str | None = None
        self._refused = False

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        if data == b"[DONE]":
            self._stop, self.done = self._stop or "end", True
            return
        self._take_in(data)

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON object. Errors: ModelFailure."""
        self._take_in(body)
        if self._stop is None and not self._draft.empty:
            self._stop = "end"
        self.done = True

    def take(self) -> list[ModelEvent]:
        """Return the deltas since the last call."""
        return self._draft.take()

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        if self._stop is None and not self._draft.full:
            return None
        stop = "refusal" if self._refused else self._stop or "length"
        return self._draft.finish(stop, self._usage, self._model)

    def _take_in(self, data: bytes) -> None:
        try:
            chunk = _chunk.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise malformed_answer("something that is no chat completion") from None
        if chunk.error is not None:
            raise self._failures.by_error(chunk.error)
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
        if chunk.choices:
            self._choice(chunk.choices[0])
        if self._draft.full:
            self.done = True

    def _choice(self, choice: Choice) -> None:
        if choice.error is not None or choice.finish_reason == "error":
            raise self._failures.by_error(choice.error)
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta)
        if choice.finish_reason:
            self._stop = STOP_REASONS.get(choice.finish_reason, "end")

    def _delta(self, delta: ChatDelta) -> None:
        # Some servers send the same reasoning under both names.
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(thought, str) and thought:
            self._draft.write("thinking", thought)
        content = delta.content
        parts = [part.text for part in content] if isinstance(content, list) else [content]
        for text in (*parts, delta.refusal):
            if text:
                self._draft.write("text", text)
        self._refused = self._refused or bool(delta.refusal)
        for call in delta.tool_calls or ():
            self._tool_call(call)

    def _tool_call(self, delta: CallDelta) -> None:
        key = self._key(delta)
        block = self._calls.get(key)
        if block is None:
            block = self._calls[key] = self._draft.open(Block("call", call_id=f"call_{key}"))
        block.call_id = delta.id or block.call_id
        if delta.function is None:
            return
        block.name = block.name or delta.function.name or ""
        arguments = delta.function.arguments
        if isinstance(arguments, dict):
            arguments = encode(arguments).decode()
        self._draft.extend(block, arguments or "")

    def _key(self, delta: CallDelta) -> int:
        """Return the key of a piece's call: its index, else a new one for each new id, else the last one."""
        if delta.index is not None:
            return delta.index
        last = len(self._calls) - 1
        if delta.id is None:
            return max(last, 0)
        return next((key for key, block in self._calls.items() if block.call_id == delta.id), last + 1)


def _usage(counted: ChatUsage) -> Usage:
    prompt = counted.prompt_tokens_details or PromptDetails()
    completion = counted.completion_tokens_details or CompletionDetails()
    return Usage(
        input_tokens=token_count(counted.prompt_tokens),
        output_tokens=token_count(counted.completion_tokens),
        cached_input_tokens=token_count(prompt.cached_tokens or counted.prompt_cache_hit_tokens),
        reasoning_tokens=token_count(completion.reasoning_tokens),
    )
