"""route.list, route.get and route.test, over a socket."""

from pathlib import Path

import pytest

from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.objects.node.route import HANDLERS
from kheishd.providers.caller import ProviderCaller
from protocol.budget import Prices
from protocol.errors.route import RouteNotFound
from tests.support.rpc_server import rpc_server
from tests.support.runtimes import make_runtime

SECRET = "sk-super-secret"
PRICES = Prices(currency="EUR", input=1, output=2, cached_input=0)


def runtime() -> Runtime:
    """Serve the built-in route, a route that is ready and one whose credential is missing."""
    url = "http://127.0.0.1:9/v1"
    routes = [
        RouteSpec("offline", "offline", "offline", built_in=True),
        RouteSpec("ready", "openai", "m", url, "env:A_KEY", {"max_tokens": 5}, prices=PRICES),
        RouteSpec("broken", "anthropic", "m", None, "env:NO_KEY"),
    ]
    return make_runtime(
        routes={route.route_id: route for route in routes},
        default_route="ready",
        models=ProviderCaller(environ={"A_KEY": SECRET}),
    )


async def test_route_list_ok(tmp_path: Path) -> None:
    """Routes are listed by id without gaps between pages; the default one is marked."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        first = await client.call("route.list", limit=2)
        second = await client.call("route.list", limit=2, after=first["next"])
    routes = first["routes"] + second["routes"]
    assert [route["route_id"] for route in routes] == ["broken", "offline", "ready"]
    assert [route.get("default", False) for route in routes] == [False, False, True]
    assert second["next"] is None


async def test_route_get_ok(tmp_path: Path) -> None:
    """A route is shown with a reference to its credential, and with the reason why it is not ready."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        ready = await client.call("route.get", route_id="ready")
        broken = await client.call("route.get", route_id="broken")
    assert (ready["auth_ref"], ready["options"], ready["source"]) == ("env:A_KEY", {"max_tokens": 5}, "file")
    assert "problem" not in ready
    assert SECRET not in str(ready)
    assert broken["ready"] is False
    assert "env:NO_KEY" in broken["problem"]
    assert [route["base_url"] for route in (ready, broken)] == [
        "http://127.0.0.1:9/v1",
        "https://api.anthropic.com",
    ]


async def test_route_get_route_not_found(tmp_path: Path) -> None:
    """The refusal names the route and the field."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        with pytest.raises(RouteNotFound, match="'nowhere'") as refused:
            await client.call("route.get", route_id="nowhere")
    assert refused.value.field == "$.params.route_id"


async def test_route_get_ok_with_its_prices(tmp_path: Path) -> None:
    """Prices are shown as they are pinned; a price of zero is a price."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        route = await client.call("route.get", route_id="ready")
        assert route["prices"] == {"currency": "EUR", "input": 1, "output": 2, "cached_input": 0}
        assert "prices" not in await client.call("route.get", route_id="broken")


async def test_route_test_ok(tmp_path: Path) -> None:
    """A test reports every step; a route that cannot be reached is a result, not a refusal."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        tested = await client.call("route.test", route_id="ready")
    assert (tested["route_id"], tested["ok"]) == ("ready", False)
    assert tested["checks"][0]["name"] == "connect"
    assert tested["checks"][0]["status"] == "failed"
    assert [check["status"] for check in tested["checks"][1:]] == ["skipped"] * 4


async def test_route_test_route_not_found(tmp_path: Path) -> None:
    """An unknown route is refused by its field."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        with pytest.raises(RouteNotFound, match="'nowhere'") as refused:
            await client.call("route.test", route_id="nowhere")
    assert refused.value.field == "$.params.route_id"
