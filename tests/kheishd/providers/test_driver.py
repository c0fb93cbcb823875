"""Parts that the drivers share: options, token counts and the text of a user."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheishd.config.presets import PRESETS
from kheishd.kernel.hook import Tool
from kheishd.providers import anthropic, google, openai, responses
from kheishd.providers.attachments import origin_of
from kheishd.providers.caller import find_driver
from kheishd.providers.driver import (
    BLANK,
    AnswerReader,
    Driver,
    HttpRequest,
    body_options,
    lower_limit,
    malformed_answer,
    split_options,
    token_count,
    user_texts,
)
from kheishd.providers.failures import FailureFactory
from kheishd.providers.traits import Traits
from protocol.transcript import (
    AssetReference,
    Item,
    Message,
    ProviderData,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tests.support.model_calls import make_request


def test_options_are_split() -> None:
    """``headers`` are added to the head in lower case; all other options are added to the body."""
    body, headers = split_options({"temperature": 0, "headers": {"X-Title": "kheish", "n": 1}})
    assert body == {"temperature": 0}
    assert headers == {"x-title": "kheish", "n": "1"}
    assert split_options({"headers": "none"}) == ({}, {})


ANSWERING: dict[str, Any] = {
    "temperature": 0.7,
    "top_p": 0.9,
    "thinking": {"type": "enabled", "budget_tokens": 8_000},
    "tool_choice": "required",
    "service_tier": "flex",
    "headers": {"X-Title": "kheish"},
}


def test_a_summary_drops_answer_options() -> None:
    """A summary drops the options that shape an answer and keeps the route's sampling."""
    request = make_request("hello", options=ANSWERING)
    assert body_options(request) == split_options(ANSWERING)
    body, headers = body_options(replace_purpose(request, "summary"))
    assert body == {"temperature": 0.7, "top_p": 0.9, "service_tier": "flex"}
    assert headers == {"x-title": "kheish"}
    assert body_options(replace_purpose(make_request("hello"), "title")) == ({}, {})


def test_a_limit_of_the_route_replaces_that_of_its_preset() -> None:
    """A preset may limit answers; the route's own limit counts instead, whichever of the names it has."""
    traits = Traits(PRESETS["fireworks"])
    assert body_options(make_request("hello"), traits)[0] == {"max_tokens": 32_768}
    request = make_request("hello", options={"max_completion_tokens": 100})
    assert body_options(request, traits)[0] == {"max_completion_tokens": 100}


def replace_purpose(request: Any, purpose: Any, max_tokens: int | None = None) -> Any:
    """Return a request with another purpose."""
    return msgspec.structs.replace(request, purpose=purpose, max_answer_tokens=max_tokens)


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [(None, None, None), (5, None, 5), (None, 4, 4), (5, 4, 4), (3, 4, 3), ("many", 4, 4)],
)
def test_a_limit_is_lowered(value: Any, limit: int | None, expected: Any) -> None:
    """The request lowers the limit, never raises it, and sets it if it is missing."""
    assert lower_limit(value, limit) == expected


@pytest.mark.parametrize(
    ("driver", "base", "options", "expected"),
    [
        (anthropic, anthropic.BASE_URL, {}, {"max_tokens": 4_096}),
        (anthropic, anthropic.BASE_URL, {"max_tokens": 64_000}, {"max_tokens": 4_096}),
        (anthropic, anthropic.BASE_URL, {"max_tokens": 500}, {"max_tokens": 500}),
        (openai, "http://127.0.0.1/v1", {}, {"max_tokens": 4_096}),
        (openai, "http://127.0.0.1/v1", {"max_tokens": 9_000}, {"max_tokens": 4_096}),
        (openai, openai.BASE_URL, {}, {"max_tokens": 4_096}),
        (openai, openai.BASE_URL, {"max_tokens": 9_000}, {"max_tokens": 4_096}),
        (openai, "http://x", {"max_completion_tokens": 99}, {"max_completion_tokens": 99}),
    ],
)
def test_a_summary_has_a_limit(
    driver: Driver, base: str, options: dict[str, Any], expected: dict[str, int]
) -> None:
    """A limit uses the name of the options and never exceeds the route's limit for answers."""
    request = replace_purpose(make_request("hello", options=options), "summary", 4_096)
    body = msgspec.json.decode(driver.post(request, base, None).body)
    assert {name: body[name] for name in body if name.startswith("max_")} == expected
    answer = msgspec.json.decode(driver.post(make_request("hello"), base, None).body)
    assert {name for name in answer if name.startswith("max_")} <= {"max_tokens"}


@pytest.mark.parametrize(
    ("count", "expected"), [(None, 0), (0, 0), (7, 7), (7.0, 7), (-1, 0), (10**40, 10**9), (1e300, 10**9)]
)
def test_tokens(count: float | None, expected: int) -> None:
    """A token count is a non-negative integer that a record can hold, for every value of a server."""
    assert token_count(count) == expected


def test_shown() -> None:
    """Texts are shown unchanged, an asset by its name, and a blank text as nothing if there is more."""
    items: list[Item] = [Text("a "), Text(" "), AssetReference("ast_1"), AssetReference("ast_2", "image/png")]
    assert user_texts(items) == [
        "a ",
        "[attached file ast_1: its content is not shown here]",
        "[attached file ast_2, image/png: its content is not shown here]",
    ]
    assert user_texts([Text(""), Text(" \n")]) == [BLANK]


def test_a_post_hides_its_headers() -> None:
    """The repr of a request does not contain the credential."""
    post = HttpRequest("https://api.test/v1", {"authorization": "Bearer sk-secret"}, (b"{}",))
    assert "sk-secret" not in f"{post!r} {post}"


@pytest.mark.parametrize("driver", [openai, anthropic, google])
def test_drivers_are_drivers(driver: Driver) -> None:
    """Every driver fulfils the interface of an exchange, and its reader begins empty."""
    reader: AnswerReader = driver.reader(FailureFactory("api.test", None))
    assert driver.BASE_URL.startswith("https://")
    assert not reader.done
    assert reader.take() == []
    assert reader.end() is None


def test_malformed() -> None:
    """A malformed answer is a retryable failure."""
    failure = malformed_answer("noise")
    assert (failure.reason, failure.retryable) == ("bad_response", True)


LOOK = Tool("look", "Look.", {"type": "object"}, "read")
SEARCH: dict[str, Any] = {"type": "web_search", "max_uses": 3}


def named(driver: Driver, name: str) -> dict[str, Any]:
    """Return a tool of a route's options in the form of a driver."""
    return {"type": "function", "function": {"name": name}} if driver is openai else {"name": name}


TRANSCRIPTS: dict[Driver, str] = {
    openai: "messages",
    responses: "input",
    anthropic: "messages",
    google: "contents",
}
"""The field of the transcript in a request of each driver."""


@pytest.mark.parametrize("driver", [openai, anthropic, responses])
def test_tools_of_the_options_are_added(driver: Driver) -> None:
    """Tools of the options follow kheish's; one of the same name is left out, and a summary has none."""
    options = {"tools": [SEARCH, named(driver, "look"), named(driver, "other")], "cache_control": False}
    request = msgspec.structs.replace(make_request("hello", options=options), tools=(LOOK,))
    tools = msgspec.json.decode(driver.post(request, "http://x", None).body)["tools"]
    assert "look" in str(tools[0])
    assert tools[1:] == [SEARCH, named(driver, "other")]
    alone = msgspec.structs.replace(request, tools=())
    assert msgspec.json.decode(driver.post(alone, "http://x", None).body)["tools"][0] == SEARCH
    summary = replace_purpose(alone, "summary", 100)
    assert "tools" not in msgspec.json.decode(driver.post(summary, "http://x", None).body)


@pytest.mark.parametrize(("driver", "name"), TRANSCRIPTS.items())
def test_the_prefix_of_a_prompt_is_stable(driver: Driver, name: str) -> None:
    """Two turns of a run begin with the same bytes, up to the end of the earlier transcript."""
    options = {"cache_control": False} if driver is anthropic else {}
    first = msgspec.structs.replace(
        make_request("hello", instructions="be brief", options=options), tools=(LOOK,)
    )
    later = [*first.messages, Message("assistant", [Text("hi")]), Message("user", [Text("go on")])]
    second = msgspec.structs.replace(first, messages=later)
    bodies = [driver.post(request, "http://x", None).body for request in (first, second)]
    decoded = [msgspec.json.decode(body) for body in bodies]
    earlier, transcript = (body.pop(name) for body in decoded)
    assert transcript[: len(earlier)] == earlier
    assert msgspec.json.encode(decoded[0]) == msgspec.json.encode(decoded[1])


def test_a_summary_lowers_the_effort() -> None:
    """A route's high effort is lowered for a summary, and a lower one is kept."""
    for effort, expected in (("high", "low"), ("minimal", "minimal")):
        request = make_request("hello", options={"reasoning_effort": effort})
        assert body_options(replace_purpose(request, "summary"))[0] == {"reasoning_effort": expected}
        assert body_options(request)[0] == {"reasoning_effort": effort}
        for more in ({}, {"summary": "auto"}):
            request = make_request("hello", options={"reasoning": {"effort": effort, **more}})
            lowered = {"reasoning": {"effort": expected, **more}}
            assert body_options(replace_purpose(request, "title"))[0] == lowered
            assert body_options(request)[0]["reasoning"]["effort"] == effort
        own = {"output_config": {"effort": effort, "format": {"type": "json_schema", "schema": {}}}}
        request = make_request("hello", options=own)
        assert body_options(replace_purpose(request, "title"))[0] == {"output_config": {"effort": expected}}
        assert body_options(request)[0] == own


# Stored data of an import, which may be anything.


NAMES = (
    "placed index block text type part thoughtSignature thinking_name function extra_content google "
    "thought_signature reasoning_details output call_id caller role content id summary arguments citations "
    "container tool_use_id name"
).split()
VALUES = (
    "message function_call function_call_output reasoning tool_use tool_result text assistant user "
    "server_tool_use x_tool_use role"
).split()
SCALARS = st.sampled_from([None, True, 0, 1, -1, 1.5, "", "x", *VALUES])
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), DATA, max_size=4)
STORED = ("placed", "output", "thinking_name", "function", "extra_content", "container", "caller")
FIELDS = st.fixed_dictionaries({}, optional={name: st.lists(OBJECTS, max_size=2) | DATA for name in STORED})


@pytest.mark.parametrize("name", ["anthropic", "google", "openai", "responses"])
@given(fields=FIELDS, of_call=FIELDS)
def test_any_stored_data_can_be_sent(name: str, fields: dict[str, Any], of_call: dict[str, Any]) -> None:
    """Data of an imported message cannot break the request, whatever it is."""
    driver = find_driver(name)
    assert driver is not None
    request = make_request("go on", driver=name)
    origin = origin_of(request.pinned, driver.BASE_URL)
    call = ToolCall("c", "look", {}, provider_data=ProviderData(origin, "own", of_call))
    items: list[Item] = [Thinking("hm", "s"), Text("I look."), call]
    answer = Message("assistant", items, provider_data=ProviderData(origin, fields=fields))
    results = Message("tool", [ToolResult("c", "look", "seen")])
    request = msgspec.structs.replace(
        request, messages=[answer, results, *request.messages], situation="Now."
    )
    body = msgspec.json.decode(driver.post(request, driver.BASE_URL, None).body)
    assert "seen" in str(body)


@pytest.mark.parametrize("name", ["openai", "responses"])
def test_tools_that_change_are_encoded_again(name: str) -> None:
    """A request has the tools that it offers, whichever were sent before it, in its own form."""
    driver = find_driver(name)
    assert driver is not None
    first, second, other = (Tool(name, f"Do {name}.", {}, "read") for name in ("first", "second", "first"))
    for rows in ([first], [first], [first, second], [second, first], [], [other], [first]):
        request = msgspec.structs.replace(make_request("hello"), tools=rows)
        body = msgspec.json.decode(driver.post(request, "http://x", None).body)
        names = [tool.get("function", tool)["name"] for tool in body.get("tools", [])]
        assert names == [row.name for row in rows]
