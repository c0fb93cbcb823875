"""The Gemini API and Vertex AI, which reject contents without their own signatures, or with other data.

An answer with calls has a thought, an unsigned and a signed text, two calls of which the first is signed, and
an empty signed part. The Gemini API sends an id with the first call, Vertex AI sends none and rejects any.
``proxied`` is the Gemini API behind a proxy that writes the contents itself: of what it attached, it requires
the signatures of calls only.
"""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tests.support.google_wire import google_event

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHER_MODEL = 50_000
"""The calls of a provider's other model, ``strict-<provider>:other``, have numbers above this one."""

PLACEHOLDER = "skip_thought_signature_validator"
PROXIED_PLACEHOLDER = base64.b64encode(PLACEHOLDER.encode()).decode()
BODY_KEYS = {"contents", "systemInstruction", "generationConfig", "tools", "toolConfig"}
PART_KEYS = {"text", "functionCall", "functionResponse", "thoughtSignature"}
HEADERS = {"google": "x-goog-api-key", "vertex": "authorization", "proxied": "x-goog-api-key"}
"""The header of the credential."""


class Rejected(Exception):
    """A request that a provider rejects."""


def require(condition: Any, problem: str) -> None:
    """Reject the request unless the condition holds."""
    if not condition:
        raise Rejected(problem)


def sign(model: str, content: str) -> str:
    """Return the signature of a model for a content."""
    return hashlib.sha256(f"{model} {content}".encode()).hexdigest()


def provider_of(model: str) -> str:
    """Return the provider of a model."""
    return model.removeprefix("strict-").partition(":")[0]


def make_parts(model: str, number: int) -> list[dict[str, Any]]:
    """Return the parts of an answer with the calls of this number and the next, as they must come back."""
    provider = provider_of(model)
    first: dict[str, Any] = {"name": "look", "args": {"path": f"/{provider}/{number}"}}
    second = {"name": "look", "args": {"path": f"/{provider}/{number + 1}"}}
    if provider != "vertex":
        first["id"] = f"fc-{number}"
    return [
        {"text": "I look."},
        {"text": " Now.", "thoughtSignature": sign(model, f"text {number}")},
        {"functionCall": first, "thoughtSignature": sign(model, f"call {number}")},
        {"functionCall": second},
        {"text": "", "thoughtSignature": sign(model, f"end {number}")},
    ]


def make_end(model: str, text: str) -> list[dict[str, Any]]:
    """Return the parts of an answer without calls."""
    return [{"text": text}, {"text": "", "thoughtSignature": sign(model, text)}]


def write_parts(model: str, parts: list[dict[str, Any]]) -> bytes:
    """Return the chunks of an answer: a thought in two pieces, then each part."""
    written = b""
    thought = [{"text": "I th", "thought": True}, {"text": "ink.", "thought": True}]
    for number, part in enumerate([*thought, *parts], 1):
        candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}, "index": 0}
        if number == len(thought) + len(parts):
            candidate["finishReason"] = "STOP"
        usage = {"promptTokenCount": 12, "candidatesTokenCount": number, "thoughtsTokenCount": 2}
        written += google_event({"candidates": [candidate], "usageMetadata": usage, "modelVersion": model})
    return written


def check_google(model: str, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> None:
    """Reject what the model's provider rejects. Errors: Rejected."""
    provider = provider_of(model)
    if headers is not None:
        own = HEADERS[provider]
        require(own in headers, f"no credential in {own}")
        require(not (set(HEADERS.values()) - {own}) & headers.keys(), "a credential in another header")
    if provider == "proxied":
        check_proxied(model, body["contents"])
        return
    require(body.keys() <= BODY_KEYS, f"unknown fields: {sorted(body.keys() - BODY_KEYS)}")
    contents = body["contents"]
    kinds = [kind_of(content) for content in contents]
    require(
        kinds[0] == kinds[-1] == "user" or kinds[-1] == "results", f"the user is not first and last: {kinds}"
    )
    require(all(a != b for a, b in pairwise(kinds)), f"contents do not alternate: {kinds}")
    declared = {
        function["name"] for tool in body.get("tools", ()) for function in tool["functionDeclarations"]
    }
    is_own_turn = False
    for index, content in enumerate(contents):
        parts = content["parts"]
        for part in parts:
            require(part.keys() <= PART_KEYS, f"unknown fields: {sorted(part.keys() - PART_KEYS)}")
        calls = [part["functionCall"] for part in parts if "functionCall" in part]
        results = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if content["role"] == "user":
            require(not calls, "a call of the user")
            require(index or not results, "a result without a call")
            continue
        require(not results, "a result of the model")
        if calls:
            is_own_turn = check_calls(model, parts, calls)
            answers = [
                part["functionResponse"]
                for part in contents[index + 1]["parts"]
                if "functionResponse" in part
            ]
            require(
                len(answers) == len(calls),
                "the number of function response parts is not that of function call parts",
            )
            require(
                all(result["name"] in declared for result in answers), "Request contains an invalid argument."
            )
            for call, result in zip(calls, answers, strict=True):
                require(result.keys() <= {"id", "name", "response"}, f"unknown fields: {sorted(result)}")
                require(result["name"] == call["name"], "a result of another function")
                require(result.get("id") == call.get("id"), "a result of another call")
        elif is_own_turn:
            text = "".join(part["text"] for part in parts)
            require(parts == make_end(model, text), f"the answer was changed: {parts}")
            is_own_turn = False
        else:
            require(all(part.keys() == {"text"} and part["text"] for part in parts), f"foreign data: {parts}")


def kind_of(content: dict[str, Any]) -> str:
    """Return the role of a content, or ``results``, which may be no other parts. Errors: Rejected."""
    results = ["functionResponse" in part for part in content["parts"]]
    require(all(results) or not any(results), "results and other parts in one content")
    return "results" if all(results) else str(content["role"])


def check_calls(model: str, parts: list[dict[str, Any]], calls: list[dict[str, Any]]) -> bool:
    """Check a content with calls; return whether the model made them. Errors: Rejected."""
    first = next(part for part in parts if "functionCall" in part)
    require(
        first.get("thoughtSignature"), "Function call is missing a thought_signature in functionCall parts."
    )
    match = re.fullmatch(rf"/{provider_of(model)}/(\d+)", str(calls[0]["args"].get("path")))
    if match is not None and (int(match[1]) > OTHER_MODEL) == (":" in model):
        require(parts == make_parts(model, int(match[1])), f"own parts were changed: {parts}")
        return True
    for call in calls:
        require(call.keys() == {"name", "args"}, f"a foreign id: {call}")
    require(first["thoughtSignature"] == PLACEHOLDER, "a foreign signature")
    signed = [part for part in parts if "thoughtSignature" in part]
    require(len(signed) == 1, f"foreign signatures: {signed}")
    return False


def check_proxied(model: str, contents: list[dict[str, Any]]) -> None:
    """Reject a call of the model without its signature or id, and signatures of others. Errors: Rejected."""
    for index, content in enumerate(contents):
        calls = [part for part in content["parts"] if "function_call" in part]
        if not calls:
            continue
        results = [part for part in contents[index + 1]["parts"] if "function_response" in part]
        require(len(results) == len(calls), "the number of results is not that of calls")
        call, signature = calls[0]["function_call"], calls[0].get("thoughtSignature")
        match = re.fullmatch(r"/proxied/(\d+)", str(call["args"].get("path")))
        if match is None:
            require(signature in (None, PROXIED_PLACEHOLDER), f"a foreign signature: {signature}")
            continue
        require(signature == sign(model, f"call {match[1]}"), f"the signature of {call} is {signature}")
        require(call.get("id") == f"fc-{match[1]}", f"a changed id: {call}")
