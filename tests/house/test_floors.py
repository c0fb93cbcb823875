"""The floors of rooms: imports lead downwards."""

import ast
import sys
from pathlib import Path

import pytest

from tests.house.sources import PACKAGES, ROOT, imports, module, sources, tree

FLOORS = {
    "protocol": 0,
    "kheishd.__init__": 1,
    "kheishd.config": 1,
    "kheishd.home": 1,
    "kheishd.core": 2,
    "kheishd.store": 3,
    "kheishd.records": 4,
    "kheishd.kernel": 5,
    "kheishd.objects": 6,
    "kheishd.debug": 7,
    "kheishd.providers": 7,
    "kheishd.hooks": 7,
    "kheishd.connectors": 7,
    "kheishd.workers": 8,
    "kheishd.mcp": 8,
    "kheishd.server": 8,
    "kheishd.build": 9,
    "kheishd": 10,
    "kheishctl.__init__": 1,
    "kheishctl.contract": 1,
    "kheishctl.values": 1,
    "kheishctl.render": 2,
    "kheishctl": 3,
    "kheishctl.commands": 4,
    "kheishctl.shell": 4,
    "kheishctl.program": 5,
    "kheishctl.__main__": 6,
}
"""Rooms, most of them directories. Files directly in a package are the room of that name."""

EVENT_LOOPS = {"trio", "trio_websocket", "asyncio", "anyio", "curio"}
OUTSIDE = {"socket", "ssl", "http", "urllib", "subprocess", "threading", "multiprocessing", "os", "pathlib"}
CHANCE = {"time", "random", "secrets"}


def room(name: str) -> str | None:
    """Return the room of a module; None for a module of another project."""
    package, *inner = name.split(".")
    if package not in PACKAGES:
        return None
    if package == "protocol":
        return package
    if not inner:
        return f"{package}.__init__"
    candidate = f"{package}.{inner[0]}"
    if candidate in FLOORS:
        return candidate
    assert not (ROOT / package / inner[0]).is_dir(), f"{candidate} is a room without a floor"
    return package


def test_rooms_import_lower_floors_only() -> None:
    """No import goes up, and none sideways to another room of the same floor."""
    wrong = []
    for path in sources():
        here = room(module(path))
        assert here is not None
        for line, name in imports(path):
            # A package itself is imported with anything in it, whoever asks.
            there = None if name == path.parts[0] else room(name)
            if there not in (None, here) and FLOORS[there] >= FLOORS[here]:
                wrong.append(
                    f"{path}:{line}: {here} (floor {FLOORS[here]}) imports {name}, of {there} "
                    f"(floor {FLOORS[there]})"
                )
    assert not wrong, "imports that go up or sideways:\n" + "\n".join(wrong)


@pytest.mark.parametrize(("one", "other"), [("kheishd", "kheishctl"), ("kheishctl", "kheishd")])
def test_daemon_and_client_meet_in_protocol(one: str, other: str) -> None:
    """Neither program imports the other."""
    wrong = [
        f"{path}:{line}: {name}"
        for path in sources()
        if path.parts[0] == one
        for line, name in imports(path)
        if name.split(".")[0] == other
    ]
    assert not wrong, f"{one} imports {other}:\n" + "\n".join(wrong)


def cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """Return a cycle of a graph, or None."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for following in sorted(graph.get(node, ())):
            if found := visit(following, [*path, node]):
                return found
        done.add(node)
        return None

    for node in sorted(graph):
        if found := visit(node, []):
            return found
    return None


@pytest.mark.parametrize("name", FLOORS)
def test_no_cycle_within_a_room(name: str) -> None:
    """Inside a room, imports have no cycles; for types only, neither."""
    inside = {module(path): path for path in sources() if room(module(path)) == name}
    graph = {
        here: {there for _, there in imports(path) if there in inside and there != here}
        for here, path in inside.items()
    }
    found = cycle(graph)
    assert found is None, "imports go round: " + " -> ".join(found or ())


def test_cycle_is_found() -> None:
    """The search finds a cycle where there is one, and none in a diamond."""
    assert cycle({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}}) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def imported(rooms: tuple[str, ...], packages: set[str]) -> list[str]:
    """Return where files of some rooms import any of some packages."""
    return [
        f"{path}:{line}: {name}"
        for path in sources()
        if room(module(path)) in rooms
        for line, name in imports(path)
        if name.split(".")[0] in packages
    ]


def test_lower_floors_have_no_event_loop() -> None:
    """Protocol, configuration, core and store never import trio."""
    wrong = imported(("protocol", "kheishd.config", "kheishd.core", "kheishd.store"), EVENT_LOOPS)
    assert not wrong, "an event loop in:\n" + "\n".join(wrong)


def test_only_the_store_says_lmdb() -> None:
    """Only the store imports lmdb."""
    rooms = tuple(name for name in FLOORS if name != "kheishd.store")
    wrong = imported(rooms, {"lmdb"})
    assert not wrong, "lmdb outside of the store:\n" + "\n".join(wrong)


def test_only_tests_import_the_sdks() -> None:
    """The SDKs of providers are oracles of the tests: the product never imports them."""
    wrong = imported(tuple(FLOORS), {"openai", "anthropic", "google", "pydantic", "litellm"})
    assert not wrong, "an SDK in the product:\n" + "\n".join(wrong)


def test_no_dataclasses() -> None:
    """Values are structs: a dataclass is compiled from source each time its module is imported."""
    wrong = imported(tuple(FLOORS), {"dataclasses"})
    assert not wrong, "dataclasses in the product:\n" + "\n".join(wrong)


def test_protocol_needs_msgspec_only() -> None:
    """Protocol imports msgspec and the parts of the standard library that do no I/O.

    Daemon and client verify the signatures of exports alike, with a library that each imports on first use.
    """
    wrong = imported(("protocol",), OUTSIDE | CHANCE)
    allowed = {"msgspec", "protocol"} | set(sys.stdlib_module_names)
    for path in sources():
        if path.parts[0] == "protocol":
            wrong += [
                f"{path}:{line}: {name}"
                for line, name in imports(path)
                if name.split(".")[0] not in allowed
                and not (path.name == "export.py" and name.startswith("cryptography."))
            ]
    assert not wrong, "imports that the shared language should not need:\n" + "\n".join(wrong)


def clocks(path: Path) -> list[str]:
    """Return where a file reads the time of day."""
    return [
        f"{path}:{node.lineno}: .{node.attr}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr in {"now", "utcnow", "today"}
    ]


def test_core_is_pure() -> None:
    """Core reads no clock, no randomness, no file and no socket."""
    wrong = imported(("kheishd.core",), OUTSIDE | CHANCE)
    for path in sources():
        if room(module(path)) == "kheishd.core":
            wrong += clocks(path)
    assert not wrong, "the world in kheishd/core:\n" + "\n".join(wrong)
