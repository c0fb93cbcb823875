"""Add the objects of the store to a runtime that was built from files: routes, agents, MCP servers.

Each source states its tables. When one of them changes, all sources are added anew to the runtime that was
built, so that a change is in force right after its commit, and nothing else of the runtime is made again.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec.structs import replace

from kheishd.build.agents import add_stored_agents
from kheishd.kernel.mcp import find_server_conflicts
from kheishd.kernel.route import make_stored_route
from kheishd.store.tables import DEFAULT_ROUTE, DEFINITIONS, MCP_SERVERS, ROUTES
from protocol.errors.route import RouteInvalid
from protocol.errors.store import StoreDamaged
from protocol.journal.envelope import DAEMON_STREAM
from protocol.structs import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from kheishd.kernel.runtime import RouteSpec, Runtime
    from kheishd.kernel.state import State
    from kheishd.store.environment import Snapshot
    from kheishd.store.table import Table

log = logging.getLogger("kheishd.daemon")


class StoredSource(Value, frozen=True):
    """One kind of objects in the store that are part of a runtime."""

    name: str
    tables: tuple[Table[Any], ...]
    add: Callable[[Runtime, Snapshot], Runtime]


def read_stored_routes(state: State) -> dict[str, RouteSpec]:
    """Return the usable routes of the store, by id; none if they cannot be read."""
    try:
        with state.read() as store:
            return _make_routes(store)[0]
    except (StoreDamaged, msgspec.DecodeError):
        return {}


def _make_routes(store: Snapshot) -> tuple[dict[str, RouteSpec], list[str]]:
    """Return the usable routes of the store, and warnings about the others."""
    routes: dict[str, RouteSpec] = {}
    warnings = []
    for _, record in store.scan(ROUTES):
        try:
            routes[record.route_id] = make_stored_route(record.route_id, record.current.settings)
        except RouteInvalid as refusal:
            # An earlier version accepted it, or a file that it names is gone.
            warnings.append(f"skipped the stored route '{record.route_id}': {refusal.message}")
    return routes, warnings


def _add_routes(runtime: Runtime, store: Snapshot) -> Runtime:
    """Return a runtime with the stored routes besides those of the file, which come first."""
    stored, warnings = _make_routes(store)
    warnings += [
        f"the stored route '{route_id}' has no effect, because the configuration defines it, too"
        for route_id in stored
        if route_id in runtime.routes
    ]
    routes = {**stored, **runtime.routes}
    warnings += [
        f"the fallback '{name}' of the stored route '{spec.route_id}' does not exist and is passed over"
        for spec in stored.values()
        for name in spec.fallback
        if name not in routes
    ]
    record = store.get(DEFAULT_ROUTE, DAEMON_STREAM)
    default = record.route_id if record is not None else None
    if default is not None and default not in routes:
        text = f"the route '{default}', which was made the default one, does not exist"
        warnings.append(f"{text}; '{runtime.config.default_route}' of the configuration is used")
        default = None
    return replace(
        runtime, routes=routes, stored_default_route=default, warnings=(*runtime.warnings, *warnings)
    )


def _add_agents(runtime: Runtime, store: Snapshot) -> Runtime:
    return add_stored_agents(runtime, [record.definition for _, record in store.scan(DEFINITIONS)])


def _add_servers(runtime: Runtime, store: Snapshot) -> Runtime:
    """Return a runtime with the stored MCP servers, and with warnings about servers without effect."""
    stored = {record.name: record.settings for _, record in store.scan(MCP_SERVERS)}
    runtime = replace(runtime, stored_servers=stored)
    return replace(runtime, warnings=(*runtime.warnings, *find_server_conflicts(runtime)))


SOURCES: Final[tuple[StoredSource, ...]] = (
    StoredSource("routes", (ROUTES, DEFAULT_ROUTE), _add_routes),
    StoredSource("agents", (DEFINITIONS,), _add_agents),
    StoredSource("MCP servers", (MCP_SERVERS,), _add_servers),
)
"""All sources, in the order in which they are added: agents name routes and bring servers."""

TABLES: Final = tuple(table.name for source in SOURCES for table in source.tables)
"""The names of the tables that are part of a runtime."""


def add_stored(runtime: Runtime, state: State) -> Runtime:
    """Return a runtime with the objects of the store; without those of a source that cannot be read."""
    for source in SOURCES:
        try:
            with state.read() as store:
                runtime = source.add(runtime, store)
        except (StoreDamaged, msgspec.DecodeError) as error:
            log.error("the stored %s cannot be read: %s", source.name, error)
    return runtime
