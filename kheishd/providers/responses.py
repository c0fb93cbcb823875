"""OpenAI's Responses API, streamed and stateless, as OpenAI and compatible servers speak it.

Source: https://developers.openai.com/api/reference/resources/responses/methods/create. Options of a route go
into the request unchanged, except ``headers`` (added to the head), ``tools`` and ``include`` (added to
kheish's own), ``store`` and the ids of stored conversations (kheish stores them itself). The names of chat
completions for the output limit and the effort are translated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kheishd.config.presets import BASE_URLS
from kheishd.providers.address import join_path
from kheishd.providers.attachments import origin_of
from kheishd.providers.driver import HttpRequest, body_options, declare_tools, encode_body, lower_limit
from kheishd.providers.response_items import input_items
from kheishd.providers.response_reader import ResponseReader
from kheishd.providers.traits import OUTPUT_ITEMS, TOKEN_LIMITS, USUAL_TRAITS, Traits

if TYPE_CHECKING:
    from kheishd.kernel.hook import Tool
    from kheishd.kernel.runtime import ModelRequest
    from kheishd.providers.failures import FailureFactory

BASE_URL = BASE_URLS["responses"]

ENCRYPTED_REASONING = "reasoning.encrypted_content"
_STORED = ("store", "previous_response_id", "conversation", "background", "stream", "input", "instructions")


def post(
    request: ModelRequest, base_url: str, secret: str | None, traits: Traits = USUAL_TRAITS
) -> HttpRequest:
    """Return the request to send to a server with these traits."""
    options, headers = body_options(request, traits)
    for name in _STORED:
        options.pop(name, None)
    if (effort := options.pop("reasoning_effort", None)) is not None:
        own = options.get("reasoning")
        options["reasoning"] = {"effort": effort, **(own if isinstance(own, dict) else {})}
    _limit_tokens(request, options, traits)
    tools = declare_tools("responses", request.tools, _declare, options)
    own_include = options.pop("include", None)
    include = list(own_include) if isinstance(own_include, list) else []
    if "include" not in traits.omitted and ENCRYPTED_REASONING not in include:
        include.append(ENCRYPTED_REASONING)
    origin, with_output = origin_of(request.pinned, base_url), OUTPUT_ITEMS not in traits.omitted
    body = {
        **options,
        "model": request.pinned.model,
        **({"instructions": request.instructions} if request.instructions else {}),
        **({"tools": tools} if tools else {}),
        **({"tool_choice": "none"} if tools and request.withheld else {}),
        "input": input_items(
            request.messages, origin, request.situation, with_output=with_output, encodings=request.encodings
        ),
        "store": False,
        **({"include": include} if include else {}),
        "stream": True,
    }
    if "store" in traits.omitted:
        del body["store"]
    headers |= traits.make_auth_headers(secret, "authorization")
    return HttpRequest(join_path(base_url, "/responses"), headers, encode_body(body, "input"))


def _declare(tool: Tool) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.model_json,
        # Strict mode, the default, requires schemas in which every property is required.
        "strict": False,
    }


def _limit_tokens(request: ModelRequest, options: dict[str, Any], traits: Traits) -> None:
    """Set the limit of the answer, if it has one and the server accepts it."""
    names = ("max_output_tokens", *TOKEN_LIMITS)
    values = [options.pop(name) for name in names if name in options]
    limit = lower_limit(values[0] if values else None, traits.adjust_limit(request.max_answer_tokens))
    if limit is not None and "max_output_tokens" not in traits.omitted:
        options["max_output_tokens"] = limit


def reader(failures: FailureFactory, origin: str = "") -> ResponseReader:
    """Return a reader for one answer of this origin."""
    return ResponseReader(failures, origin)
