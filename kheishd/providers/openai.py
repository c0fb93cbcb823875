"""OpenAI chat completions, streamed, as every compatible server speaks them.

Source: https://platform.openai.com/docs/api-reference/chat-streaming, and the extensions of llama.cpp,
Ollama, vLLM and OpenRouter. Every part of an answer may be missing or unknown without an error.

Options of a route go into the request unchanged, except ``headers`` (added to the head) and these, which
state the requirements of a server where they cannot be learned from its answers:

* ``reasoning_content``: true if every message with calls must have it, false if none may.
* ``call_ids``: ``"mistral"`` for servers that accept only nine letters and digits as a call id.
* ``thought_signatures``: true if a message with calls needs a signature of Gemini.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from kheishd.providers.chat_messages import (
    CALL_FIELDS,
    FUNCTION_FIELDS,
    MESSAGE_FIELDS,
    THINKING_NAME,
    find_google_signature,
    messages,
    take_rules,
)
from kheishd.providers.draft import Block, Draft
from kheishd.providers.driver import (
    HttpRequest,
    body_options,
    encode,
    lower_limit,
    malformed_answer,
    token_count,
)
from protocol.transcript import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelAnswer, ModelEvent, ModelRequest
    from kheishd.providers.attachments import Attachments
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


def post(request: ModelRequest, base_url: str, secret: str | None) -> HttpRequest:
    """Return the request to send."""
    options, headers = body_options(request)
    options |= _at_most(request, options, base_url)
    rules = take_rules(request.pinned, base_url, options)
    body = {
        "stream_options": {"include_usage": True},
        **options,
        "model": request.pinned.model,
        **_tools(request.tools, withheld=request.withheld),
        "messages": messages(request.instructions, request.messages, rules),
        "stream": True,
    }
    if secret is not None:
        headers["authorization"] = f"Bearer {secret}"
    return HttpRequest(f"{base_url.rstrip('/')}/chat/completions", headers, encode(body))


def _at_most(request: ModelRequest, options: dict[str, Any], base_url: str) -> dict[str, Any]:
    """Return the limit of the answer, if it has one, under the parameter name in use."""
    if request.max_answer_tokens is None:
        return {}
    # OpenAI's newer models reject the older name, but compatible servers know only that one.
    usual = "max_completion_tokens" if base_url == BASE_URL else "max_tokens"
    names = ("max_completion_tokens", "max_tokens")
    name = next((name for name in names if name in options), usual)
    return {name: lower_limit(options.get(name), request.max_answer_tokens)}


def _tools(tools: Sequence[Tool], *, withheld: bool = False) -> dict[str, Any]:
    """Return the tools as functions; nothing without tools, because some servers reject an empty list."""
    functions = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.model_schema},
        }
        for tool in tools
    ]
    if not functions:
        return {}
    return {"tools": functions, "tool_choice": "none"} if withheld else {"tools": functions}


# The answer.


class FunctionDelta(Struct):
    """A function's name and a piece of its arguments; some servers send the arguments as an object."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    provider_specific_fields: Any = None


class CallDelta(Struct):
    """A piece of a tool call. Without ``index``, the id identifies the call."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None
    extra_content: Any = None
    provider_specific_fields: Any = None


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
    reasoning_details: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None
    extra_content: Any = None
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


def reader(failures: FailureFactory, origin: str = "") -> ChatReader:
    """Return a reader for one answer of this origin."""
    return ChatReader(failures, origin)


class ChatReader:
    """Reader of one answer: deltas, then the finish reason, then the usage, then ``[DONE]``."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        self.done = False
        self._failures = failures
        self._draft = Draft(origin=origin)
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
            name = "reasoning_content" if delta.reasoning_content else "reasoning"
            self._draft.attached.fields[THINKING_NAME] = name
        content = delta.content
        parts = [part.text for part in content] if isinstance(content, list) else [content]
        for text in (*parts, delta.refusal):
            if text:
                self._draft.write("text", text)
        self._refused = self._refused or bool(delta.refusal)
        attach_to_message(self._draft.attached, delta)
        for call in delta.tool_calls or ():
            self._tool_call(call)

    def _tool_call(self, delta: CallDelta) -> None:
        key = self._key(delta)
        block = self._calls.get(key)
        if block is None:
            block = self._calls[key] = self._draft.open(Block("call", call_id=f"call_{key}"))
        if delta.id:
            block.call_id = block.provider_id = delta.id
        attach_to_call(block.attached, delta)
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


def attach_to_message(attached: Attachments, delta: ChatDelta) -> None:
    """Keep the data that a piece of an answer attaches to the message."""
    for name in MESSAGE_FIELDS:
        value = getattr(delta, name)
        if name == "extra_content":
            # Gemini also marks pieces of thoughts there; such a mark would make the message a thought.
            signature = find_google_signature(value)
            value = {"google": {"thought_signature": signature}} if signature else None
        if value is not None:
            attached.add(name, value)


def attach_to_call(attached: Attachments, delta: CallDelta) -> None:
    """Keep the data that a piece of a call attaches to the call and to its function."""
    for name in CALL_FIELDS:
        attached.add(name, getattr(delta, name))
    specific = delta.function.provider_specific_fields if delta.function is not None else None
    if specific is not None:
        attached.add(FUNCTION_FIELDS, {"provider_specific_fields": specific})
