"""Runs against a real HTTP server that answers as providers do on bad days."""

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

both_drivers = pytest.mark.parametrize("driver", ["openai", "anthropic"])


@asynccontextmanager
async def provided(
    directory: Path, driver: Any, limits: RunsSection = LIMITS
) -> AsyncIterator[tuple[Household, ModelServer]]:
    """Provide a daemon whose default route is a model server."""
    async with running_model_server() as server:
        route = RouteSpec("remote", driver, "echo", server.base_url, "env:KEY")
        models = ProviderCaller(limits, environ={"KEY": SECRET})
        async with household(
            directory, routes={"remote": route}, default_route="remote", runs=limits, models=models
        ) as house:
            yield house, server
        await models.aclose()


@both_drivers
async def test_a_provider_that_recovers_is_waited_for(tmp_path: Path, driver: str) -> None:
    """Two failures and an answer: one completed run, with both failures in its journal."""
    async with provided(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="n-failures-then-ok:2:503:x")
        assert (sent["status"], sent["output"]) == ("completed", "echo: hello")
        failures = await house.events(run_id=sent["run_id"], types=["model_failed"])
        assert [(event["error"]["status"], event["attempt"]) for event in failures] == [(503, 1), (503, 2)]


@both_drivers
async def test_a_provider_that_does_not_recover_fails_the_run(tmp_path: Path, driver: str) -> None:
    """After four attempts, with the provider's own reason and status, and never with the key."""
    async with provided(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="status:529:retry-ms=5")
        assert (sent["status"], sent["error"]["status"]) == ("failed", 529)
        failed = await house.events(run_id=sent["run_id"], types=["model_failed"])
        assert len(failed) == 3
        assert SECRET not in str(await house.events())


@both_drivers
async def test_a_refused_key_is_not_tried_again(tmp_path: Path, driver: str) -> None:
    """The run fails at once and says why."""
    async with provided(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model="status:401")
        assert (sent["status"], sent["error"]["reason"]) == ("failed", "unauthorized")
        assert "model_failed" not in await house.kinds(run_id=sent["run_id"])
        assert SECRET not in str(await house.events())


@both_drivers
@pytest.mark.parametrize("model", ["cut:2", "hang-mid", "malformed"])
async def test_half_an_answer_is_no_answer(tmp_path: Path, driver: str, model: str) -> None:
    """A stream that breaks off or goes quiet is tried again; none of its parts is kept."""
    async with provided(tmp_path, driver) as (house, _):
        sent = await house.ask("hello", model=model)
        assert sent["status"] == "failed"
        assert sent["error"]["retryable"]
        assert (await house.kinds(run_id=sent["run_id"])).count("model_failed") == 3
        assert "message_appended" not in await house.kinds(run_id=sent["run_id"])
        assert (await house.ask("and now?"))["output"].endswith("and now?")


@both_drivers
async def test_a_cancel_hangs_up(tmp_path: Path, driver: str) -> None:
    """The connection to the provider is closed before the cancel is answered; what had arrived is kept."""
    async with provided(tmp_path, driver, RunsSection()) as (house, server):
        sent = await house.send("hello", model="hang-mid", stream=True)
        while (await house.client.next())[0] != "journal.delta":
            pass
        answer = await house.call("conversation.cancel")
        assert answer["run_id"] == sent["run_id"]
        with trio.fail_after(5):
            await (await server.request()).left.wait()
        run = await house.call("run.get", run_id=sent["run_id"])
        assert (run["status"], run["output"].strip()) == ("cancelled", "so far")


@both_drivers
async def test_a_tool_that_is_not_there_gets_a_truthful_result(tmp_path: Path, driver: str) -> None:
    """The model reads that there is none, in the provider's own form, and answers."""
    async with provided(tmp_path, driver) as (house, server):
        sent = await house.ask("hello", model="tools")
        assert sent["status"] == "completed"
        second = (await server.request(2)).body.decode()
        assert second.count("There is no tool called 'get_weather' here.") == 1


@both_drivers
async def test_a_conversation_goes_on_after_every_kind_of_trouble(tmp_path: Path, driver: str) -> None:
    """Failed, cancelled, thinking and tool turns leave a transcript that the provider takes."""
    async with provided(tmp_path, driver) as (house, _):
        for model in ("status:400", "thinking", "tools", "cut:1", "length", "refusal"):
            await house.ask("hello", model=model)
        sent = await house.ask("still there?")
        assert sent["status"] == "completed"
        assert sent["output"].endswith("still there?")
