"""Calls that adapt to their server: refused fields are left out or renamed, and the result is remembered."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.caller import ProviderCaller
from kheishd.workers.completion import complete
from protocol.transcript import Message, Text, ToolCall, ToolResult, text_of
from tests.support.model_calls import ask, inline, make_request
from tests.support.model_server import ModelServer


@pytest.fixture
async def caller() -> AsyncIterator[ProviderCaller]:
    """Provide a caller, closed at the end."""
    caller = ProviderCaller(environ={"KEY": "sk-secret-of-the-test"}, in_thread=inline)
    yield caller
    await caller.aclose()


def request_to(server: ModelServer, model: str, driver: str = "openai", **pinned: Any) -> ModelRequest:
    """Return a request for an answer of the model server."""
    base_url = pinned.pop("base_url", server.base_url)
    return make_request("hello", driver=driver, model=model, base_url=base_url, **pinned)


def for_title(request: ModelRequest, max_tokens: int = 64) -> ModelRequest:
    """Return a request for a title instead of an answer."""
    return replace(request, purpose="title", max_answer_tokens=max_tokens)


def sent_fields(server: ModelServer) -> list[set[str]]:
    """Return the names of the fields of all requests so far."""
    return [set(request.json) for request in server.requests]


@pytest.mark.parametrize(
    ("rejected", "accepted"),
    [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")],
)
async def test_the_name_of_the_limit_is_learned(
    server: ModelServer, caller: ProviderCaller, rejected: str, accepted: str
) -> None:
    """The output limit is sent under the other name after one refusal, and so from then on."""
    request = request_to(server, f"rejects:{rejected}", options={rejected: 500})
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    limits = [fields & {"max_tokens", "max_completion_tokens"} for fields in sent_fields(server)]
    assert limits == [{rejected}, {accepted}, {accepted}]
    assert server.requests[1].json[accepted] == 500


async def test_the_maximum_of_a_model_is_learned(server: ModelServer, caller: ProviderCaller) -> None:
    """A limit above the model's maximum is lowered to it after one refusal, and so from then on."""
    request = request_to(server, "allows:8192", "anthropic", context_tokens=200_000)
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert [request.json["max_tokens"] for request in server.requests] == [25_000, 8_192, 8_192]


async def test_the_limit_of_a_title_is_learned(server: ModelServer, caller: ProviderCaller) -> None:
    """A title succeeds on a server that rejects ``max_tokens``, whatever the form of its URL."""
    request = for_title(request_to(server, "rejects:max_tokens", base_url=f"{server.base_url}/"))
    assert text_of((await complete(caller, request)).items) == "echo: hello"
    assert server.requests[1].json["max_completion_tokens"] == 64


@pytest.mark.parametrize("status", ["400", "422"])
async def test_stream_options_are_left_out(server: ModelServer, caller: ProviderCaller, status: str) -> None:
    """Stream options are left out after one refusal, even by a server that does not name the field."""
    request = request_to(server, f"rejects:stream_options:{status}")
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert ["stream_options" in fields for fields in sent_fields(server)] == [True, False, False]


@pytest.mark.parametrize("field", ["max_tokens", "stream_options"])
async def test_a_refusal_inside_a_stream_is_learned_from(
    server: ModelServer, caller: ProviderCaller, field: str
) -> None:
    """An error before any output teaches, although the status is 200 and the error has no name."""
    request = request_to(server, f"rejects-late:{field}", options={"max_tokens": 500})
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert [field in fields for fields in sent_fields(server)] == [True, False, False]


async def test_an_error_after_output_is_final(server: ModelServer, caller: ProviderCaller) -> None:
    """After the first words, a request is not repeated, whatever the error says."""
    request = request_to(server, "error-event:'stream_options' is not supported")
    call = await ask(caller, request)
    assert (call.text, len(server.requests)) == ("fine ", 1)
    assert call.failure is not None


async def test_the_order_of_roles_is_learned(server: ModelServer, caller: ProviderCaller) -> None:
    """A message of the assistant comes between a result and a user's message, once the server wants it."""
    earlier = (
        Message("assistant", [ToolCall("c1", "look", {})]),
        Message("tool", [ToolResult("c1", "look", "seen")]),
    )
    request = make_request(
        "and now?", earlier=earlier, driver="openai", model="rejects-order", base_url=server.base_url
    )
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: and now?"
    roles = ["".join(message["role"][0] for message in sent.json["messages"]) for sent in server.requests]
    assert roles == ["atu", "atau", "atau"]


@pytest.mark.parametrize("rejected", ["include:400", "include:422", "store:400", "max_output_tokens:400"])
async def test_fields_of_the_responses_api_are_left_out(
    server: ModelServer, caller: ProviderCaller, rejected: str
) -> None:
    """A field of the Responses API that its server does not know is left out after one refusal."""
    name = rejected.partition(":")[0]
    request = request_to(server, f"rejects:{rejected}", driver="responses", options={"max_tokens": 9})
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert [name in fields for fields in sent_fields(server)] == [True, False, False]


async def test_refused_items_are_sent_as_text(server: ModelServer, caller: ProviderCaller) -> None:
    """A conversation goes on although its server refuses its own items, and these are tried each time."""
    request = request_to(server, "rejects-reasoning", driver="responses")
    answer = (await ask(caller, request)).require_answer()
    request.messages.append(Message("assistant", answer.items, provider_data=answer.provider_data))
    request.messages.append(Message("user", [Text("go on")]))
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: go on"
    inputs = [[item["type"] for item in sent.json["input"]] for sent in server.requests]
    with_items, as_text = ["message", "reasoning", "message", "message"], ["message"] * 3
    assert inputs == [["message"], with_items, as_text, with_items, as_text]


async def test_other_routes_are_not_affected(server: ModelServer, caller: ProviderCaller) -> None:
    """What one route learned does not apply to another."""
    await ask(caller, request_to(server, "rejects:stream_options"))
    await ask(caller, request_to(server, "rejects:stream_options", route="other"))
    assert ["stream_options" in fields for fields in sent_fields(server)] == [True, False, True, False]


async def test_other_refusals_are_final(server: ModelServer, caller: ProviderCaller) -> None:
    """A refusal for another reason is neither repeated nor remembered."""
    failure = (await ask(caller, request_to(server, "status:400"))).require_failure()
    assert (failure.reason, failure.retryable) == ("bad_request", False)
    assert len(server.requests) == 1
    assert (await ask(caller, request_to(server, "status:422"))).failure is not None
    await ask(caller, request_to(server, "status:422"))
    assert ["stream_options" in fields for fields in sent_fields(server)[1:]] == [True, False, True, False]


async def test_cache_breakpoints_are_left_out(server: ModelServer, caller: ProviderCaller) -> None:
    """Cache breakpoints are left out for a server that rejects them."""
    request = request_to(server, "rejects-breakpoints", driver="anthropic")
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert [b"cache_control" in request.body for request in server.requests] == [True, False, False]


async def test_the_temperature_of_a_title_is_that_of_the_route(
    server: ModelServer, caller: ProviderCaller
) -> None:
    """A title has the route's temperature: some models accept no other."""
    await complete(caller, for_title(request_to(server, "echo", options={"temperature": 1})))
    await complete(caller, for_title(request_to(server, "echo")))
    assert [request.json.get("temperature") for request in server.requests] == [1, None]


async def test_a_reasoning_model_gets_more_room(server: ModelServer, caller: ProviderCaller) -> None:
    """A title whose tokens were used up by reasoning is requested again with a higher limit, then always."""
    request = for_title(request_to(server, "reasons-first:100"), 64)
    answer = await complete(caller, request)
    assert text_of(answer.items) == "A short title"
    assert answer.usage.output_tokens == 64 + 103, "the usage of both calls counts"
    await complete(caller, request)
    assert [request.json["max_tokens"] for request in server.requests] == [64, 256, 256]


@pytest.mark.parametrize(
    ("preset", "fields"),
    [
        ("vllm", {"chat_template_kwargs": {"enable_thinking": False}}),
        ("openrouter", {"reasoning": {"effort": "low"}}),
        ("deepseek", {"thinking": {"type": "disabled"}}),
        ("groq", {"reasoning_effort": "low"}),
        ("groq responses", {"reasoning": {"effort": "low"}}),
    ],
)
async def test_a_title_has_low_effort(
    server: ModelServer, caller: ProviderCaller, preset: str, fields: dict[str, Any]
) -> None:
    """A title is requested with low effort where the preset says how; an answer is not."""
    preset, _, driver = preset.partition(" ")
    request = request_to(server, "echo", driver or "openai", preset=preset)
    await complete(caller, for_title(request))
    await ask(caller, request)
    title, answer = (request.json for request in server.requests)
    assert {name: title[name] for name in fields} == fields
    assert not set(fields) & set(answer)


async def test_an_unknown_effort_is_left_out(server: ModelServer, caller: ProviderCaller) -> None:
    """The effort is left out for a model that does not reason."""
    request = for_title(request_to(server, "rejects:reasoning_effort", preset="ollama"))
    assert text_of((await complete(caller, request)).items) == "echo: hello"


async def test_a_model_of_google_that_does_not_think(server: ModelServer, caller: ProviderCaller) -> None:
    """Thoughts and the effort of a title are left out after a refusal each, and from then on."""
    request = request_to(server, "rejects-thinking", driver="google")
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
        assert text_of((await complete(caller, for_title(request))).items) == "echo: hello"
    configs = [request.json.get("generationConfig") for request in server.requests]
    limit = {"maxOutputTokens": 64}
    assert configs == [
        {"thinkingConfig": {"includeThoughts": True}},
        None,
        {"thinkingConfig": {"thinkingLevel": "LOW"}, **limit},
        limit,
        None,
        limit,
    ]


async def test_a_model_of_google_that_wants_signatures(server: ModelServer, caller: ProviderCaller) -> None:
    """A call of another model gets a placeholder once the stream has failed for its missing signature."""
    called = Message("assistant", [ToolCall("c", "look", {})])
    earlier = (Message("user", [Text("look")]), called, Message("tool", [ToolResult("c", "look", "seen")]))
    request = request_to(server, "wants-signatures", driver="google")
    request.messages[:0] = earlier
    for _ in range(2):
        assert (await ask(caller, request)).text == "echo: hello"
    assert [b"thoughtSignature" in request.body for request in server.requests] == [False, True, True]


async def test_a_model_of_google_gets_more_room(server: ModelServer, caller: ProviderCaller) -> None:
    """The higher limit of a title applies to Google's field, too."""
    request = for_title(request_to(server, "reasons-first:100", driver="google"), 64)
    for _ in range(2):
        assert text_of((await complete(caller, request)).items) == "A short title"
    limits = [request.json["generationConfig"]["maxOutputTokens"] for request in server.requests]
    assert limits == [64, 256, 256]


async def test_an_unknown_effort_is_left_out_of_responses(
    server: ModelServer, caller: ProviderCaller
) -> None:
    """The effort is left out of the Responses API for a model that does not reason."""
    request = for_title(request_to(server, "rejects:reasoning", driver="responses"))
    assert text_of((await complete(caller, request)).items) == "echo: hello"
    assert ["reasoning" in fields for fields in sent_fields(server)] == [True, False]


async def test_a_preset_without_stream_options(server: ModelServer, caller: ProviderCaller) -> None:
    """A preset omits the stream options from the first request on."""
    assert (await ask(caller, request_to(server, "echo", preset="mistral"))).text == "echo: hello"
    [fields] = sent_fields(server)
    assert "stream_options" not in fields


async def test_azure(server: ModelServer, caller: ProviderCaller) -> None:
    """Azure's deployment URLs keep their query at the end, and the credential has its own header."""
    base_url = f"http://127.0.0.1:{server.port}/openai/deployments/d?api-version=2024-10-21"
    request = request_to(server, "echo", preset="azure", base_url=base_url, auth_ref="env:KEY")
    assert (await ask(caller, request)).text == "echo: hello"
    [sent] = server.requests
    assert sent.path == "/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert sent.headers["api-key"] == "sk-secret-of-the-test"
    assert "authorization" not in sent.headers


async def test_azure_with_the_responses_api(server: ModelServer, caller: ProviderCaller) -> None:
    """Azure's newer URLs have the same header and query."""
    base_url = f"http://127.0.0.1:{server.port}/openai/v1?api-version=preview"
    request = request_to(server, "echo", "responses", preset="azure", base_url=base_url, auth_ref="env:KEY")
    assert (await ask(caller, request)).text == "echo: hello"
    [sent] = server.requests
    assert sent.path == "/openai/v1/responses?api-version=preview"
    assert sent.headers["api-key"] == "sk-secret-of-the-test"
    assert "authorization" not in sent.headers


@pytest.mark.parametrize(
    ("driver", "auth_header", "header", "value"),
    [
        ("responses", None, "authorization", "Bearer sk-secret-of-the-test"),
        ("openai", None, "authorization", "Bearer sk-secret-of-the-test"),
        ("openai", "api-key", "api-key", "sk-secret-of-the-test"),
        ("anthropic", None, "x-api-key", "sk-secret-of-the-test"),
        ("anthropic", "Authorization", "authorization", "Bearer sk-secret-of-the-test"),
        ("google", None, "x-goog-api-key", "sk-secret-of-the-test"),
        ("google", "authorization", "authorization", "Bearer sk-secret-of-the-test"),
    ],
)
async def test_the_header_of_the_credential(
    server: ModelServer, caller: ProviderCaller, driver: str, auth_header: str | None, header: str, value: str
) -> None:
    """A route chooses the header of its credential; ``authorization`` holds a bearer token."""
    request = request_to(server, "echo", driver=driver, auth_ref="env:KEY", auth_header=auth_header)
    assert (await ask(caller, request)).text == "echo: hello"
    headers = server.requests[0].headers
    names = ("authorization", "api-key", "x-api-key", "x-goog-api-key")
    assert {name: headers[name] for name in names if name in headers} == {header: value}
