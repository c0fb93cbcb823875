"""Model providers that reject a request without their own data, or with data of another provider.

The model ``strict-<provider>`` thinks and makes two calls at once; once it has their results, it answers. It
checks each request as the real provider does:

============== ======================================================================================
provider       rejects
============== ======================================================================================
``anthropic``  a thought with a wrong signature; its calls without their thoughts; other characters in ids
``gemini``     a message with calls whose first call has no valid signature and no placeholder
``deepseek``   a message with calls without ``reasoning_content``, or with another text
``openrouter`` its message without its ``reasoning_details``
``ollama``     its message without its ``reasoning``
``kimi``       its call under another id
``litellm``    its call without the signature in its id
``mistral``    an id of other than nine letters and digits
``openai``     an id of more than 40 characters
``responses``  its items if one is missing or changed, and other faults (see ``strict_responses``)
``google``     parts without their signatures, and other faults (see ``strict_google``)
``vertex``     the same, and any id
============== ======================================================================================

All of them reject fields that are not theirs, repeated ids, and calls without results.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from tests.support.model_behaviors import Head, Piece, Prompt, Step
from tests.support.model_wire import Say, Stop, event, named_event
from tests.support.strict_google import (
    HEADERS,
    OTHER_MODEL,
    PLACEHOLDER,
    Rejected,
    check_google,
    make_end,
    make_parts,
    provider_of,
    require,
    sign,
    write_parts,
)
from tests.support.strict_responses import check_responses, write_calls, write_end

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MESSAGE_KEYS = {"role", "content", "tool_calls", "tool_call_id"}
CALL_KEYS = {"id", "type", "function"}
OWN_MESSAGE_KEYS = {
    "deepseek": {"reasoning_content"},
    "openrouter": {"reasoning_details"},
    "ollama": {"reasoning"},
}

IDS = {
    "anthropic": "toolu_{n}",
    "gemini": "function-call-{n}",
    "deepseek": "call_00_{n}",
    "openrouter": "tool_look_{n}",
    "ollama": "call_ollama_{n}",
    "kimi": "functions.look:{n}",
    "litellm": "call_{n}__thought__{signature}",
    "mistral": "mist{n:05}",
    "openai": "call_openai_{n}",
    "responses": "call_responses_{n}",
    "google": "fc-{n}",
    "vertex": "no ids: {n}",
}
"""The form of each provider's ids; ``n`` counts calls."""

PROVIDERS = tuple(IDS)


def make_id(provider: str, n: int) -> str:
    """Return the id of the provider's n-th call."""
    return IDS[provider].format(n=n, signature=sign(provider, str(n)) * 2)


def is_own_id(model: str, call_id: str) -> bool:
    """Whether this model of the provider made this id."""
    numbers = re.findall(r"\d+", call_id.partition("__thought__")[0])
    if not numbers or call_id != make_id(provider_of(model), int(numbers[-1])):
        return False
    return (int(numbers[-1]) > OTHER_MODEL) == (":" in model)


def answer(prompt: Prompt) -> Iterator[Step]:
    """Return the server's steps for one request: an error, or the next answer."""
    provider = provider_of(prompt.model)
    request = msgspec.json.decode(prompt.body)
    try:
        check_request(prompt.model, request, prompt.headers)
    except Rejected as rejected:
        body = prompt.wire.error("invalid_request_error", f"{provider}: {rejected}")
        yield Head(400, "application/json", {}, len(body))
        yield Piece(body)
        return
    yield Head()
    yield Piece(prompt.wire.start(prompt.model))
    if "<conversation>" in prompt.text or prompt.has_result:
        text = "They talked." if "<conversation>" in prompt.text else f"done by {provider}"
        if provider in HEADERS:
            yield Piece(write_parts(prompt.model, make_end(prompt.model, text)))
            return
        if provider == "responses":
            yield Piece(write_end(prompt.model, text))
            return
        yield Piece(prompt.wire.move(prompt.model, Say(text)) + prompt.wire.move(prompt.model, Stop()))
        return
    first = prompt.failures["calls"] + 1 + OTHER_MODEL * (":" in prompt.model)
    prompt.failures["calls"] += 2
    if provider in HEADERS:
        yield Piece(write_parts(prompt.model, make_parts(prompt.model, first)))
        return
    if provider == "responses":
        yield Piece(write_calls(prompt.model, first + 1))
        return
    call_ids = [make_id(provider, n) for n in (first, first + 1)]
    write = write_anthropic if provider == "anthropic" else write_chat
    yield Piece(write(prompt, provider, call_ids))
    yield Piece(prompt.wire.move(prompt.model, Stop("tool_calls")))


def check_request(model: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Reject what the model's provider rejects. Errors: Rejected."""
    provider = provider_of(model)
    if provider in HEADERS:
        check_google(model, body, headers)
    elif provider == "responses":
        check_responses(model, body)
    elif provider == "anthropic":
        check_anthropic(model, body["messages"])
    else:
        check_chat(provider, model, body["messages"])


# Chat completions.


def think(call_id: str) -> str:
    """Return the thought that leads to a call."""
    return f"I look, because of {call_id}."


def make_details(call_id: str) -> list[dict[str, Any]]:
    """Return OpenRouter's details of a thought."""
    return [
        {
            "type": "reasoning.text",
            "text": think(call_id),
            "index": 0,
            "signature": sign("openrouter", call_id),
        },
        {"type": "reasoning.encrypted", "data": sign("data", call_id), "index": 1},
    ]


def write_chat(prompt: Prompt, provider: str, call_ids: list[str]) -> bytes:
    """Return the chunks of an answer with calls."""

    def chunk(delta: dict[str, Any]) -> bytes:
        return event({"model": prompt.model, "choices": [{"index": 0, "delta": delta}]})

    first = call_ids[0]
    written = b""
    if provider in ("deepseek", "ollama"):
        (name,) = OWN_MESSAGE_KEYS[provider]
        written += chunk({name: think(first)[:5]}) + chunk({name: think(first)[5:]})
    if provider == "openrouter":
        text, encrypted = make_details(first)
        begun = {**text, "text": text["text"][:5], "signature": None}
        rest = {"type": text["type"], "index": 0, "text": text["text"][5:], "signature": text["signature"]}
        for piece in (begun, rest, encrypted):
            written += chunk({"reasoning": piece.get("text"), "reasoning_details": [piece]})
    for index, call_id in enumerate(call_ids):
        function = {"name": "look", "arguments": '{"path":"/a"}'}
        call: dict[str, Any] = {"index": index, "id": call_id, "type": "function", "function": function}
        if provider == "gemini" and not index:
            call["extra_content"] = {"google": {"thought_signature": sign(prompt.model, call_id)}}
        written += chunk({"tool_calls": [call]})
    return written


def check_chat(provider: str, model: str, messages: list[dict[str, Any]]) -> None:
    """Reject what the provider rejects. Errors: Rejected."""
    allowed = MESSAGE_KEYS | OWN_MESSAGE_KEYS.get(provider, set())
    used: set[str] = set()
    for index, message in enumerate(messages):
        require(message.keys() <= allowed, f"unknown fields: {sorted(message.keys() - allowed)}")
        calls = message.get("tool_calls", [])
        if not calls:
            continue
        call_ids = [call["id"] for call in calls]
        results = messages[index + 1 : index + 1 + len(calls)]
        result_ids = [result.get("tool_call_id") for result in results]
        require(call_ids == result_ids, f"the calls {call_ids} have the results {result_ids}")
        require(used.isdisjoint(call_ids) and len(set(call_ids)) == len(call_ids), "an id is repeated")
        used.update(call_ids)
        for call in calls:
            extra = call.keys() - CALL_KEYS - ({"extra_content"} if provider == "gemini" else set())
            require(not extra, f"unknown fields: {sorted(extra)}")
            check_id(model, call["id"])
        check_own(provider, model, message, calls[0])


def check_id(model: str, call_id: str) -> None:
    """Reject an id of another form, unless the model made it. Errors: Rejected."""
    if provider_of(model) == "mistral":
        require(re.fullmatch(r"[A-Za-z0-9]{9}", call_id), f"the id {call_id} is not nine letters and digits")
    elif not is_own_id(model, call_id):
        require(len(call_id) <= 40, f"the id {call_id} is too long")
        require("__thought__" not in call_id, "a signature of another provider")


def check_own(provider: str, model: str, message: dict[str, Any], call: dict[str, Any]) -> None:
    """Reject a message without the data that the provider requires on it. Errors: Rejected."""
    call_id = call["id"]
    is_own = is_own_id(model, call_id)
    match provider:
        case "gemini":
            signature = call.get("extra_content", {}).get("google", {}).get("thought_signature")
            require(signature in (sign(model, call_id), PLACEHOLDER), f"no valid signature of {call_id}")
            if is_own:
                require(signature != PLACEHOLDER, f"the signature of {call_id} was lost")
        case "deepseek":
            reasoning = message.get("reasoning_content")
            require(reasoning is not None, "reasoning_content is missing")
            require(reasoning in ("", think(call_id)), f"a foreign thought: {reasoning}")
            if is_own:
                require(reasoning, "the reasoning_content was lost")
        case "openrouter":
            expected = make_details(call_id) if is_own else None
            require(message.get("reasoning_details") == expected, "reasoning_details were changed")
        case "ollama":
            expected_text = think(call_id) if is_own else None
            require(message.get("reasoning") == expected_text, "the reasoning was changed")
        case _:
            pass


# Anthropic messages.


def write_anthropic(prompt: Prompt, provider: str, call_ids: list[str]) -> bytes:
    """Return the events of an answer with thinking and calls."""
    thought, redacted = think(call_ids[0]), sign(prompt.model, call_ids[0])

    def block(index: int, content: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
        events = [{"type": "content_block_start", "index": index, "content_block": content}]
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        return b"".join(map(named_event, [*events, {"type": "content_block_stop", "index": index}]))

    written = block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": thought},
        {"type": "signature_delta", "signature": sign(prompt.model, thought)},
    )
    written += block(1, {"type": "redacted_thinking", "data": redacted})
    for index, call_id in enumerate(call_ids, 2):
        call = {"type": "tool_use", "id": call_id, "name": "look", "input": {}}
        written += block(index, call, {"type": "input_json_delta", "partial_json": '{"path":"/a"}'})
    return written


def check_anthropic(model: str, messages: list[dict[str, Any]]) -> None:
    """Reject what Anthropic rejects. Errors: Rejected."""
    used: set[str] = set()
    for index, message in enumerate(messages):
        blocks = message["content"]
        for block in blocks:
            if block["type"] == "thinking":
                require(block["signature"] == sign(model, block["thinking"]), "an invalid signature")
        calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if not calls:
            continue
        results = [block.get("tool_use_id") for block in messages[index + 1]["content"]]
        require(results[: len(calls)] == calls, f"the calls {calls} have the results {results}")
        require(used.isdisjoint(calls) and len(set(calls)) == len(calls), "an id is repeated")
        used.update(calls)
        require(all(re.fullmatch(r"[A-Za-z0-9_-]+", call_id) for call_id in calls), f"invalid ids: {calls}")
        kinds = [block["type"] for block in blocks]
        redacted = [block["data"] for block in blocks if block["type"] == "redacted_thinking"]
        if is_own_id(model, calls[0]):
            require(kinds[:2] == ["thinking", "redacted_thinking"], f"thinking was lost: {kinds}")
            require(redacted == [sign(model, calls[0])], "redacted thinking was changed")
        else:
            require(set(kinds) <= {"text", "tool_use"}, f"foreign thinking: {kinds}")
