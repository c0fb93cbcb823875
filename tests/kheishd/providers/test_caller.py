"""Every driver behind one face, against a server that speaks as providers do."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock

from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.runtime import ModelCaller, ModelRequest, RouteSpec, TextDelta
from kheishd.providers.caller import ProviderCaller
from protocol.limits.model import MAX_ANSWER_BYTES
from protocol.transcript import Message, Text, Thinking, ToolCall, ToolResult, text_of
from tests.support.model_asking import Heard, ask, asking, inline
from tests.support.model_server import ModelServer

DRIVERS = pytest.mark.parametrize("driver", ["openai", "anthropic"])
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


def to(server: ModelServer, driver: str, model: str, said: str = "hello") -> ModelRequest:
    """Return a request to the model server."""
    return asking(said, driver=driver, model=model, base_url=server.base_url, auth_ref="env:KEY")


async def heard(server: ModelServer, driver: str, model: str) -> Heard:
    """All that comes of asking a model of the server."""
    caller = models()
    said = await ask(caller, to(server, driver, model))
    await caller.aclose()
    return said


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
        ("nonstream", "echo: hello"),
    ],
)
async def test_answers(server: ModelServer, driver: str, model: str, text: str) -> None:
    """However a server sends it, the answer is the same: its deltas, its items, its usage."""
    said = await heard(server, driver, model)
    answer = said.answered()
    assert (said.text, text_of(answer.items), answer.stop_reason) == (text, text, "end")
    assert answer.usage.output_tokens > 0


@DRIVERS
async def test_thinking(server: ModelServer, driver: str) -> None:
    """Reasoning is told as it comes and kept; a signature only where the provider gives one."""
    said = await heard(server, driver, "thinking")
    assert (said.thinking, said.text) == ("Let me see.", "It is 42.")
    signature = "c2lnbmVkIGJ5IHRoZSBwcm92aWRlcg==" if driver == "anthropic" else None
    assert said.answered().items == [Thinking("Let me see.", signature), Text("It is 42.")]


@DRIVERS
async def test_tools_there_and_back(server: ModelServer, caller: ModelCaller, driver: str) -> None:
    """A call is an item; with its result in the transcript the model goes on."""
    first = await heard(server, driver, "tools")
    call = ToolCall("call_abc123", "get_weather", {"location": "San Francisco, CA"})
    assert first.answered().items == [Text("I will look."), call]
    assert first.answered().stop_reason == "tool_calls"
    request = to(server, driver, "tools")
    request.messages.append(Message("assistant", first.answered().items))
    request.messages.append(Message("tool", [ToolResult(call.call_id, call.name, "sunny")]))
    second = await ask(caller, request)
    assert second.text == "echo: hello"


@DRIVERS
async def test_two_tools(server: ModelServer, driver: str) -> None:
    """Two calls in one answer stay two."""
    said = await heard(server, driver, "two-tools")
    assert said.answered().items == [ToolCall("call_a", "first", {"n": 1}), ToolCall("call_b", "second", {})]


@DRIVERS
@pytest.mark.parametrize("reason", ["length", "refusal"])
async def test_other_ends(server: ModelServer, driver: str, reason: str) -> None:
    """An answer that was cut or refused says so."""
    assert (await heard(server, driver, reason)).answered().stop_reason == reason


@DRIVERS
async def test_a_long_answer_is_bounded(server: ModelServer, driver: str) -> None:
    """What is over the limit is not kept, nor told."""
    said = await heard(server, driver, "long:300000")
    assert said.answered().stop_reason == "length"
    assert said.text == text_of(said.answered().items)
    assert len(said.text) == MAX_ANSWER_BYTES


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
    """Whatever goes wrong is one failure with its reason, and the credential is not in it."""
    failure = (await heard(server, driver, model)).failed()
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert SECRET not in f"{failure.message} {failure!r}"


@DRIVERS
async def test_retry_after(server: ModelServer, driver: str) -> None:
    """How long the provider wants to be left alone is passed on."""
    failure = (await heard(server, driver, "status:429:retry=7")).failed()
    assert (failure.status, failure.retry_after_s) == (429, 7.0)
    failure = (await heard(server, driver, "status:529:retry=7;retry-ms=1500")).failed()
    assert failure.retry_after_s == 1.5


@DRIVERS
async def test_asked_again(server: ModelServer, caller: ModelCaller, driver: str) -> None:
    """After failures that pass, the same request is answered."""
    request = to(server, driver, "n-failures-then-ok:2:500")
    outcomes = [await ask(caller, request) for _ in range(3)]
    assert [outcome.failure is not None for outcome in outcomes] == [True, True, False]


async def test_the_credential_is_sent_and_read_at_each_call(server: ModelServer) -> None:
    """Each provider gets the credential where it wants it; one that was changed counts at once.

    It is known before it is used, so that nothing the provider says of it gets through.
    """
    environ = {"KEY": SECRET}
    learned: list[str] = []
    caller = ProviderCaller(environ=environ, in_thread=inline, learned=learned.append)
    await ask(caller, to(server, "openai", "echo"))
    environ["KEY"] = "sk-another"
    await ask(caller, to(server, "openai", "echo"))
    await ask(caller, to(server, "anthropic", "echo"))
    await caller.aclose()
    first, second, third = (request.headers for request in server.requests)
    assert first["authorization"] == f"Bearer {SECRET}"
    assert second["authorization"] == "Bearer sk-another"
    assert (third["x-api-key"], "authorization" in third) == ("sk-another", False)
    assert learned == [SECRET, "sk-another", "sk-another"]


async def test_a_missing_credential_is_a_failure(server: ModelServer) -> None:
    """Without its credential nothing is sent."""
    said = await ask(ProviderCaller(environ={}), to(server, "openai", "echo"))
    assert (said.failed().reason, said.failed().retryable) == ("credential_missing", False)
    assert not server.requests


async def test_an_unknown_driver() -> None:
    """A run pinned to a driver of another version fails and says so."""
    said = await ask(models(), asking(driver="google"))
    assert said.failed().reason == "route_gone"
    assert "'google'" in said.failed().message


async def test_nobody_there() -> None:
    """A refused connection is tried again later."""
    said = await ask(models(), asking(driver="openai", base_url="http://127.0.0.1:1/v1"))
    assert (said.failed().reason, said.failed().retryable) == ("connection_failed", True)
    assert "127.0.0.1:1" in said.failed().message


async def test_no_url() -> None:
    """A base URL that is none is not tried again."""
    said = await ask(models(), asking(driver="openai", base_url="nonsense"))
    assert (said.failed().reason, said.failed().retryable) == ("bad_request", False)


async def test_many_at_once(server: ModelServer) -> None:
    """Fifty calls at once are answered, each with its own, and their connections are used again."""
    caller = models(RunsSection(max_active=64))
    answers: dict[int, str] = {}

    async def one(number: int) -> None:
        said = await ask(caller, to(server, "openai", "echo", f"number {number}"))
        answers[number] = said.text

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(one, number)
        assert answers == {number: f"echo: number {number}" for number in range(50)}
    assert server.connections <= 64
    await caller.aclose()


async def test_more_than_connections_wait(server: ModelServer) -> None:
    """Calls beyond the ceiling of connections wait for one and are answered."""
    caller = models(RunsSection(max_active=2))
    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(ask, caller, to(server, "openai", "echo"))
    assert (len(server.requests), server.connections) == (6, 2)
    await caller.aclose()


async def test_the_offline_stand_in_has_both_timeouts(autojump_clock: MockClock) -> None:
    """The stand-in can try out the timeouts: of one pause, and of all together."""
    limits = RunsSection(inactivity_timeout_s=1, stream_timeout_s=3)
    assert (await ask(models(limits), asking("/slow 2 2000"))).failed().reason == "timed_out"
    said = await ask(models(limits), asking("/slow 9 500"))
    assert said.failed().reason == "timed_out"
    assert len(said.deltas) == 5


async def test_leaving_the_stand_in_early() -> None:
    """The stand-in too can be left in the middle."""
    async with models().ask(asking("/slow 3 0")) as events:
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
    """A route says why it could not be used now; one that needs no credential has no problem."""
    route = RouteSpec("r", driver, "m", auth_ref=auth_ref)  # type: ignore[arg-type]
    assert models().problem(route) == problem
