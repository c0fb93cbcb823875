"""Routes over a socket: list, show, test, store and delete them, and set the default one."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from kheishd.kernel.runtime import ModelEvent, ModelRequest, RouteSpec, Runtime
from kheishd.objects.node import definition
from kheishd.objects.node import route as handlers
from kheishd.objects.node.route import HANDLERS
from kheishd.providers.caller import ProviderCaller
from kheishd.server.listeners import TcpListen
from kheishd.store.tables import DEFAULT_ROUTE, ROUTES
from protocol.budget import Prices
from protocol.errors.refusal import Refusal
from protocol.errors.route import (
    RouteDefinedInFile,
    RouteInUse,
    RouteInvalid,
    RouteLimit,
    RouteNotFound,
    RouteRevisionConflict,
    RouteRevisionNotFound,
)
from protocol.errors.rpc import InvalidParams
from protocol.errors.session import InputTooLarge
from protocol.errors.token import ScopeMissing, ScopeWouldWiden
from protocol.objects.run import RunError
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


class CountedModels(ProviderCaller):
    """A caller that counts the calls at once; every call is answered by the stand-in."""

    active = most = 0

    @asynccontextmanager
    async def ask(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Count a call while it lasts."""
        self.active += 1
        self.most = max(self.most, self.active)
        await trio.testing.wait_all_tasks_blocked()
        async with super().ask(request) as events:
            yield events
        self.active -= 1


async def test_one_test_at_a_time(tmp_path: Path) -> None:
    """Tests of one route wait for each other; an answer ends the route's cooldown."""
    models = CountedModels()
    async with rpc_server(tmp_path, HANDLERS, runtimes=make_runtime(models=models)) as server:
        cooldowns = server.services.cooldowns
        cooldowns.note_failure("offline", None, RunError("server_error", "down", 503), None)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                client = await server.connect()
                nursery.start_soon(partial(client.call, "route.test", route_id="offline"))
    assert (models.most, cooldowns.remaining_s("offline", None)) == (1, 0)


async def test_route_test_scope_would_widen(tmp_path: Path) -> None:
    """A token that covers some agents makes no call that costs money outside of every account."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime(), tcp=TcpListen("127.0.0.1", 0)) as server:
        _, secret = await server.token(scopes=["operate"], agents=["writer"])
        client = await server.connect_websocket(secret)
        with pytest.raises(ScopeWouldWiden):
            await client.call("route.test", route_id="offline")


def chained() -> Runtime:
    """Serve a route with two keys, one of them missing, and a fallback that is not ready."""
    served = runtime()
    keys = ("env:A_KEY", "env:NO_KEY")
    url = "http://127.0.0.1:9/v1"
    first = RouteSpec(
        "first", "openai", "m", url, keys[0], auth_refs=keys, fallback=("broken", "gone", "ready")
    )
    return replace(served, routes={**served.routes, "first": first})


async def test_a_chain_is_shown(tmp_path: Path) -> None:
    """A route is ready with one key; the problems of the others and of its fallback are warnings."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=chained()) as server:
        client = await server.connect()
        error = RunError("rate_limited", "busy", 429)
        server.services.cooldowns.note_failure("first", "env:A_KEY", error, 60.0)
        shown = await client.call("route.get", route_id="first")
    assert (shown["auth_refs"], shown["fallback"]) == (
        ["env:A_KEY", "env:NO_KEY"],
        ["broken", "gone", "ready"],
    )
    assert shown.get("ready", True)
    for words, warning in zip(
        ("env:NO_KEY", "'broken' is not ready", "'gone' does not"), shown["warnings"], strict=True
    ):
        assert words in warning
    (cooldown,) = shown["cooldowns"]
    assert (cooldown["auth_ref"], cooldown["reason"], cooldown["failures"]) == (
        "env:A_KEY",
        "rate_limited",
        1,
    )


async def test_a_chain_is_tested(tmp_path: Path) -> None:
    """Each key and each route of the fallback is tested; a failure of one is a failure of the test."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=chained()) as server:
        tested = await (await server.connect()).call("route.test", route_id="first")
    tests = [tested, *tested["others"]]
    assert [(test["route_id"], test.get("auth_ref")) for test in tests] == [
        ("first", "env:A_KEY"),
        ("first", "env:NO_KEY"),
        ("broken", None),
        ("ready", None),
    ]
    assert [test["ok"] for test in tests] == [False] * 4


# Change.

SETTINGS = {"model": "m1", "driver": "openai", "base_url": "http://127.0.0.1:9/v1", "auth_ref": "env:A_KEY"}


def settings(model: str, **changes: Any) -> dict[str, Any]:
    """Return the settings of a route with this model."""
    return {**SETTINGS, "model": model, **changes}


async def refusal_of(directory: Path, method: str, **params: Any) -> Refusal:
    """Return the refusal of a call on a store with one route, ``mine``, of two revisions."""
    async with rpc_server(directory, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        for model in ("m1", "m2"):
            await client.call("route.put", route_id="mine", settings=settings(model))
        with pytest.raises(Refusal) as caught:
            await client.call(method, **params)
    return caught.value


async def test_route_put_ok(tmp_path: Path) -> None:
    """Each change of the settings is a revision; the same settings again append no event."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        first = await client.call("route.put", route_id="mine", settings=SETTINGS, expected_revision=0)
        assert (first["route_id"], first["revision"], first["settings"]) == ("mine", 1, SETTINGS)
        again = await client.call("route.put", route_id="mine", settings=SETTINGS)
        assert again == first
        second = await client.call("route.put", route_id="mine", settings=settings("m2"), expected_revision=1)
        assert second["revision"] == 2
        checked = await client.call("route.put", route_id="mine", settings=settings("m3"), check=True)
        with server.state.read() as store:
            record = store.need(ROUTES, "mine")
    assert "m3" in str(checked)
    assert (record.current.settings.model, [it.revision for it in record.former]) == ("m2", [1])


@pytest.mark.parametrize(("route_id", "remedy"), [("ready", "edit the file"), ("offline", "built in")])
async def test_route_put_route_defined_in_file(tmp_path: Path, route_id: str, remedy: str) -> None:
    """A route of the configuration and the built-in one cannot be replaced."""
    refusal = await refusal_of(tmp_path, "route.put", route_id=route_id, settings=SETTINGS)
    assert isinstance(refusal, RouteDefinedInFile)
    assert remedy in refusal.message


async def test_route_put_route_invalid(tmp_path: Path) -> None:
    """A pasted key is refused by its field and is not repeated."""
    refusal = await refusal_of(
        tmp_path, "route.put", route_id="r", settings=settings("m", auth_ref="sk-12345678")
    )
    assert isinstance(refusal, RouteInvalid)
    assert refusal.field == "$.params.settings.auth_ref"
    assert "sk-12345678" not in refusal.message


@pytest.mark.parametrize("more", [{"api_key": "sk-12345678"}, {"context_tokens": 1}, {"driver": "x"}])
async def test_put_of_a_wrong_shape(tmp_path: Path, more: dict[str, Any]) -> None:
    """An unknown setting, such as a key, and a wrong value are refused."""
    refusal = await refusal_of(tmp_path, "route.put", route_id="r", settings=settings("m", **more))
    assert isinstance(refusal, InvalidParams)
    assert "sk-12345678" not in refusal.message


async def test_route_put_input_too_large(tmp_path: Path) -> None:
    """Settings that do not fit into a record are refused."""
    large = settings("m", options={"stop": "x" * 9_000})
    refusal = await refusal_of(tmp_path, "route.put", route_id="r", settings=large)
    assert isinstance(refusal, InputTooLarge)


async def test_route_put_route_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store takes no new route."""
    monkeypatch.setattr(handlers, "MAX_STORED_ROUTES", 1)
    refusal = await refusal_of(tmp_path, "route.put", route_id="r", settings=SETTINGS)
    assert isinstance(refusal, RouteLimit)


@pytest.mark.parametrize(("route_id", "expected"), [("mine", 1), ("mine", 0), ("new", 1)])
async def test_route_put_route_revision_conflict(tmp_path: Path, route_id: str, expected: int) -> None:
    """Settings replace only the revision that the caller knows."""
    refusal = await refusal_of(
        tmp_path, "route.put", route_id=route_id, settings=settings("m3"), expected_revision=expected
    )
    assert isinstance(refusal, RouteRevisionConflict)
    assert refusal.field == "$.params.expected_revision"


async def test_route_rollback_ok(tmp_path: Path) -> None:
    """Earlier settings become a new revision; without a revision they are the last ones."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        for model in ("m1", "m2", "m3"):
            await client.call("route.put", route_id="mine", settings=settings(model))
        back = await client.call("route.rollback", route_id="mine", expected_revision=3)
        assert (back["revision"], back["rollback_of"], back["settings"]["model"]) == (4, 2, "m2")
        first = await client.call("route.rollback", route_id="mine", revision=1)
        assert (first["revision"], first["settings"]["model"]) == (5, "m1")


async def test_route_rollback_route_defined_in_file(tmp_path: Path) -> None:
    """A route of the configuration has no revisions."""
    refusal = await refusal_of(tmp_path, "route.rollback", route_id="ready")
    assert isinstance(refusal, RouteDefinedInFile)


async def test_route_rollback_route_not_found(tmp_path: Path) -> None:
    """An unknown route is refused."""
    assert isinstance(await refusal_of(tmp_path, "route.rollback", route_id="nowhere"), RouteNotFound)


async def test_route_rollback_route_revision_conflict(tmp_path: Path) -> None:
    """A rollback replaces only the revision that the caller knows."""
    refusal = await refusal_of(tmp_path, "route.rollback", route_id="mine", expected_revision=1)
    assert isinstance(refusal, RouteRevisionConflict)


async def test_route_rollback_route_revision_not_found(tmp_path: Path) -> None:
    """The refusal names the revisions that are kept."""
    refusal = await refusal_of(tmp_path, "route.rollback", route_id="mine", revision=7)
    assert isinstance(refusal, RouteRevisionNotFound)
    assert refusal.message.endswith("kept besides the current one: 1")


async def test_route_rollback_route_invalid(tmp_path: Path) -> None:
    """Settings that are no longer valid do not come back."""
    authorities = tmp_path / "ca.pem"
    authorities.write_text("-----BEGIN CERTIFICATE-----")
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        trusting = settings("m1", ca_file=str(authorities))
        for values in (trusting, settings("m2")):
            await client.call("route.put", route_id="mine", settings=values)
        authorities.unlink()
        with pytest.raises(RouteInvalid, match="not a readable file"):
            await client.call("route.rollback", route_id="mine")


async def test_route_delete_ok(tmp_path: Path) -> None:
    """A stored route is deleted with its revisions."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        await client.call("route.put", route_id="mine", settings=SETTINGS)
        assert await client.call("route.delete", route_id="mine", expected_revision=1) == {"route_id": "mine"}
        with server.state.read() as store:
            assert store.count(ROUTES) == 0


async def test_route_delete_route_not_found(tmp_path: Path) -> None:
    """An unknown route is refused."""
    assert isinstance(await refusal_of(tmp_path, "route.delete", route_id="nowhere"), RouteNotFound)


async def test_route_delete_route_defined_in_file(tmp_path: Path) -> None:
    """A route of the configuration is deleted there."""
    refusal = await refusal_of(tmp_path, "route.delete", route_id="ready")
    assert isinstance(refusal, RouteDefinedInFile)
    assert "remove it from the file" in refusal.message


async def test_route_delete_route_revision_conflict(tmp_path: Path) -> None:
    """A route that somebody has changed meanwhile is not deleted."""
    refusal = await refusal_of(tmp_path, "route.delete", route_id="mine", expected_revision=1)
    assert isinstance(refusal, RouteRevisionConflict)


async def test_route_delete_route_in_use(tmp_path: Path) -> None:
    """A route that the default or an agent names is not deleted; the refusal says which."""
    served = (*HANDLERS, *definition.HANDLERS)
    with_mine = make_runtime(
        routes={**runtime().routes, "mine": RouteSpec("mine", "openai", "m", stored=True)}
    )
    async with rpc_server(tmp_path, served, runtimes=with_mine) as server:
        client = await server.connect()
        await client.call("route.put", route_id="mine", settings=SETTINGS)
        await client.call("route.default", route_id="mine")
        await client.call("definition.put", name="critic", text="---\nroute: mine\n---\n")
        await client.call("route.put", route_id="other", settings=settings("m", fallback=["mine"]))
        users = "it is the default route, the agent 'critic' names it, it is a fallback of the route 'other'"
        with pytest.raises(RouteInUse, match=f"in use: {users}"):
            await client.call("route.delete", route_id="mine")


async def test_route_default_ok(tmp_path: Path) -> None:
    """A stored route and one of the file can be the default; without an id, the configuration decides."""
    async with rpc_server(tmp_path, HANDLERS, runtimes=runtime()) as server:
        client = await server.connect()
        await client.call("route.put", route_id="mine", settings=SETTINGS)
        for route_id in ("mine", "broken"):
            answer = await client.call("route.default", route_id=route_id)
            assert answer == {"route_id": route_id, "stored": True}
        assert await client.call("route.default") == {"route_id": "ready"}
        with server.state.read() as store:
            assert store.need(DEFAULT_ROUTE, "daemon").route_id is None


async def test_route_default_route_not_found(tmp_path: Path) -> None:
    """An unknown route cannot be the default."""
    assert isinstance(await refusal_of(tmp_path, "route.default", route_id="nowhere"), RouteNotFound)


async def require_refused(directory: Path, method: str, **params: Any) -> None:
    """Require that the method needs the scope ``admin`` and a token that covers every agent."""
    tcp = TcpListen("127.0.0.1", 0)
    async with rpc_server(directory, HANDLERS, runtimes=runtime(), tcp=tcp) as server:
        for scopes, agents, expected in (
            (["admin"], ["writer"], ScopeWouldWiden),
            (["operate", "approve"], None, ScopeMissing),
        ):
            _, secret = await server.token(scopes=scopes, agents=agents)
            client = await server.connect_websocket(secret)
            with pytest.raises(expected):
                await client.call(method, **params)


async def test_route_put_scope_would_widen(tmp_path: Path) -> None:
    """Only administrators of the whole daemon store routes."""
    await require_refused(tmp_path, "route.put", route_id="r", settings=SETTINGS)


async def test_route_rollback_scope_would_widen(tmp_path: Path) -> None:
    """Only administrators of the whole daemon roll routes back."""
    await require_refused(tmp_path, "route.rollback", route_id="r")


async def test_route_delete_scope_would_widen(tmp_path: Path) -> None:
    """Only administrators of the whole daemon delete routes."""
    await require_refused(tmp_path, "route.delete", route_id="r")


async def test_route_default_scope_would_widen(tmp_path: Path) -> None:
    """Only administrators of the whole daemon set the default route."""
    await require_refused(tmp_path, "route.default", route_id="offline")
