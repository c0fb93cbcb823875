"""The breakpoints of prompt caching in requests of the messages API."""

from typing import Any

import msgspec
import pytest

from kheishd.kernel.hook import Tool
from kheishd.kernel.runtime import ModelRequest
from kheishd.providers.anthropic import post
from kheishd.providers.prompt_cache import EPHEMERAL
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult
from tests.support.model_calls import make_request

TOOLS = tuple(Tool(name, name, {"type": "object"}, "read") for name in ("look", "wait"))
EARLIER = (
    Message("user", [Text("first")]),
    Message("assistant", [Thinking("hm", "sig"), ToolCall("c1", "look", {}), ToolCall("c2", "wait", {})]),
    Message("tool", [ToolResult("c1", "look", "seen"), ToolResult("c2", "wait", "waited")]),
    Message("assistant", [Text("done")]),
)


def make_body(**changes: Any) -> dict[str, Any]:
    """Return the body of a request with tools, instructions and a transcript."""
    options = changes.pop("options", {})
    request = make_request("next", earlier=EARLIER, instructions="be brief", options=options)
    body: dict[str, Any] = msgspec.json.decode(
        post(msgspec.structs.replace(request, tools=TOOLS, **changes), "http://x", None).body
    )
    return body


def find_marks(value: Any, path: str = "") -> dict[str, Any]:
    """Return the marks in a body, by the path of their block."""
    if isinstance(value, list):
        pairs = [(f"{path}.{index}", element) for index, element in enumerate(value)]
    elif isinstance(value, dict):
        if "cache_control" in value:
            return {path[1:]: value["cache_control"]}
        pairs = [(f"{path}.{key}", element) for key, element in value.items()]
    else:
        return {}
    return {place: mark for inner, element in pairs for place, mark in find_marks(element, inner).items()}


def test_four_breakpoints() -> None:
    """The last tool, the instructions and the ends of this and the previous transcript are marked."""
    assert find_marks(make_body()) == dict.fromkeys(
        ("tools.1", "system.0", "messages.2.content.1", "messages.4.content.0"), EPHEMERAL
    )


def test_the_situation_comes_after_the_breakpoints() -> None:
    """The situation is the last block and is not cached, because the next request has another one."""
    body = make_body(situation="now")
    assert body["messages"][-1]["content"][-1] == {"type": "text", "text": "now"}
    assert find_marks(body) == find_marks(make_body())


def test_the_prefix_is_stable() -> None:
    """Without the marks, an earlier request is a prefix of a later one, byte for byte."""
    first = ModelRequest(make_request().pinned, "be brief", [*EARLIER[:1]], tools=TOOLS)
    second = msgspec.structs.replace(first, messages=[*EARLIER[:3]])
    bodies = [
        msgspec.json.decode(post(_without_marks(request), "http://x", None).body)
        for request in (first, second)
    ]
    assert bodies[1]["messages"][:1] == bodies[0]["messages"]
    assert [bodies[0][name] for name in ("tools", "system")] == [
        bodies[1][name] for name in ("tools", "system")
    ]


def _without_marks(request: ModelRequest) -> ModelRequest:
    pinned = msgspec.structs.replace(request.pinned, options={"cache_control": False})
    return msgspec.structs.replace(request, pinned=pinned)


def test_options_set_the_lifetime_or_switch_it_off() -> None:
    """The option ``cache_control`` replaces the mark; false removes it. It is not sent itself."""
    hour = {"type": "ephemeral", "ttl": "1h"}
    body = make_body(options={"cache_control": hour})
    assert "cache_control" not in body
    assert set(map(str, find_marks(body).values())) == {str(hour)}
    assert not find_marks(make_body(options={"cache_control": False}))


@pytest.mark.parametrize("purpose", ["summary", "title"])
def test_summaries_and_titles_are_not_cached(purpose: Any) -> None:
    """A prompt that is sent once is not cached, because writing to the cache costs more."""
    assert not find_marks(make_body(purpose=purpose))


def test_marks_of_the_options_are_kept() -> None:
    """Options that mark a tool themselves switch the marks of kheish off: four are allowed in all."""
    own = {"type": "web_search_20250305", "name": "web_search", "cache_control": EPHEMERAL}
    assert find_marks(make_body(options={"tools": [own]})) == {"tools.2": EPHEMERAL}
