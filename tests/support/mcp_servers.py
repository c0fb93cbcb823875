"""MCP servers for tests: a toy on standard streams, and a pool without processes."""

import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from kheishd.kernel.mcp import (
    BegunLogin,
    Listing,
    RemoteResult,
    RemoteTool,
    ServerFailure,
    ServerSpec,
    server_not_found,
    view_of,
)
from kheishd.mcp.pool import McpPool
from kheishd.mcp.rows import make_rows
from protocol.errors.mcp import McpLoginNotFound, McpServerUnavailable
from protocol.errors.refusal import Refusal
from protocol.objects.mcp import McpServer, McpServerSettings, McpServerState

TOY = Path(__file__).with_name("toy_mcp_server.py")
TOY_COMMAND = [sys.executable, "-I", "-S", str(TOY)]

MODERN_COMMAND = [sys.executable, str(Path(__file__).with_name("modern_mcp_server.py"))]

PATIENCE_S = 30.0


def spec_of(name: str = "toy", *manners: str, **settings: Any) -> ServerSpec:
    """Return a toy with manners; ``settings`` are those of a server."""
    return ServerSpec(
        name, McpServerSettings(command=TOY_COMMAND, args=list(manners), **settings), cwd="/tmp"
    )


def listed(*names: str, **fields: Any) -> list[dict[str, Any]]:
    """Return tools as a server lists them."""
    return [{"name": name, "inputSchema": {"type": "object"}, **fields} for name in names]


class MemorySlots:
    """Slots in memory (``kernel.secrets.SlotReader``), for the tokens of logins."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def read(self, slot_id: str) -> str | None:
        """Return the value of a slot."""
        return self.values.get(slot_id)

    def problem(self, slot_id: str) -> str | None:
        """Return whether it is empty."""
        return None if slot_id in self.values else "is empty"

    async def save(self, slot_id: str, value: str) -> None:
        """Store a value."""
        self.values[slot_id] = value


@asynccontextmanager
async def open_pool(
    *specs: ServerSpec,
    environ: Mapping[str, str] = os.environ,
    home: Path = Path("/nowhere"),
    slots: MemorySlots | None = None,
    now_ms: Callable[[], int] = lambda: 0,
    scrub_cut: Callable[[bytes], bytes] = bytes,
    resolve: Callable[[str], str] = lambda reference: f"value-of-{reference}",
) -> AsyncIterator[McpPool]:
    """Provide a pool that has tried to connect to these servers."""
    slots = slots or MemorySlots()
    pool = McpPool(home, environ, resolve, now_ms, slots, slots.save, scrub_cut)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.serve)
            pool.adopt({spec.name: spec for spec in specs})
            await pool.settle([spec.name for spec in specs])
            yield pool
            nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a process has made a condition true."""
    while not condition():
        await trio.lowlevel.checkpoint()


class FakePool:
    """A pool of servers that are constant data (``kernel.mcp.Mcp``).

    ``calls`` are the calls so far. ``result`` is the result of each call: a failure is raised.
    """

    refusal: Refusal | None = None
    """The refusal of logins."""

    def __init__(self, *specs: ServerSpec, states: Mapping[str, McpServerState] | None = None) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self.states = dict(states or {})
        self.calls: list[tuple[str, str, Mapping[str, Any]]] = []
        self.origins: list[dict[str, Any]] = []
        self.settled: list[str] = []
        self.restarted: list[str] = []
        self.result: RemoteResult | ServerFailure = RemoteResult([{"type": "text", "text": "fine"}])
        self.with_resources: set[str] = set()
        self.error_output: list[str] = []
        self.held: list[str] = []
        self.tools: Sequence[RemoteTool] = ()
        self.offer(listed("echo"))

    def offer(self, tools: Sequence[Mapping[str, Any]]) -> None:
        """Let all servers have these tools."""
        self.tools = tuple(row for spec in self.specs.values() for row in make_rows(spec, tools)[0])

    def views(self) -> list[McpServer]:
        """Return all servers."""
        return [
            view_of(spec, self.states.get(name, "ready"), error_output=self.error_output)
            for name, spec in sorted(self.specs.items())
        ]

    def find(self, name: str) -> ServerSpec:
        """Return a server."""
        if name not in self.specs:
            raise server_not_found(name)
        return self.specs[name]

    async def settle(self, names: Sequence[str]) -> None:
        """Record the names."""
        self.settled += names

    def find_problem(self, name: str) -> str | None:
        """Return the state of a server that is not ready."""
        self.find(name)
        state = self.states.get(name, "ready")
        return None if state == "ready" else f"it is {state}"

    async def call(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, Any],
        progress: Callable[[str], None],
        origin: Mapping[str, Any] | None = None,
    ) -> RemoteResult:
        """Record the call, show progress, and return the result."""
        self.find(server)
        self.calls.append((server, tool, arguments))
        self.origins.append(dict(origin or {}))
        progress("1/2 half\n")
        if isinstance(self.result, ServerFailure):
            raise self.result
        return self.result

    @property
    def resource_servers(self) -> Sequence[ServerSpec]:
        """The servers in ``with_resources``."""
        return [spec for name, spec in sorted(self.specs.items()) if name in self.with_resources]

    async def list_resources(self, server: str) -> Listing:
        """Return a resource and a template."""
        self._answer(server)
        resource = {"uri": "a:1", "name": "one", "description": "First.", "mimeType": "text/plain"}
        return Listing([resource, {"uriTemplate": "a:{n}", "name": "any"}])

    async def read_resource(self, server: str, uri: str) -> RemoteResult:
        """Return the address as the content."""
        self._answer(server)
        return RemoteResult([{"type": "resource", "resource": {"uri": uri, "text": f"text of {uri}"}}])

    async def list_prompts(self, server: str) -> Listing:
        """Return a prompt."""
        self._answer(server)
        return Listing([{"name": "greet", "description": "Greets.", "arguments": [{"name": "who"}]}])

    def _answer(self, server: str) -> None:
        self.find(server)
        if isinstance(self.result, ServerFailure):
            raise self.result

    async def restart(self, name: str) -> None:
        """Record the name."""
        self.find(name)
        if self.states.get(name) == "disabled":
            raise McpServerUnavailable(f"the MCP server '{name}' is disabled")
        self.restarted.append(name)

    async def begin_login(self, name: str, redirect_uri: str | None) -> BegunLogin:
        """Return a login whose URL is the redirect; without one, with a code."""
        self.find(name)
        if self.refusal is not None:
            raise self.refusal
        if redirect_uri is None:
            return BegunLogin(f"login-{name}", "https://as.example/device", 600_000, "ABCD-EFGH")
        return BegunLogin(f"login-{name}", redirect_uri, 600_000)

    def hold_login(self, spec: ServerSpec) -> None:
        """Record the name."""
        self.held.append(spec.name)

    async def revoke_login(self, name: str) -> bool:
        """Return whether the login was held, and forget it."""
        is_held = name in self.held
        self.held = [other for other in self.held if other != name]
        return is_held

    async def complete_login(
        self, login_id: str, code: str | None, state: str | None, iss: str | None
    ) -> str:
        """Return the server of a login."""
        name = login_id.removeprefix("login-")
        if self.refusal is not None:
            raise self.refusal
        if name not in self.specs:
            raise McpLoginNotFound("there is no such login")
        return name
