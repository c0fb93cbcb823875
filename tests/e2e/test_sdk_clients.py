"""The official SDKs as clients: they send a request of a driver in the same way, and read the same answer."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

from kheishd.kernel.hook import Tool
from kheishd.providers.anthropic import VERSION
from kheishd.providers.caller import ProviderCaller
from protocol.objects.run import Pinned
from protocol.transcript import Message, Text, text_of
from tests.support.model_calls import ask, inline, make_request
from tests.support.model_server import ModelServer, RecordedRequest, running_model_server

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-test-0123456789abcdef"

Body = dict[str, Any]


def call_openai(base: str, body: Body) -> str:
    """Return the text of an answer of chat completions."""
    client = import_module("openai").OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0)
    return read_chat(client, body)


def call_azure(base: str, body: Body) -> str:
    """Return the text of an answer of an Azure deployment."""
    client = import_module("openai").AzureOpenAI(
        azure_endpoint=base, azure_deployment="d", api_version="2024-10-21", api_key=KEY, max_retries=0
    )
    return read_chat(client, body)


def read_chat(client: Any, body: Body) -> str:
    """Return the text of an answer of chat completions."""
    with client:
        chunks = client.chat.completions.create(**body)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def call_responses(base: str, body: Body) -> str:
    """Return the text of an answer of the Responses API."""
    with import_module("openai").OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0) as client:
        *_, last = client.responses.create(**body)
        return str(last.response.output_text)


def call_anthropic(base: str, body: Body) -> str:
    """Return the text of an answer of Anthropic's messages.

    The SDK's own version of the API is newer: its requests have no ``temperature``. Compatible servers and
    older models know only the driver's version, with which the key has a header of its own.
    """
    anthropic = import_module("anthropic")
    own = {"anthropic-version": VERSION, "x-api-key": KEY, "authorization": anthropic.Omit()}
    with anthropic.Anthropic(base_url=base, api_key=KEY, max_retries=0, default_headers=own) as client:
        del body["stream"]
        with client.messages.stream(**body) as stream:
            return str(stream.get_final_text())


def call_google(base: str, body: Body) -> str:
    """Return the text of an answer of the Gemini API."""
    genai = import_module("google.genai")
    options = {"base_url": base, "api_version": "v1beta"}
    return read_google(genai.Client(api_key=KEY, http_options=options), body)


def call_vertex(base: str, body: Body) -> str:
    """Return the text of an answer of Vertex AI."""
    credentials = import_module("google.oauth2.credentials").Credentials(token=KEY)
    client = import_module("google.genai").Client(
        vertexai=True,
        project="p",
        location="global",
        credentials=credentials,
        http_options={"base_url": base},
    )
    return read_google(client, body)


def read_google(client: Any, body: Body) -> str:
    """Return the text of an answer of generateContent."""
    config = {
        **body.get("generationConfig", {}),
        **{name: body[name] for name in ("systemInstruction", "tools", "toolConfig") if name in body},
    }
    try:
        chunks = client.models.generate_content_stream(model="echo", contents=body["contents"], config=config)
        return "".join(chunk.text or "" for chunk in chunks)
    finally:
        client.close()


CLIENTS: dict[str, tuple[str, str, Callable[[str, Body], str]]] = {
    "anthropic": ("anthropic", "", call_anthropic),
    "azure": ("openai", "/openai/deployments/d?api-version=2024-10-21", call_azure),
    "google": ("google", "/v1beta", call_google),
    "openai": ("openai", "/v1", call_openai),
    "responses": ("responses", "/v1", call_responses),
    "vertex": ("google", "/v1beta1/projects/p/locations/global/publishers/google", call_vertex),
}
"""The driver and the base URL of each provider, and the call of its SDK."""

HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "anthropic-version", "content-type")


async def ask_driver(server: ModelServer, driver: str, base_url: str, preset: str | None) -> str:
    """Return the text of an answer that the driver reads."""
    pinned = Pinned(
        route="r", driver=driver, model="echo", base_url=base_url, preset=preset, auth_ref="env:K"
    )
    tool = Tool("look", "Look.", {"type": "object", "properties": {"path": {"type": "string"}}}, "read")
    request = msgspec.structs.replace(
        make_request(),
        pinned=pinned,
        instructions="Be brief.",
        messages=[Message("user", [Text("hello")])],
        tools=(tool,),
    )
    models = ProviderCaller(environ={"K": KEY}, in_thread=inline)
    try:
        call = await ask(models, request)
        return text_of(call.require_answer().items)
    finally:
        await models.aclose()


def describe(request: RecordedRequest) -> tuple[str, str, dict[str, str], Body]:
    """Return the parts of a request that a provider reads."""
    headers = {name: value for name, value in request.headers.items() if name in HEADERS}
    return request.method, request.path, headers, rename(request.json)


def rename(value: Any) -> Any:
    """Return a body with the API's names of fields: Google's SDK sends its own names of some, too."""
    match value:
        case dict():
            return {
                re.sub("_([a-z])", lambda match: match[1].upper(), key): rename(element)
                for key, element in value.items()
            }
        case list():
            return [rename(element) for element in value]
        case _:
            return value


@pytest.mark.parametrize("provider", CLIENTS)
async def test_a_driver_and_its_sdk_send_the_same(provider: str) -> None:
    """URL, credential, version and body of a request are those of the SDK, and so is the answer."""
    driver, path, call_sdk = CLIENTS[provider]
    async with running_model_server() as server:
        base = f"http://127.0.0.1:{server.port}"
        preset = provider if provider == "azure" else None
        text = await ask_driver(server, driver, base + path, preset)
        body = server.requests[0].json
        assert await trio.to_thread.run_sync(call_sdk, base, body) == text
        ours, of_sdk = server.requests
    assert describe(ours) == describe(of_sdk)
