"""OpenAI chat completions, streamed, as every compatible server speaks them.

Source: https://platform.openai.com/docs/api-reference/chat-streaming, and the extensions of llama.cpp,
Ollama, vLLM and OpenRouter. Every part of an answer may be missing or unknown without an error.

Options of a route go into the request unchanged, except ``headers`` (added to the head), ``tools`` (added to
kheish's own) and these, which state requirements of a server that cannot be learned from its answers:

* ``reasoning_content``: true if every message with calls must have it, false if none may.
* ``call_ids``: ``"mistral"`` for servers that accept only nine letters and digits as a call id.
* ``thought_signatures``: true if a message with calls needs a signature of Gemini.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import Struct

from kheishd.config.presets import BASE_URLS
from kheishd.providers.address import join_path
from kheishd.providers.answer_reader import DraftReader
from kheishd.providers.chat_messages import (
    CALL_FIELDS,
    FUNCTION_FIELDS,
    MESSAGE_FIELDS,
    PART_OF_PARTS,
    PART_OF_TEXT,
    SENDS_REASONING_CONTENT,
    SIGNS_CALLS,
    THINKING_NAME,
    find_google_signature,
    messages,
    take_rules,
)
from kheishd.providers.draft import MAX_BLOCKS, Block
from kheishd.providers.driver import (
    HttpRequest,
    body_options,
    declare_tools,
    encode,
    encode_body,
    lower_limit,
    token_count,
)
from kheishd.providers.error_report import is_error
from kheishd.providers.lenient import LenientDecoder, SideInformation
from kheishd.providers.traits import TOKEN_LIMITS, USUAL_TRAITS, Traits
from protocol.transcript import Usage

if TYPE_CHECKING:
    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelAnswer, ModelRequest
    from kheishd.providers.attachments import Attachments
    from kheishd.providers.failures import FailureFactory

BASE_URL = BASE_URLS["openai"]

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
    rules = take_rules(request, base_url, options, traits)
    tools = declare_tools("openai", request.tools, _declare, options)
    body = {
        **({"stream_options": {"include_usage": True}} if traits.preset.stream_options else {}),
        **options,
        "model": request.pinned.model,
        # Some servers reject an empty list of tools.
        **({"tools": tools} if tools else {}),
        **({"tool_choice": "none"} if tools and request.withheld else {}),
        "messages": messages(
            request.instructions, request.messages, rules, request.situation, request.encodings
        ),
        "stream": True,
    }
    if "stream_options" in traits.omitted:
        body.pop("stream_options", None)
    headers |= traits.make_auth_headers(secret, "authorization")
    return HttpRequest(join_path(base_url, "/chat/completions"), headers, encode_body(body, "messages"))


def _declare(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.model_json}
    return {"type": "function", "function": function}


def _at_most(request: ModelRequest, options: dict[str, Any], traits: Traits) -> dict[str, Any]:
    """Return the limit of the answer, if it has one, under the name that the server accepts.

    OpenAI's newer models reject the older name, ``max_tokens``, but compatible servers know only that one.
    """
    name = traits.name_token_limit(options)
    values = [options.pop(other) for other in TOKEN_LIMITS if other in options]
    limit = traits.adjust_limit(request.max_answer_tokens)
    if not values:
        return {} if limit is None else {name: limit}
    return {name: lower_limit(values[0], limit)}


# The answer.


class FunctionDelta(Struct):
    """A function's name and a piece of its arguments; some servers send the arguments as an object."""

    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    provider_specific_fields: Any = None


class CallDelta(Struct):
    """A piece of a tool call. Servers differ in the use of ``index`` and ``id``."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None
    extra_content: Any = None
    provider_specific_fields: Any = None


class ContentPart(Struct):
    """A part of content that is sent as a list, as by Mistral; ``thinking`` is text or a list of parts."""

    text: str | None = None
    type: str | None = None
    thinking: Any = None


class ChatDelta(Struct):
    """A piece of the answer, or all of it. ``function_call`` is the older form of a call."""

    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    reasoning: Any = None
    refusal: str | None = None
    reasoning_details: Any = None
    thinking_blocks: Any = None
    provider_specific_fields: Any = None
    extra_content: Any = None
    tool_calls: list[CallDelta] | None = None
    function_call: FunctionDelta | None = None


class PromptDetails(SideInformation):
    """Details of the request's tokens. ``cache_creation_tokens`` is LiteLLM's name for written tokens."""

    cached_tokens: float | None = None
    cache_write_tokens: float | None = None
    cache_creation_tokens: float | None = None


class CompletionDetails(SideInformation):
    """Details of the answer's tokens."""

    reasoning_tokens: float | None = None


class ChatUsage(SideInformation):
    """The usage object. DeepSeek and Kimi have cached tokens beside the details."""

    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: float | None = None
    cached_tokens: float | None = None


class Choice(Struct):
    """One of the choices; only the first is requested. Some servers put the usage here."""

    index: int | None = None
    delta: ChatDelta | None = None
    message: ChatDelta | None = None
    finish_reason: str | None = None
    error: Any = None
    usage: ChatUsage | None = None


class GroqExtension(SideInformation):
    """Groq's own part of a chunk."""

    usage: ChatUsage | None = None
    error: Any = None


class Chunk(Struct):
    """A ``chat.completion.chunk``, or a ``chat.completion``."""

    choices: list[Choice] | None = None
    usage: ChatUsage | None = None
    model: str | None = None
    error: Any = None
    x_groq: GroqExtension | None = None


_chunk = LenientDecoder(Chunk)


def _narrow(kind: type[Struct], **kinds: Any) -> type[Any]:
    """Return a struct with the fields of ``kind``: those in ``kinds`` have that type, all others are null."""
    fields = [
        (name, *kinds[name]) if name in kinds else (name, None, None) for name in kind.__struct_fields__
    ]
    return msgspec.defstruct(f"{kind.__name__}OfText", fields, kw_only=True)


# Nearly all chunks are a piece of text and nothing else: one choice, and in it only a text. This decoder
# rejects all other chunks, whichever of the fields above they have.
_DeltaOfText = _narrow(ChatDelta, content=(str,))
_ChoiceOfText = _narrow(Choice, delta=(_DeltaOfText,), index=(Literal[0] | None, None))
_ChunkOfText = _narrow(Chunk, choices=(tuple[_ChoiceOfText],), model=(str | None, None))  # type: ignore[valid-type]
_decode_text = msgspec.json.Decoder(_ChunkOfText).decode


def reader(failures: FailureFactory, origin: str = "") -> ChatReader:
    """Return a reader for one answer of this origin."""
    return ChatReader(failures, origin)


class ChatReader(DraftReader):
    """Reader of one answer: deltas, then the finish reason, then the usage, then ``[DONE]``."""

    def __init__(self, failures: FailureFactory, origin: str = "") -> None:
        super().__init__(failures, origin)
        self._calls: dict[int, Block] = {}
        self._calls_by_id: dict[str, Block] = {}
        self._last_call: Block | None = None
        self._opened_calls = 0
        self._has_own_index = False
        self._refused = False
        # Whether the next chunk is expected to be a piece of text: a wrong guess costs as much as a chunk.
        self._is_in_text = True

    def event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        self.events([data])

    def events(self, batch: list[bytes]) -> None:
        """Process the data of consecutive events; the pieces of a text, which most are, are written at once.

        Errors: ModelFailure.
        """
        pieces: list[str] = []
        try:
            for data in batch:
                if self.done:
                    return
                if self._is_in_text:
                    try:
                        if not data.isascii():
                            # As in the lenient decoder.
                            data.decode()
                        chunk = _decode_text(data)
                    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                        self._is_in_text = False
                    else:
                        pieces.append(chunk.choices[0].delta.content)
                        self._model = chunk.model or self._model
                        continue
                self._write(pieces)
                if not self.done:
                    self._process_event(data)
        finally:
            self._write(pieces)

    def whole(self, body: bytes) -> None:
        """Process an answer that came as one JSON object. Errors: ModelFailure."""
        chunk = self._decode(body)
        if chunk is not None:
            self._process(chunk, body)
        if self._stop is None and not self._draft.empty:
            self._stop = "end"
        self.done = True

    def end(self) -> ModelAnswer | None:
        """Return the answer; None if it is incomplete. Errors: ModelFailure."""
        if self._refused and self._stop is not None:
            self._stop = "refusal"
        return super().end()

    def _process_event(self, data: bytes) -> None:
        """Process the data of one event. Errors: ModelFailure."""
        if data == b"[DONE]":
            self._stop, self.done = self._stop or "end", True
            return
        chunk = self._decode(data)
        if chunk is not None:
            self._process(chunk, data)

    def _decode(self, data: bytes) -> Chunk | None:
        """Return a chunk; None for a heartbeat. Errors: ModelFailure."""
        try:
            chunk: Chunk = _chunk.decode(data)
        except ValueError:
            if not data.strip():
                return None
            raise self._malformed("something that is no chat completion", data) from None
        return chunk

    def _write(self, pieces: list[str]) -> None:
        """Write the pieces of a text, and remove them from the list."""
        if pieces:
            self._understood = True
            if text := "".join(pieces):
                self._draft.write("text", text)
            pieces.clear()
            self.done = self.done or self._draft.full

    def _process(self, chunk: Chunk, data: bytes) -> None:
        if chunk.error is not None and is_error(chunk.error):
            self.fail_event(data)
        self._model = chunk.model or self._model
        if chunk.usage is not None:
            self._count(chunk.usage)
        if chunk.x_groq is not None:
            if is_error(chunk.x_groq.error):
                self.fail(chunk.x_groq.error)
            if chunk.x_groq.usage is not None:
                self._count(chunk.x_groq.usage)
        if chunk.choices:
            # Only one choice is requested: it has the index 0, or none.
            for choice in chunk.choices:
                if not choice.index:
                    self._choice(choice)
                    break
        elif chunk.usage is None:
            self._check_unknown(data)
        if self._draft.full:
            self.done = True

    def _choice(self, choice: Choice) -> None:
        self._understood = True
        reason = choice.finish_reason
        if reason == "error" or (choice.error is not None and is_error(choice.error)):
            self.fail(choice.error)
        if reason is not None and "malformed_function_call" in reason.lower():
            self.failed = True
            raise self._failures.broke(f"the model's tool call was malformed ({reason})", "bad_response")
        delta = choice.delta or choice.message
        if delta is not None:
            self._delta(delta)
        if choice.usage is not None:
            self._count(choice.usage)
        if reason:
            self._stop = STOP_REASONS.get(reason, "end")

    def _count(self, counted: ChatUsage) -> None:
        """Replace the usage: the last one counts, but an empty one does not."""
        usage = _usage(counted)
        self._usage = usage if usage != Usage() else self._usage

    def _delta(self, delta: ChatDelta) -> None:
        # Some servers send the same reasoning under both names.
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(thought, str) and thought:
            self._draft.write("thinking", thought)
            name = "reasoning_content" if delta.reasoning_content else "reasoning"
            self._draft.attached.fields[THINKING_NAME] = name
            if delta.reasoning_content:
                self._draft.marks.add(SENDS_REASONING_CONTENT)
        if isinstance(delta.content, list):
            for part in delta.content:
                self._content_part(part)
        elif delta.content:
            self._draft.write("text", delta.content)
            self._is_in_text = True
        if delta.refusal:
            self._refused = True
            self._draft.write("text", delta.refusal)
        # This runs for each token, and few tokens come with data.
        if (
            delta.provider_specific_fields is not None
            or delta.reasoning_details is not None
            or delta.thinking_blocks is not None
            or delta.extra_content is not None
        ):
            attach_to_message(self._draft.attached, delta)
        if delta.tool_calls:
            for call in delta.tool_calls[: MAX_BLOCKS + 1]:
                self._tool_call(call)
        if delta.function_call is not None:
            self._tool_call(CallDelta(function=delta.function_call))

    def _content_part(self, part: ContentPart) -> None:
        if thought := _join_thinking(part.thinking):
            self._draft.write("thinking", thought)
            form = PART_OF_TEXT if isinstance(part.thinking, str) else PART_OF_PARTS
            self._draft.attached.fields[THINKING_NAME] = form
        if part.text:
            self._draft.write("thinking" if part.type == "thinking" else "text", part.text)

    def _tool_call(self, delta: CallDelta) -> None:
        function = delta.function or FunctionDelta()
        arguments = function.arguments or ""
        if isinstance(arguments, dict):
            arguments = encode(arguments).decode()
        block = self._find_call(delta, function.name or "", arguments)
        if block is None:
            block = self._draft.open(Block("call", call_id=f"call_{self._opened_calls}"))
            self._opened_calls += 1
            self._has_own_index = delta.index is not None and delta.index not in self._calls
        self._last_call = block
        attach_to_call(block.attached, delta)
        if find_google_signature(delta.extra_content) is not None:
            self._draft.marks.add(SIGNS_CALLS)
        if delta.index is not None and len(self._calls) <= MAX_BLOCKS:
            self._calls[delta.index] = block
        if delta.id and not block.provider_id:
            block.call_id = block.provider_id = delta.id
            self._calls_by_id[delta.id] = block
        block.name = block.name or function.name or ""
        self._draft.extend(block, arguments)

    def _find_call(self, delta: CallDelta, name: str, arguments: str) -> Block | None:
        """Return the call that a piece continues; None if the piece begins another call.

        The id decides, then the index. But some servers repeat an index for other calls, or count it late, or
        send neither: then a new name begins a call, and so does another id after a call that is complete.
        """
        call = self._last_call if delta.index is None else self._calls.get(delta.index)
        if delta.id and (same := self._calls_by_id.get(delta.id)) is not None:
            is_other = name and (name != (same.name or name) or (call is None and delta.index is not None))
            return None if is_other else same
        if call is None:
            # Without id and name it continues the last call. But if that call has an index of its own, then
            # the start of another one is lost.
            is_lost = self._has_own_index and bool(arguments.strip())
            return None if name or delta.id or is_lost else self._last_call
        if delta.id and call.provider_id:
            return None if name or delta.index is None or call.has_whole_arguments else call
        if name and call.name and (name != call.name or (arguments and call.has_whole_arguments)):
            return None
        return call


def _join_thinking(thinking: Any) -> str:
    """Return the text of a part that is thinking: a text, or a list of parts."""
    if isinstance(thinking, str):
        return thinking
    parts = thinking if isinstance(thinking, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))


def _usage(counted: ChatUsage) -> Usage:
    prompt = counted.prompt_tokens_details or PromptDetails()
    completion = counted.completion_tokens_details or CompletionDetails()
    cached = prompt.cached_tokens or counted.prompt_cache_hit_tokens or counted.cached_tokens
    return Usage(
        input_tokens=token_count(counted.prompt_tokens),
        output_tokens=token_count(counted.completion_tokens),
        cached_input_tokens=token_count(cached),
        cache_write_tokens=token_count(prompt.cache_write_tokens or prompt.cache_creation_tokens),
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
        if name == "provider_specific_fields" and isinstance(value, dict):
            # LiteLLM repeats other fields there, such as all thinking blocks.
            value = {key: field for key, field in value.items() if field != getattr(delta, key, None)} or None
        if value is not None:
            attached.add(name, value)


def attach_to_call(attached: Attachments, delta: CallDelta) -> None:
    """Keep the data that a piece of a call attaches to the call and to its function."""
    for name in CALL_FIELDS:
        attached.add(name, getattr(delta, name))
    specific = delta.function.provider_specific_fields if delta.function is not None else None
    if specific is not None:
        attached.add(FUNCTION_FIELDS, {"provider_specific_fields": specific})
