"""The test of a route against a server: every step, and the step that each failure belongs to."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kheishd.kernel.runtime import RouteSpec
from kheishd.objects.node.trial import TOOL, WORD, try_route
from kheishd.providers.caller import ProviderCaller
from protocol.budget import Prices
from protocol.objects.route import RouteTest
from tests.support.model_calls import inline
from tests.support.model_server import ModelServer, running_model_server

CALLING = f"tools:{TOOL.name}:{json.dumps({'word': WORD})}"
DRIVERS = pytest.mark.parametrize("driver", ["openai", "responses", "anthropic", "google"])


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    """Provide a model server in this process."""
    async with running_model_server() as server:
        yield server


async def try_model(server: ModelServer, model: str, driver: Any = "openai", **changes: Any) -> RouteTest:
    """Test a route to a model of the server."""
    values: dict[str, Any] = {"base_url": server.base_url, "auth_ref": "env:KEY", **changes}
    models = ProviderCaller(environ={"KEY": "sk-secret-of-the-test"}, in_thread=inline)
    result = await try_route(models, RouteSpec("r", driver, model, **values))
    await models.aclose()
    return result


def statuses(result: RouteTest) -> dict[str, str]:
    """Return the status of each step."""
    return {check.name: check.status for check in result.checks}


def failed_note(result: RouteTest) -> tuple[str, str]:
    """Return the step that failed, and its note."""
    [check] = [check for check in result.checks if check.status == "failed"]
    return check.name, check.note


@DRIVERS
async def test_everything_works(server: ModelServer, driver: str) -> None:
    """A route that works passes every step, and the result has usage and cost."""
    prices = Prices(currency="EUR", input=1_000_000, output=2_000_000)
    result = await try_model(server, CALLING, driver, prices=prices)
    assert result.ok
    assert statuses(result) == dict.fromkeys(
        ("connect", "authenticate", "stream", "tool_call", "usage"), "ok"
    )
    assert result.cost is not None
    assert result.usage.output_tokens == 7
    [tool] = server.requests[0].json["tools"]
    [function] = tool.get("functionDeclarations") or [tool.get("function", tool)]
    assert function["name"] == TOOL.name


@DRIVERS
@pytest.mark.parametrize(
    ("model", "step", "note"),
    [
        ("status:401", "authenticate", "answered 401"),
        ("status:500", "stream", "answered 500"),
        ("no-such-model", "stream", "does not exist"),
        ("cut", "stream", "connection"),
        ("echo", "tool_call", "it wrote: echo: Call the tool"),
        (f"tools:{TOOL.name}:{{}}", "tool_call", "arguments"),
        ("length", "tool_call", "2048 tokens were used up"),
    ],
)
async def test_the_step_that_failed(
    server: ModelServer, driver: str, model: str, step: str, note: str
) -> None:
    """Each fault belongs to one step, and its note says what happened."""
    result = await try_model(server, model, driver)
    failed, text = failed_note(result)
    assert not result.ok
    assert (failed, note in text) == (step, True), text
    assert "sk-secret-of-the-test" not in str(result)


async def test_nothing_listens(server: ModelServer) -> None:
    """A server that cannot be reached fails the first step."""
    result = await try_model(server, CALLING, base_url="http://127.0.0.1:1/v1")
    assert failed_note(result)[0] == "connect"
    assert list(statuses(result).values()) == ["failed", "skipped", "skipped", "skipped", "skipped"]


async def test_a_missing_credential(server: ModelServer) -> None:
    """Without its credential nothing is sent."""
    result = await try_model(server, CALLING, auth_ref="env:NOT_SET")
    assert failed_note(result)[0] == "authenticate"
    assert statuses(result)["connect"] == "skipped"
    assert not server.requests


async def test_a_route_without_a_credential(server: ModelServer) -> None:
    """A route without a credential skips that step and passes."""
    result = await try_model(server, CALLING, auth_ref=None)
    assert result.ok
    assert statuses(result)["authenticate"] == "skipped"


@pytest.mark.parametrize(
    ("count", "status", "note"),
    [
        (6_500, "ok", "read 6500 tokens"),
        (4_096, "failed", "only 4096 of about 6000 tokens"),
        (0, "skipped", "no tokens"),
    ],
)
async def test_a_local_server_reads_the_whole_prompt(
    server: ModelServer, count: int, status: str, note: str
) -> None:
    """A local server that truncates a prompt of the size that agents have fails the last step."""
    model = f"reads:{count}:{TOOL.name}:{json.dumps({'word': WORD})}"
    result = await try_model(server, model, preset="ollama")
    assert (result.checks[-1].name, result.checks[-1].status) == ("context", status)
    assert note in result.checks[-1].note
    assert len(server.requests[0].body) > 20_000


async def test_a_local_server_that_cannot_be_reached(server: ModelServer) -> None:
    """The last step is skipped after an earlier failure."""
    result = await try_model(server, CALLING, preset="vllm", base_url="http://127.0.0.1:1/v1")
    assert statuses(result)["context"] == "skipped"
