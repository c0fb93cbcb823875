"""The official SDKs as oracles of answers: a stream, read by a driver's SDK with its own accumulator.

The SDKs are imported at first use, because that takes a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from protocol.transcript import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class SdkAnswer:
    """An answer as an SDK has it. ``stop`` is the provider's own reason; a call has its id."""

    text: str = ""
    thinking: str = ""
    calls: list[tuple[str | None, str, Any]] = field(default_factory=list)
    stop: str | None = None
    usage: Usage = field(default_factory=Usage)


def read_with_sdk(driver: str, stream: bytes) -> SdkAnswer:
    """Return the answer that the SDK of a driver accumulates from a whole stream.

    Errors: those of the SDK for a stream that is no answer.
    """
    return _READERS[driver](stream)


def _read_data(package: str, stream: bytes) -> Iterator[Any]:
    """Yield the data of events, separated and decoded by an SDK."""
    for event in import_module(f"{package}._streaming").SSEDecoder().iter_bytes(iter([stream])):
        if event.data.startswith("[DONE]"):
            break
        yield event.json()


def _read_chat(stream: bytes) -> SdkAnswer:
    types, models = import_module("openai.types.chat"), import_module("openai._models")
    state = import_module("openai.lib.streaming.chat").ChatCompletionStreamState()
    for data in _read_data("openai", stream):
        state.handle_chunk(models.construct_type(type_=types.ChatCompletionChunk, value=data))
    completion = state.current_completion_snapshot
    message = completion.choices[0].message
    thinking = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    answer = SdkAnswer(message.content or "", thinking or "", stop=completion.choices[0].finish_reason)
    for call in message.tool_calls or ():
        answer.calls.append((call.id, call.function.name, _decode(call.function.arguments)))
    if (usage := completion.usage) is not None:
        prompt, details = usage.prompt_tokens_details, usage.completion_tokens_details
        answer.usage = Usage(
            usage.prompt_tokens,
            usage.completion_tokens,
            cached_input_tokens=(prompt.cached_tokens if prompt else None) or 0,
            cache_write_tokens=(prompt.cache_write_tokens if prompt else None) or 0,
            reasoning_tokens=(details.reasoning_tokens if details else None) or 0,
        )
    return answer


def _read_messages(stream: bytes) -> SdkAnswer:
    accumulate = import_module("anthropic.lib.streaming._messages").accumulate_event
    message: Any = None
    buffers: dict[int, bytes] = {}
    for data in _read_data("anthropic", stream):
        if data["type"] not in ("ping", "message_stop"):
            message = accumulate(event=data, current_snapshot=message, json_bufs=buffers)
    answer = SdkAnswer(stop=message.stop_reason)
    for index, block in enumerate(message.content):
        match block.type:
            case "text":
                answer.text += block.text
            case "thinking":
                answer.thinking += block.thinking
            case "tool_use":
                # The SDK completes arguments that were cut off; its buffer has them as they came.
                buffer = buffers.get(index, b"")
                answer.calls.append(
                    (block.id, block.name, _decode(buffer.decode()) if buffer else block.input)
                )
            case _:
                pass
    read = message.usage.cache_read_input_tokens or 0
    written = message.usage.cache_creation_input_tokens or 0
    answer.usage = Usage(
        message.usage.input_tokens + read + written, message.usage.output_tokens, read, written
    )
    return answer


def _read_responses(stream: bytes) -> SdkAnswer:
    responses, models = import_module("openai.types.responses"), import_module("openai._models")
    omit = import_module("openai").omit
    module = import_module("openai.lib.streaming.responses._responses")
    state = module.ResponseStreamState(input_tools=omit, text_format=omit)
    response: Any = None
    for data in _read_data("openai", stream):
        state.handle_event(models.construct_type(type_=responses.ResponseStreamEvent, value=data))
        if data["type"] in ("response.completed", "response.incomplete"):
            response = models.construct_type(type_=responses.Response, value=data["response"])
    details = response.incomplete_details
    answer = SdkAnswer(stop=response.status if details is None else details.reason)
    for item in response.output:
        if item.type == "message":
            for part in item.content:
                is_refusal = part.type == "refusal"
                answer.text += part.refusal if is_refusal else part.text
                answer.stop = "refusal" if is_refusal else answer.stop
        elif item.type == "reasoning":
            answer.thinking += "\n\n".join(part.text for part in item.summary)
        elif item.type == "function_call":
            answer.calls.append((item.call_id or item.id, item.name, _decode(item.arguments)))
    usage = response.usage
    answer.usage = Usage(
        usage.input_tokens,
        usage.output_tokens,
        cached_input_tokens=usage.input_tokens_details.cached_tokens,
        # Servers may leave it out.
        cache_write_tokens=getattr(usage.input_tokens_details, "cache_write_tokens", None) or 0,
        reasoning_tokens=usage.output_tokens_details.reasoning_tokens,
    )
    return answer


def _read_google(stream: bytes) -> SdkAnswer:
    types = import_module("google.genai.types")
    answer = SdkAnswer()
    for line in stream.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        response = types.GenerateContentResponse.model_validate_json(line.removeprefix(b"data:"))
        for part in (response.parts or ()) if response.candidates else ():
            if part.function_call is not None:
                call = part.function_call
                answer.calls.append((call.id, call.name, call.args or {}))
            elif part.thought:
                answer.thinking += part.text or ""
            else:
                answer.text += part.text or ""
        if response.candidates and response.candidates[0].finish_reason is not None:
            answer.stop = response.candidates[0].finish_reason.value
        if (usage := response.usage_metadata) is not None:
            thoughts = usage.thoughts_token_count or 0
            answer.usage = Usage(
                (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
                (usage.candidates_token_count or 0) + thoughts,
                cached_input_tokens=usage.cached_content_token_count or 0,
                reasoning_tokens=thoughts,
            )
    return answer


def _decode(arguments: str) -> Any:
    """Return the arguments of a call; None if they are no JSON object."""
    try:
        decoded = json.loads(arguments or "{}")
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


_READERS = {
    "openai": _read_chat,
    "anthropic": _read_messages,
    "responses": _read_responses,
    "google": _read_google,
}
