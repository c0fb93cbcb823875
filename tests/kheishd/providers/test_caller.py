"""The model caller: every driver through one interface, against a server that imitates providers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.runtime import ModelCaller, ModelRequest, RouteSpec, TextDelta
from kheishd.providers.caller import ProviderCaller
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.transcript import Message, ProviderData, Text, Thinking, ToolCall, ToolResult, text_of
from tests.support.google_wire import SIGNATURE
from tests.support.model_calls import RecordedCall, ask, inline, make_request
from tests.support.model_server import ModelServer

FIELDS = {"google": {"thoughtSignature": SIGNATURE}}
"""The data that a provider attaches to the first call."""

DRIVERS = pytest.mark.parametrize("driver", ["openai", "responses", "anthropic", "google"])
SECRET = "sk-secret-of-the-test"


def models(limits: RunsSection | None = None) -> ProviderCaller:
    """Provide the caller under test, with a credential in its environment."""
    return ProviderCaller(limits, environ={"KEY": SECRET}, in_thread=inline)


@pytest.fixture
async def caller() -> AsyncIterator[ModelCaller]:
    """Provide the caller under test, closed at the end."""
    caller = models()
    yield caller
    await caller.aclose()


def make_server_request(server: ModelServer, driver: str, model: str, content: str = "hello") -> ModelRequest:
    """Return a request to the model server."""
    return make_request(content, driver=driver, model=model, base_url=server.base_url, auth_ref="env:KEY")


async def ask_server(server: ModelServer, driver: str, model: str) -> RecordedCall:
    """Ask a model of the server and return the events of the call."""
    caller = models()
    call = await ask(caller, make_server_request(server, driver, model))
    await caller.aclose()
    return call


@DRIVERS
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("echo", "echo: hello"),
        ("slow:1:3", "piece1 piece2 piece3 "),
        ("chunks:3", "word1 word2 word3 "),
        ("split:1", "echo: hello"),
        ("split:7:Grüße aus 東京 🗼", "Grüße aus 東京 🗼"),
        ("no-done", "fine"),
        ("comments", "echo: hello"),
        ("heartbeats", "echo: hello"),
        ("nonstream", "echo: hello"),
    ],
)
async def test_answers(server: ModelServer, driver: str, model: str, text: str) -> None:
    """Every way of sending an answer leads to the same deltas, items and usage."""
    call = await ask_server(server, driver, model)
    answer = call.require_answer()
    assert (call.text, text_of(answer.items), answer.stop_reason) == (text, text, "end")
    assert answer.usage.output_tokens > 0


@DRIVERS
async def test_thinking(server: ModelServer, driver: str) -> None:
    """Reasoning is streamed and kept; a signature is kept if the provider sends one."""
    call = await ask_server(server, driver, "thinking")
    assert (call.thinking, call.text) == ("Let me see.", "It is 42.")
    signature = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg==" if driver == "anthropic" else None
    assert call.require_answer().items == [Thinking("Let me see.", signature), Text("It is 42.")]


@DRIVERS
async def test_tools_there_and_back(server: ModelServer, caller: ModelCaller, driver: str) -> None:
    """A call becomes an item, and the model continues once the transcript has its result."""
    first = await ask_server(server, driver, "tools")
    origin = f"{driver} 127.0.0.1:{server.port} tools"
    arguments = {"location": "San Francisco, CA"}
    data = ProviderData(origin, "call_abc123", FIELDS.get(driver, {}))
    call = ToolCall("call_abc123", "get_weather", arguments, provider_data=data)
    assert first.require_answer().items == [Text("I will look."), call]
    assert first.require_answer().stop_reason == "tool_calls"
    request = make_server_request(server, driver, "tools")
    request.messages.append(Message("assistant", first.require_answer().items))
    request.messages.append(Message("tool", [ToolResult(call.call_id, call.name, "sunny")]))
    second = await ask(caller, request)
    assert second.text == "echo: hello"


@DRIVERS
async def test_two_tools(server: ModelServer, driver: str) -> None:
    """Two calls in one answer become two items."""
    call = await ask_server(server, driver, "two-tools")
    origin = f"{driver} 127.0.0.1:{server.port} two-tools"
    first = ProviderData(origin, "call_a", FIELDS.get(driver, {}))
    assert call.require_answer().items == [
        ToolCall("call_a", "first", {"n": 1}, provider_data=first),
        ToolCall("call_b", "second", {}, provider_data=ProviderData(origin, "call_b")),
    ]


@DRIVERS
@pytest.mark.parametrize("reason", ["length", "refusal"])
async def test_other_ends(server: ModelServer, driver: str, reason: str) -> None:
    """A truncated or refused answer carries its stop reason."""
    assert (await ask_server(server, driver, reason)).require_answer().stop_reason == reason


@DRIVERS
async def test_a_long_answer_is_bounded(server: ModelServer, driver: str) -> None:
    """Text beyond the limit is neither kept nor streamed."""
    call = await ask_server(server, driver, "long:300000")
    assert call.require_answer().stop_reason == "length"
    assert call.text == text_of(call.require_answer().items)
    assert len(call.text) == MAX_ANSWER_BYTES


@DRIVERS
@pytest.mark.parametrize(
    ("model", "reason", "retryable"),
    [
        ("cut", "connection_failed", True),
        ("cut:0", "connection_failed", True),
        ("empty", "connection_failed", True),
        ("garbage", "connection_failed", True),
        ("malformed", "bad_response", True),
        ("html", "bad_response", True),
        ("error-event", "overloaded", True),
        ("error-event:api_error", "server_error", True),
        ("redirect", "bad_request", False),
        ("gzip-error", "context_too_long", False),
        ("says-nothing", "empty_answer", True),
        ("context", "context_too_long", False),
        ("no-such-model", "bad_request", False),
        ("status:400", "bad_request", False),
        ("status:401", "unauthorized", False),
        ("status:403", "unauthorized", False),
        ("status:429", "rate_limited", True),
        ("status:500", "server_error", True),
        ("status:503", "server_error", True),
        ("status:529", "overloaded", True),
    ],
)
async def test_failures(server: ModelServer, driver: str, model: str, reason: str, retryable: bool) -> None:
    """Every fault becomes one failure with its reason and without the credential."""
    failure = (await ask_server(server, driver, model)).require_failure()
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert SECRET not in f"{failure.message} {failure!r}"


@DRIVERS
async def test_retry_after(server: ModelServer, driver: str) -> None:
    """A failure carries the pause that the provider requests."""
    failure = (await ask_server(server, driver, "status:429:retry=7")).require_failure()
    assert (failure.status, failure.retry_after_s) == (429, 7.0)
    failure = (await ask_server(server, driver, "status:529:retry=7;retry-ms=1500")).require_failure()
    assert failure.retry_after_s == 1.5


@DRIVERS
async def test_asked_again(server: ModelServer, caller: ModelCaller, driver: str) -> None:
    """A repeated request succeeds after temporary failures."""
    request = make_server_request(server, driver, "n-failures-then-ok:2:500")
    outcomes = [await ask(caller, request) for _ in range(3)]
    assert [outcome.failure is not None for outcome in outcomes] == [True, True, False]


async def test_the_credential_is_sent_and_read_at_each_call(server: ModelServer) -> None:
    """Each call reads the current credential and sends it in the provider's header.

    The credential is registered as a secret before it is used, so that the provider's answer is redacted.
    """
    environ = {"KEY": SECRET}
    learned: list[str] = []
    caller = ProviderCaller(environ=environ, in_thread=inline, learned=learned.append)
    await ask(caller, make_server_request(server, "openai", "echo"))
    environ["KEY"] = "sk-another"
    await ask(caller, make_server_request(server, "openai", "echo"))
    await ask(caller, make_server_request(server, "anthropic", "echo"))
    await caller.aclose()
    first, second, third = (request.headers for request in server.requests)
    assert first["authorization"] == f"Bearer {SECRET}"
    assert second["authorization"] == "Bearer sk-another"
    assert (third["x-api-key"], "authorization" in third) == ("sk-another", False)
    assert learned == [SECRET, "sk-another", "sk-another"]


async def test_a_missing_credential_is_a_failure(server: ModelServer) -> None:
    """Nothing is sent if the credential is missing."""
    call = await ask(ProviderCaller(environ={}), make_server_request(server, "openai", "echo"))
    assert (call.require_failure().reason, call.require_failure().retryable) == ("credential_missing", False)
    assert not server.requests


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"base_url": "https://b.example/v1"}, "base_url"),
        ({"driver": "anthropic"}, "driver"),
        ({"auth_header": "api-key"}, "auth_header"),
        ({"auth_ref": "env:OTHER"}, "auth_ref"),
        ({"auth_ref": "env:OTHER", "auth_refs": ("env:OTHER", "env:KEY")}, None),
        ({"model": "other", "context_tokens": 5_000}, None),
    ],
)
async def test_a_key_goes_only_to_the_server_of_its_route(
    server: ModelServer, changes: dict[str, Any], field: str | None
) -> None:
    """A run that is pinned to the former server, header or key of a route sends nothing there."""
    request = make_server_request(server, "openai", "echo")
    pinned = request.pinned
    spec = RouteSpec(pinned.route, "openai", "echo", pinned.base_url, "env:KEY")
    routes = {pinned.route: replace(spec, **changes)}
    caller = ProviderCaller(environ={"KEY": SECRET}, in_thread=inline, routes=lambda: routes)
    call = await ask(caller, request)
    await caller.aclose()
    if field is None:
        assert call.answer is not None
        return
    assert (call.require_failure().reason, call.require_failure().retryable) == ("route_changed", False)
    assert f"({field})" in call.require_failure().message
    assert not server.requests


async def test_an_unknown_driver() -> None:
    """A run pinned to an unknown driver fails with a note about the driver."""
    call = await ask(models(), make_request(driver="telepathy"))
    assert call.require_failure().reason == "route_gone"
    assert "'telepathy'" in call.require_failure().message


async def test_a_refused_connection() -> None:
    """A refused connection is a retryable failure."""
    call = await ask(models(), make_request(driver="openai", base_url="http://127.0.0.1:1/v1"))
    assert (call.require_failure().reason, call.require_failure().retryable) == ("connection_failed", True)
    assert call.require_failure().message == "127.0.0.1:1: no connection: Connection refused"


async def test_an_invalid_base_url() -> None:
    """An invalid base URL is not retried."""
    call = await ask(models(), make_request(driver="openai", base_url="nonsense"))
    assert (call.require_failure().reason, call.require_failure().retryable) == ("bad_request", False)


async def test_many_at_once(server: ModelServer) -> None:
    """Fifty concurrent calls get their own answers, and their connections are reused."""
    caller = models(RunsSection(max_active=64))
    answers: dict[int, str] = {}

    async def ask_numbered(number: int) -> None:
        call = await ask(caller, make_server_request(server, "openai", "echo", f"number {number}"))
        answers[number] = call.text

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask_numbered, number)
        assert answers == {number: f"echo: number {number}" for number in range(50)}
    assert server.connections <= 64
    await caller.aclose()


async def test_more_than_connections_wait(server: ModelServer) -> None:
    """Calls beyond the maximum of connections wait for one and are answered."""
    caller = models(RunsSection(max_active=2))
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask, caller, make_server_request(server, "openai", "echo"))
    assert (len(server.requests), server.connections) == (6, 2)
    await caller.aclose()


async def test_the_offline_stand_in_has_both_timeouts(autojump_clock: MockClock) -> None:
    """The offline model obeys the idle timeout and the total timeout."""
    limits = RunsSection(inactivity_timeout_s=1, stream_timeout_s=3)
    assert (await ask(models(limits), make_request("/slow 2 2000"))).require_failure().reason == "timed_out"
    call = await ask(models(limits), make_request("/slow 9 500"))
    assert call.require_failure().reason == "timed_out"
    assert len(call.deltas) == 5


async def test_leaving_the_stand_in_early() -> None:
    """A caller may leave a call of the offline model before its end."""
    async with models().ask(make_request("/slow 3 0")) as events:
        assert isinstance(await anext(events), TextDelta)


NOT_SET = "'env:MISSING' is not set in the daemon's environment; set it there and restart the daemon"


@pytest.mark.parametrize(
    ("driver", "auth_ref", "problem"),
    [
        ("offline", None, None),
        ("offline", "env:MISSING", None),
        ("openai", None, None),
        ("openai", "env:KEY", None),
        ("anthropic", "env:MISSING", NOT_SET),
    ],
)
def test_problem(driver: str, auth_ref: str | None, problem: str | None) -> None:
    """A route reports why it is not ready; a route without a credential has no problem."""
    route = RouteSpec("r", driver, "m", auth_ref=auth_ref)  # type: ignore[arg-type]
    assert models().problem(route) == problem


def test_problem_of_several_keys() -> None:
    """One usable key makes a route ready; without any, the first problem is stated."""
    route = RouteSpec("r", "openai", "m", auth_ref="env:MISSING", auth_refs=("env:MISSING", "env:KEY"))
    assert models().problem(route) is None
    without = RouteSpec("r", "openai", "m", auth_ref="env:MISSING", auth_refs=("env:MISSING", "env:NO"))
    assert models().problem(without) == NOT_SET
