"""The objects of the store in a runtime."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kheishd.build import stored
from kheishd.build.stored import StoredSource, add_stored, read_stored_routes
from kheishd.config.sections.mcp import McpSection
from kheishd.core.definition import parse
from kheishd.kernel.mcp import servers_of
from kheishd.kernel.runtime import RouteSpec, Runtime
from kheishd.kernel.state import State, open_state
from kheishd.records.writer import StreamWriter
from kheishd.store.environment import Snapshot, Transaction
from protocol.errors.store import StoreDamaged
from protocol.events.definition import DefinitionStored
from protocol.events.mcp import McpServerDeleted, McpServerStored
from protocol.events.route import DefaultRouteChanged, RouteDeleted, RouteStored
from protocol.journal.envelope import DAEMON_STREAM, Event
from protocol.objects.mcp import McpServerSettings
from protocol.objects.route import RouteSettings
from tests.support.runtimes import make_runtime


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    """Open a state on an empty store."""
    (tmp_path / "state").mkdir()
    async with open_state(tmp_path / "state", version="test") as state:
        yield state


async def append(state: State, *events: Event) -> None:
    """Append events to the daemon's stream."""

    def write(tx: Transaction) -> None:
        writer = StreamWriter(tx, DAEMON_STREAM)
        for event in events:
            writer.append(event)  # type: ignore[arg-type]
        writer.write()

    await state.update(write)


def route(route_id: str, model: str = "m", ca_file: str | None = None) -> RouteStored:
    """Return the event of a stored route."""
    settings = RouteSettings(model=model, driver="openai", ca_file=ca_file)
    return RouteStored(route_id=route_id, revision=1, settings=settings)


async def test_stored_routes(state: State) -> None:
    """A stored route is used, and a stored agent may name it."""
    agent = DefinitionStored(definition=parse("a", b"---\nroute: live\n---\n", None))
    await append(state, route("live"), agent, DefaultRouteChanged(route_id="live"))
    runtime = add_stored(make_runtime(), state)
    assert runtime.routes["live"].stored
    assert runtime.definitions["a"].route == "live"
    assert (runtime.default_route, runtime.warnings) == ("live", ())
    assert list(read_stored_routes(state)) == ["live"]
    await append(state, DefaultRouteChanged(route_id=None))
    assert add_stored(make_runtime(), state).default_route == "offline"


async def test_the_file_comes_first(state: State) -> None:
    """A route of the configuration hides a stored one of its id, with a warning."""
    await append(state, route("r", "stored"))
    runtime = add_stored(make_runtime(routes={"r": RouteSpec("r", "openai", "file")}), state)
    assert runtime.routes["r"].model == "file"
    assert "'r' has no effect" in runtime.warnings[0]


async def test_a_route_that_is_no_longer_valid(state: State) -> None:
    """A stored route whose file is gone is skipped with a warning, and the default falls back."""
    await append(state, route("r", ca_file="/nowhere/ca.pem"), DefaultRouteChanged(route_id="r"))
    runtime = add_stored(make_runtime(), state)
    assert list(runtime.routes) == ["offline"]
    assert runtime.default_route == "offline"
    assert ["skipped the stored route 'r'" in runtime.warnings[0], "'r'" in runtime.warnings[1]] == [True] * 2


async def test_a_fallback_that_is_gone(state: State) -> None:
    """A route of the file that a stored chain names may go; a warning says so."""
    settings = RouteSettings(model="m", driver="openai", fallback=["gone", "offline"])
    await append(state, RouteStored(route_id="r", revision=1, settings=settings))
    runtime = add_stored(make_runtime(), state)
    assert runtime.routes["r"].fallback == ("gone", "offline")
    assert runtime.warnings == (
        "the fallback 'gone' of the stored route 'r' does not exist and is passed over",
    )


async def test_a_source_that_cannot_be_read(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other sources are added, without the one that cannot be read."""

    def fail(runtime: Runtime, store: Snapshot) -> Runtime:
        raise StoreDamaged()

    monkeypatch.setattr(stored, "SOURCES", (StoredSource("things", (), fail), *stored.SOURCES))
    await append(state, route("live"), route("gone"), RouteDeleted(route_id="gone"))
    assert list(add_stored(make_runtime(), state).routes) == ["live", "offline"]


async def test_stored_servers(state: State) -> None:
    """A stored MCP server is used; one that the configuration hides is a warning."""
    for server in ("live", "file"):
        await append(state, McpServerStored(server=server, settings=McpServerSettings(command=server)))
    runtime = add_stored(make_runtime(mcp={"file": McpSection(command="f")}), state)
    assert [(spec.name, spec.source) for spec in servers_of(runtime).values()] == [
        ("file", "file"),
        ("live", "stored"),
    ]
    (warning,) = runtime.warnings
    assert "the stored MCP server 'file' has no effect" in warning
    await append(state, McpServerDeleted(server="live"))
    assert list(servers_of(add_stored(make_runtime(), state))) == ["file"]
