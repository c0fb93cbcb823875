"""Every request that a driver builds is one that the provider's official SDK would send."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.conversations import SERVERS, Server, learned_traits, requests
from tests.support.sdk_requests import find_request_problem


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
@settings(max_examples=40)
@given(data=st.data())
def test_a_request_is_of_the_sdk(server: Server, data: st.DataObject) -> None:
    """A request that continues any conversation has the fields and types of the SDK, and no others."""
    request = data.draw(requests(server))
    traits = data.draw(learned_traits(request))
    post = server.find_driver().post(request, server.find_url(), "sk-secret", traits)
    problem = find_request_problem(server.driver, post.body, server.preset)
    text = msgspec.json.format(post.body).decode()
    assert problem is None, f"{problem}\n{text}"
    steps = list(STEPS[server.driver](msgspec.json.decode(post.body)))
    assert find_order_problem(steps) is None, text


USER = {"role": "user", "content": "hello"}
CALL: dict[str, Any] = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("driver", "body", "words"),
    [
        ("openai", {"messages": [USER]}, ""),
        ("openai", {"messages": [USER], "max_tokens": "7"}, "$.max_tokens: '7' is no int"),
        ("openai", {"messages": [USER], "max_tokens": True}, "$.max_tokens: True is no int"),
        ("openai", {"messages": [USER], "temperature": 1, "stop": None}, ""),
        ("openai", {"messages": [USER], "top_k": 1}, "with unknown ['top_k']"),
        ("openai", {}, "without ['messages']"),
        ("openai", {"messages": [USER | {"name": 1}]}, "$.messages[0].name: 1 is no str"),
        ("openai", {"messages": [USER | {"x": 1}]}, "$.messages[0]: ChatCompletionUserMessageParam with unk"),
        ("openai", {"messages": [{"role": "nobody", "content": ""}]}, "'nobody' is none of"),
        ("openai", {"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, ""),
        ("openai", {"messages": [{"role": "assistant", "tool_calls": [CALL | {"function": {}}]}]}, "without"),
        ("openai", {"messages": [USER], "reasoning_effort": "lower"}, "'lower' is none of"),
        ("anthropic", {"messages": [USER], "max_tokens": 1}, ""),
        ("anthropic", {"messages": [USER]}, "without ['max_tokens']"),
        ("anthropic", {"messages": [USER], "max_tokens": 1, "tools": [{"name": "x"}]}, "without ['input_sch"),
        ("responses", {"input": [USER], "store": False}, ""),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "c"}]}, "without ['output']"),
        (
            "google",
            {"contents": [{"role": "user", "parts": [{"text": "a", "thoughtSignature": "YQ=="}]}]},
            "",
        ),
        ("google", {"contents": [{"parts": [{"txt": "a"}]}]}, "Extra inputs are not permitted"),
        ("google", {"contents": [{"parts": [{"function_call": {}}]}]}, "the SDK sends"),
        ("google", {"contents": [], "generationConfig": {"maxOutputTokens": "1"}}, "valid integer"),
        ("google", {"contents": [], "generationConfig": {"thinkingConfig": {"thinkingLevel": "?"}}}, "valid"),
        ("google", {}, "Field required"),
    ],
)
def test_the_oracle_names_a_fault(driver: str, body: dict[str, Any], words: str) -> None:
    """The oracle accepts a valid request, and names the fault of another one and its place."""
    head = {} if driver == "google" else {"model": "m", "stream": True}
    problem = find_request_problem(driver, msgspec.json.encode(head | body)) or ""
    assert words in problem
    assert bool(problem) == bool(words)


def test_extensions_belong_to_their_server() -> None:
    """A server's own fields are valid in its requests only."""
    thinking = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}
    body = msgspec.json.encode({"model": "m", "stream": True, "messages": [USER, thinking]})
    assert find_request_problem("openai", body, "deepseek") is None
    assert "with unknown ['reasoning_content']" in str(find_request_problem("openai", body, "openai"))


# The order of messages, which types do not describe.

Step = tuple[str, str]
"""A part of a request, such as ``user``, ``assistant``, ``call`` or ``result``, and the id of a call."""


def find_order_problem(steps: list[Step]) -> str | None:
    """Return the problem of an order that providers reject; None without one.

    The user comes first, behind the instructions. Each batch of calls has its results directly behind it, in
    its order, and no id is used twice.
    """
    if next((kind for kind, _ in steps if kind != "system"), None) != "user":
        return "the user does not come first"
    if steps[-1][0] not in ("user", "result"):
        return "the user does not come last"
    used: set[str] = set()
    calls: list[str] = []
    results: list[str] = []
    for kind, call_id in [*steps, ("user", "")]:
        if kind == "result":
            results.append(call_id)
            continue
        if results or (calls and kind == "user"):
            if calls != results:
                return f"the calls {calls} have the results {results}"
            calls, results = [], []
        if kind == "call":
            if call_id in used:
                return f"the id {call_id} is repeated"
            used.add(call_id)
            calls.append(call_id)
    return None


def read_chat_steps(body: dict[str, Any]) -> Iterator[Step]:
    """Yield the parts of chat messages."""
    for message in body["messages"]:
        match message["role"]:
            case "tool":
                yield "result", message["tool_call_id"]
            case "user":
                assert message["content"]
                yield "user", ""
            case "assistant":
                assert message["content"] or message["tool_calls"]
                yield "assistant", ""
                for call in message.get("tool_calls", ()):
                    yield "call", call["id"]
            case _:
                yield "system", ""


def read_anthropic_steps(body: dict[str, Any]) -> Iterator[Step]:
    """Yield the parts of Anthropic's messages, whose roles alternate and whose texts are not blank."""
    previous = None
    for message in body["messages"]:
        assert message["role"] != previous
        previous = message["role"]
        for block in message["content"]:
            match block["type"]:
                case "tool_use":
                    yield "call", block["id"]
                case "tool_result":
                    yield "result", block["tool_use_id"]
                case kind:
                    assert kind != "text" or block["text"].strip()
                    yield message["role"], ""


def read_response_steps(body: dict[str, Any]) -> Iterator[Step]:
    """Yield the parts of the input of the Responses API, where reasoning comes before what it led to."""
    previous = None
    for item in body["input"]:
        match item["type"]:
            case "function_call_output":
                yield "result", item["call_id"]
            case "function_call":
                yield "call", item["call_id"]
            case "message":
                assert item["content"]
                yield item["role"], ""
            case _:
                yield "assistant", ""
        assert previous != "reasoning" or item["type"] in ("message", "function_call", "reasoning")
        previous = item["type"]
    assert previous != "reasoning"


def read_google_steps(body: dict[str, Any]) -> Iterator[Step]:
    """Yield the parts of Google's contents, which alternate. Calls match by order, name and id."""
    previous = None
    calls: list[str] = []
    results = 0
    for content in body["contents"]:
        kinds = {"functionResponse" in part for part in content["parts"]}
        assert len(kinds) == 1, "results are a content of their own"
        assert (content["role"], kinds) != previous
        previous = (content["role"], kinds)
        for part in content["parts"]:
            match part:
                case {"functionCall": call}:
                    calls.append(f"{len(calls)} {call['name']} {call.get('id')}")
                    yield "call", calls[-1]
                case {"functionResponse": response}:
                    yield "result", f"{results} {response['name']} {response.get('id')}"
                    results += 1
                case _:
                    assert part["text"].strip() or "thoughtSignature" in part
                    yield "user" if content["role"] == "user" else "assistant", ""


STEPS = {
    "openai": read_chat_steps,
    "responses": read_response_steps,
    "anthropic": read_anthropic_steps,
    "google": read_google_steps,
}
"""The readers of requests, by the driver."""
