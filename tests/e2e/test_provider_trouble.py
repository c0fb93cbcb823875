"""Runs against a real HTTP server that imitates providers in trouble."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from kheishd.config.sections.runs import RunsSection
from kheishd.kernel.runtime import RouteSpec
from kheishd.providers.caller import ProviderCaller
from tests.support.household import Household, household
from tests.support.model_server import ModelServer, running_model_server

SECRET = "sk-provider-secret-0123456789"
LIMITS = RunsSection(backoff_s=0.01, max_backoff_s=0.02, inactivity_timeout_s=0.2)

every_driver = pytest.mark.parametrize("driver", ["openai", "responses", "anthropic", "google"])


@asynccontextmanager
async def serve_with_model(
    directory: Path, driver: Any, limits: RunsSection = LIMITS, model: str = "echo"
) -> AsyncIterator[tuple[Household, ModelServer]]:
    """Provide a daemon whose default route is a model server."""
    async with running_model_server() as server:
        route = RouteSpec("remote", driver, model, server.base_url, "env:KEY")
        models = ProviderCaller(limits, environ={"KEY": SECRET})
        async with household(
            directory, routes={"remote": route}, default_route="remote", runs=limits, models=models
        ) as house:
            yield house, server
        await models.aclose()


@every_driver
async def test_a_provider_that_recovers_is_retried(tmp_path: Path, driver: str) -> None:
    """A run completes after two failures, and its journal has both."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="n-failures-then-ok:2:503:x")
        assert (sent["status"], sent["output"]) == ("completed", "echo: hello")
        failures = await house.events(run_id=sent["run_id"], types=["model_failed"])
        assert [(event["error"]["status"], event["attempt"]) for event in failures] == [(503, 1), (503, 2)]


@every_driver
async def test_a_provider_that_does_not_recover_fails_the_run(tmp_path: Path, driver: str) -> None:
    """A run fails after four attempts with the provider's reason and status, without the key."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="status:529:retry-ms=5")
        assert (sent["status"], sent["error"]["status"]) == ("failed", 529)
        failed = await house.events(run_id=sent["run_id"], types=["model_failed"])
        assert len(failed) == 3
        assert SECRET not in str(await house.events())


@every_driver
async def test_a_refused_key_is_not_tried_again(tmp_path: Path, driver: str) -> None:
    """A refused key fails the run at once with its reason."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="status:401")
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "unauthorized")
        assert "model_failed" not in await house.kinds(run_id=sent["run_id"])
        assert SECRET not in str(await house.events())


@every_driver
@pytest.mark.parametrize("model", ["cut:2", "hang-mid", "malformed"])
async def test_a_partial_answer_is_retried(tmp_path: Path, driver: str, model: str) -> None:
    """A broken or stalled stream is retried, and no part of it is kept."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model=model)
        assert sent["status"] == "failed"
        assert sent["error"]["retryable"]
        assert (await house.kinds(run_id=sent["run_id"])).count("model_failed") == 3
        assert "message_appended" not in await house.kinds(run_id=sent["run_id"])
        assert (await house.ask("and now?"))["output"].endswith("and now?")


@every_driver
async def test_a_cancel_hangs_up(tmp_path: Path, driver: str) -> None:
    """A cancel closes the provider's connection before it is answered and keeps the partial text."""
    async with serve_with_model(tmp_path, driver, RunsSection()) as (house, server):
        sent = await house.send("hello", model="hang-mid", stream=True)
        while (await house.client.next())[0] != "journal.delta":
            pass
        answer = await house.call("conversation.cancel")
        assert answer["run_id"] == sent["run_id"]
        with trio.fail_after(5):
            await (await server.request()).disconnected.wait()
        run = await house.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["output"].strip()) == ("cancelled", "so far")


@every_driver
async def test_an_unknown_tool_gets_an_error_result(tmp_path: Path, driver: str) -> None:
    """A call of an unknown tool gets an error result, and the model answers."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="tools")
        assert sent["status"] == "completed"
        second = (await server.request(2)).body.decode()
        assert second.count("There is no tool 'get_weather'.") == 1


@every_driver
async def test_a_conversation_continues_after_every_failure(tmp_path: Path, driver: str) -> None:
    """Providers accept the transcript after failed, cancelled, thinking and tool turns."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        for model in ("status:400", "thinking", "tools", "cut:1", "length", "refusal"):
            await house.ask("hello", model=model)
        sent = await house.ask("still there?")
        assert sent["status"] == "completed"
        assert sent["output"].endswith("still there?")


@every_driver
async def test_an_empty_answer_is_retried_once(tmp_path: Path, driver: str) -> None:
    """One empty answer is retried; two fail the run with a reason of their own, and their usage counts."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="says-nothing:1")
        assert (sent["status"], sent["output"]) == ("completed", "echo: hello")
        sent = await house.ask("hello", model="says-nothing")
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "empty_answer")
        assert len(server.requests) == 4
        assert sent["usage"]["output_tokens"] == 14


@every_driver
async def test_a_refusal_can_be_continued(tmp_path: Path, driver: str) -> None:
    """A refusal has a text, and the conversation continues behind it with an answer in between."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="refuses")
        reason = " (SAFETY)" if driver == "google" else ""
        assert (sent["status"], sent["output"]) == ("completed", f"The model refused to answer{reason}.")
        sent = await house.ask("go on", model="refuses")
        assert (sent["status"], sent["output"]) == ("completed", "echo: go on")
        body = server.requests[-1].json
        messages = body.get("messages") or body.get("input") or body["contents"]
        roles = [message["role"] for message in messages]
        assert roles[-3:] == ["user", "model" if driver == "google" else "assistant", "user"]


@every_driver
async def test_a_call_that_is_too_large_is_reported(tmp_path: Path, driver: str) -> None:
    """The model is told once that its call did not fit, and why."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="too-large:300000")
        assert (sent["status"], sent["output"], len(server.requests)) == ("completed", "in parts, then", 2)
        assert "this tool call did not fit" in server.requests[-1].body.decode()


@every_driver
async def test_a_compressed_error_leads_to_compaction(tmp_path: Path, driver: str) -> None:
    """A transcript that is too long is recognized in a compressed body."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="gzip-error")
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "context_too_long")
        assert "prompt is too long" in sent["error"]["message"]


@every_driver
async def test_an_error_inside_a_stream_leads_to_compaction(tmp_path: Path, driver: str) -> None:
    """A transcript that is too long is summarized, also if the server says so after a status of success."""
    async with serve_with_model(tmp_path, driver, model="fits:20000") as (house, server):
        for number in range(8):
            sent = await house.ask(f"{number} " + "word " * 500)
            assert (sent["status"], sent.get("error")) == ("completed", None)
        compacted = await house.events(types=["context_compacted"])
        assert {(event["strategy"], event["trigger"]) for event in compacted} == {("summary", "overflow")}
        assert await house.events(types=["model_failed"]) == []
        assert b"A summary." in server.requests[-1].body


@every_driver
async def test_a_limit_per_minute_is_waited_for(tmp_path: Path, driver: str) -> None:
    """A rate limit is retried after the time that the body of the error names."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="per-minute")
        assert (sent["status"], sent["output"]) == ("completed", "echo: hello")
        (failure,) = await house.events(run_id=sent["run_id"], types=["model_failed"])
        assert 15 <= failure["retry_at_ms"] - failure["at_ms"] <= 25


@every_driver
async def test_a_limit_that_lasts_too_long_fails_the_run(tmp_path: Path, driver: str) -> None:
    """The message states the requested delay and the key that limits it."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="status:429:retry-ms=7200000")
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "rate_limited")
        limit = "it asks to wait for 7200 s, and runs.max_retry_after_s allows 3600 s"
        assert sent["error"]["message"].endswith(limit)
        assert len(server.requests) == 1


@every_driver
@pytest.mark.parametrize("model", ["status:402", "unpaid"])
async def test_an_account_without_credit_fails_the_run(tmp_path: Path, driver: str, model: str) -> None:
    """The run fails at once, and its reason is not that of a rate limit."""
    async with serve_with_model(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model=model)
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "quota_exhausted")
        assert "no credit or quota left" in sent["error"]["message"]
        assert len(server.requests) == 1


async def test_a_paused_turn_is_continued(tmp_path: Path) -> None:
    """The parts before and after a pause of the provider are one output."""
    async with serve_with_model(tmp_path, "anthropic") as (house, server):
        sent = await house.ask("hello", model="pauses")
        assert sent["status"] == "completed"
        assert sent["output"].startswith("one echo: ")
        assert len(server.requests) == 2


async def test_a_turn_paused_during_a_search_is_continued(tmp_path: Path) -> None:
    """The provider gets its own blocks back verbatim, to continue the turn and in later turns."""
    async with serve_with_model(tmp_path, "anthropic", model="searches") as (house, server):
        sent = await house.ask("hello")
        assert (sent["status"], sent["output"]) == ("completed", "I look. It is so.")
        assert len(server.requests) == 2
        sent = await house.ask("and now?")
        assert (sent["status"], sent["output"]) == ("completed", "echo: and now?")
        history = await house.call("conversation.history")
        assert "srv_1" not in str(history)


async def test_compaction_on_a_server_with_another_limit_field(tmp_path: Path) -> None:
    """A server that rejects ``max_tokens`` summarizes under the other name from then on."""
    async with serve_with_model(tmp_path, "openai", model="rejects:max_tokens") as (house, server):
        for _ in range(2):
            for number in range(6):
                await house.ask(f"{number} " + "word " * 1000)
            await house.call("conversation.compact", wait="settled")
        compacted = await house.events(types=["context_compacted"])
        assert [event["strategy"] for event in compacted] == ["summary", "summary"]
        limits = [set(request.json) & {"max_tokens", "max_completion_tokens"} for request in server.requests]
        assert [fields for fields in limits if fields] == [
            {"max_tokens"},
            {"max_completion_tokens"},
            {"max_completion_tokens"},
        ]


@every_driver
async def test_cached_tokens_are_counted_and_priced(tmp_path: Path, driver: str) -> None:
    """Cached tokens are part of a run's usage and have their price."""
    async with serve_with_model(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="echo")
        run = await house.call("run.get", run_id=sent["run_id"])
        assert run["usage"]["cached_input_tokens"] == (3 if driver == "anthropic" else 4)
