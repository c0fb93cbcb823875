"""A conversation with two calls in one batch and thinking continues after every change.

The providers are a real local HTTP server that rejects wrong or missing data (see ``strict_providers``).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from kheishd.config.sections.context import ContextSection
from kheishd.kernel.runtime import ModelFailure, ModelRequest, RouteSpec
from kheishd.objects.talk import compaction, transfer
from kheishd.objects.talk.fork import fork
from kheishd.objects.talk.send import send_to_session
from kheishd.providers.caller import ProviderCaller
from kheishd.store.tables import CHECKPOINTS
from protocol.objects.conversation import ConversationCompact
from protocol.objects.route import Driver
from protocol.objects.session import SessionFork, SessionSend
from protocol.objects.transfer import SessionExportParams, SessionImport
from tests.support.desk import Desk, open_desk, working
from tests.support.google_wire import read_model
from tests.support.model_calls import inline
from tests.support.model_server import ModelServer, running_model_server
from tests.support.sdk_requests import find_request_problem
from tests.support.strict_google import Rejected, provider_of
from tests.support.strict_providers import OWN_MESSAGE_KEYS, PROVIDERS, check_request
from tests.support.wire_samples import check_kept_messages
from tests.support.workshop import Workshop, hooks

OPTIONS: dict[str, dict[str, Any]] = {
    "deepseek": {"reasoning_content": True},
    "gemini": {"thought_signatures": True},
    "mistral": {"call_ids": "mistral"},
    "google": {"thought_signatures": True},
    "vertex": {"thought_signatures": True},
}
"""The options that the presets of these providers set."""

DRIVERS: dict[str, Driver] = {
    "anthropic": "anthropic",
    "google": "google",
    "responses": "responses",
    "vertex": "google",
}
"""The drivers of the providers that have another one than OpenAI's chat completions."""

QUESTION = "Look at both. " + "word " * 300


def make_route(server: ModelServer, provider: str, model: str = "") -> RouteSpec:
    """Return the route to one of the strict providers."""
    base_url = server.base_url
    if provider == "vertex":
        base_url += "/projects/p/locations/global/publishers/google"
    return RouteSpec(
        provider,
        DRIVERS.get(provider, "openai"),
        f"strict-{provider}{model}",
        base_url=base_url,
        auth_ref="env:KEY",
        options=OPTIONS.get(provider, {}),
    )


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare each request with one that is made from scratch."""
    check_kept_messages(monkeypatch)


@asynccontextmanager
async def talking(directory: Path, server: ModelServer, provider: str) -> AsyncIterator[Desk]:
    """Provide a desk with a worker and a route to each provider, of which one is the default.

    Every request must also be one that the provider's official SDK would send.
    """
    models = ProviderCaller(environ={"KEY": "secret-of-the-test"}, in_thread=inline)
    routes = {provider: make_route(server, provider) for provider in PROVIDERS}
    routes |= {f"{provider}-other": make_route(server, provider, ":other") for provider in PROVIDERS}
    # The same models, whose requirements no option states.
    routes |= {
        f"{provider}-plain": replace(routes[provider], route_id=f"{provider}-plain", options={})
        for provider in ("deepseek", "gemini", "google")
    }
    try:
        async with (
            open_desk(
                directory,
                models,
                threaded=True,
                routes=routes,
                default_route=provider,
                hooks=hooks(Workshop()),
                context=ContextSection(keep_messages=4),
            ) as desk,
            working(desk),
        ):
            yield desk
    finally:
        await models.aclose()
    for request in server.requests:
        model_provider = provider_of(request.json.get("model") or read_model(request.path))
        driver = DRIVERS.get(model_provider, "openai")
        assert find_request_problem(driver, request.body, model_provider) is None


async def ask(desk: Desk, route: str, session_id: str | None = None) -> str:
    """Ask a provider, which makes two calls and answers. Returns the session."""
    if session_id is None:
        sent = await desk.ask(QUESTION, route=route)
    else:
        message = SessionSend(session_id=session_id, content=QUESTION, route=route, wait="settled")
        sent = await desk.do(send_to_session, message)
    run = desk.run(sent.run_id)
    assert (run.status, run.error) == ("completed", None)
    assert sent.output == f"done by {route.partition('-')[0]}"
    assert run.turn == 2
    return str(sent.session_id)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues(tmp_path: Path, provider: str) -> None:
    """Without any change, a provider gets back all that it attached."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        for _ in range(3):
            await ask(desk, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_on_every_other_route(tmp_path: Path, provider: str) -> None:
    """After each change of route or driver, and back, no provider rejects the conversation."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        await ask(desk, provider)
        for other in PROVIDERS:
            await ask(desk, other)
            await ask(desk, provider)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_with_another_model(tmp_path: Path, provider: str) -> None:
    """Another model of the same provider gets no data of the first one, which gets its own data back."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        for route in (provider, f"{provider}-other", provider, f"{provider}-other"):
            await ask(desk, route)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_after_compaction(tmp_path: Path, provider: str) -> None:
    """The kept messages still have their data, beside a summary of the others."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        for _ in range(3):
            session_id = await ask(desk, provider)
        result = await desk.do(compaction.HANDLERS[0], ConversationCompact(wait="settled"))
        assert result.summary == "They talked."
        assert await ask(desk, provider) == session_id


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_after_a_restart(tmp_path: Path, provider: str) -> None:
    """Data survives in the journal, and in the checkpoint that a compaction leaves."""
    async with running_model_server() as server:
        async with talking(tmp_path, server, provider) as desk:
            session_id = await ask(desk, provider)
        async with talking(tmp_path, server, provider) as desk:
            for _ in range(2):
                assert await ask(desk, provider) == session_id
            result = await desk.do(compaction.HANDLERS[0], ConversationCompact(wait="settled"))
            assert result.summary == "They talked."
            while not desk.count(CHECKPOINTS):
                # The checkpoint is committed after the run has ended, and rings no bell.
                await trio.lowlevel.checkpoint()
        async with talking(tmp_path, server, provider) as desk:
            assert await ask(desk, provider) == session_id


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_in_a_fork(tmp_path: Path, provider: str) -> None:
    """A fork sends the data of its parent's messages."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        session_id = await ask(desk, provider)
        forked = await desk.do(fork, SessionFork(session_id=session_id))
        assert await ask(desk, provider, forked.session_id) == forked.session_id
        assert await ask(desk, provider) == session_id


@pytest.mark.parametrize("provider", ["deepseek", "gemini", "google"])
async def test_a_learned_requirement_outlives_the_messages(tmp_path: Path, provider: str) -> None:
    """A model's requirement is known after a compaction, a restart and in a fork, without a refusal."""
    async with running_model_server() as server:
        async with talking(tmp_path, server, provider) as desk:
            await ask(desk, f"{provider}-plain")
            for _ in range(3):
                session_id = await ask(desk, "openai")
            await desk.do(compaction.HANDLERS[0], ConversationCompact(wait="settled"))
        async with talking(tmp_path, server, provider) as desk:
            server.requests.clear()
            forked = await desk.do(fork, SessionFork(session_id=session_id))
            await ask(desk, f"{provider}-plain", forked.session_id)
            await ask(desk, f"{provider}-plain", session_id)
    assert f"done by {provider}" not in server.requests[0].body.decode()
    assert len(server.requests) == 4


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_lost_data_is_rejected(tmp_path: Path, provider: str) -> None:
    """The server accepts what was sent, and rejects it without what the provider attached."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        await ask(desk, provider)
        await ask(desk, provider)
    request = server.requests[-1].json
    model = request.get("model") or read_model(server.requests[-1].path)
    check_request(model, request, server.requests[-1].headers)
    for content in request.get("contents", ()):
        for part in content["parts"]:
            part.pop("thoughtSignature", None)
    if "input" in request:
        request["input"] = [item for item in request["input"] if item["type"] != "reasoning"]
    for message in request.get("messages", ()):
        for name in OWN_MESSAGE_KEYS.get(provider, ()):
            message.pop(name, None)
        for call in message.get("tool_calls", ()):
            call.pop("extra_content", None)
            call["id"] = call["id"] + "x" * (
                40 if provider in ("openai", "kimi", "litellm", "mistral") else 0
            )
        if isinstance(message["content"], list):
            message["content"] = [block for block in message["content"] if "thinking" not in block["type"]]
    with pytest.raises(Rejected):
        check_request(model, request)


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_conversation_continues_after_export_and_import(tmp_path: Path, provider: str) -> None:
    """An export has the data, and an imported session sends it to its origin."""
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        session_id = await ask(desk, provider)
        exported = transfer.export.answer(desk.call(), SessionExportParams(session_id=session_id, limit=200))
        assert exported.next is None
        imported = await desk.do(transfer.import_, SessionImport(lines=exported.lines))
        assert await ask(desk, provider, imported.session_id) == imported.session_id


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_no_data_goes_to_another_provider_in_a_run(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose provider fails between two calls continues at another, which gets none of its data."""
    ask_provider = ProviderCaller.ask

    def fail_second_call(self: ProviderCaller, request: ModelRequest) -> Any:
        if request.pinned.route == provider and len(request.messages) > 1:
            raise ModelFailure("overloaded", "no capacity", retryable=True, status=529)
        return ask_provider(self, request)

    monkeypatch.setattr(ProviderCaller, "ask", fail_second_call)
    other = PROVIDERS[PROVIDERS.index(provider) - 1]
    async with running_model_server() as server, talking(tmp_path, server, provider) as desk:
        current = desk.holder.current()
        first = replace(current.routes[provider], fallback=(other,))
        desk.holder.amend(replace(current, routes={**current.routes, provider: first}))
        sent = await desk.ask(QUESTION)
        assert (sent.error, sent.output) == (None, f"done by {other}")
        assert desk.run(sent.run_id).route == other
