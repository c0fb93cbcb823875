"""The driver of the Responses API: stateless requests."""

from typing import Any

import msgspec
import pytest

from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.failures import FailureFactory
from kheishd.providers.responses import ENCRYPTED_REASONING, post, reader
from kheishd.providers.traits import OUTPUT_ITEMS, LearnedTraits, Traits
from protocol.transcript import Message
from tests.support.model_calls import make_request

ORIGIN = "responses api.test gpt"
URL = "https://api.test/v1"
LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}, "read")


def make_body(request: ModelRequest, traits: Traits | None = None) -> dict[str, Any]:
    """Return the body of a request."""
    traits = traits or LearnedTraits().find(request.pinned)
    body: dict[str, Any] = msgspec.json.decode(post(request, URL, None, traits).body)
    return body


def to_gpt(options: dict[str, Any] | None = None, **fields: Any) -> ModelRequest:
    """Return a request to a model."""
    request = make_request("hello", driver="responses", model="gpt", options=options or {})
    return msgspec.structs.replace(request, **fields)


def test_the_request() -> None:
    """URL, head and body are as published; options are added but replace no field of the driver."""
    options = {
        "temperature": 0.5,
        "stream": False,
        "model": "other",
        "store": True,
        "previous_response_id": "resp_1",
        "headers": {"X-Title": "kheish"},
    }
    request = to_gpt(options, instructions="be brief", tools=(LOOK,))
    sent = post(request, "https://api.test/v1/", "sk-secret")
    assert sent.url == "https://api.test/v1/responses"
    assert sent.headers == {"x-title": "kheish", "authorization": "Bearer sk-secret"}
    tool = {"type": "function", "name": "look", "description": "Looks.", "parameters": LOOK.model_schema}
    assert msgspec.json.decode(sent.body) == {
        "temperature": 0.5,
        "model": "gpt",
        "instructions": "be brief",
        "tools": [{**tool, "strict": False}],
        "input": [{"type": "message", "role": "user", "content": "hello"}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "stream": True,
    }


def test_without_credential_instructions_or_tools() -> None:
    """Without credential, instructions and tools, the header and the fields are absent."""
    sent = post(to_gpt(), URL, None)
    assert sent.headers == {}
    assert {"instructions", "tools", "tool_choice"}.isdisjoint(msgspec.json.decode(sent.body))


def test_azure_urls_keep_their_query() -> None:
    """The path comes before the query."""
    sent = post(to_gpt(), "https://x.openai.azure.com/openai/v1?api-version=preview", None)
    assert sent.url == "https://x.openai.azure.com/openai/v1/responses?api-version=preview"


def test_the_options_may_hold_hosted_tools() -> None:
    """Hosted tools and the fields to include are added to kheish's own."""
    options = {
        "tools": [{"type": "web_search"}, {"type": "function", "name": "look"}],
        "include": ["web_search_call.action.sources"],
    }
    body = make_body(to_gpt(options, tools=(LOOK,)))
    assert [tool.get("name") or tool["type"] for tool in body["tools"]] == ["look", "web_search"]
    assert body["include"] == ["web_search_call.action.sources", ENCRYPTED_REASONING]
    assert make_body(to_gpt({"include": [ENCRYPTED_REASONING]}))["include"] == [ENCRYPTED_REASONING]


def test_tools_may_be_withheld() -> None:
    """Withheld tools are still defined, and must not be called."""
    assert make_body(to_gpt(tools=(LOOK,), withheld=True))["tool_choice"] == "none"
    assert "tool_choice" not in make_body(to_gpt(withheld=True))


@pytest.mark.parametrize("name", ["max_output_tokens", "max_completion_tokens", "max_tokens"])
def test_the_output_limit(name: str) -> None:
    """The output limit has one name, whatever the option is called; a title has the lower one."""
    body = make_body(to_gpt({name: 500}))
    assert (body["max_output_tokens"], name in body) == (500, name == "max_output_tokens")
    title = to_gpt({name: 500}, purpose="title", max_answer_tokens=64)
    assert make_body(title)["max_output_tokens"] == 64
    assert make_body(title, Traits(has_more_room=True))["max_output_tokens"] == 256
    assert "max_output_tokens" not in make_body(to_gpt())


@pytest.mark.parametrize(
    ("options", "answer", "title"),
    [
        ({}, None, {"effort": "low"}),
        ({"reasoning": {"summary": "auto"}}, {"summary": "auto"}, {"effort": "low", "summary": "auto"}),
        ({"reasoning": {"effort": "xhigh"}}, {"effort": "xhigh"}, {"effort": "low"}),
        ({"reasoning": {"effort": "minimal"}}, {"effort": "minimal"}, {"effort": "minimal"}),
        ({"reasoning_effort": "high"}, {"effort": "high"}, {"effort": "low"}),
    ],
)
def test_the_effort_of_reasoning(options: dict[str, Any], answer: Any, title: Any) -> None:
    """An answer has the effort of the route; summaries and titles reason little."""
    assert make_body(to_gpt(options)).get("reasoning") == answer
    body = make_body(to_gpt(options, purpose="title"))
    assert (body["reasoning"], "reasoning_effort" in body) == (title, False)


def test_what_a_server_refused_is_left_out() -> None:
    """Refused fields and items are left out."""
    fresh = reader(FailureFactory("api.test", None), ORIGIN)
    item = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": "a"}]}
    fresh.whole(msgspec.json.encode({"status": "completed", "output": [item]}))
    answer = fresh.end()
    assert answer is not None
    earlier = Message("assistant", answer.items, provider_data=answer.provider_data)
    request = to_gpt({"max_tokens": 5})
    request.messages.insert(0, earlier)
    assert make_body(request)["input"][0]["id"] == "msg_1"
    omitted = frozenset(("include", "store", "max_output_tokens", OUTPUT_ITEMS))
    body = make_body(request, Traits(omitted=omitted))
    assert omitted.isdisjoint(body)
    assert body["input"][0] == {"type": "message", "role": "assistant", "content": "a"}
    included = make_body(to_gpt({"include": ["x"]}), Traits(omitted=omitted))["include"]
    assert included == ["x"]
